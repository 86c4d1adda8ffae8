//! The agent's image: one static binary.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{AGENT, Config, Image, Layer, build_static};
use crate::paths::target;

/// Builds the agent and writes `target/mesh-agent.tar`.
pub fn agent() -> Result<PathBuf> {
    let binary = build_static("mesh-agent", "mesh-agent")?;
    let tags = vec![AGENT.into(), format!("mesh-agent:{}", env!("CARGO_PKG_VERSION"))];
    let archive = target().join("mesh-agent.tar");
    pack(&binary, tags, &archive)?;
    Ok(archive)
}

/// Writes the image of an agent that is built.
pub(super) fn pack(binary: &Path, tags: Vec<String>, archive: &Path) -> Result<()> {
    let layer = Layer::pack(|files| {
        files.directory("/usr/local/bin", 0o755)?;
        files.copy(binary, "/usr/local/bin/mesh-agent")?;
        files.directory("/tmp", 0o1777)
    })?;
    let config = Config {
        entrypoint: vec!["mesh-agent".into()],
        cmd: vec!["run".into()],
        env: vec!["PATH=/usr/local/bin".into()],
        ..Config::default()
    };
    Image::save(&[Image { tags, config, layer: &layer }], archive)
}
