//! What a node has found out by itself about what is around it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::left::Serving;
use crate::firewall::Filtered;

/// Beside what the Swarm says and which containers run here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The ids of the networks whose namespaces are on this node.
    pub overlays: BTreeSet<String>,
    pub reach: Reach,
    /// Ids of draining tasks whose connections had their time (`mesh.drain`).
    pub drained: BTreeSet<String>,
    /// The interface indexes of `docker_gwbridge`'s ports, by the ids that this node's network namespace has for those of the
    /// containers behind them.
    pub ports: BTreeMap<u16, u32>,
    /// What this node's mesh is to serve.
    pub serving: Serving,
}

impl Surroundings {
    /// For what does not depend on them.
    pub(super) const NONE: &Self = &Self {
        overlays: BTreeSet::new(),
        reach: Reach { silent: BTreeSet::new(), without_mesh: BTreeSet::new() },
        drained: BTreeSet::new(),
        ports: BTreeMap::new(),
        serving: Serving {
            leaves_published: false,
            labelled_only: false,
            leaves_encrypted: false,
            filtered: Filtered::None,
        },
    };
}

/// Which of the other nodes cannot be reached from here, whatever the managers say of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Their dataplanes answered, and then fell silent: crashed, cut off or frozen.
    pub silent: BTreeSet<Ipv4Addr>,
    /// Up, but nothing of the mesh is on them: the tunnel leads nowhere, the overlays are Docker's and work.
    pub without_mesh: BTreeSet<Ipv4Addr>,
}
