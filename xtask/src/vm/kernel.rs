//! Debian's own kernels, as the machines run them that the mesh is for: taken from their packages, unpacked below
//! `target/vm/kernel` and kept. Nothing of them is installed.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{cmd::Cmd, paths};

use crate::setup::suite::{Package, Suites};

/// A series of kernels that one release of Debian, or its backports, keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Series {
    /// Debian 12's: clsact, no tcx; the oldest that the mesh is for
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's backports
    #[value(name = "6.12")]
    V6_12,
    /// Debian 14's
    #[value(name = "7.2")]
    V7_2,
}

impl Series {
    fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7_2 => "7.2",
        }
    }

    /// The version that is wanted. Where Debian does not have it any more, it is the newest of the series.
    fn version(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1.192",
            Self::V6_12 => "6.12.95",
            Self::V7_2 => "7.2.12",
        }
    }

    /// Links for programs of TC came with Linux 6.6.
    pub(super) fn has_tcx(self) -> bool {
        match self {
            Self::V6_1 => false,
            Self::V6_12 | Self::V7_2 => true,
        }
    }

    fn suites(self) -> &'static [&'static str] {
        match self {
            Self::V6_1 => &["bookworm", "bookworm-security"],
            Self::V6_12 => &["bookworm-backports"],
            Self::V7_2 => &["forky"],
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug)]
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// The folder that holds `lib/modules/<release>`.
    folder: PathBuf,
}

impl Kernel {
    /// The one that was fetched before, if it is the one that is wanted, or else from Debian.
    pub(crate) fn get(series: Series) -> Result<Self> {
        let folder = paths::target().join("vm/kernel").join(series.name());
        if fs::read_to_string(folder.join(WANTED)).is_ok_and(|wanted| wanted == series.version())
            && let Ok(kernel) = Self::unpacked(&folder)
        {
            return Ok(kernel);
        }
        fetch(series, &folder).with_context(|| format!("there is no kernel {series}"))?;
        Self::unpacked(&folder)
    }

    /// The modules of this release.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join(MODULES).join(&self.release)
    }

    /// The files of a module and of those that it needs, in the order in which they are to be loaded. What is built in has none.
    pub(crate) fn module_files(&self, module: &str) -> Result<Vec<PathBuf>> {
        let show = ["--set-version", &self.release, "--show-depends", module];
        let said = Cmd::new("modprobe").arg("--dirname").arg(&self.folder).args(show).quiet().read()?;
        let file = |line: &str| Some(PathBuf::from(line.strip_prefix("insmod ")?.trim()));
        Ok(said.lines().filter_map(file).collect())
    }

    /// The kernel in a folder into which its packages were unpacked, and whose list of modules was made after that.
    fn unpacked(folder: &Path) -> Result<Self> {
        let boot = folder.join(BOOT);
        let entries = fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
        let release = |name: &str| name.strip_prefix(IMAGE).map(String::from);
        let mut releases = entries.flatten().filter_map(|entry| release(entry.file_name().to_str()?));
        let release = releases.next().with_context(|| format!("no kernel in {}", boot.display()))?;
        let image = boot.join(format!("{IMAGE}{release}"));
        let kernel = Self { image, folder: folder.to_owned(), release };
        let list = kernel.modules().join("modules.dep");
        ensure!(list.exists(), "{} is missing", list.display());
        Ok(kernel)
    }
}

const BOOT: &str = "boot";
const IMAGE: &str = "vmlinuz-";
const MODULES: &str = "lib/modules";
/// The file that says which version was wanted when the folder was made.
const WANTED: &str = "wanted";

/// Downloads and unpacks it beside its place first, so that what is in its place is whole.
fn fetch(series: Series, folder: &Path) -> Result<()> {
    let suites = Suites::open(series.suites())?;
    let images = images(suites.versions(&format!("linux-image-{series}."))?, series);
    let Some(image) = chosen(&images, series.version()) else {
        bail!("{} has no kernel {series} any more", suites.name());
    };
    if !is(&image.version, series.version()) {
        println!(
            "Debian's {} does not have Linux {} any more: taking {}",
            suites.name(),
            series.version(),
            image.version
        );
    }
    let new = folder.with_extension("new");
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(&new).with_context(|| format!("cannot make {}", new.display()))?;
    suites.unpack(&with_parts(&suites, image)?, &new)?;
    let release = image.name.strip_prefix("linux-image-").unwrap_or(&image.name);
    arrange(&new, release)?;
    Cmd::new("depmod").arg("--basedir").arg(&new).arg(release).run()?;
    fs::write(new.join(WANTED), series.version())?;
    let _ = fs::remove_dir_all(folder);
    fs::rename(&new, folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// The packages of the plain kernel, of all that are called like one.
fn images(packages: Vec<Package>, series: Series) -> Vec<Package> {
    let is_plain = |package: &Package| {
        let start = format!("linux-image-{series}.");
        let rest = package.name.strip_prefix(&start).and_then(|rest| rest.strip_suffix("-amd64"));
        rest.is_some_and(|rest| !rest.ends_with("-cloud") && !rest.ends_with("-rt"))
    };
    packages.into_iter().filter(is_plain).collect()
}

/// The package of this version, or else of the newest.
fn chosen<'a>(images: &'a [Package], version: &str) -> Option<&'a Package> {
    let wanted = images.iter().filter(|image| is(&image.version, version));
    let newest = |image: &&Package| numbers(&image.version);
    wanted.max_by_key(newest).or_else(|| images.iter().max_by_key(newest))
}

/// Whether a version of Debian's is one of these sources of Linux: 6.1.192-2 is of 6.1.192.
fn is(version: &str, upstream: &str) -> bool {
    version.split(['-', '~']).next() == Some(upstream)
}

fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// The image's package and those into which newer kernels are split: of binaries, of modules and of lists.
fn with_parts(suites: &Suites, image: &Package) -> Result<Vec<Package>> {
    let release = image.name.strip_prefix("linux-image-").unwrap_or(&image.name);
    let parts = ["linux-base", "linux-binary", "linux-modules"].map(|part| format!("{part}-{release}"));
    let needed = suites.depends(&image.name)?;
    let parts = parts.into_iter().filter(|part| needed.contains(part));
    let parts = parts.map(|name| Package { name, version: image.version.clone() });
    Ok([image.clone()].into_iter().chain(parts).collect())
}

/// Puts the image and the modules where all kernels have them. Newer ones have both below `usr/lib/modules`.
fn arrange(folder: &Path, release: &str) -> Result<()> {
    let modules = folder.join(MODULES);
    let newer = folder.join("usr").join(MODULES);
    if newer.join(release).is_dir() {
        fs::create_dir_all(folder.join("lib"))?;
        fs::rename(&newer, &modules).with_context(|| format!("cannot make {}", modules.display()))?;
    }
    let image = folder.join(BOOT).join(format!("{IMAGE}{release}"));
    let newer = modules.join(release).join("vmlinuz");
    if newer.is_file() {
        fs::create_dir_all(folder.join(BOOT))?;
        fs::rename(&newer, &image)?;
    }
    ensure!(image.is_file(), "the packages of {release} have brought no {}", image.display());
    let _ = fs::remove_dir_all(folder.join("usr"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package { name: name.into(), version: version.into() }
    }

    #[test]
    fn the_wanted_version_comes_before_newer_ones() {
        let images = [
            package("linux-image-6.1.0-55-amd64", "6.1.190-1"),
            package("linux-image-6.1.0-56-amd64", "6.1.192-2"),
            package("linux-image-6.1.0-57-amd64", "6.1.193-1"),
        ];
        assert_eq!(chosen(&images, "6.1.192"), Some(&images[1]));
        assert_eq!(chosen(&images, "6.1.19"), Some(&images[2]), "the newest");
        assert_eq!(chosen(&images[..0], "6.1.192"), None);
        let images = [package("a", "6.12.95-1~bpo12+1"), package("b", "6.12.100-1~bpo12+1")];
        assert_eq!(chosen(&images, "6.12.95"), Some(&images[0]));
        assert_eq!(chosen(&images, "6.12.9"), Some(&images[1]), "numbers are compared as numbers");
    }

    #[test]
    fn only_plain_kernels_count() {
        let names = [
            "linux-image-7.2.12+deb14-amd64",
            "linux-image-7.2.12+deb14-cloud-amd64",
            "linux-image-7.2.12+deb14-rt-amd64",
            "linux-image-7.2.12+deb14-amd64-dbg",
            "linux-image-6.1.0-56-amd64",
        ];
        let packages = names.map(|name| package(name, "7.2.12-1")).to_vec();
        assert_eq!(images(packages, Series::V7_2), [package(names[0], "7.2.12-1")]);
    }
}
