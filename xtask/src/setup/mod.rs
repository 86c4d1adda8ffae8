//! `cargo xtask setup`: installs what is missing, and prints each command that it runs. With nothing missing it only
//! looks, so every other command begins with it.

pub(crate) mod docker;
pub(crate) mod suite;
mod toolchain;

use std::{cell::Cell, path::PathBuf};

use anyhow::{Result, bail};
use mesh_tests::cmd::{Cmd, on_path};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to prepare for; everything when none is named
    #[arg(value_enum)]
    sets: Vec<Set>,
}

/// What a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Set {
    /// Compilers for the agent, static, and for its eBPF programs
    Build,
    /// A Swarm on this machine and clients to try it with
    Lab,
    /// Docker as other releases of Debian have it, for the lab
    Dockers,
    /// Resolvers and rules to compare with, and what measures them
    Bench,
    /// A proxy to compare with
    Proxy,
    /// Virtual machines with other kernels, and what loads a web server
    Vm,
    /// Lints and checks of dependencies
    Lint,
    /// A bare Debian in a folder
    Fresh,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let all = [Set::Build, Set::Lab, Set::Dockers, Set::Bench, Set::Proxy, Set::Vm, Set::Lint, Set::Fresh];
    ensure(if args.sets.is_empty() { &all } else { &args.sets })?;
    println!("nothing is missing");
    Ok(())
}

/// Installs what these sets need and this machine lacks.
pub(crate) fn ensure(sets: &[Set]) -> Result<()> {
    let apt = Apt::default();
    for set in sets {
        match set {
            Set::Build => build(&apt)?,
            Set::Lab => {
                apt.install(LAB)?;
                apt.install(SPLIT_OFF)?;
            }
            Set::Dockers => docker::provide_all()?,
            Set::Bench => apt.install(BENCH)?,
            Set::Proxy => apt.install(&[("haproxy", "haproxy")])?,
            Set::Vm => apt.install(VM)?,
            Set::Lint => lint()?,
            Set::Fresh => apt.install(&[("mmdebstrap", "mmdebstrap"), ("git", "git")])?,
        }
    }
    Ok(())
}

/// (a program that the package brings, the package)
const LAB: &[(&str, &str)] = &[
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("sysctl", "procps"),
    ("ethtool", "ethtool"),
    ("bpftool", "bpftool"),
    ("tcpdump", "tcpdump"),
    ("curl", "curl"),
    ("nginx", "nginx-light"),
    ("redis-server", "redis-server"),
    ("dig", "bind9-dnsutils"),
    ("ping", "iputils-ping"),
    ("unbound", "unbound"),
    ("openssl", "openssl"),
    ("git", "git"),
];

/// From trixie on in a package of their own, which does not come with the other one.
const SPLIT_OFF: &[(&str, &str)] = &[("docker", "docker-cli")];

const BENCH: &[(&str, &str)] = &[
    ("dnsperf", "dnsperf"),
    ("dnsmasq", "dnsmasq-base"),
    ("unbound", "unbound"),
    ("ab", "apache2-utils"),
    ("nft", "nftables"),
];

const VM: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    // One that needs no libraries; `busybox` itself may be another.
    ("/usr/share/doc/busybox-static", "busybox-static"),
    ("depmod", "kmod"),
    ("apparmor_parser", "apparmor"),
    ("ab", "apache2-utils"),
];

fn build(apt: &Apt) -> Result<()> {
    apt.install(&[("cc", "build-essential"), ("musl-gcc", "musl-tools")])?;
    toolchain::ensure(apt)
}

/// One that this compiler can build.
const CARGO_DENY: &str = "=0.20.2";

fn lint() -> Result<()> {
    toolchain::components(&["clippy", "rustfmt"])?;
    if cargo_deny().is_file() {
        return Ok(());
    }
    // Optimised it would take minutes to build, and save seconds.
    toolchain::cargo_install("cargo-deny", CARGO_DENY).arg("--debug").run()
}

/// Checks dependencies.
pub(crate) fn cargo_deny() -> PathBuf {
    toolchain::tools().join("bin/cargo-deny")
}

/// Debian's packages; the lists are fetched once, and only if something has to be installed.
#[derive(Default)]
struct Apt {
    updated: Cell<bool>,
}

impl Apt {
    /// Installs the package of every program (or path) that is missing.
    fn install(&self, wanted: &[(&str, &str)]) -> Result<()> {
        let there =
            |what: &str| if what.contains('/') { PathBuf::from(what).exists() } else { on_path(what) };
        let mut packages: Vec<&str> =
            wanted.iter().filter(|(what, _)| !there(what)).map(|(_, package)| *package).collect();
        packages.dedup();
        if packages.is_empty() {
            return Ok(());
        }
        if !on_path("apt-get") {
            bail!("missing here: {}; install them by this machine's own means", packages.join(", "));
        }
        if !self.updated.replace(true) {
            Self::apt_get(&["update"])?;
        }
        // Packages start the services that they bring; none is wanted on this machine itself.
        let install = [&["install", "--yes", "--no-install-recommends"][..], &packages].concat();
        Self::apt_get(&install)
    }

    fn apt_get(args: &[&str]) -> Result<()> {
        // SAFETY: `geteuid` has no preconditions.
        let root = unsafe { libc::geteuid() } == 0;
        let cmd = if root { Cmd::new("apt-get") } else { Cmd::new("sudo").arg("apt-get") };
        cmd.args(["-qq", "-o", "DPkg::Lock::Timeout=120"])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1")
            .run()
    }
}
