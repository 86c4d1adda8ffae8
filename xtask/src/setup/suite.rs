//! Packages of suites of Debian that need not be this machine's: fetched by apt from the mirror that this machine's own sources
//! name, with sources, lists and a cache of their own below `target/`, signatures checked. Nothing is installed, and
//! nothing of the machine's apt is changed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{cmd::Cmd, paths};

/// What Debian signs its archives with. Its package brings the keys of a new suite to the stable ones before they are used.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Suites that are read together, like a release and its security updates.
pub(crate) struct Suites {
    names: &'static [&'static str],
    /// Of apt's own files for them.
    folder: PathBuf,
}

/// A package and one of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Suites {
    /// Fetches the suites' lists. One that the mirror does not have (any more) is an error that names it.
    pub(crate) fn open(names: &'static [&'static str]) -> Result<Self> {
        let what = names.join(" and ");
        let folder = paths::target().join("apt").join(names.join("+"));
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let mirrors = Mirrors::of_this_machine();
        let sources: String = names.iter().map(|name| mirrors.source(name)).collect();
        fs::write(folder.join("sources.list"), sources)?;
        // As if nothing were installed.
        fs::write(folder.join("status"), "")?;
        let suites = Self { names, folder };
        suites.apt("apt-get").args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]).run().with_context(
            || {
                format!(
                    "cannot read Debian's {what}: if the signature cannot be checked, upgrade debian-archive-keyring; if the \
                     mirror does not have the suite any more, this part cannot run"
                )
            },
        )?;
        Ok(suites)
    }

    /// Every version of the packages whose names begin like this.
    pub(crate) fn versions(&self, prefix: &str) -> Result<Vec<Package>> {
        let names = self.apt("apt-cache").args(["pkgnames", prefix]).quiet().read()?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        Ok(madison(&self.apt("apt-cache").arg("madison").args(names.lines()).quiet().read()?))
    }

    /// The names of the packages that a package depends on, alternatives included.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let cmd = self.apt("apt-cache").args(["depends", "--important", package]).quiet();
        let said = cmd.read()?;
        let named =
            |line: &str| line.trim().trim_start_matches('|').strip_prefix("Depends: ").map(String::from);
        Ok(said.lines().filter_map(named).collect())
    }

    /// Downloads packages and unpacks them into a folder. None of their scripts is run.
    pub(crate) fn unpack(&self, packages: &[Package], folder: &Path) -> Result<()> {
        let archives = self.folder.join("archives");
        let _ = fs::remove_dir_all(&archives);
        fs::create_dir_all(&archives).with_context(|| format!("cannot make {}", archives.display()))?;
        let named = packages.iter().map(|package| format!("{}={}", package.name, package.version));
        self.apt("apt-get").args(["-qq", "download"]).args(named).dir(&archives).run()?;
        let files: Vec<PathBuf> = fs::read_dir(&archives)?.flatten().map(|entry| entry.path()).collect();
        ensure!(files.len() == packages.len(), "apt-get has left {files:?} for {packages:?}");
        for file in files {
            Cmd::new("dpkg").arg("-x").arg(file).arg(folder).run()?;
        }
        Ok(fs::remove_dir_all(archives)?)
    }

    /// As people call them.
    pub(crate) fn name(&self) -> String {
        self.names.join(" and ")
    }

    /// A command of apt that knows these suites only. What the machine's configuration says beside that, proxies for one,
    /// counts.
    fn apt(&self, command: &str) -> Cmd {
        let path = |part: &str| self.folder.join(part).display().to_string();
        let options = [
            format!("Dir::Etc::SourceList={}", path("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={}", path("lists")),
            format!("Dir::State::Status={}", path("status")),
            format!("Dir::Cache={}", path("cache")),
            // A suite that has gone to the archive, and a mirror that was frozen, are past their date, and signed still.
            "Acquire::Check-Valid-Until=false".into(),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            // apt's own user can seldom write below `target`.
            "APT::Sandbox::User=root".into(),
        ];
        let options = options.into_iter().flat_map(|option| ["-o".to_owned(), option]);
        Cmd::new(command).args(options).shown_as(format!("{command} ({})", self.name()))
    }
}

/// Where Debian's archives are fetched from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: String,
}

impl Mirrors {
    /// Those of the machine's own sources; Debian's for what these do not have.
    fn of_this_machine() -> Self {
        let ask = ["indextargets", "--format", "$(REPO_URI) $(LABEL)", "Created-By: Packages"];
        Self::among(&Cmd::new("apt-get").args(ask).quiet().read().unwrap_or_default())
    }

    /// From lines of a URI and the label of the archive there.
    fn among(targets: &str) -> Self {
        let labelled = |label: &str| {
            let of_it = |line: &str| line.split_once(' ').is_some_and(|(_, other)| other.trim() == label);
            let line = targets.lines().find(|line| of_it(line))?;
            Some(line.split(' ').next()?.trim_end_matches('/').to_owned())
        };
        let security = "http://security.debian.org/debian-security";
        Self {
            main: labelled("Debian").unwrap_or_else(|| "http://deb.debian.org/debian".into()),
            security: labelled("Debian-Security").unwrap_or_else(|| security.into()),
        }
    }

    /// A line of `sources.list`.
    fn source(&self, suite: &str) -> String {
        let mirror = if suite.ends_with("-security") { &self.security } else { &self.main };
        // Where there is no such file, apt trusts what the machine's own lists are checked with.
        let signed =
            if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
        format!("deb {signed}{mirror} {suite} main\n")
    }
}

/// Of lines like `name | version | source`.
fn madison(said: &str) -> Vec<Package> {
    let package = |line: &str| {
        let mut columns = line.split('|').map(str::trim);
        let (name, version) = (columns.next()?, columns.next()?);
        // Source packages are listed as well.
        columns
            .next()
            .is_some_and(|source| source.ends_with(" Packages"))
            .then(|| Package { name: name.into(), version: version.into() })
    };
    said.lines().filter_map(package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_madison() {
        let said = " linux-image-a | 6.1.192-2 | http://deb.debian.org/debian-security bookworm-security/main amd64 Packages\n\
                    linux-image-a |  6.1.176-1 | http://deb.debian.org/debian bookworm/main amd64 Packages\n\
                    linux | 6.1.176-1 | http://deb.debian.org/debian bookworm/main Sources\n";
        let package = |version: &str| Package { name: "linux-image-a".into(), version: version.into() };
        assert_eq!(madison(said), [package("6.1.192-2"), package("6.1.176-1")]);
    }

    #[test]
    fn the_mirrors_are_those_of_the_machines_own_sources() {
        let targets = "http://mirror.example/debian/ Debian\nhttp://mirror.example/debian/ Debian Backports\n\
                       https://other.example/ubuntu/ Ubuntu\n";
        let mirrors = Mirrors::among(targets);
        assert_eq!(mirrors.main, "http://mirror.example/debian");
        assert_eq!(mirrors.security, "http://security.debian.org/debian-security");
        assert_eq!(Mirrors::among("").main, "http://deb.debian.org/debian");
    }
}
