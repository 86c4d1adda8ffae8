//! What a large Swarm costs the agent: the time from a snapshot to the kernel's tables, memory, and the packets' way through
//! full tables. One line of JSON on the standard output is the result. `cargo xtask bench scale` runs this and shows it.
//!
//! Arguments: services, tasks of each, networks that this node is on, changes to be timed.

mod packets;
#[allow(dead_code, reason = "the suite needs more of it")]
#[path = "../kernel/support/mod.rs"]
mod support;
mod swarm;

use std::env;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_agent::dataplane::kernel::{self, Kernel};
use mesh_agent::dataplane::pins::Pins;
use mesh_agent::desired::drains::Drains;
use mesh_agent::desired::names::NetworkNames;
use mesh_agent::desired::{Desired, Follower, FrontendId, Names, Surroundings};
use mesh_agent::reconcile::plan::NodeFacts;
use mesh_agent::reconcile::reconciler::Reconciler;
use mesh_agent::swarm::snapshot::{Protocol, Snapshot};
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
    // At a published port and at a virtual address, and some to spare while one gives way to another.
    let backends = u32::try_from(services * tasks * 5 / 2)?.max(maps::BACKENDS);

    let bpffs = support::bpffs::BpfFs::new();
    let pins = Pins::under(&bpffs.path(""));
    let _node = packets::node(swarm::NODES);
    let (tables, mut programs, _) = kernel::load(&pins, Sizes { flows: 65_536, backends })?;
    let before = resident()?;
    let mut swarm = Swarm::new(shape);
    let of_swarm = resident()?;
    let mut agent = Agent::new(tables, backends)?;
    let full = agent.round(&swarm)?;
    let synced = resident()?;
    let packets = packets::measure(&mut programs, &pins, swarm::FIRST_PORT, agent.a_backend()?)?;
    let mut rounds = Vec::new();
    for number in 0..changes {
        swarm.change(number);
        rounds.push(agent.round(&swarm)?.json());
    }
    let (frontends, backends) = agent.counts();
    let result = json!({
        "services": services, "tasks": services * tasks, "networks_here": networks_here,
        "frontends": frontends, "backends": backends, "names": agent.names_known(),
        "full": full.json(), "changes": rounds, "packets": packets,
        "memory_bytes": { "before": before, "with_swarm": of_swarm, "synced": synced, "after_changes": resident()? },
    });
    println!("{result}");
    Ok(())
}

/// How long the parts of a round took.
#[derive(Debug, Clone, Copy)]
struct Round {
    source: Duration,
    desired: Duration,
    tables: Duration,
    rest: Duration,
}

impl Round {
    fn json(&self) -> Value {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        json!({
            "source_ms": ms(self.source), "desired_ms": ms(self.desired), "tables_ms": ms(self.tables),
            "rest_ms": ms(self.rest), "to_tables_ms": ms(self.source + self.desired + self.tables),
        })
    }
}

/// What the agent does with a snapshot, without what it reads of the node.
struct Agent {
    reconciler: Reconciler<Kernel>,
    facts: NodeFacts,
    follower: Follower,
    drains: Drains,
    /// What was published last, as the sources compare it.
    published: Arc<Snapshot>,
    names: Names,
    desired: Desired,
}

impl Agent {
    fn new(tables: Kernel, backends: u32) -> Result<Self> {
        Ok(Self {
            reconciler: Reconciler::new(tables, backends)?,
            facts: packets::facts(),
            follower: Follower::default(),
            drains: Drains::default(),
            published: Arc::default(),
            names: Names::default(),
            desired: Desired::default(),
        })
    }

    fn round(&mut self, swarm: &Swarm) -> Result<Round> {
        let surroundings = Surroundings { overlays: swarm.overlays(), ..Surroundings::default() };
        let begin = Instant::now();
        if *self.published != swarm.snapshot {
            self.published = Arc::new(swarm.snapshot.clone());
        }
        let source = begin.elapsed();
        let (desired, names) = self.follower.follow(&self.published, &swarm.local, &surroundings);
        let (desired, names) = (desired.clone(), names.clone());
        self.drains.note(&desired, &self.published, begin);
        // As they are compared before the resolver is told.
        if names != self.names {
            self.names = names;
        }
        self.desired = desired;
        let until_desired = begin.elapsed();
        let rest = self.reconciler.begin(&self.desired, &self.facts, Instant::now());
        let until_tables = begin.elapsed();
        self.reconciler.finish(&rest);
        let all = begin.elapsed();
        ensure!(self.reconciler.problems().is_empty(), "{:?}", self.reconciler.problems());
        Ok(Round {
            source,
            desired: until_desired.saturating_sub(source),
            tables: until_tables.saturating_sub(until_desired),
            rest: all.saturating_sub(until_tables),
        })
    }

    /// Id and generation of a backend of the first port.
    fn a_backend(&self) -> Result<(u32, u32)> {
        let id = FrontendId::Published { port: swarm::FIRST_PORT, protocol: Protocol::Tcp };
        let known = self.reconciler.ids().get(&id).and_then(|ids| *ids.first()?);
        known.context("the first port has no backend")
    }

    fn counts(&self) -> (usize, usize) {
        let frontends = &self.desired.frontends;
        (frontends.len(), frontends.values().map(|frontend| frontend.backends.len()).sum())
    }

    fn names_known(&self) -> usize {
        self.names.networks().iter().map(NetworkNames::len).sum()
    }
}

/// Bytes of this process that are in memory.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}
