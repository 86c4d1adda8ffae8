//! How the programs are compiled, for all who do it: mesh-agent's build script and `cargo xtask` (which include this file).
//!
//! The compiler is the one that builds everything else (`rust-toolchain.toml`). It has no `core` for this target, so that is
//! built too, which a stable cargo does only when told that it may (`RUSTC_BOOTSTRAP`; aya-build does the same). The linker
//! reads what the compiler's LLVM wrote and must not be older than that: it is linked against that very libLLVM, below
//! `target/`, by `cargo xtask setup`.
//!
//! Why not aya-build: it overwrites the flags that choose the target's CPU. The default CPU has neither the fetching
//! atomic add nor 32-bit jumps, and switching on the first alone (`alu32`) makes LLVM 22 compare a 32-bit -1 as a 64-bit
//! one, so that `Ok(())` never equals `Ok(())`. `-Ctarget-cpu=v3` (Linux 5.1) has both.

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";
const FLAGS: [&str; 3] = ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3"];

/// `cargo subcommand` on the programs. `target` is the folder of the whole workspace; what is built lies in [`objects`].
pub(crate) fn cargo(cargo: &Path, subcommand: &str, target: &Path) -> Command {
    let mut command = Command::new(cargo);
    command
        .args([subcommand, "--locked", "--package", "mesh-ebpf", "--target", TARGET, "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(directory(target))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker(target))
        // In place of flags of the build that this may be part of.
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    // Wrappers of that build, like clippy's, are not for this target.
    for variable in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS"] {
        command.env_remove(variable);
    }
    command
}

/// Where the released programs lie.
pub(crate) fn objects(target: &Path) -> PathBuf {
    directory(target).join(TARGET).join("release")
}

/// The linker that `cargo xtask setup` installs.
pub(crate) fn linker(target: &Path) -> PathBuf {
    target.join("tools/bin/bpf-linker")
}

/// A folder of its own: cargo locks the one of the build that this may be part of.
fn directory(target: &Path) -> PathBuf {
    target.join("ebpf")
}
