//! A virtual machine whose files are this machine's, without being able to change them: virtme-ng puts a memory of its own
//! over each folder that is written to. One folder is shared for what comes out of it.

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mesh_tests::{cmd::Cmd, interrupt};

use super::kernel::Kernel;

/// What the machine is told to do, and where what it says comes out.
const SCRIPT: &str = "start.sh";
const LOG: &str = "log.txt";
/// What QEMU and virtme-ng say.
const CONSOLE: &str = "console.txt";

pub(super) struct Machine {
    child: Child,
    log: PathBuf,
    console: PathBuf,
    shown: u64,
    begin: Instant,
    limit: Duration,
}

impl Machine {
    /// Boots the kernel and has it run a line of shell. `shared` is the only folder of this machine that it can change.
    /// It is ended after `limit`, and also if this process is killed.
    pub(super) fn boot(
        vng: &Path,
        kernel: &Kernel,
        shared: &Path,
        line: &str,
        limit: Duration,
    ) -> Result<Self> {
        let (script, log) = (shared.join(SCRIPT), shared.join(LOG));
        fs::write(&script, format!("exec >'{}' 2>&1\n{line}\n", log.display()))?;
        fs::write(&log, "")?;
        let console = shared.join(CONSOLE);
        let output = fs::File::create(&console)?;
        let seconds = limit.as_secs().to_string();
        let cmd = Cmd::new("timeout").args(["--kill-after=10", &seconds]).arg(vng).arg("--run");
        let cmd = cmd.arg(&kernel.image).args(["--disable-kvm", "--cpus", "2", "--memory", "8G"]);
        let cmd = cmd.args(["--user", "root"]).arg(format!("--rwdir={}", shared.display()));
        // QEMU's main thread polls each device's queues whenever the machine sets a timer: fewer of both.
        let cmd = cmd.args(["--qemu-opts=-global virtio-serial-pci.max_ports=2", "--append", "nohz=off"]);
        let cmd = cmd.args(["--exec", &format!("sh '{}'", script.display())]);
        eprintln!("\x1b[2m$ {}\x1b[0m", cmd.line());
        let mut command = cmd.into_inner();
        // A group of its own, which can be ended as a whole; Ctrl-C reaches it through `end`.
        command.process_group(0).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().context("cannot start virtme-ng")?;
        Ok(Self { child, log, console, shown: 0, begin: Instant::now(), limit })
    }

    /// Shows what the machine says until it has ended. Running out of time and Ctrl-C are errors.
    pub(super) fn watch(&mut self) -> Result<()> {
        loop {
            let ended = self.child.try_wait()?.is_some();
            self.show()?;
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
        if self.shown == 0 {
            let said = fs::read(&self.console)?;
            bail!("the virtual machine did not come up:\n{}", String::from_utf8_lossy(&said));
        }
        Ok(())
    }

    /// What it has said since the last time.
    fn show(&mut self) -> Result<()> {
        let mut file = fs::File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.shown))?;
        let mut new = Vec::new();
        file.read_to_end(&mut new)?;
        self.shown += new.len() as u64;
        std::io::stderr().write_all(&new)?;
        Ok(())
    }
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
