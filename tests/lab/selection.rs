//! Which scenarios are run when not all are, and which of them side by side.

use anyhow::{Result, ensure};

use crate::{
    SUITES, Scenario, balance, change, flows, host, names, policies, promises, untouched, updates, upstreams,
    vip,
};

/// Those that carry the rest, one for each thing that a Docker of another version might do otherwise: what it tells of
/// services, tasks and networks, its bridges, namespaces and rules, and how tasks, nodes and daemons come and go.
const CARRYING: &[&str] = &[
    "every node answers on a published port and spreads evenly over five tasks",
    "nginx logs the clients' own addresses, near and far",
    "what goes to and from a task passes docker_gwbridge by",
    "datagrams keep to their task, and the client's address and the dialled one are kept",
    "a datagram for a port where the task does not listen is refused",
    "a node's own processes reach published ports at localhost and at the node's address, in turn",
    "a container's own localhost is its own",
    "a port published with mode=host is left to its own node",
    "a service with mesh.enable=false is left alone",
    "datagrams of every size arrive, whole or in fragments",
    "a two-tier stack finds its database by a short name, and Redis sees who calls",
    "tasks reach a service at its virtual address on any port, in exact turns",
    "a task reaches its own service, also as its only task",
    "an internal network has virtual addresses too",
    "an attachable container calls and is known by its names",
    "names are answered as the golden table says",
    "names of a container attached by hand are known on other nodes until it is gone",
    "names are answered by Docker within a second after the agent stopped",
    "a port published at run time is served, and left alone when it is taken back",
    "a service without tasks refuses at once and serves again when it has some",
    "an update of nginx, two tasks at a time, started first, fails no request",
    "a task that is killed takes with it what it was answering, and nothing else",
    "agents that are killed in turn interrupt no connection and no request",
    "draining a node and taking it back fails no request",
    "a node that leaves the Swarm and joins again costs no request",
    "a worker follows another manager's agent when its own is gone",
    "`mesh-agent uninstall` leaves no trace on any node",
];

/// Scenarios that run side by side: they wait more than they work, on services, networks and ports of their own. The longest
/// are the first.
const TOGETHER: &[&[Scenario]] = &[
    updates::SCENARIOS,
    balance::SCENARIOS,
    flows::SCENARIOS,
    host::SCENARIOS,
    untouched::SCENARIOS,
    vip::SCENARIOS,
    names::SCENARIOS,
    upstreams::SCENARIOS,
    change::SCENARIOS,
    policies::SCENARIOS,
    promises::SCENARIOS,
];

/// But not those that count what all do, or stop what all need.
const ALONE: &[&str] = &[
    "what goes to and from a task passes docker_gwbridge by",
    "a node's own processes can move much data to tasks elsewhere",
    "a port published with mode=host is left to its own node",
    "a virtual address passes bulk data intact",
    "names of 33 tasks are cut short over UDP and complete over TCP",
    "names that were asked for before are answered by the kernel until they change",
    "names are answered by Docker within a second after the agent stopped",
    "check finds an entry that somebody deleted",
    "tasks of a drained node are followed to where they move",
    "a node's weight is its tasks' share of new connections",
    "IPv6 from outside is left alone",
    "with --vip=off and --dns=off published ports are served, and the rest is Docker's",
    "an autolocked manager's agent follows the Swarm after a restart, and the other nodes serve on",
];

/// Of the others, those that run two at a time: they hold connections, and Docker tells of their tasks' ends the later the more
/// there is to do. The longest are the first.
const IN_PAIRS: &[&str] = &[
    "an update of tasks that close their ports at once, stopped first, fails no request",
    "an update of abrupt tasks, stopped first, fails no request",
    "an update of abrupt tasks, started first, fails no request",
    "an update of graceful tasks, started first, fails no request",
    "scaling up and down fails no request",
    "connections outlive the move of a floating address to another node with maglev",
];

pub(crate) fn carries(name: &str) -> bool {
    CARRYING.contains(&name)
}

/// What company a scenario has, and where it stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Company {
    Several(usize),
    One(usize),
    None,
}

impl Company {
    pub(crate) fn of(name: &str) -> Self {
        if let Some(place) = IN_PAIRS.iter().position(|other| *other == name) {
            return Self::One(place);
        }
        let mut all = TOGETHER.iter().copied().flatten();
        let place = if ALONE.contains(&name) { None } else { all.position(|(other, _)| *other == name) };
        place.map_or(Self::None, Self::Several)
    }
}

/// Every name here is a scenario's.
pub(crate) fn check() -> Result<()> {
    let known = |name: &str| SUITES.iter().copied().flatten().any(|(other, _)| *other == name);
    let unknown: Vec<&&str> =
        CARRYING.iter().chain(ALONE).chain(IN_PAIRS).filter(|name| !known(name)).collect();
    ensure!(unknown.is_empty(), "tests/lab/selection.rs names scenarios that do not exist: {unknown:?}");
    Ok(())
}
