//! What an agent in a namespace needs of the machine's own file systems, and mounts that nobody else sees.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, bail};
use mesh_tests::cmd::Cmd;

/// What there is of an agent on the machine's own file systems, and what it pins; gone with its user.
pub(crate) struct Files {
    bpffs: Mount,
    folder: Folder,
}

struct Folder {
    path: PathBuf,
    cgroup: PathBuf,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // They may not have been made.
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// Something that is mounted in a folder of an agent, which cannot be removed before it is.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// What `mount` with these options and `at` behind them does.
    pub(crate) fn make(options: &[&str], at: &Path) -> Result<Self> {
        Cmd::new("mount").args(options).arg(at).quiet().read()?;
        Ok(Self(at.to_owned()))
    }

    pub(crate) fn at(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // It goes with this process at the latest.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

impl Files {
    pub(crate) fn make() -> Result<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("mesh-test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let cgroups = mesh_agent::cgroup::root()?.context("no cgroup2 hierarchy is mounted")?;
        let folder = Folder { path: std::env::temp_dir().join(&name), cgroup: cgroups.join(&name) };
        let bpffs = folder.path.join("bpf");
        fs::create_dir_all(&bpffs)?;
        fs::create_dir_all(folder.path.join("docker/netns"))?;
        fs::create_dir_all(&folder.cgroup)?;
        Ok(Self { bpffs: Mount::make(&["-t", "bpf", "bpf"], &bpffs)?, folder })
    }

    pub(crate) fn bpffs(&self) -> &Path {
        self.bpffs.at()
    }

    pub(crate) fn cgroup(&self) -> &Path {
        &self.folder.cgroup
    }

    pub(crate) fn docker(&self) -> PathBuf {
        self.folder.path.join("docker")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path.join("agent.log")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path.join("agent.sock")
    }
}

/// From now on what is mounted is this thread's alone, and that of what it starts.
pub(crate) fn own_mounts() -> Result<()> {
    // SAFETY: the call takes no pointers.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        bail!("cannot have mounts of its own: {}; run it as root", std::io::Error::last_os_error());
    }
    Cmd::new("mount").args(["--make-rprivate", "/"]).quiet().read().map(drop)
}
