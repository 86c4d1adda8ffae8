//! The test server's image, in two versions and one that Docker checks the health of.

use std::path::PathBuf;

use anyhow::Result;

use super::{Config, Healthcheck, Image, Layer, build_static};
use crate::paths::target;

/// Builds the test server and writes its images into one archive.
pub fn workload() -> Result<PathBuf> {
    let binary = build_static("mesh-tests", "mesh-workload")?;
    let layer = Layer::pack(|files| files.copy(&binary, "/workload"))?;
    let image = |tags: &[&str], version: &str, healthcheck: Option<Healthcheck>| Image {
        tags: tags.iter().map(|tag| format!("mesh-lab/workload:{tag}")).collect(),
        config: Config {
            entrypoint: vec!["/workload".into()],
            cmd: vec!["serve".into()],
            env: vec!["PATH=/".into(), format!("WORKLOAD_VERSION={version}")],
            healthcheck,
            ..Config::default()
        },
        layer: &layer,
    };
    let check = Healthcheck {
        test: ["CMD", "/workload", "healthcheck"].map(String::from).into(),
        interval: 500_000_000,
        timeout: 1_000_000_000,
        retries: 1,
    };
    let archive = target().join("mesh-lab-workload.tar");
    let images = [
        image(&["latest", "v1"], "v1", None),
        image(&["v2"], "v2", None),
        image(&["health"], "v1", Some(check)),
    ];
    Image::save(&images, &archive)?;
    Ok(archive)
}
