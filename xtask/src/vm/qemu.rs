//! A virtual machine whose files are this machine's, without being able to change them. One folder is shared for what comes out of it.

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
const GUEST: &str = include_str!("guest.sh");
const SCRIPT: &str = "guest.sh";
const LOG: &str = "log.txt";
/// What QEMU and virtme-ng say.
const CONSOLE: &str = "console.txt";

/// No other clock and no timers of high resolution: each reading or setting of those costs the emulation more than the packet
/// that it is for. What sleeps does so for whole ticks of 4 ms.
const KERNEL: &str = "nohz=off highres=off clocksource=tsc tsc=reliable";
/// This machine's files once more, for a mount of our own; and without ports that nobody uses, which QEMU would poll at
/// every turn of its main loop.
const DEVICES: &str = "-virtfs local,path=/,mount_tag=files,security_model=none,readonly=on,multidevs=remap \
     -global virtio-serial-pci.max_ports=2";

pub(crate) struct Machine {
    child: Child,
    log: PathBuf,
    console: PathBuf,
    shown: u64,
    begin: Instant,
    limit: Duration,
}

impl Machine {
    /// Boots the kernel and has it run a command. `shared` is the only folder of this machine that it can change.
    /// It is ended after `limit`, and also if this process is killed.
    pub(crate) fn boot(
        vng: &Path,
        kernel: &Kernel,
        shared: &Path,
        command: &[&str],
        limit: Duration,
    ) -> Result<Self> {
        let (script, log) = (shared.join(SCRIPT), shared.join(LOG));
        fs::write(&script, GUEST)?;
        fs::write(&log, "")?;
        let enter = ["unshare", "--mount", "sh"].map(String::from).into_iter();
        let paths = [&script, shared, &kernel.modules].map(|path| path.display().to_string());
        let words = enter.chain(paths).chain(command.iter().map(|word| (*word).to_owned()));
        let words: Vec<String> = words.map(|word| format!("'{word}'")).collect();
        let line = format!("{} >'{}' 2>&1", words.join(" "), log.display());
        let console = shared.join(CONSOLE);
        let output = fs::File::create(&console)?;
        let seconds = limit.as_secs().to_string();
        let cmd = Cmd::new("timeout").args(["--kill-after=10", &seconds]).arg(vng).arg("--run");
        let cmd = cmd.arg(&kernel.image).args(["--disable-kvm", "--cpus", "2", "--memory", "8G"]);
        let cmd = cmd.args(["--user", "root"]).arg(format!("--rwdir={}", shared.display()));
        let cmd = cmd.arg(format!("--qemu-opts={DEVICES}")).args(["--append", KERNEL]);
        let cmd = cmd.args(["--exec", &line]);
        cmd.announce();
        let mut process = cmd.into_inner();
        // A group of its own, which can be ended as a whole; Ctrl-C reaches it through `end`.
        process.process_group(0).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = process.spawn().context("cannot start virtme-ng")?;
        Ok(Self { child, log, console, shown: 0, begin: Instant::now(), limit })
    }

    /// Shows what the machine says until it has ended. Running out of time and Ctrl-C are errors.
    pub(crate) fn watch(&mut self) -> Result<()> {
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
