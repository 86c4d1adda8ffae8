//! Names and capacities of the maps. Names keep to the 15 characters that the kernel stores.
//!
//! What is pinned outlives the agent that made it, and is taken over by another version. So from layout 2 on:
//!
//! - A value may only grow at its end, and zeroes there mean what was true before. Entries can then be copied into a map
//!   with larger values, and cut for an older version.
//! - A key never changes. What needs another key gets a map of another name.
//! - A map's kind changes only under another name.

/// Goes up when the rules above cannot be kept: tables that an older agent has pinned are then not taken over.
pub const LAYOUT: u32 = 2;

/// Frontends; with every one of them served by ten backends, [`SLOTS`] fits.
pub const FRONTENDS: u32 = 16_384;
/// Places in backend sets: while a set is replaced, the old and the new one are both here.
pub const SLOTS: u32 = 1_048_576;
/// Backend ids by default; `--backends` changes it. Each costs 64 bytes, and 24 bytes of counters per CPU.
pub const BACKENDS: u32 = 131_072;
/// Addresses of this node.
pub const LOCAL_ADDRESSES: u32 = 4_096;
/// Established TCP flows this node is the entry node of, by default; `--flows` changes it.
pub const FLOWS: u32 = 131_072;
/// Places in a table of flows that are not established, or are of UDP, for each that `--flows` gives to established ones.
const OTHERS_SHARE: u32 = 2;
/// Flows whose client port is another one towards the task.
pub const TRANSLATIONS: u32 = 16_384;
/// Datagrams whose later fragments are awaited.
pub const FRAGMENTS: u32 = 8_192;
/// Ways out that are remembered on each CPU, as a power of 2: 40 KiB.
pub const ROUTE_BITS: u32 = 10;
/// See [`ROUTE_BITS`].
pub const ROUTES: u32 = 1 << ROUTE_BITS;
/// Nodes of the Swarm.
pub const PEERS: u32 = 4_096;
/// Interfaces that clients and other nodes reach this node by.
pub const UPLINKS: u32 = 1_024;
/// Ports of bridges that are uplinks.
pub const UPLINK_PORTS: u32 = 4_096;
/// Sockets of the agent that ask other nodes' dataplanes.
pub const AGENT_SOCKETS: u32 = 2 * PEERS;
/// Published ports of tasks on this node.
pub const TASKS: u32 = 16_384;
/// Virtual addresses of services on the networks that this node is on.
pub const VIPS: u32 = 16_384;
/// Whose turn it is, for each frontend of either kind.
pub const TURNS: u32 = FRONTENDS + VIPS;
/// Network namespaces whose queries go to the agent's resolver.
pub const ASKERS: u32 = 4_096;
/// Answers about names that the kernel gives by itself: 3 MiB.
pub const ANSWERS: u32 = 8_192;
/// Kinds of answers that are counted apart: more than there are, so that a new one does not change the map.
pub const ANSWERED: u32 = 256;
/// Clients that keep their backends.
pub const AFFINITIES: u32 = 65_536;
/// Connections that Docker's mesh carries on from before the mesh served their frontends, of either kind.
pub const DOCKER_FLOWS: u32 = 131_072;
/// Conversations that this node, or somebody behind its address, has begun from a published port.
pub const OUTGOING: u32 = 8_192;
/// Interfaces whose programs are new, on the node and in its overlays.
pub const UNREAD_PORTS: u32 = 16_384;
/// Sockets of this node's own processes that talk to a frontend.
pub const SOCKETS: u32 = 65_536;

/// What the kernel says when something that must be new is there already (`-EEXIST`, asm-generic/errno-base.h).
pub const EXISTS: i32 = -17;

/// Every map the programs define, for pinning, inspection and removal.
pub const NAMES: [&str; 46] = [
    "SETTINGS",
    "PORTS",
    "LOCAL_ADDRESSES",
    "FRONTENDS",
    "SLOTS",
    "BACKENDS",
    "BACKEND_STATS",
    "SUSPECTS",
    "CONNECTIONS",
    "TURNS",
    "AFFINITIES",
    "FLOWS",
    "OPENING",
    "SCRATCH",
    "PRESSURE",
    "UDP_FLOWS",
    "REPLIES",
    "OPENING_REPLIES",
    "UDP_REPLIES",
    "TRANSLATIONS",
    "TASK_PORTS",
    "FRAGMENTS",
    "ROUTES",
    "PEERS",
    "UPLINKS",
    "UPLINK_PORTS",
    "TASKS",
    "SOCKETS",
    "AGENT_SOCKETS",
    "VIPS",
    "VIP_FLOWS",
    "VIP_OPENING",
    "VIP_UDP_FLOWS",
    "VIP_REPLIES",
    "VIP_ESTABLISHED",
    "ASKERS",
    "HEARTBEAT",
    "ANSWERS",
    "ANSWERS_VERSION",
    "ANSWERED",
    "TAKING_OVER",
    "DOCKER_FLOWS",
    "DOCKER_VIPFLOWS",
    "UNREAD_PORTS",
    "OUTGOING",
    "OUTCOMES",
];

/// Values of `TAKING_OVER`. An agent of any version writes one of the first two before it exchanges a program.
pub mod taking_over {
    /// Nobody comes after these programs who knows more flows. There may be programs of other versions on other hooks.
    pub const NOBODY: u32 = 0;
    /// The programs of the agent before come after these on the same hooks, and know flows that these do not.
    pub const PREDECESSORS: u32 = 1;
    /// All hooks of this node have these programs, or later ones: what they would have marked
    /// ([`MARK`](crate::tunnel::MARK)) and is not marked is not theirs.
    pub const ALL_HOOKS: u32 = 2;
}

/// Maps that `--flows` sizes; see [`flow_capacity`].
pub const SIZED_BY_FLOWS: [&str; 11] = [
    "FLOWS",
    "OPENING",
    "UDP_FLOWS",
    "REPLIES",
    "OPENING_REPLIES",
    "UDP_REPLIES",
    "VIP_FLOWS",
    "VIP_OPENING",
    "VIP_UDP_FLOWS",
    "VIP_REPLIES",
    "VIP_ESTABLISHED",
];

/// Maps whose elements the kernel allocates one by one: they refuse when they are full. The others of [`SIZED_BY_FLOWS`]
/// are allocated as a whole, and forget what was used longest ago.
pub const ESTABLISHED: [&str; 4] = ["FLOWS", "REPLIES", "VIP_FLOWS", "VIP_ESTABLISHED"];

/// Maps that `--backends` sizes.
pub const SIZED_BY_BACKENDS: [&str; 4] = ["BACKENDS", "BACKEND_STATS", "SUSPECTS", "CONNECTIONS"];

/// What the operator says about how large tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub flows: u32,
    pub backends: u32,
}

impl Sizes {
    /// The capacity of a map; `None` for one whose capacity is its own.
    pub fn capacity(self, name: &str) -> Option<u32> {
        if SIZED_BY_FLOWS.contains(&name) {
            Some(flow_capacity(name, self.flows))
        } else {
            SIZED_BY_BACKENDS.contains(&name).then_some(self.backends)
        }
    }
}

/// The capacity of one of [`SIZED_BY_FLOWS`] for a number of established flows.
pub fn flow_capacity(name: &str, flows: u32) -> u32 {
    if ESTABLISHED.contains(&name) || name == "VIP_REPLIES" { flows } else { (flows / OTHERS_SHARE).max(1) }
}

/// [`flow_capacity`] by default, of all but the established ones.
pub const OTHER_FLOWS: u32 = FLOWS / OTHERS_SHARE;

/// So many TCP flows may begin in a second before it counts as a flood, where nobody says otherwise: the table of half-open flows
/// then keeps a client's for two seconds at least.
pub fn flood(flows: u32) -> u32 {
    /// What an entry node is asked for without a flood.
    const MOST: u32 = 50_000;

    (flow_capacity("OPENING", flows) / 2).min(MOST)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_name_fits_the_kernels_fifteen_characters() {
        for name in super::NAMES {
            assert!(name.len() <= 15, "{name}");
        }
    }

    #[test]
    fn every_table_of_flows_is_a_map_and_has_a_place_at_least() {
        for name in super::SIZED_BY_FLOWS {
            assert!(super::NAMES.contains(&name), "{name}");
            assert!(super::flow_capacity(name, 1) > 0, "{name}");
        }
        assert!(super::SIZED_BY_BACKENDS.iter().all(|name| super::NAMES.contains(name)));
        assert!(super::ESTABLISHED.iter().all(|name| super::SIZED_BY_FLOWS.contains(name)));
    }
}
