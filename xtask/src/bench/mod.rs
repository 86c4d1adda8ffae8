//! `cargo xtask bench`: how fast it is: against what it replaces, on the lab that is up, and in a large Swarm.

mod convergence;
mod dns;
mod machine;
mod plot;
mod scale;

use anyhow::Result;
use clap::Subcommand;
use mesh_tests::lab::{Lab, Lock};

use crate::setup::{self, Set};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// From a task's death, a task's start and a change of labels to the tables of every node
    Convergence {
        #[arg(long, default_value_t = 50)]
        repetitions: usize,
    },
    /// What 10,000 services with ten tasks each cost the agent, against one; needs no lab
    Scale {
        /// A tenth of the services, and fewer changes
        #[arg(long)]
        quick: bool,
    },
    /// Queries per second and latencies of the resolver, against Docker's, dnsmasq and unbound
    Dns {
        /// Seconds for each server
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Command::Scale { quick } = args.command {
        setup::ensure(&[Set::Build])?;
        return scale::run(quick);
    }
    setup::ensure(&[Set::Lab, Set::Bench])?;
    let _lock = Lock::take()?;
    let lab = Lab::open()?;
    match args.command {
        Command::Convergence { repetitions } => convergence::run(&lab, repetitions),
        Command::Dns { seconds } => dns::run(&lab, seconds),
        Command::Scale { .. } => Ok(()),
    }
}
