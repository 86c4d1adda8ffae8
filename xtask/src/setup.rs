//! `cargo xtask setup`: installs what is missing, and prints each command that it runs. With nothing missing it only
//! looks, so every other command begins with it.

use std::{cell::Cell, path::PathBuf};

use anyhow::{Context, Result, bail};
use mesh_tests::{
    cmd::{Cmd, find, on_path},
    paths::{self, STATIC_TARGET},
};

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
    /// Resolvers and rules to compare with, and what measures them
    Bench,
    /// A proxy to compare with
    Proxy,
    /// A virtual machine, and what loads a web server
    Vm,
    /// Lints and checks of dependencies
    Lint,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let all = [Set::Build, Set::Lab, Set::Bench, Set::Proxy, Set::Vm, Set::Lint];
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
            Set::Lab => apt.install(LAB)?,
            Set::Bench => apt.install(BENCH)?,
            Set::Proxy => apt.install(&[("haproxy", "haproxy")])?,
            Set::Vm => virtual_machine(&apt)?,
            Set::Lint => lint()?,
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
];

const BENCH: &[(&str, &str)] = &[
    ("dnsperf", "dnsperf"),
    ("dnsmasq", "dnsmasq-base"),
    ("unbound", "unbound"),
    ("ab", "apache2-utils"),
    ("nft", "nftables"),
];

const VM: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("ab", "apache2-utils"),
];

fn build(apt: &Apt) -> Result<()> {
    apt.install(&[("cc", "build-essential"), ("musl-gcc", "musl-tools")])?;
    static_target()?;
    let llvm = bpf_toolchain(apt)?;
    bpf_linker(apt, llvm)
}

fn static_target() -> Result<()> {
    let sysroot = Cmd::new("rustc").args(["--print", "sysroot"]).quiet().read()?;
    if PathBuf::from(sysroot).join("lib/rustlib").join(STATIC_TARGET).exists() {
        return Ok(());
    }
    Cmd::new("rustup").args(["target", "add", STATIC_TARGET]).run()
}

/// A compiler for the BPF target: nightly with the sources of `core`, or Debian's where rustup cannot fetch it.
/// Returns the major version of its LLVM.
fn bpf_toolchain(apt: &Apt) -> Result<u32> {
    if let Some(llvm) = nightly_with_sources() {
        return Ok(llvm);
    }
    let nightly = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
    if on_path("rustup") {
        match Cmd::new("rustup").args(nightly).run() {
            Ok(()) => {}
            Err(error) => eprintln!("rustup cannot fetch nightly ({error}); trying Debian's compiler"),
        }
    }
    if let Some(llvm) = nightly_with_sources() {
        return Ok(llvm);
    }
    apt.install(&[("/usr/share/doc/rustc-web", "rustc-web"), ("/usr/share/doc/cargo-web", "cargo-web")])?;
    apt.install(&[("/usr/share/doc/rust-web-src", "rust-web-src")])?;
    llvm_major(Cmd::new("/usr/bin/rustc").arg("-vV")).context("Debian's rustc does not name its LLVM")
}

/// Whether eBPF is built by rustup's nightly, and not by Debian's compiler.
pub(crate) fn has_nightly() -> bool {
    nightly_with_sources().is_some()
}

fn nightly_with_sources() -> Option<u32> {
    let rustc = |args: &[&str]| Cmd::new("rustup").args(["run", "nightly", "rustc"]).args(args).quiet();
    let sysroot = rustc(&["--print", "sysroot"]).read().ok()?;
    let sources = PathBuf::from(sysroot).join("lib/rustlib/src/rust/library/core");
    if sources.exists() { llvm_major(rustc(&["-vV"])) } else { None }
}

fn llvm_major(rustc: Cmd) -> Option<u32> {
    let text = rustc.quiet().read().ok()?;
    text.lines().find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next()?.parse().ok())
}

/// bpf-linker reads what rustc's LLVM wrote, so it is built against the same major version, and again when that changes.
fn bpf_linker(apt: &Apt, llvm: u32) -> Result<()> {
    if on_path("bpf-linker") && built_for().is_none_or(|version| version == llvm) {
        return Ok(());
    }
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let (package, polly) = (format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"));
    let config = format!("{prefix}/bin/llvm-config");
    let library = format!("{prefix}/lib/libPolly.a");
    apt.install(&[(&config, &package), (&library, &polly)])?;
    Cmd::new("cargo")
        .args(["install", "bpf-linker", "--no-default-features", "--locked", "--force"])
        .args(["--features", &format!("llvm-{llvm}")])
        .env("LLVM_PREFIX", &prefix)
        .run()
}

/// The LLVM that bpf-linker was built with, from the library it loads; none when it brings its own, and is trusted.
fn built_for() -> Option<u32> {
    let path = Cmd::new("sh").args(["-c", "command -v bpf-linker"]).quiet().read().ok()?;
    let libraries = Cmd::new("ldd").arg(path).quiet().read().ok()?;
    libraries
        .split("libLLVM")
        .nth(1)?
        .trim_start_matches(['.', '-', 's', 'o'])
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// virtme-ng is no package of Debian 12; Python's installer puts it where only this repository sees it.
fn virtual_machine(apt: &Apt) -> Result<()> {
    apt.install(VM)?;
    if virtme().is_some() {
        return Ok(());
    }
    apt.install(&[("/usr/share/doc/python3-venv", "python3-venv")])?;
    Cmd::new("python3").args(["-m", "venv"]).arg(virtme_folder()).run()?;
    Cmd::new(virtme_folder().join("bin/pip")).args(["install", "--quiet", "virtme-ng"]).run()
}

/// virtme-ng's command: the system's, or the one that was installed here.
pub(crate) fn virtme() -> Option<PathBuf> {
    let own = virtme_folder().join("bin/vng");
    find("vng").or_else(|| own.is_file().then_some(own))
}

fn virtme_folder() -> PathBuf {
    paths::target().join("vm/virtme-ng")
}

fn lint() -> Result<()> {
    if on_path("cargo-deny") {
        return Ok(());
    }
    Cmd::new("cargo").args(["install", "cargo-deny", "--locked"]).run()
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
