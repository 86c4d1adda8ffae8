//! Which tasks may serve, and how they are reached.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::spread::MOST_WEIGHT;
use super::{Backend, Home, Index, Labels, Place, Return, State};
use crate::swarm::snapshot::{
    Condition, LocalContainer, NodeState, Port, PublishMode, Service, Task, TaskState,
};

/// The backends of a service for one of its ports, by task id.
pub(super) fn of(
    index: &Index<'_>,
    service: &Service,
    published: &Port,
    labels: Labels,
) -> BTreeMap<String, Backend> {
    let mut backends = BTreeMap::new();
    for task in index.tasks(service) {
        let container = index.containers_by_task.get(task.id.as_str()).copied();
        let Some(state) = state(index, task, container) else { continue };
        let Some(home) = home(index, task, container) else { continue };
        let Some(identity) = identity(index, Some(task), container) else { continue };
        let Some(port) = target(task, published) else { continue };
        let backend = Backend {
            home,
            identity,
            port,
            state,
            return_by: labels.return_by,
            weight: weight(index, task, labels),
            drain: labels.drain,
            since: task.since,
        };
        backends.insert(task.id.clone(), backend);
    }
    let reach = &index.surroundings.reach;
    leave_out(&mut backends, |_, backend| match backend.home {
        Home::There(node) => reach.silent.contains(&node) || reach.without_mesh.contains(&node),
        Home::Here(_) | Home::Overlay(_) => false,
    });
    backends
}

/// Where a published port ends inside a task: a task keeps the ports that it was made with when its service is given
/// others, and is replaced.
fn target(task: &Task, published: &Port) -> Option<u16> {
    let Some(own) = &task.ports else { return Some(published.target) };
    let is_same = |port: &&Port| {
        port.mode == PublishMode::Ingress
            && (port.published, port.protocol) == (published.published, published.protocol)
    };
    own.iter().find(is_same).map(|port| port.target)
}

/// The backends of a service for its virtual address on a network, by task id.
pub(super) fn on_overlay(
    index: &Index<'_>,
    service: &Service,
    network_id: &str,
    labels: Labels,
) -> BTreeMap<String, Backend> {
    let mut backends = BTreeMap::new();
    for task in index.tasks(service) {
        let container = index.containers_by_task.get(task.id.as_str()).copied();
        let Some(state) = state(index, task, container) else { continue };
        let is_here = task.node_id == index.local.node.id;
        if is_here && container.is_none() || !is_here && !is_reachable(index, task) {
            continue;
        }
        let attachment = task.attachments.iter().find(|at| at.network_id == network_id);
        let Some(address) = attachment.and_then(|at| at.addresses.first().copied()) else { continue };
        let [a, b, c, d] = address.octets();
        let backend = Backend {
            // How Docker makes hardware addresses on overlays (libnetwork, netutils.GenerateMACFromIP).
            home: Home::Overlay([0x02, 0x42, a, b, c, d]),
            identity: address,
            port: 0,
            state,
            return_by: Return::default(),
            weight: weight(index, task, labels),
            drain: labels.drain,
            since: task.since,
        };
        backends.insert(task.id.clone(), backend);
    }
    let snapshot = index.snapshot;
    let node = |task: &str| snapshot.nodes.get(&snapshot.tasks.get(task)?.node_id)?.address;
    leave_out(&mut backends, |task, _| match node(task) {
        Some(IpAddr::V4(node)) => index.surroundings.reach.silent.contains(&node),
        _ => false,
    });
    backends
}

/// Backends that cannot be reached from here get nothing new; unless there are no others: then it may as well be this node
/// that cannot hear.
fn leave_out(backends: &mut BTreeMap<String, Backend>, is_out_of_reach: impl Fn(&str, &Backend) -> bool) {
    let is_active = |backend: &Backend| backend.state == State::Active;
    if !backends.iter().any(|(task, backend)| is_active(backend) && !is_out_of_reach(task, backend)) {
        return;
    }
    for (task, backend) in backends.iter_mut().filter(|(_, backend)| is_active(backend)) {
        if is_out_of_reach(task, backend) {
            backend.state = State::Draining;
            // Nobody has told it to stop.
            backend.drain = None;
        }
    }
}

/// A service's weight and that of the node that the task runs on multiply.
fn weight(index: &Index<'_>, task: &Task, labels: Labels) -> u32 {
    let node = index.snapshot.nodes.get(&task.node_id);
    let node = node.map_or(1, |node| super::labels::node_weight(&node.labels));
    (labels.weight * node).min(MOST_WEIGHT)
}

/// How many tasks the Swarm wants a service to have at the moment.
pub(super) fn wanted(index: &Index<'_>, service: &Service) -> usize {
    index.tasks(service).filter(|task| task.desired_state == TaskState::Running).count()
}

/// A task's name in the tunnel: its address on the ingress network, else on its first network.
pub(super) fn identity(
    index: &Index<'_>,
    task: Option<&Task>,
    container: Option<&LocalContainer>,
) -> Option<Ipv4Addr> {
    if let Some(task) = task {
        let on_ingress = task.attachments.iter().find(|at| Some(at.network_id.as_str()) == index.ingress);
        let first = task.attachments.iter().find(|at| !at.addresses.is_empty());
        if let Some(attachment) = on_ingress.filter(|at| !at.addresses.is_empty()).or(first) {
            return attachment.addresses.first().copied();
        }
    }
    container.and_then(|container| container.addresses.get(index.ingress?).copied())
}

/// Docker's own rule for a backend is `Status.State == DesiredState == running` (moby,
/// daemon/cluster/executor/container/controller.go); a task that still runs but shall not keeps its connections.
fn state(index: &Index<'_>, task: &Task, container: Option<&LocalContainer>) -> Option<State> {
    if task.state != TaskState::Running || task.desired_state < TaskState::Running {
        return None;
    }
    // Of its own tasks this node knows more than it has told the managers.
    let is_here = task.node_id == index.local.node.id;
    let condition = index.snapshot.conditions.get(&task.id).filter(|_| !is_here);
    if condition == Some(&Condition::Ended) {
        return None;
    }
    let drains = task.desired_state > TaskState::Running
        || condition == Some(&Condition::Draining)
        || container.is_some_and(|container| container.draining);
    if !drains {
        return Some(State::Active);
    }
    (!index.surroundings.drained.contains(&task.id)).then_some(State::Draining)
}

/// Where a task runs; `None` if it cannot be reached there.
fn home(index: &Index<'_>, task: &Task, container: Option<&LocalContainer>) -> Option<Home> {
    if task.node_id == index.local.node.id {
        // Its container's end shows here before the managers hear of it.
        return container.and_then(|container| place(index, container)).map(Home::Here);
    }
    let address = index.snapshot.nodes.get(&task.node_id)?.address;
    match address.filter(|_| is_reachable(index, task)) {
        Some(IpAddr::V4(address)) => Some(Home::There(address)),
        _ => None,
    }
}

/// A container's place on docker_gwbridge, if it has one.
pub(super) fn place(index: &Index<'_>, container: &LocalContainer) -> Option<Place> {
    let bridge = container.bridge?;
    let namespace = container.details.as_ref().and_then(|details| details.namespace);
    let port = namespace.and_then(|namespace| index.surroundings.ports.get(&namespace).copied());
    Some(Place { address: bridge.address, mac: bridge.mac, namespace, port })
}

/// Whether a task's node is up. A manager that has just become the leader knows no node's state yet.
fn is_reachable(index: &Index<'_>, task: &Task) -> bool {
    let node = index.snapshot.nodes.get(&task.node_id);
    node.is_some_and(|node| matches!(node.state, NodeState::Ready | NodeState::Unknown))
}

/// As `docker service ps` shows it: tasks of global services are told apart by their node.
pub fn name(service: &Service, task: &Task) -> String {
    if task.slot == 0 {
        format!("{}.{}", service.name, task.node_id)
    } else {
        format!("{}.{}", service.name, task.slot)
    }
}
