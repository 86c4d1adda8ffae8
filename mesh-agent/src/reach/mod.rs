//! Whether the other nodes can be reached, found out by asking their dataplanes: a probe through the tunnel is answered by
//! the programs in a node's kernel, with or without an agent. So a node that crashed or was cut off is left out seconds
//! before the managers miss it, and one whose agent or control path is down is not.

mod measure;
mod probe;
mod pulse;
mod question;
mod size;
mod socket;
#[cfg(test)]
mod tests;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

pub use pulse::Pulse;
pub use question::Way;

use crate::desired::Reach;

/// Which nodes to ask, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub way: Way,
    /// Each with the largest IP packet that this node's interfaces and routes take there.
    pub nodes: BTreeMap<Ipv4Addr, u16>,
}

/// What is known of each node.
pub type Pulses = BTreeMap<Ipv4Addr, Pulse>;

/// What is known of the way to each node, from its answers. Nobody who does not get the questions can answer them.
pub type Paths = BTreeMap<Ipv4Addr, Path>;

/// The way to one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// By which interfaces it has answered.
    pub interfaces: BTreeSet<u32>,
    /// The largest IP packet that gets there and back, if that is less than this node's interfaces and routes take.
    pub narrow: Option<u16>,
}

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
    pub paths: watch::Sender<Arc<Paths>>,
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
        forget_others(&findings.paths, &nodes);
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

fn forget_others<V: Clone>(
    known: &watch::Sender<Arc<BTreeMap<Ipv4Addr, V>>>,
    nodes: &BTreeMap<Ipv4Addr, u16>,
) {
    known.send_if_modified(|known| {
        let before = known.len();
        Arc::make_mut(known).retain(|node, _| nodes.contains_key(node));
        known.len() != before
    });
}

/// The tasks for each node.
#[derive(Default)]
struct Probes {
    way: Option<Way>,
    tasks: JoinSet<()>,
    by_node: BTreeMap<Ipv4Addr, Probed>,
}

#[derive(Debug)]
struct Probed {
    pulse: AbortHandle,
    size: AbortHandle,
    /// What the size is compared with.
    full: u16,
}

impl Drop for Probed {
    fn drop(&mut self) {
        self.pulse.abort();
        self.size.abort();
    }
}

impl Probes {
    fn keep(&mut self, nodes: &BTreeMap<Ipv4Addr, u16>, findings: &Findings, allowlist: &SharedAllowlist) {
        let Some(way) = self.way else { return };
        self.by_node.retain(|node, _| nodes.contains_key(node));
        for (node, full) in nodes.iter().map(|(node, full)| (*node, *full)) {
            let tasks = &mut self.tasks;
            let measure = |known| {
                let (findings, allowlist) = (findings.clone(), allowlist.clone());
                let tell = move |narrow| findings.measured(node, full, narrow);
                measure::measure(way, node, full, known, allowlist, tell)
            };
            match self.by_node.entry(node) {
                Entry::Vacant(entry) => {
                    let probe = probe::Probe::new(way, node, allowlist.clone());
                    let pulse = tasks.spawn(feel(probe, node, findings.clone()));
                    entry.insert(Probed { pulse, size: tasks.spawn(measure(None)), full });
                }
                Entry::Occupied(mut entry) if entry.get().full != full => {
                    let probed = entry.get_mut();
                    probed.size.abort();
                    // As much as before gets there, until it is known whether more does.
                    let known = findings.narrow(node).unwrap_or(probed.full);
                    probed.size = tasks.spawn(measure(Some(known)));
                    probed.full = full;
                }
                Entry::Occupied(_) => {}
            }
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
        self.change(node, |path| path.interfaces.insert(interface));
    }

    fn measured(&self, node: Ipv4Addr, full: u16, narrow: Option<u16>) {
        let is_new = self.change(node, |path| {
            let before = std::mem::replace(&mut path.narrow, narrow);
            before != narrow
        });
        match narrow {
            _ if !is_new => {}
            Some(narrow) => warn!(
                %node,
                "packets of more than {narrow} bytes do not get there and back, though this node's interfaces and routes take {full}: \
                 the tunnel keeps to that"
            ),
            None => info!(%node, "packets of {full} bytes get there and back"),
        }
    }

    fn narrow(&self, node: Ipv4Addr) -> Option<u16> {
        self.paths.borrow().get(&node)?.narrow
    }

    /// Changes what is known of the way to a node; `change` says whether it did. Returns that.
    fn change(&self, node: Ipv4Addr, change: impl FnOnce(&mut Path) -> bool) -> bool {
        self.paths.send_if_modified(|known| {
            let mut path = known.get(&node).cloned().unwrap_or_default();
            let is_new = change(&mut path);
            if is_new {
                Arc::make_mut(known).insert(node, path);
            }
            is_new
        })
    }
}
