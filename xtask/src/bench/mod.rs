//! `cargo xtask bench`: how fast it is, against what it replaces, on the lab that is up.

mod convergence;
mod dns;
mod machine;
mod plot;

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
    /// Queries per second and latencies of the resolver, against Docker's, dnsmasq and unbound
    Dns {
        /// Seconds for each server
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Set::Lab, Set::Bench])?;
    let _lock = Lock::take()?;
    let lab = Lab::open()?;
    match args.command {
        Command::Convergence { repetitions } => convergence::run(&lab, repetitions),
        Command::Dns { seconds } => dns::run(&lab, seconds),
    }
}
