//! Docker as Debian's releases have it, for the lab: fetched by apt from the machine's own mirror, with lists and settings of
//! our own, and unpacked below `target/docker`. Nothing of it is installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{
    cmd::{Cmd, on_path},
    lab::Docker,
};

use super::Apt;

/// What the lab runs. `runc` is the machine's: that of later releases wants a newer libc.
const PROGRAMS: [&str; 5] = ["dockerd", "docker", "docker-proxy", "containerd", "containerd-shim-runc-v2"];

/// Which Docker a lab gets if nobody names one: the newest, or the machine's own where that cannot be had.
pub(crate) fn newest() -> Docker {
    provide(Docker::NEWEST).map_or_else(
        |error| {
            eprintln!("{error:#}\nthe lab takes this machine's own Docker in place of {}", Docker::NEWEST);
            Docker::Machine
        },
        |()| Docker::NEWEST,
    )
}

/// The Docker that somebody named, which must be had then, or else [`newest`].
pub(crate) fn chosen(named: Option<Docker>) -> Result<Docker> {
    named.map_or_else(|| Ok(newest()), |docker| provide(docker).map(|()| docker))
}

/// All that can be had; those that cannot are named.
pub(crate) fn provide_all() -> Result<()> {
    let failed: Vec<String> = Docker::OF_DEBIAN
        .into_iter()
        .filter_map(|docker| provide(docker).err())
        .map(|error| format!("{error:#}"))
        .collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// Fetches and unpacks a Docker, unless it is there.
pub(crate) fn provide(docker: Docker) -> Result<()> {
    let (Some(folder), Some(suite)) = (docker.folder(), docker.suite()) else { return Ok(()) };
    if folder.join("bin/dockerd").is_file() {
        return Ok(());
    }
    // In Debian 12 it is linked with this; what the others are linked with, the machine's own Docker needs too.
    let linked = [("/usr/lib/x86_64-linux-gnu/libdevmapper.so.1.02.1", "libdevmapper1.02.1")];
    let libraries = if docker == Docker::V20_10 { &linked[..] } else { &[] };
    let fetched = Apt::default().install(libraries).and_then(|()| fetch(docker, &folder, suite));
    fetched.with_context(|| format!("Docker {docker} of Debian's {suite} cannot be had"))
}

fn fetch(docker: Docker, folder: &Path, suite: &str) -> Result<()> {
    ensure!(on_path("apt-get") && on_path("dpkg-deb"), "it takes Debian's apt-get and dpkg-deb to fetch it");
    let _ = fs::remove_dir_all(folder);
    let release = Release::new(folder.join("apt"), suite)?;
    release.get("update").run()?;
    let wanted = release.packages(docker.name())?;
    let version = &wanted[0].1;
    if !version.starts_with(docker.name()) {
        eprintln!("Debian's {suite} has no Docker {docker} any more: its {version} takes that place");
    }
    let exact = wanted.iter().map(|(name, version)| format!("{name}={version}"));
    release.get("download").args(exact).dir(&release.folder).run()?;
    for file in
        files(&release.folder)?.iter().filter(|file| file.extension().is_some_and(|kind| kind == "deb"))
    {
        Cmd::new("dpkg-deb").arg("--extract").arg(file).arg(release.root()).quiet().read()?;
    }
    let programs = folder.join("new");
    fs::create_dir_all(&programs)?;
    for program in PROGRAMS {
        let found = ["usr/bin", "usr/sbin", "bin", "sbin"]
            .map(|place| release.root().join(place).join(program))
            .into_iter()
            .find(|file| file.is_file());
        let found = found.with_context(|| format!("its packages have no {program}"))?;
        fs::copy(&found, programs.join(program)).with_context(|| format!("cannot keep {program}"))?;
    }
    for program in ["dockerd", "docker", "containerd"] {
        let runs = Cmd::new(programs.join(program)).arg("--version").quiet().read();
        runs.context("it does not run on this machine")?;
    }
    fs::rename(&programs, folder.join("bin")).context("cannot put it in its place")?;
    fs::remove_dir_all(&release.folder).context("cannot remove what apt has left")
}

/// One release of Debian: apt with it alone in its sources, which has only the mirror in common with the machine's own.
struct Release {
    folder: PathBuf,
    options: Vec<String>,
}

impl Release {
    fn new(folder: PathBuf, suite: &str) -> Result<Self> {
        for place in ["lists/partial", "cache/archives/partial", "root"] {
            fs::create_dir_all(folder.join(place))
                .with_context(|| format!("cannot make a folder in {}", folder.display()))?;
        }
        let sources = folder.join("sources.list");
        fs::write(&sources, format!("deb [signed-by={}] {} {suite} main\n", keyring()?, mirror()?))?;
        let own = |option: &str, place: &str| format!("{option}={}", folder.join(place).display());
        let options = vec![
            own("Dir::Etc::SourceList", "sources.list"),
            own("Dir::State::Lists", "lists"),
            own("Dir::Cache", "cache"),
            "Dir::Etc::SourceParts=/dev/null".into(),
            "Dir::Etc::Preferences=/dev/null".into(),
            "Dir::Etc::PreferencesParts=/dev/null".into(),
            // Its own user need not be able to come to our folder.
            "APT::Sandbox::User=root".into(),
            // A list that cannot be fetched is an error.
            "APT::Update::Error-Mode=any".into(),
            // A release that has gone to the archive, and a mirror that was frozen, are past their date, and signed still.
            "Acquire::Check-Valid-Until=false".into(),
            "Acquire::Languages=none".into(),
        ];
        Ok(Self { folder, options })
    }

    fn get(&self, command: &str) -> Cmd {
        self.with_options("apt-get").args(["-qq", command]).shown_as(format!("apt-get {command}"))
    }

    fn with_options(&self, program: &str) -> Cmd {
        Cmd::new(program).args(self.options.iter().flat_map(|option| ["-o", option]))
    }

    /// Where packages are unpacked.
    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// Names and versions, Docker's own first: of the wanted series if the release has it, else its newest.
    fn packages(&self, series: &str) -> Result<Vec<(&'static str, String)>> {
        let known = self.with_options("apt-cache").args(["madison", "docker.io", "docker-cli", "containerd"]);
        let known = known.quiet().read()?;
        let version = |name| version_of(&known, name, series).map(|version| (name, version.to_owned()));
        let engine = version("docker.io").context("it has no package docker.io")?;
        let containerd = version("containerd").context("it has no package containerd")?;
        // Before it had a package of its own, the client was in the daemon's.
        Ok([engine, containerd].into_iter().chain(version("docker-cli")).collect())
    }
}

/// A package's version of a series, or else its newest, in what `apt-cache madison` says: the newest comes first.
fn version_of<'a>(madison: &'a str, name: &str, series: &str) -> Option<&'a str> {
    let versions: Vec<&str> = madison
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('|').map(str::trim);
            (fields.next()? == name).then(|| fields.next()).flatten()
        })
        .collect();
    let of_series = versions.iter().find(|version| version.starts_with(&format!("{series}.")));
    of_series.or(versions.first()).copied()
}

/// Where this machine fetches Debian's packages.
fn mirror() -> Result<String> {
    let format = "$(COMPONENT) $(REPO_URI) $(RELEASE) $(CODENAME)";
    let targets = Cmd::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]);
    let targets = targets.quiet().read()?;
    let os_release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    match mirror_of(&targets, &os_release) {
        Some(mirror) => Ok(mirror.to_owned()),
        None => bail!("this machine's apt has no source of Debian's main packages"),
    }
}

/// `targets` are component, address, and the release as the sources and as its list name it, line by line; the machine's own
/// release says which of them is Debian's.
fn mirror_of<'a>(targets: &'a str, os_release: &str) -> Option<&'a str> {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim_matches('"'))
    };
    let codename = value("VERSION_CODENAME").filter(|_| value("ID") == Some("debian"))?;
    targets.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (component, address) = (fields.next()?, fields.next()?);
        (component == "main" && fields.any(|release| release == codename)).then_some(address)
    })
}

fn keyring() -> Result<&'static str> {
    const KEYRINGS: [&str; 2] =
        ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];
    let found = KEYRINGS.into_iter().find(|file| Path::new(file).is_file());
    found.context("Debian's keys are missing: install debian-archive-keyring")
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADISON: &str = " docker.io | 29.1.0-1 | https://mirror/debian forky/main amd64 Packages
 docker.io | 28.5.2+dfsg4-5 | https://mirror/debian forky/main amd64 Packages
containerd | 2.1.9+ds1-5 | https://mirror/debian forky/main amd64 Packages\n";

    #[test]
    fn a_package_is_taken_of_its_series_or_else_the_newest() {
        let version = |name, series| version_of(MADISON, name, series);
        assert_eq!(version("docker.io", "28.5"), Some("28.5.2+dfsg4-5"));
        assert_eq!(version("docker.io", "26.1"), Some("29.1.0-1"));
        assert_eq!(version("containerd", "28.5"), Some("2.1.9+ds1-5"));
        assert_eq!(version("docker-cli", "28.5"), None);
    }

    #[test]
    fn the_mirror_is_that_of_the_machines_own_release() {
        let targets = "main https://other/ nodistro $(CODENAME)
main http://mirror/security/ bookworm-security bookworm-security
contrib http://contrib/ bookworm bookworm
main http://mirror/debian/ stable bookworm";
        let debian = "PRETTY_NAME=\"Debian\"\nID=debian\nVERSION_CODENAME=bookworm\n";
        assert_eq!(mirror_of(targets, debian), Some("http://mirror/debian/"));
        assert_eq!(mirror_of(targets, "ID=ubuntu\nVERSION_CODENAME=bookworm\n"), None);
        assert_eq!(mirror_of(targets, "ID=debian\nVERSION_CODENAME=trixie\n"), None);
    }
}
