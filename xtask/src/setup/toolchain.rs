//! The compiler's parts, and the linker for the BPF target, which is made for this compiler.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use mesh_tests::{
    cmd::{Cmd, on_path},
    paths::{self, STATIC_TARGET},
};

use super::Apt;
use crate::bpf;

const LINKER: &str = "=0.13.0";

/// What builds the agent, static, and the programs that it brings.
pub(super) fn ensure(apt: &Apt) -> Result<()> {
    let compiler = Compiler::here()?;
    if !compiler.sysroot.join("lib/rustlib").join(STATIC_TARGET).exists() {
        rustup(&["target", "add", STATIC_TARGET])?;
    }
    if !compiler.sysroot.join("lib/rustlib/src/rust/library/core").exists() {
        rustup(&["component", "add", "rust-src"])?;
    }
    linker(apt, &compiler)
}

/// Parts of the compiler that are programs.
pub(super) fn components(names: &[&str]) -> Result<()> {
    let sysroot = Compiler::here()?.sysroot;
    let program = |name: &str| if name == "clippy" { "cargo-clippy".into() } else { name.to_owned() };
    let missing = names.iter().filter(|name| !sysroot.join("bin").join(program(name)).exists());
    let missing: Vec<&str> = missing.copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    rustup(&[&["component", "add"], &missing[..]].concat())
}

/// `cargo install`, into a folder of this repository.
pub(super) fn cargo_install(name: &str, version: &str) -> Cmd {
    Cmd::new("cargo")
        .args(["install", name, "--version", version, "--locked", "--force", "--root"])
        .arg(tools())
        .dir(paths::root())
}

/// What is installed for this repository alone.
pub(super) fn tools() -> PathBuf {
    paths::target().join("tools")
}

fn rustup(args: &[&str]) -> Result<()> {
    if !on_path("rustup") {
        bail!(
            "rustup is missing: it brings the compiler that rust-toolchain.toml names, and would now run `rustup {}`",
            args.join(" ")
        );
    }
    Cmd::new("rustup").args(args).dir(paths::root()).run()
}

/// The compiler that cargo uses here.
struct Compiler {
    sysroot: PathBuf,
    /// `rustc -vV`: what it and its LLVM are.
    version: String,
}

impl Compiler {
    fn here() -> Result<Self> {
        let rustc = |args: &[&str]| Cmd::new("rustc").args(args).dir(paths::root()).quiet().read();
        Ok(Self { sysroot: rustc(&["--print", "sysroot"])?.into(), version: rustc(&["-vV"])? })
    }

    fn llvm(&self) -> Result<&str> {
        let llvm = self.version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
        llvm.with_context(|| format!("rustc does not name its LLVM:\n{}", self.version))
    }

    fn llvm_major(&self) -> Result<&str> {
        let version = self.llvm()?;
        Ok(version.split_once('.').map_or(version, |(major, _)| major))
    }

    /// Its LLVM, as a file whose name is the one that programs linked with it look for.
    fn libllvm(&self) -> Option<PathBuf> {
        let files = fs::read_dir(self.sysroot.join("lib")).ok()?.flatten().map(|entry| entry.path());
        files.into_iter().find(|file| name_of(file).starts_with("libLLVM.so."))
    }
}

fn name_of(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// bpf-linker reads what rustc's LLVM wrote: with another LLVM, even of the same major version, it may not be able to
/// (bpf-linker #387). So it is linked with that very library, and made again for another compiler.
fn linker(apt: &Apt, compiler: &Compiler) -> Result<()> {
    let (program, record) = (bpf::linker(), tools().join("bpf-linker.made-for"));
    let made_for = format!("bpf-linker {LINKER}\n{}\n", compiler.version);
    let runs = || Cmd::new(&program).arg("--version").succeeds();
    if fs::read_to_string(&record).is_ok_and(|text| text == made_for) && runs() {
        return Ok(());
    }
    let install = |prefix: &Path| -> Result<()> {
        let feature = format!("llvm-{}", compiler.llvm_major()?);
        cargo_install("bpf-linker", LINKER)
            .args(["--no-default-features", "--features", &feature])
            .env("LLVM_PREFIX", prefix)
            .run()?;
        Cmd::new(&program).arg("--version").quiet().read().map(drop)
    };
    let own = compilers_llvm(compiler).and_then(|prefix| install(&prefix));
    if let Err(error) = own {
        eprintln!("bpf-linker cannot be linked with rustc's own LLVM ({error:#}); trying Debian's");
        let debian = debians_llvm(apt, compiler).and_then(|(prefix, _)| install(&prefix));
        debian.with_context(|| neither(compiler))?;
    }
    fs::write(&record, made_for).with_context(|| format!("cannot write {}", record.display()))
}

/// A folder like an LLVM installation's, which holds nothing but rustc's own.
fn compilers_llvm(compiler: &Compiler) -> Result<PathBuf> {
    let library =
        compiler.libllvm().with_context(|| format!("no libLLVM in {}", compiler.sysroot.display()))?;
    let prefix = tools().join("llvm");
    let folder = prefix.join("lib");
    let _ = fs::remove_dir_all(&prefix);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // One name for who links, the other, its SONAME, for who loads.
    for name in ["libLLVM.so", name_of(&library)] {
        symlink(&library, folder.join(name))
            .with_context(|| format!("cannot link to {}", library.display()))?;
    }
    Ok(prefix)
}

/// Debian's LLVM of the same major version, and its whole version.
fn debians_llvm(apt: &Apt, compiler: &Compiler) -> Result<(PathBuf, String)> {
    let major = compiler.llvm_major()?;
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    let (config, package) = (prefix.join("bin/llvm-config"), format!("llvm-{major}-dev"));
    apt.install(&[(&config.display().to_string(), &package)])?;
    let version = Cmd::new(&config).arg("--version").quiet().read()?;
    Ok((prefix, version))
}

fn neither(compiler: &Compiler) -> String {
    let ours = compiler.llvm().unwrap_or("unknown");
    let major = compiler.llvm_major().unwrap_or("?");
    let debians = Cmd::new(format!("/usr/lib/llvm-{major}/bin/llvm-config")).arg("--version").quiet().read();
    let debians = debians.unwrap_or_else(|_| format!("missing (package llvm-{major}-dev)"));
    format!(
        "no bpf-linker {LINKER} for this compiler: neither rustc's own LLVM ({ours}) nor Debian's ({debians}) can be linked \
         with it"
    )
}
