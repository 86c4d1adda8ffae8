//! Compiles the dataplane for the BPF target and leaves it in `OUT_DIR`, to be embedded in the agent: `mesh-ebpf`, and
//! `mesh-ebpf-xdp`.
//!
//! Why not aya-build: it overwrites the flags that choose the target's CPU. The default CPU has neither the fetching
//! atomic add nor 32-bit jumps, and switching on the first alone (`alu32`) makes LLVM 22 compare a 32-bit -1 as a 64-bit
//! one, so that `Ok(())` never equals `Ok(())`. `-Ctarget-cpu=v3` (Linux 5.1) has both.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

const TARGET: &str = "bpfel-unknown-none";
const FLAGS: [&str; 3] = ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3"];

fn main() -> Result<()> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR").context("cargo names the package's folder")?);
    let root = manifest.parent().context("the package is in the workspace")?;
    for folder in ["mesh-ebpf", "mesh-common", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", root.join(folder).display());
    }
    ensure!(
        env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() == Ok("little"),
        "the dataplane is written for little-endian machines"
    );

    let out = PathBuf::from(env::var("OUT_DIR").context("cargo names the output folder")?);
    let target_dir = shared_target_dir(&out);
    let mut build = toolchain()?;
    build
        .args(["build", "--package", "mesh-ebpf", "--release", "--target", TARGET, "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(root)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    // Those of the build this is part of would choose another compiler.
    for variable in
        ["RUSTC", "RUSTDOC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO", "RUSTUP_TOOLCHAIN"]
    {
        if !is_fallback(&build) || variable != "RUSTC" {
            build.env_remove(variable);
        }
    }
    let output = build.output().with_context(|| format!("run {build:?}"))?;
    if !output.status.success() {
        bail!(
            "{build:?} failed; `cargo xtask setup` installs what it needs (a nightly toolchain with rust-src, and \
             bpf-linker for its LLVM)\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for name in ["mesh-ebpf", "mesh-ebpf-xdp"] {
        let object = target_dir.join(TARGET).join("release").join(name);
        fs::copy(&object, out.join(name)).with_context(|| format!("copy {}", object.display()))?;
    }
    Ok(())
}

/// Cargo of a nightly toolchain; without one, of Debian's `rustc-web` packages, told that it may do what nightly may.
fn toolchain() -> Result<Command> {
    let nightly = Command::new("rustup").args(["run", "nightly", "rustc", "--version"]).output();
    if nightly.is_ok_and(|output| output.status.success()) {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "cargo"]);
        return Ok(command);
    }
    let (cargo, rustc) = (Path::new("/usr/bin/cargo"), Path::new("/usr/bin/rustc"));
    if cargo.is_file() && rustc.is_file() {
        let mut command = Command::new(cargo);
        command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", rustc);
        return Ok(command);
    }
    bail!(
        "no toolchain for the BPF target: neither `rustup run nightly` nor /usr/bin/cargo; run `cargo xtask setup`"
    )
}

fn is_fallback(command: &Command) -> bool {
    command.get_program() == "/usr/bin/cargo"
}

/// One folder for all profiles and targets of the agent: the dataplane is the same for all of them.
fn shared_target_dir(out: &Path) -> PathBuf {
    out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).unwrap_or(out).join("ebpf")
}
