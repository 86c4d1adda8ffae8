//! Where things are in this repository.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A released static binary of this workspace.
pub fn static_binary(name: &str) -> PathBuf {
    target().join(STATIC_TARGET).join("release").join(name)
}

/// What static binaries are built for: they run in an image that holds nothing else.
pub const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";

/// The stack file that users deploy, and the lab too.
pub fn stack_file() -> PathBuf {
    root().join("mesh-agent/deploy/stack.yml")
}
