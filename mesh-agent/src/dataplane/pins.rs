//! Where programs' links and maps are pinned, so that they outlive the agent.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::DataplaneError;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS: i128 = 0xcafe_4a11;

/// The folders under a BPF file system that are ours.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// `bpffs` is usually `/sys/fs/bpf`.
    pub fn under(bpffs: &Path) -> Self {
        Self { root: bpffs.join("mesh") }
    }

    /// Makes the folders.
    pub fn create(&self) -> Result<(), DataplaneError> {
        let bpffs = self.root.parent().unwrap_or(&self.root);
        if !is_bpffs(bpffs) {
            return Err(DataplaneError::NoBpffs { path: bpffs.display().to_string() });
        }
        self.create_root()?;
        for folder in [self.maps(), self.links(), self.overlays(), self.qdiscs()] {
            fs::create_dir_all(&folder).map_err(|source| DataplaneError::Pin {
                what: "make",
                path: folder.display().to_string(),
                source,
            })?;
        }
        Ok(())
    }

    /// Makes the folder that all others are in; nobody but root needs to see what is in it.
    pub fn create_root(&self) -> Result<(), DataplaneError> {
        let failed = |source| {
            let path = self.root.display().to_string();
            DataplaneError::Pin { what: "make", path, source }
        };
        fs::create_dir_all(&self.root).map_err(failed)?;
        // The file system itself is root's alone where systemd has mounted it.
        let _ = fs::set_permissions(&self.root, Permissions::from_mode(0o700));
        Ok(())
    }

    pub fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// For maps that have a successor but may still be in use.
    pub fn aside(&self) -> PathBuf {
        self.root.join("aside")
    }

    /// A folder for each layout that the pinned maps may have; there is one at a time.
    pub fn layout(&self, number: u32) -> PathBuf {
        self.root.join(format!("layout-{number}"))
    }

    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// A TC program's link; indexes of interfaces are not used twice while a node runs.
    pub fn interface_link(&self, program: &str, interface: u32) -> PathBuf {
        self.links().join(format!("{program}-{interface}"))
    }

    pub fn cgroup_link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// Has a folder for each overlay with links in it.
    pub fn overlays(&self) -> PathBuf {
        self.root.join("overlays")
    }

    pub fn overlay(&self, vni: u32) -> PathBuf {
        self.overlays().join(vni.to_string())
    }

    pub fn overlay_link(&self, vni: u32, program: &str, port: u32) -> PathBuf {
        self.overlay(vni).join(format!("{program}-{port}"))
    }

    /// For links of programs that serve the flows of a table that has a successor, until these are taken over. Is there
    /// only as long.
    pub fn predecessors(&self) -> PathBuf {
        self.root.join("predecessors")
    }

    /// Where the link pinned at `link` is moved then.
    pub fn predecessor(&self, link: &Path) -> PathBuf {
        let below = link.strip_prefix(&self.root).unwrap_or(link);
        let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
        self.predecessors().join(parts.join("-"))
    }

    /// Links of TC programs, on interfaces of the node and on ports of overlays.
    pub fn interface_links(&self) -> Vec<PathBuf> {
        let mut links = Self::entries(&self.links());
        links.extend(Self::entries(&self.overlays()).iter().flat_map(|overlay| Self::entries(overlay)));
        links.retain(|link| interface_of(link).is_some() && link.is_file());
        links
    }

    /// Has a folder for each interface that we gave a clsact qdisc.
    pub fn qdiscs(&self) -> PathBuf {
        self.root.join("qdiscs")
    }

    /// There while an agent passes operators' filters by because it was told to: another one that is told otherwise does not go on
    /// with that.
    pub fn bypass(&self) -> PathBuf {
        self.root.join("firewall-bypass")
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Files and folders right under `folder`; none if there is no such folder.
    pub fn entries(folder: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }
}

/// The interface that a link's pin is named for; cgroup links have none.
pub fn interface_of(link: &Path) -> Option<u32> {
    link.file_name()?.to_str()?.rsplit_once('-')?.1.parse().ok()
}

/// Moves a pin, over one that is there.
pub fn move_pin(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::rename(from, to)
}

/// Whether `path` is on a BPF file system.
pub fn is_bpffs(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let mut stats = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path ends with a zero byte, and the struct is read only after the call has filled it.
    unsafe {
        libc::statfs(path.as_ptr(), stats.as_mut_ptr()) == 0
            && i128::from(stats.assume_init().f_type) == BPF_FS
    }
}

/// Removes a pin; one that is not there is fine.
pub fn unpin(path: &Path) -> Result<(), DataplaneError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DataplaneError::Pin { what: "remove", path: path.display().to_string(), source }),
    }
}
