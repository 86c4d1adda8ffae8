//! `cargo xtask ci`: everything that must hold before a change is taken.

use anyhow::{Result, bail};

use crate::{lint, test};

pub(crate) fn run() -> Result<()> {
    let parts = [("lint", lint::run()), ("test", test::run(&test::Args::default()))];
    let failed: Vec<String> =
        parts.into_iter().filter_map(|(part, result)| Some(format!("{part}: {:#}", result.err()?))).collect();
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}
