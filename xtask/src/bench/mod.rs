//! `cargo xtask bench`: how fast it is: against what it replaces, on the lab that is up; packet by packet; in a large Swarm;
//! and against Docker's own mesh, in a virtual machine.

mod convergence;
mod dns;
mod lab;
mod machine;
mod median;
mod packet;
mod plot;
mod results;
mod scale;
mod vm;

use std::path::PathBuf;

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
        /// Ten repetitions
        #[arg(long, conflicts_with = "repetitions")]
        quick: bool,
    },
    /// What 10,000 services with ten tasks each cost the agent, against one; needs no lab
    Scale {
        /// A tenth of the services, and fewer changes
        #[arg(long)]
        quick: bool,
    },
    /// Packets, connections and requests through an entry node, against nftables, a proxy and no entry node at all
    Lab {
        /// Fewer and shorter repetitions
        #[arg(long)]
        quick: bool,
    },
    /// Queries per second and latencies of the resolver, against Docker's, dnsmasq and unbound
    Dns {
        /// Seconds for each server, at most 100
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
        seconds: u64,
        /// Two seconds for each server
        #[arg(long, conflicts_with = "seconds")]
        quick: bool,
    },
    /// Nanoseconds for a packet in the programs, by kind of packet, against programs that look nothing up
    Packet {
        /// Fewer and shorter repetitions
        #[arg(long)]
        quick: bool,
        /// Only kinds of packets whose name contains this, like "TC: new"
        #[arg(default_value = "", hide_default_value = true)]
        filter: String,
    },
    /// Requests through a published port on Debian's own kernel in a virtual machine: Docker's own mesh against this one
    Vm {
        /// Fewer requests, once each
        #[arg(long)]
        quick: bool,
    },
    /// The part of `vm` that runs in the virtual machine
    #[command(hide = true)]
    VmGuest {
        shared: PathBuf,
        #[arg(long)]
        quick: bool,
    },
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Convergence { repetitions, quick } => {
            on_lab(|lab| convergence::run(lab, if *quick { 10 } else { *repetitions }))
        }
        Command::Dns { seconds, quick } => on_lab(|lab| dns::run(lab, if *quick { 2 } else { *seconds })),
        Command::Lab { quick } => {
            setup::ensure(&[Set::Build])?;
            on_lab(|lab| lab::run(lab, *quick))
        }
        Command::Packet { quick, filter } => {
            setup::ensure(&[Set::Build, Set::Lab])?;
            packet::run(*quick, filter)
        }
        Command::Scale { quick } => {
            setup::ensure(&[Set::Build])?;
            scale::run(*quick)
        }
        Command::Vm { quick } => {
            setup::ensure(&[Set::Build, Set::Lab, Set::Vm])?;
            vm::run(*quick)
        }
        Command::VmGuest { shared, quick } => vm::guest(shared, *quick),
    }
}

fn on_lab(measure: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    setup::ensure(&[Set::Lab, Set::Bench])?;
    let _lock = Lock::take()?;
    measure(&Lab::open()?)
}
