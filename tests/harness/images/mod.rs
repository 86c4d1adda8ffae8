//! Images for `docker load`, made without Docker and without a registry.

mod agent;
mod archive;
mod nginx;
mod redis;
mod revision;
mod workload;

use std::path::PathBuf;

use anyhow::{Result, ensure};

pub use self::{
    agent::agent,
    archive::{Config, Healthcheck, Image, Layer},
    nginx::nginx,
    redis::redis,
    revision::Revision,
    workload::workload,
};
use crate::{
    cmd::Cmd,
    paths::{STATIC_TARGET, static_binary},
};

/// Debian's nginx. It answers on port 80 with the host name of its container, and logs who asked to its output.
pub const NGINX: &str = "mesh-lab/nginx:latest";
/// Debian's Redis, open to all on port 6379.
pub const REDIS: &str = "mesh-lab/redis:latest";
/// The test server (`tests/workload`); `:v1` and `:v2` differ in the version that they tell, `:health` has a check.
pub const WORKLOAD: &str = "mesh-lab/workload:latest";
/// The agent.
pub const AGENT: &str = "mesh-agent:latest";

/// Builds a binary of this workspace that needs nothing from the system it runs on.
fn build_static(package: &str, binary: &str) -> Result<PathBuf> {
    Cmd::cargo("build")
        .args(["--release", "--target", STATIC_TARGET])
        .args(["--package", package, "--bin", binary])
        .run()?;
    let path = static_binary(binary);
    ensure!(path.is_file(), "cargo did not leave {}", path.display());
    Ok(path)
}
