//! Cargo for the BPF target.

use std::path::PathBuf;

use mesh_tests::{cmd::Cmd, paths};

use crate::setup;

const TARGET: &str = "bpfel-unknown-none";
/// As mesh-agent's build script has them.
const CPU: &str = "-Ctarget-cpu=v3";
const BTF: [&str; 2] = ["-Cdebuginfo=2", "-Clink-arg=--btf"];

/// `cargo command` on the programs, with those that only benchmarks run; in the folder that mesh-agent's build script keeps
/// for this target.
pub(crate) fn cargo(command: &str) -> Cmd {
    let mut cargo = Cmd::cargo();
    if setup::has_nightly() {
        cargo = cargo.arg("+nightly");
    } else {
        cargo = cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", "/usr/bin/rustc");
    }
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", CPU)
        .args([command, "--package", "mesh-ebpf", "--features", "bench", "--target", TARGET])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(directory())
}

/// Builds the programs, and returns the folder with their objects.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    let [debug_info, link] = BTF;
    let flags = [debug_info, link, CPU].join("\x1f");
    cargo("build").arg("--release").env("CARGO_ENCODED_RUSTFLAGS", flags).run()?;
    Ok(directory().join(TARGET).join("release"))
}

fn directory() -> PathBuf {
    paths::target().join("ebpf")
}
