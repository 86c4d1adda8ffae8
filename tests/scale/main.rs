//! What a large Swarm costs the agent: the time from a snapshot to the kernel's tables, memory, and the packets' way through
//! full tables. One line of JSON on the standard output is the result. `cargo xtask bench scale` runs this and shows it.
//!
//! Arguments: services, tasks of each, networks that this node is on, changes to be timed.

#[path = "../kernel/support/bpffs.rs"]
mod bpffs;
mod packets;
mod swarm;

use std::env;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_agent::dataplane::kernel::{self, Kernel};
use mesh_agent::dataplane::pins::Pins;
use mesh_agent::desired::{Desired, Names, Surroundings};
use mesh_agent::reconcile::plan::NodeFacts;
use mesh_agent::reconcile::reconciler::Reconciler;
use mesh_common::maps::{self, Sizes};
use serde_json::{Value, json};

use swarm::{Shape, Swarm};

fn main() -> Result<()> {
    // `cargo bench` adds an argument of its own.
    let numbers: Vec<usize> = env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let &[services, tasks, networks_here, changes] = numbers.as_slice() else {
        anyhow::bail!("usage: scale SERVICES TASKS NETWORKS_HERE CHANGES");
    };
    let shape = Shape { services, tasks, networks_here };
    let backends = u32::try_from(services * tasks * 2)?.max(maps::BACKENDS);

    let bpffs = bpffs::BpfFs::new();
    let pins = Pins::under(&bpffs.path(""));
    let sizes = Sizes { flows: 65_536, backends };
    let (tables, mut programs, _) = kernel::load(&pins, sizes)?;
    let empty = packets::measure(&mut programs)?;
    let before = resident()?;

    let mut swarm = Swarm::new(shape);
    let of_swarm = resident()? - before;
    let mut agent = Agent::new(tables, backends)?;
    let full = agent.round(&swarm)?;
    eprintln!("full sync: {full:?}");
    let memory = resident()?;
    let mut rounds = Vec::new();
    for number in 0..changes {
        swarm.change(number);
        rounds.push(agent.round(&swarm)?);
    }
    let after = resident()?;
    let counted = agent.counts();
    let loaded = packets::measure(&mut programs)?;
    let result = json!({
        "services": services, "tasks": services * tasks, "networks_here": networks_here,
        "frontends": counted.0, "backends": counted.1, "names": agent.names_known(),
        "full": full.json(),
        "changes": rounds.iter().map(Round::json).collect::<Vec<_>>(),
        "memory_bytes": { "before": before, "swarm": of_swarm, "synced": memory, "changed": after },
        "packets": { "empty": empty, "full": loaded },
    });
    println!("{result}");
    Ok(())
}

/// How long the parts of a round took.
#[derive(Debug, Clone, Copy)]
struct Round {
    desired: Duration,
    names: Duration,
    tables: Duration,
    rest: Duration,
}

impl Round {
    fn json(&self) -> Value {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        json!({
            "desired_ms": ms(self.desired), "tables_ms": ms(self.tables), "names_ms": ms(self.names),
            "rest_ms": ms(self.rest), "to_tables_ms": ms(self.desired + self.tables),
        })
    }
}

/// What the agent's core does with a snapshot, without what it reads of the node.
struct Agent {
    reconciler: Reconciler<Kernel>,
    facts: NodeFacts,
    names: Names,
    desired: Desired,
}

impl Agent {
    fn new(tables: Kernel, backends: u32) -> Result<Self> {
        let reconciler = Reconciler::new(tables, backends)?;
        Ok(Self { reconciler, facts: packets::facts(), names: Names::default(), desired: Desired::default() })
    }

    fn round(&mut self, swarm: &Swarm) -> Result<Round> {
        let (snapshot, local) = (swarm.snapshot.clone(), swarm.local.clone());
        let surroundings = Surroundings { overlays: swarm.overlays(), ..Surroundings::default() };
        let begin = Instant::now();
        self.desired = Desired::from(&snapshot, &local, &surroundings);
        let desired = begin.elapsed();
        let begin = Instant::now();
        self.names = Names::from(&snapshot, &local);
        let names = begin.elapsed();
        let begin = Instant::now();
        let rest = self.reconciler.begin(&self.desired, &self.facts);
        let tables = begin.elapsed();
        let begin = Instant::now();
        self.reconciler.finish(&rest);
        let rest = begin.elapsed();
        ensure!(self.reconciler.problems().is_empty(), "{:?}", self.reconciler.problems());
        Ok(Round { desired, names, tables, rest })
    }

    fn counts(&self) -> (usize, usize) {
        let frontends = &self.desired.frontends;
        (frontends.len(), frontends.values().map(|frontend| frontend.backends.len()).sum())
    }

    fn names_known(&self) -> usize {
        self.names.networks().iter().map(|network| network.len()).sum()
    }
}

/// Bytes of this process that are in memory.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}
