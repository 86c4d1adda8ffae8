//! Pure: what must be true on this node, given what the Swarm says and what the node knows first-hand.
//!
//! ```text
//! Snapshot ─────┐
//! LocalView ────┤
//! Surroundings ─┴─► Desired ─┬─► frontends: what clients dial, and which tasks serve it      → FRONTENDS, SLOTS, BACKENDS
//!                            ├─► deliveries: published ports of tasks on this node           → TASKS
//!                            └─► peers: the other nodes, who may send through the tunnel     → PEERS
//! ```
//!
//! Deliveries follow the containers, not the tasks' states: a task's home node can deliver to it before any entry node
//! has heard that it runs, and until its container is gone.

pub mod backends;
pub mod drains;
mod follower;
mod index;
mod labels;
mod left;
pub mod names;
pub mod spread;
mod surroundings;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use mesh_common::backend::{LocalTask, TaskKey};
use mesh_common::net::{Port, protocol};

use crate::shared_map::SharedMap;
use crate::swarm::snapshot::{EndpointMode, LocalView, Protocol, PublishMode, Service, Snapshot};
pub use follower::Follower;
use index::{Index, Members, Touched};
pub use labels::{Labels, NameLabels, NamedPort, Policy, Return};
pub use left::{Left, Serving};
pub use names::Names;
pub use surroundings::{Reach, Surroundings};

/// What must be true on this node. Copies share what they have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub frontends: SharedMap<FrontendId, Frontend>,
    pub deliveries: BTreeMap<TaskKey, LocalTask>,
    pub peers: BTreeSet<Ipv4Addr>,
    /// By service id; every service that publishes something, and every one with a warning.
    pub services: SharedMap<String, ServiceView>,
    /// The ids of the services that want a port, where there is more than one.
    pub(crate) contested: BTreeMap<FrontendId, BTreeSet<String>>,
}

/// What a client dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendId {
    /// A port of every address of the node.
    Published { port: u16, protocol: Protocol },
    /// An address on an overlay, which is named by its VXLAN network identifier: all ports.
    Vip { network: u32, address: Ipv4Addr },
}

impl fmt::Display for FrontendId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published { port, protocol: Protocol::Tcp } => write!(formatter, ":{port}/tcp"),
            Self::Published { port, protocol: Protocol::Udp } => write!(formatter, ":{port}/udp"),
            Self::Published { port, protocol: Protocol::Sctp } => write!(formatter, ":{port}/sctp"),
            Self::Vip { address, .. } => write!(formatter, "{address}"),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontend {
    pub service_id: String,
    pub policy: Policy,
    /// For how long its TCP connections may be silent; `None` for the mesh's own choice.
    pub idle_timeout: Option<Duration>,
    /// For how long a client keeps its backend; `None` for each flow on its own.
    pub affinity: Option<Duration>,
    /// By task id.
    pub backends: BTreeMap<String, Backend>,
    /// Why new flows are left to Docker's own mesh; `None` if they are not.
    pub left: Option<Left>,
}

/// A task that may serve a frontend. There are many of them: what the snapshot says of the task is not repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub home: Home,
    /// The task's name in the tunnel.
    pub identity: Ipv4Addr,
    /// Inside the task.
    pub port: u16,
    pub state: State,
    pub return_by: Return,
    /// Its share of new flows, at least 1.
    pub weight: u32,
    /// How long its connections may last once it drains; `None` for as long as it lives.
    pub drain: Option<Duration>,
    /// When the task began to run, seconds since the Unix epoch; 0 if unknown.
    pub since: u64,
}

/// How a task is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// It runs on this node.
    Here(Place),
    /// Through the tunnel, at its home node.
    There(Ipv4Addr),
    /// By the overlay, whose bridge and VXLAN know its hardware address.
    Overlay([u8; 6]),
}

/// Where a task on this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// On docker_gwbridge.
    pub address: Ipv4Addr,
    /// On docker_gwbridge.
    pub mac: [u8; 6],
    /// The id that the node's network namespace has for the task's.
    pub namespace: Option<u16>,
    /// On docker_gwbridge, by interface index.
    pub port: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Active,
    /// Keeps its TCP flows, gets no new ones.
    Draining,
}

/// A service as operators see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceView {
    pub name: String,
    pub endpoint_mode: EndpointMode,
    pub policy: Policy,
    pub frontends: BTreeSet<FrontendId>,
    /// Those of them that are left to Docker, and why.
    pub left: BTreeMap<FrontendId, Left>,
    /// Tasks that the Swarm wants to run.
    pub tasks: usize,
    /// What the operator should know: labels that are not understood, ports that cannot be served.
    pub warnings: Vec<String>,
}

/// What is not understood of nodes' labels: the services are not to blame, and have no place for it.
pub fn node_warnings(snapshot: &Snapshot) -> Vec<String> {
    let nodes = snapshot.nodes.values().map(|node| (&node.hostname, labels::node_warnings(&node.labels)));
    nodes
        .flat_map(|(name, warnings)| warnings.into_iter().map(move |why| format!("node {name}: {why}")))
        .collect()
}

impl Desired {
    /// What `snapshot` means for the node that `local` describes.
    pub fn from(snapshot: &Snapshot, local: &LocalView, surroundings: &Surroundings) -> Self {
        let members = Members::of(snapshot);
        let mut desired = Self::default();
        desired.update(&Index::of(snapshot, local, surroundings, &members), &Touched::EVERYTHING);
        desired
    }

    /// Works out anew what was touched.
    fn update(&mut self, index: &Index<'_>, touched: &Touched) {
        let mut due = BTreeSet::new();
        if touched.everything {
            *self = Self::default();
            due.extend(index.snapshot.services.keys().cloned());
        }
        for id in &touched.services {
            self.withdraw(id, &mut due);
            due.insert(id.clone());
        }
        // In the order of their ids: of two services that publish one port, the first has it.
        while let Some(id) = due.pop_first() {
            if let Some(service) = index.snapshot.services.get(&id) {
                self.withdraw(&id, &mut due);
                self.add(index, service, &mut due);
            }
        }
        self.peers = peers(index.snapshot, index.local);
        self.deliveries = deliveries(index);
    }

    fn add(&mut self, index: &Index<'_>, service: &Service, due: &mut BTreeSet<String>) {
        let (labels, warnings) = Labels::parse(&service.labels);
        let mut view = ServiceView {
            name: service.name.clone(),
            endpoint_mode: service.endpoint_mode,
            policy: labels.policy,
            tasks: backends::wanted(index, service),
            warnings,
            ..ServiceView::default()
        };
        self.add_ports(index, service, labels, &mut view, due);
        self.add_vips(index, service, labels, &mut view);
        if !view.frontends.is_empty() || !view.warnings.is_empty() {
            self.services.insert(service.id.clone(), view);
        }
    }

    fn add_ports(
        &mut self,
        index: &Index<'_>,
        service: &Service,
        labels: Labels,
        view: &mut ServiceView,
        due: &mut BTreeSet<String>,
    ) {
        for port in service.ports.iter().filter(|port| port.mode == PublishMode::Ingress) {
            let id = FrontendId::Published { port: port.published, protocol: port.protocol };
            if port.protocol == Protocol::Sctp {
                view.warnings.push(format!("{id} is left to Docker: the mesh carries TCP and UDP"));
                continue;
            }
            if let Some(holder) = self.frontends.get(&id).map(|frontend| frontend.service_id.clone()) {
                if holder != service.id {
                    self.contested.entry(id).or_default().extend([holder.clone(), service.id.clone()]);
                }
                if holder <= service.id {
                    view.warnings.push(format!("{id} is already published by another service"));
                    continue;
                }
                self.withdraw(&holder, due);
                due.insert(holder);
            }
            let backends = backends::of(index, service, port, labels);
            self.insert(index, (id, frontend(service, labels, backends)), labels, view);
        }
    }

    /// The virtual addresses of a service on the overlays that are here. The one on the ingress network is Docker's own
    /// way to published ports.
    fn add_vips(&mut self, index: &Index<'_>, service: &Service, labels: Labels, view: &mut ServiceView) {
        let overlays = &index.surroundings.overlays;
        for vip in service.virtual_ips.iter().filter(|vip| overlays.contains(&vip.network_id)) {
            let Some(network) = index.snapshot.networks.get(&vip.network_id) else { continue };
            if network.ingress || network.vni == 0 {
                continue;
            }
            let id = FrontendId::Vip { network: network.vni, address: vip.address };
            let backends = backends::on_overlay(index, service, &vip.network_id, labels);
            self.insert(index, (id, frontend(service, labels, backends)), labels, view);
        }
    }

    fn insert(
        &mut self,
        index: &Index<'_>,
        (id, mut frontend): (FrontendId, Frontend),
        labels: Labels,
        view: &mut ServiceView,
    ) {
        frontend.left = index.surroundings.serving.leaves(labels, id);
        view.frontends.insert(id);
        view.left.extend(frontend.left.map(|why| (id, why)));
        self.frontends.insert(id, frontend);
    }

    /// Takes away what there is of a service. Others that wanted its ports are due then.
    fn withdraw(&mut self, service_id: &str, due: &mut BTreeSet<String>) {
        let Some(view) = self.services.remove(service_id) else { return };
        for id in &view.frontends {
            if self.frontends.get(id).is_some_and(|frontend| frontend.service_id == service_id) {
                self.frontends.remove(id);
            }
        }
        self.contested.retain(|id, services| {
            if services.remove(service_id) && view.frontends.contains(id) {
                due.extend(services.iter().cloned());
            }
            services.len() > 1
        });
    }
}

fn frontend(service: &Service, labels: Labels, backends: BTreeMap<String, Backend>) -> Frontend {
    Frontend {
        service_id: service.id.clone(),
        policy: labels.policy,
        idle_timeout: labels.idle_timeout,
        affinity: labels.affinity,
        backends,
        left: None,
    }
}

/// The other nodes of the Swarm, whatever their state: one that the managers have lost may still serve its clients.
fn peers(snapshot: &Snapshot, local: &LocalView) -> BTreeSet<Ipv4Addr> {
    snapshot
        .nodes
        .values()
        .filter(|node| node.id != local.node.id)
        .filter_map(|node| match node.address {
            Some(IpAddr::V4(address)) => Some(address),
            Some(IpAddr::V6(_)) | None => None,
        })
        .collect()
}

/// What may come out of the tunnel to a task on this node, also of services that are left to Docker: other nodes may serve them,
/// and flows go on.
fn deliveries(index: &Index<'_>) -> BTreeMap<TaskKey, LocalTask> {
    let mut deliveries = BTreeMap::new();
    for container in index.local.containers.values() {
        let Some(service) = index.snapshot.services.get(&container.service_id) else { continue };
        let Some(place) = backends::place(index, container) else { continue };
        let task = index.snapshot.tasks.get(&container.task_id);
        let Some(identity) = backends::identity(index, task, Some(container)) else { continue };
        let (labels, _) = Labels::parse(&service.labels);
        let own = task.and_then(|task| task.ports.as_ref());
        for port in own.unwrap_or(&service.ports).iter().filter(|port| port.mode == PublishMode::Ingress) {
            let key = TaskKey {
                identity: identity.into(),
                port: Port::new(port.target),
                protocol: protocol_number(port.protocol),
                padding: 0,
            };
            let task = LocalTask {
                bridge: place.address.into(),
                mac: place.mac,
                flags: labels.return_by.flags(),
                padding: 0,
                interface: place.port.unwrap_or(0),
            };
            deliveries.insert(key, task);
        }
    }
    deliveries
}

/// As it stands in an IP header.
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
        Protocol::Sctp => protocol::SCTP,
    }
}

#[cfg(test)]
mod tests;
