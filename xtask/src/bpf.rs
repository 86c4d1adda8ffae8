//! Cargo for the BPF target.

#[path = "../../mesh-ebpf/compile.rs"]
mod compile;

use std::path::{Path, PathBuf};

use mesh_tests::{cmd::Cmd, paths};

/// `cargo subcommand` on the programs, with those that only benchmarks run.
pub(crate) fn cargo(subcommand: &str) -> Cmd {
    let cargo = compile::cargo(Path::new("cargo"), subcommand, &paths::target());
    Cmd::from(cargo).dir(paths::root()).args(["--features", "bench"])
}

/// Builds the programs, and returns the folder with their objects.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    cargo("build").arg("--release").run()?;
    Ok(compile::objects(&paths::target()))
}

/// The linker for this target.
pub(crate) fn linker() -> PathBuf {
    compile::linker(&paths::target())
}
