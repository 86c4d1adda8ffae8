//! A network namespace for a node.

use std::fs::{self, File};
use std::io::{Error, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

thread_local! {
    /// Where the thread was before it made a node. (The harness runs the tests on its main thread, one after the other,
    /// when it is told to use only one.)
    static HOME: File = current();
}

/// The thread is in it when it has been made; the kernel takes it apart when nobody is in it or holds it any more.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// Panics if the process may not: everything in this suite needs root.
    pub(crate) fn new() -> Self {
        HOME.with(|_| {});
        // SAFETY: the call takes no pointers, and affects only this thread.
        let failed = unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0;
        assert!(
            !failed,
            "cannot make a network namespace: {}. This suite loads BPF programs: run it as root",
            Error::last_os_error()
        );
        Self(current())
    }

    /// Moves the thread into this namespace.
    pub(crate) fn enter(&self) {
        enter(&self.0).unwrap_or_else(|error| panic!("cannot enter a network namespace: {error}"));
    }

    /// What `ip` takes for its name.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs the lines as `ip` commands in this namespace.
    pub(crate) fn ip(&self, lines: &str) {
        self.feed("ip", &["-batch", "-"], lines);
    }

    /// Adds nft's rules to those of this namespace.
    #[allow(dead_code, reason = "the kernel suite has rules")]
    pub(crate) fn nft(&self, rules: &str) {
        self.feed("nft", &["-f", "-"], rules);
    }

    fn feed(&self, program: &str, arguments: &[&str], text: &str) {
        self.enter();
        let child = Command::new(program).args(arguments).stdin(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("`{program}` cannot be run: {error}"));
        let mut input = child.stdin.take().expect("its input is a pipe");
        input.write_all(text.as_bytes()).expect("it reads its input");
        drop(input);
        assert!(child.wait().expect("it ends").success(), "`{program}` failed on:\n{text}");
    }

    /// What `ip` with these arguments says in this namespace.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        self.enter();
        let output = Command::new("ip").args(arguments).output().expect("iproute2's `ip` can be run");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Lets the node forward packets, without which the kernel answers no question about routes between others.
    pub(crate) fn forward(&self) {
        self.enter();
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding can be switched on");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = HOME.with(enter) {
            eprintln!("cannot go back to the thread's own network namespace: {error}");
        }
    }
}

fn current() -> File {
    File::open("/proc/thread-self/ns/net").expect("the thread's network namespace can be named")
}

fn enter(namespace: &File) -> Result<(), Error> {
    // SAFETY: the file is open, and the call affects only this thread.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(Error::last_os_error())
    }
}
