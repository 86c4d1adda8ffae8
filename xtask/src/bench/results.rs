//! Where results are written.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use mesh_tests::paths;

/// The folder of all results, which is made if need be.
pub(super) fn folder() -> Result<PathBuf> {
    let folder = paths::target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Writes files there, and says so.
pub(super) fn save<const N: usize>(files: [(&str, String); N]) -> Result<()> {
    let folder = folder()?;
    for (name, text) in files {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        println!("written to {}", file.strip_prefix(paths::root()).unwrap_or(&file).display());
    }
    Ok(())
}
