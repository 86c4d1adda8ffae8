//! `cargo xtask image`: the agent's image, without Docker.

use anyhow::Result;
use mesh_tests::images::{self, Revision};

use crate::setup::{self, Set};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The agent of another revision of this repository, as git names it: mesh-agent:REVISION in
    /// target/mesh-agent-REVISION.tar
    #[arg(long)]
    revision: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let revision = args.revision.as_deref().map(Revision::find).transpose()?;
    setup::ensure(&[Set::Build])?;
    let archive = match revision {
        Some(revision) => revision.image()?,
        None => images::agent()?,
    };
    println!("{}: `docker load --input` it on every node", archive.display());
    Ok(())
}
