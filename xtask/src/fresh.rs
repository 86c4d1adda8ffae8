//! `cargo xtask fresh`: what a newcomer meets. The README's commands are run in a Debian that has nothing but Rust: a root of its
//! own, in namespaces of its own (but for the network), with a clone of what is committed here.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{
    cmd::{Cmd, find},
    lab::Lock,
    paths,
};

use crate::setup::{self, Set};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which Debian
    #[arg(value_enum, default_value_t = Suite::Bookworm)]
    suite: Suite,
    /// Installs today's nightly Rust beside, as the default
    #[arg(long)]
    nightly: bool,
    /// What is run there in place of the README's commands, each word a command line
    #[arg(last = true)]
    commands: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    Bookworm,
    Trixie,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// Where the clone lies in the root.
const CLONE: &str = "/srv/mesh";
const HOME: &str = "/root";
/// Runs in namespaces of their own: makes the root, named by the first argument, the root of all files, and runs the rest.
/// `chroot` would not do: whoever enters a mount namespace gets the root of that namespace.
const ENTER: &str = r#"set -eu
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir "$root/run/old"
cd "$root"
pivot_root . run/old
umount -l /run/old
exec "$@""#;

pub(crate) fn run(args: &Args) -> Result<()> {
    check_machine()?;
    setup::ensure(&[Set::Fresh])?;
    let _lock = Lock::take()?;
    let commands = if args.commands.is_empty() { readme()? } else { args.commands.clone() };
    let root = paths::target().join("fresh").join(args.suite.name());
    bootstrap(args.suite, &root)?;
    rust(&root, args.nightly)?;
    clone(&root)?;
    let mut failed = Vec::new();
    for command in &commands {
        let begin = Instant::now();
        println!("=== {}: {command}", args.suite.name());
        let ended = inside(&root, command).run();
        println!("=== {command}: {} s", begin.elapsed().as_secs());
        failed.extend(ended.err().map(|error| format!("{command}: {error:#}")));
    }
    ensure!(failed.is_empty(), "on a fresh {}:\n  {}", args.suite.name(), failed.join("\n  "));
    // Several gigabytes; after a failure it is there to be looked at.
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))
}

/// The commands of the README's section "Try it", as they stand there; the demo ends by itself.
fn readme() -> Result<Vec<String>> {
    let text = fs::read_to_string(paths::root().join("README.md")).context("cannot read README.md")?;
    let commands = commands_in(&text).context("README.md has no commands under \"Try it\"")?;
    let once = |command: String| if command == "cargo xtask demo" { command + " --once" } else { command };
    Ok(commands.into_iter().map(once).collect())
}

fn commands_in(text: &str) -> Option<Vec<String>> {
    let (_, section) = text.split_once("\n## Try it\n")?;
    let (_, block) = section.split_once("```sh\n")?;
    let (block, _) = block.split_once("```")?;
    let command = |line: &str| line.split(" #").next().unwrap_or_default().trim().to_owned();
    Some(block.lines().map(command).filter(|command| !command.is_empty()).collect())
}

/// A Debian with its essential packages alone, from where this machine gets its own.
fn bootstrap(suite: Suite, root: &Path) -> Result<()> {
    if root.exists() {
        fs::remove_dir_all(root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
    let name = suite.name();
    let (main, security) = (mirror_of("Debian")?, mirror_of("Debian-Security")?);
    let sources = format!(
        "deb {main} {name} main\ndeb {main} {name}-updates main\ndeb {security} {name}-security main\n"
    );
    Cmd::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--include=ca-certificates", name])
        .arg(root)
        .arg("-")
        .read_fed(&sources)?;
    // Names are looked up as here, and authorities trusted that this machine trusts beside Debian's, like a proxy's.
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf")).context("cannot copy /etc/resolv.conf")?;
    if let Ok(own) = fs::read_dir(OWN_AUTHORITIES) {
        for file in own.flatten() {
            let there = root.join(OWN_AUTHORITIES.trim_start_matches('/')).join(file.file_name());
            fs::copy(file.path(), &there).with_context(|| format!("cannot write {}", there.display()))?;
        }
        inside_at(root, "/", "update-ca-certificates").quiet().read()?;
    }
    Ok(())
}

/// Where Debian's `update-ca-certificates` looks for a machine's own.
const OWN_AUTHORITIES: &str = "/usr/local/share/ca-certificates";

/// Where this machine gets packages of this archive from.
fn mirror_of(archive: &str) -> Result<String> {
    let format = "$(LABEL) $(REPO_URI)";
    let said = Cmd::new("apt-get")
        .args(["indextargets", "--format", format, "Created-By: Packages"])
        .quiet()
        .read()?;
    let mirror = said.lines().find_map(|line| line.strip_prefix(archive)?.strip_prefix(' '));
    Ok(mirror.with_context(|| format!("apt has no sources of {archive}: is this Debian?"))?.to_owned())
}

/// rustup, and by it the compiler that the repository names: all that a newcomer is asked to bring.
fn rust(root: &Path, nightly: bool) -> Result<()> {
    let rustup =
        find("rustup").context("rustup is missing here, and so nothing to install Rust with there")?;
    let folder = root.join("root/.cargo/bin");
    fs::create_dir_all(&folder)?;
    fs::copy(fs::canonicalize(rustup)?, folder.join("rustup")).context("cannot copy rustup")?;
    fs::set_permissions(folder.join("rustup"), fs::Permissions::from_mode(0o755))?;
    for program in ["cargo", "rustc", "rustdoc", "cargo-clippy", "clippy-driver", "cargo-fmt", "rustfmt"] {
        symlink("rustup", folder.join(program))?;
    }
    let install = |toolchain: &str| {
        let line = format!("cd / && rustup toolchain install --profile minimal --no-self-update {toolchain}");
        inside_at(root, "/", &line).run()
    };
    let pinned = fs::read_to_string(paths::root().join("rust-toolchain.toml"))?;
    let pinned =
        pinned.lines().find_map(|line| line.strip_prefix("channel = ")).map(|name| name.trim_matches('"'));
    install(pinned.context("rust-toolchain.toml names no channel")?)?;
    if nightly {
        install("nightly")?;
        inside_at(root, "/", "rustup default nightly && rustc -vV").run()?;
    }
    Ok(())
}

fn clone(root: &Path) -> Result<()> {
    let target: PathBuf = root.join(CLONE.trim_start_matches('/'));
    if !Cmd::new("git").args(["status", "--porcelain"]).dir(paths::root()).quiet().read()?.is_empty() {
        println!("what is not committed here is not in the clone");
    }
    Cmd::new("git").args(["clone", "--quiet", "--no-hardlinks"]).arg(paths::root()).arg(target).run()
}

fn inside(root: &Path, command: &str) -> Cmd {
    inside_at(root, CLONE, command)
}

fn inside_at(root: &Path, folder: &str, command: &str) -> Cmd {
    let line = format!("cd {folder} && {command}");
    Cmd::new("env")
        .args(["-i", &format!("HOME={HOME}")])
        .arg(format!("PATH={HOME}/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
        .args([
            "unshare",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            ENTER,
            "sh",
        ])
        .arg(root)
        .args(["sh", "-c", &line])
        .shown_as(format!("fresh: {command}"))
}

/// Whether this machine can do it.
fn check_machine() -> Result<()> {
    // SAFETY: `geteuid` has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        bail!("a root of its own is made with mounts: run this as root");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readmes_commands_are_found() {
        let text = "# x\n## Try it\nwords\n```sh\napt-get install y   # why\ncargo xtask demo\n\n```\n```sh\nno\n```\n";
        assert_eq!(commands_in(text).unwrap(), ["apt-get install y", "cargo xtask demo"]);
        assert!(commands_in("## Try it\nnothing").is_none());
        let readme = readme().unwrap();
        assert!(readme.iter().any(|line| line == "cargo xtask demo --once"), "{readme:?}");
        assert!(readme.iter().any(|line| line == "cargo xtask test"), "{readme:?}");
    }
}
