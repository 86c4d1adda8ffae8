//! Debian's own kernel, as the machines run it that the mesh is for: taken from its package, unpacked and kept. Nothing of
//! it is installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{cmd::Cmd, paths};

/// Always depends on the package of the newest kernel.
const PACKAGE: &str = "linux-image-amd64";

#[derive(Debug)]
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// The one that was fetched before, or else the newest that Debian has for this release of it.
    pub(crate) fn get() -> Result<Self> {
        let folder = paths::target().join("vm/kernel");
        if let Ok(kernel) = Self::unpacked(&folder) {
            return Ok(kernel);
        }
        fetch(&folder)?;
        Self::unpacked(&folder)
    }

    /// The kernel in a folder into which its package was unpacked, and whose list of modules was made after that.
    fn unpacked(folder: &Path) -> Result<Self> {
        let boot = folder.join("boot");
        let entries = fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
        let release = |name: &str| name.strip_prefix("vmlinuz-").map(String::from);
        let mut releases = entries.flatten().filter_map(|entry| release(entry.file_name().to_str()?));
        let release = releases.next().with_context(|| format!("no kernel in {}", boot.display()))?;
        let modules = modules_of(folder).join(&release);
        ensure!(modules.join("modules.dep").exists(), "{} is not whole", modules.display());
        Ok(Self { image: boot.join(format!("vmlinuz-{release}")), modules, release })
    }
}

/// Downloads and unpacks it beside its place first, so that what is in its place is whole.
fn fetch(folder: &Path) -> Result<()> {
    let new = folder.with_extension("new");
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(&new).with_context(|| format!("cannot make {}", new.display()))?;
    let depends = || Cmd::new("apt-cache").args(["depends", PACKAGE]).quiet().read();
    let package = if let Some(package) = depends().ok().as_deref().and_then(dependency) {
        package
    } else {
        Cmd::new("apt-get").args(["-qq", "update"]).run()?;
        dependency(&depends()?).with_context(|| format!("apt knows no {PACKAGE}: is this Debian?"))?
    };
    Cmd::new("apt-get").args(["-qq", "download", &package]).dir(&new).run()?;
    let archive = fs::read_dir(&new)?.flatten().map(|entry| entry.path());
    let archive = archive.into_iter().find(|file| file.extension().is_some_and(|end| end == "deb"));
    let archive = archive.with_context(|| format!("apt-get left no {package} in {}", new.display()))?;
    Cmd::new("dpkg").arg("-x").arg(&archive).arg(&new).run()?;
    fs::remove_file(archive)?;
    let modules = modules_of(&new);
    let release = fs::read_dir(&modules)?.flatten().next().context("the package has no modules")?;
    let base = modules.ancestors().nth(2).unwrap_or(&new);
    Cmd::new("depmod").arg("--basedir").arg(base).arg(release.file_name()).run()?;
    let _ = fs::remove_dir_all(folder);
    fs::rename(&new, folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// From Debian 13 on, modules are below /usr.
fn modules_of(folder: &Path) -> PathBuf {
    let usr = folder.join("usr/lib/modules");
    if usr.exists() { usr } else { folder.join("lib/modules") }
}

/// Of what `apt-cache depends` says, the kernel's package.
fn dependency(said: &str) -> Option<String> {
    let named = |line: &str| line.trim().strip_prefix("Depends: ").map(String::from);
    said.lines().filter_map(named).find(|package| package.starts_with("linux-image-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_package_is_what_the_meta_package_depends_on() {
        let said = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n  Conflicts: x\n";
        assert_eq!(dependency(said).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(dependency("W: unable to locate\n"), None);
    }
}
