//! `cargo xtask image`: the agent's image, without Docker.

use anyhow::Result;
use mesh_tests::images;

use crate::setup::{self, Set};

pub(crate) fn run() -> Result<()> {
    setup::ensure(&[Set::Build])?;
    let archive = images::agent()?;
    println!("{}: `docker load --input` it on every node", archive.display());
    Ok(())
}
