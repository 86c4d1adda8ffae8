//! A real Redis, put together as nginx is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Config, Image, Layer, REDIS, nginx::libraries};
use crate::{cmd::find, paths::target};

/// Writes the archive of [`REDIS`].
pub fn redis() -> Result<PathBuf> {
    let binary =
        find("redis-server").context("redis-server is not installed: run `cargo xtask setup lab`")?;
    let layer = Layer::pack(|files| {
        for library in libraries(&binary)? {
            files.copy(Path::new(&library), &library)?;
        }
        files.copy(&binary, "/usr/bin/redis-server")?;
        files.directory("/tmp", 0o1777)
    })?;
    let words = |text: &str| text.split(' ').map(String::from).collect();
    let config = Config {
        entrypoint: words("/usr/bin/redis-server --protected-mode no --dir /tmp --appendonly no"),
        cmd: words("--bind 0.0.0.0"),
        env: vec!["PATH=/usr/bin".into()],
        ..Config::default()
    };
    let archive = target().join("mesh-lab-redis.tar");
    Image::save(&[Image { tags: vec![REDIS.into()], config, layer: &layer }], &archive)?;
    Ok(archive)
}
