//! Whether the other nodes can be reached, found out by asking their dataplanes: a probe through the tunnel is answered by
//! the programs in a node's kernel, with or without an agent. So a node that crashed or was cut off is left out seconds
//! before the managers miss it, and one whose agent or control path is down is not.

mod probe;
mod pulse;
mod socket;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

pub use probe::Way;
pub use pulse::Pulse;

use crate::desired::Reach;

/// Which nodes to ask, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub way: Way,
    pub nodes: BTreeSet<Ipv4Addr>,
}

/// What is known of each node.
pub type Pulses = BTreeMap<Ipv4Addr, Pulse>;

/// By which interfaces each node has answered. Nobody who does not get the questions can answer them.
pub type Heard = BTreeMap<Ipv4Addr, BTreeSet<u32>>;

/// Lets sockets send to other nodes' tunnels, by their cookies: the programs stop everybody else.
pub trait Allowlist: Debug + Send + Sync {
    fn allow(&self, cookie: u64);
    fn revoke(&self, cookie: u64);
}

/// The doors that probes pass.
pub type SharedAllowlist = Arc<dyn Allowlist>;

/// Where it is told what was found out.
#[derive(Clone, Debug)]
pub struct Findings {
    pub pulses: watch::Sender<Arc<Pulses>>,
    pub heard: watch::Sender<Arc<Heard>>,
}

/// The nodes that get nothing new.
pub fn reach(pulses: &Pulses) -> Reach {
    let with = |pulse| pulses.iter().filter(move |(_, known)| **known == pulse).map(|(node, _)| *node);
    Reach { silent: with(Pulse::Silent).collect(), without_mesh: with(Pulse::WithoutMesh).collect() }
}

/// Keeps what is found out up to date until `wanted` ends.
pub async fn watch(
    mut wanted: watch::Receiver<Option<Wanted>>,
    findings: Findings,
    allowlist: SharedAllowlist,
) {
    let mut probes = Probes::default();
    loop {
        let now = wanted.borrow_and_update().clone();
        let nodes = now.as_ref().map(|wanted| wanted.nodes.clone()).unwrap_or_default();
        if probes.way != now.as_ref().map(|wanted| wanted.way) {
            probes = Probes { way: now.map(|wanted| wanted.way), ..Probes::default() };
        }
        probes.keep(&nodes, &findings, &allowlist);
        forget_others(&findings.pulses, &nodes);
        forget_others(&findings.heard, &nodes);
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

fn forget_others<V: Clone>(known: &watch::Sender<Arc<BTreeMap<Ipv4Addr, V>>>, nodes: &BTreeSet<Ipv4Addr>) {
    known.send_if_modified(|known| {
        let before = known.len();
        Arc::make_mut(known).retain(|node, _| nodes.contains(node));
        known.len() != before
    });
}

/// One task for each node.
#[derive(Default)]
struct Probes {
    way: Option<Way>,
    tasks: JoinSet<()>,
    by_node: BTreeMap<Ipv4Addr, AbortHandle>,
}

impl Probes {
    fn keep(&mut self, nodes: &BTreeSet<Ipv4Addr>, findings: &Findings, allowlist: &SharedAllowlist) {
        let Some(way) = self.way else { return };
        self.by_node.retain(|node, task| {
            let is_wanted = nodes.contains(node);
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
        for node in nodes.iter().copied() {
            let tasks = &mut self.tasks;
            let (findings, allowlist) = (findings.clone(), allowlist.clone());
            let probe = || probe::Probe::new(way, node, allowlist);
            self.by_node.entry(node).or_insert_with(|| tasks.spawn(feel(probe(), node, findings)));
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

async fn feel(mut probe: probe::Probe, node: Ipv4Addr, findings: Findings) {
    let mut signs = pulse::Signs::default();
    loop {
        let told = probe.ask().await;
        findings.hear(node, told.interface);
        let before = signs.pulse();
        let now = signs.after(told.sign);
        if before == now {
            continue;
        }
        match now {
            Pulse::Alive => info!(%node, "the node's dataplane answers"),
            Pulse::Silent => {
                warn!(%node, "the node's dataplane has fallen silent: nothing new is sent there");
            }
            Pulse::WithoutMesh => {
                info!(%node, "the node is up without the mesh: the tunnel does not lead there");
            }
            Pulse::Unknown => {}
        }
        findings.pulses.send_modify(|known| {
            Arc::make_mut(known).insert(node, now);
        });
    }
}

impl Findings {
    fn hear(&self, node: Ipv4Addr, interface: Option<u32>) {
        let Some(interface) = interface else { return };
        self.heard.send_if_modified(|known| {
            let is_new = !known.get(&node).is_some_and(|interfaces| interfaces.contains(&interface));
            if is_new {
                Arc::make_mut(known).entry(node).or_default().insert(interface);
            }
            is_new
        });
    }
}
