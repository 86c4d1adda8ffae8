//! A virtual machine whose files are this machine's, without being able to change them. One folder is shared for what comes out of it.
//! QEMU emulates its processors, so that it runs everywhere.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mesh_tests::{cmd::Cmd, interrupt, paths};

use super::{initramfs, kernel::Kernel};

/// What goes on in the machine when it has its root.
const GUEST: &str = include_str!("guest.sh");

/// In the shared folder: what the machine does, what it says, how it ends, and what its kernel says.
const SCRIPT: &str = "guest.sh";
const LOG: &str = "log.txt";
const STATUS: &str = "status";
const CONSOLE: &str = "console.txt";

/// No other clock and no timers of high resolution: each reading or setting of those costs the emulation more than the packet
/// that it is for. What sleeps does so for whole ticks of 4 ms.
const CLOCK: &str = "nohz=off highres=off clocksource=tsc tsc=reliable";
/// As Debian and Ubuntu are installed. A kernel that gives up ends the machine.
const KERNEL: &str = "console=ttyS0 loglevel=4 panic=-1 apparmor=1 security=apparmor";

pub(crate) struct Machine {
    child: Child,
    shared: PathBuf,
    shown: u64,
    begin: Instant,
    limit: Duration,
}

/// How large it is, and how long it may run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) processors: usize,
    pub(crate) gigabytes: usize,
    pub(crate) limit: Duration,
}

impl Machine {
    /// Boots the kernel and has it run a command from the repository's root. `shared` is the only folder of this machine that it
    /// can change. It is ended after its limit, and also if this process is killed.
    pub(crate) fn boot(kernel: &Kernel, shared: &Path, command: &[&str], size: Size) -> Result<Self> {
        fs::create_dir_all(shared).with_context(|| format!("cannot make {}", shared.display()))?;
        for file in [STATUS, CONSOLE] {
            let _ = fs::remove_file(shared.join(file));
        }
        fs::write(shared.join(LOG), "")?;
        fs::write(shared.join(SCRIPT), script(kernel, shared, command))?;
        let initramfs = shared.join("initramfs.cpio");
        initramfs::pack(kernel, &shared.join("initramfs"), &initramfs)?;

        let seconds = size.limit.as_secs().to_string();
        let cmd = Cmd::new("timeout").args(["--kill-after=10", &seconds, "qemu-system-x86_64"]);
        let cmd = cmd.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]);
        let cmd = cmd.args(["-smp", &size.processors.to_string(), "-m", &format!("{}G", size.gigabytes)]);
        let cmd = cmd.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        let cmd = cmd.arg("-serial").arg(format!("file:{}", shared.join(CONSOLE).display()));
        let cmd = cmd.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initramfs);
        let cmd = cmd.args(["-append", &format!("{KERNEL} {CLOCK}")]);
        let cmd = share(cmd, "files", Path::new("/"), ",readonly=on,multidevs=remap");
        let cmd = share(cmd, "shared", shared, "");
        cmd.announce();
        let mut process = cmd.into_inner();
        // A group of its own, which can be ended as a whole; Ctrl-C reaches it through `end`.
        process.process_group(0).stdin(Stdio::null());
        let child = process.spawn().context("cannot start QEMU: run `cargo xtask setup vm`")?;
        Ok(Self { child, shared: shared.into(), shown: 0, begin: Instant::now(), limit: size.limit })
    }

    /// Hands on what the machine says, by whole lines, until it has ended, and returns the number that its command has ended
    /// with. Running out of time and Ctrl-C are errors.
    pub(crate) fn watch(&mut self, mut show: impl FnMut(&str)) -> Result<i32> {
        loop {
            let ended = self.child.try_wait()?.is_some();
            self.show(ended, &mut show)?;
            if ended {
                break;
            }
            if interrupt::happened() {
                bail!("interrupted");
            }
            if self.begin.elapsed() > self.limit {
                bail!("the virtual machine was not done within {:?} and was ended", self.limit);
            }
            thread::sleep(Duration::from_millis(200));
        }
        let Ok(status) = fs::read_to_string(self.shared.join(STATUS)) else {
            let said = fs::read(self.shared.join(CONSOLE)).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let tail =
                said.lines().skip(said.lines().count().saturating_sub(30)).collect::<Vec<_>>().join("\n");
            bail!("the virtual machine ended before its command did; its kernel said last:\n{tail}");
        };
        status.trim().parse().with_context(|| format!("the command ended with {status:?}"))
    }

    /// What it has said since the last time; of a line that is not whole yet nothing, as long as more can come.
    fn show(&mut self, all: bool, show: &mut impl FnMut(&str)) -> Result<()> {
        let mut file = fs::File::open(self.shared.join(LOG))?;
        file.seek(SeekFrom::Start(self.shown))?;
        let mut new = Vec::new();
        file.read_to_end(&mut new)?;
        let whole = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        new.truncate(if all { new.len() } else { whole });
        self.shown += new.len() as u64;
        String::from_utf8_lossy(&new).lines().for_each(show);
        Ok(())
    }
}

/// A folder of this machine for a mount of the virtual one's.
fn share(cmd: Cmd, tag: &str, folder: &Path, options: &str) -> Cmd {
    let files = format!("local,id={tag},path={},security_model=none{options}", folder.display());
    cmd.args(["-fsdev", &files, "-device", &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}")])
}

/// By a file, not on the kernel's command line: of that Linux takes 2,048 bytes on this architecture and drops the rest.
fn script(kernel: &Kernel, shared: &Path, command: &[&str]) -> String {
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let command: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    GUEST
        .replace("@MODULES@", &path(&kernel.modules()))
        .replace("@SHARED@", &path(shared))
        .replace("@ROOT@", &path(paths::root()))
        .replace("@COMMAND@", &command.join(" "))
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let group = -self.child.id().cast_signed();
        // SAFETY: `kill` takes two integers; the group is that of a child that has not been waited for.
        unsafe { libc::kill(group, libc::SIGTERM) };
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(50));
        }
        // SAFETY: as above.
        unsafe { libc::kill(group, libc::SIGKILL) };
        let _ = self.child.wait();
    }
}
