//! What one owner of names, a service or a container, has on each network: its names, their addresses, and who is behind them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::network::{Found, Part, ServicePort};
use super::{TASK_TTL, VIRTUAL_TTL, hostname};
use crate::desired::index::Index;
use crate::desired::labels::{NameLabels, NamedPort};
use crate::swarm::snapshot::{
    Attachment, EndpointMode, LocalContainer, Network, NodeState, Protocol, Service, ServiceNetwork,
    Snapshot, Task, TaskState,
};

/// What one owner has on each network.
pub(super) struct Parts<'a> {
    places: &'a BTreeMap<String, usize>,
    pub(super) parts: BTreeMap<usize, Part>,
}

/// A task of a service on one network.
struct Member<'a> {
    task: &'a Task,
    attachment: &'a Attachment,
    /// What Docker calls its container.
    name: Arc<str>,
}

impl<'a> Parts<'a> {
    pub(super) fn at(places: &'a BTreeMap<String, usize>) -> Self {
        Self { places, parts: BTreeMap::new() }
    }

    fn network(&mut self, id: &str) -> Option<&mut Part> {
        Some(self.parts.entry(*self.places.get(id)?).or_default())
    }

    pub(super) fn service(&mut self, index: &Index<'_>, service: &Service) {
        let labels = NameLabels::parse(&service.labels);
        let ports = named_ports(service, &labels);
        let mut members = BTreeMap::<&str, Vec<Member<'_>>>::new();
        for network in &service.networks {
            if let Some(id) = self.id_of(index.snapshot, network) {
                members.entry(id).or_default();
            }
        }
        for address in &service.virtual_ips {
            members.entry(&address.network_id).or_default();
        }
        for task in index.tasks(service) {
            if !task.attachments.iter().any(|at| self.places.contains_key(&at.network_id)) {
                continue;
            }
            let name: Arc<str> = hostname::container_name(service, task).into();
            let answers = answers(index, task, labels.starting);
            for attachment in &task.attachments {
                let Some(network) = self.network(&attachment.network_id) else { continue };
                // Who calls is worth knowing until the end.
                network.add_reverse(&attachment.addresses, &name, labels.ttl.unwrap_or(TASK_TTL), answers);
                if answers {
                    let member = Member { task, attachment, name: name.clone() };
                    members.entry(&attachment.network_id).or_default().push(member);
                }
            }
        }
        for (network_id, members) in members {
            let virtual_address = service.virtual_ips.iter().find(|ip| ip.network_id == network_id);
            let virtual_address = virtual_address.map(|ip| ip.address);
            let aliases = service.networks.iter().filter(|network| {
                network.target == network_id || Some(network_id) == self.id_of(index.snapshot, network)
            });
            let aliases: Vec<&String> = aliases.flat_map(|network| &network.aliases).collect();
            let Some(network) = self.network(network_id) else { continue };
            let on_network = OnNetwork { service, labels: &labels, ports: &ports, virtual_address };
            on_network.add(network, &aliases, &members);
            for member in &members {
                let hostname = hostname(index, service, member.task);
                for name in
                    [&*member.name].into_iter().chain(short_id(member.task)).chain(hostname.as_deref())
                {
                    network.add_single(name, &member.attachment.addresses, labels.ttl.unwrap_or(TASK_TTL));
                }
            }
        }
    }

    fn id_of<'s>(&self, snapshot: &'s Snapshot, wanted: &'s ServiceNetwork) -> Option<&'s str> {
        if self.places.contains_key(&wanted.target) {
            return Some(&wanted.target);
        }
        let is_meant =
            |network: &&Network| network.name == wanted.target && self.places.contains_key(&network.id);
        // Only those few that somebody here is on.
        let here = self.places.keys().filter_map(|id| snapshot.networks.get(id));
        here.into_iter().find(is_meant).map(|network| network.id.as_str())
    }

    /// A container attached by hand on another node: the Swarm knows its id and its addresses, and that node's agent tells
    /// what it is called.
    pub(super) fn attached_elsewhere(&mut self, index: &Index<'_>, task: &Task) {
        if task.node_id == index.local.node.id || !answers(index, task, false) {
            return;
        }
        let Some(id) = task.container_id.as_deref() else { return };
        let of_node = index.snapshot.attached.get(&task.node_id);
        let told = of_node.and_then(|containers| containers.get(id)).cloned().unwrap_or_default();
        for attachment in &task.attachments {
            let Some(network) = self.network(&attachment.network_id) else { continue };
            let aliases = told.aliases.get(&attachment.network_id).into_iter().flatten();
            let names = [told.name.as_str(), shortened(id), &told.hostname].into_iter();
            for name in names.chain(aliases.map(String::as_str)) {
                network.add_single(name, &attachment.addresses, TASK_TTL);
            }
            let name = if told.name.is_empty() { shortened(id) } else { &told.name };
            network.add_reverse(&attachment.addresses, &name.into(), TASK_TTL, true);
        }
    }

    /// A container here that was attached by hand, or any on a network of this node only.
    pub(super) fn container(&mut self, index: &Index<'_>, id: &str, container: &LocalContainer) {
        for (network_id, address) in &container.addresses {
            if !container.task_id.is_empty() && index.snapshot.networks.contains_key(network_id) {
                continue;
            }
            let Some(network) = self.network(network_id) else { continue };
            let addresses = std::slice::from_ref(address);
            let details = container.details.iter();
            let aliases = details.clone().filter_map(|details| details.aliases.get(network_id)).flatten();
            let names = [container.name.as_str(), shortened(id)].into_iter();
            let names = names
                .chain(details.map(|details| details.hostname.as_str()))
                .chain(aliases.map(String::as_str));
            for name in names {
                network.add_single(name, addresses, TASK_TTL);
            }
            network.add_reverse(addresses, &container.name.as_str().into(), TASK_TTL, true);
        }
    }
}

/// A service on one of its networks.
struct OnNetwork<'a> {
    service: &'a Service,
    labels: &'a NameLabels,
    ports: &'a [NamedPort],
    virtual_address: Option<Ipv4Addr>,
}

impl OnNetwork<'_> {
    fn add(&self, network: &mut Part, aliases: &[&String], members: &[Member<'_>]) {
        if let Some(address) = self.virtual_address {
            let ttl = self.labels.ttl.unwrap_or(VIRTUAL_TTL);
            network.add_reverse(&[address], &self.service.name.as_str().into(), ttl, true);
        }
        self.add_name(network, &self.service.name, members.iter());
        let mut aliases: Vec<&str> = aliases.iter().map(|alias| alias.as_str()).collect();
        // Tasks of an earlier generation keep the aliases that they were made with.
        aliases.extend(members.iter().flat_map(|member| &member.attachment.aliases).map(String::as_str));
        aliases.sort_unstable();
        aliases.dedup();
        for alias in aliases.into_iter().filter(|alias| *alias != self.service.name) {
            let of_alias = members.iter();
            let of_alias =
                of_alias.filter(|member| member.attachment.aliases.iter().any(|name| name == alias));
            self.add_name(network, alias, of_alias);
        }
    }

    fn add_name<'m>(
        &self,
        network: &mut Part,
        name: &str,
        members: impl Iterator<Item = &'m Member<'m>> + Clone,
    ) {
        let ttl = self.labels.ttl.unwrap_or(TASK_TTL);
        let addresses = members.clone().flat_map(|member| member.attachment.addresses.iter().copied());
        let addresses: Vec<_> = addresses.collect();
        let of_tasks: Vec<_> = members
            .flat_map(|member| member.attachment.addresses.iter().map(|address| (&member.name, *address)))
            .flat_map(|(name, address)| self.ports(name, address))
            .collect();
        let tasks = Found { addresses: &addresses, ttl, ports: &of_tasks };
        match (self.service.endpoint_mode, self.virtual_address) {
            (EndpointMode::Vip, Some(address)) => {
                let ports: Vec<_> = self.ports(&self.service.name.as_str().into(), address).collect();
                let ttl = self.labels.ttl.unwrap_or(VIRTUAL_TTL);
                network.add_service(name, Found { addresses: &[address], ttl, ports: &ports }, tasks);
            }
            // Not allocated yet.
            (EndpointMode::Vip, None) => network.add_service(name, Found::nothing(ttl), tasks),
            (EndpointMode::Dnsrr, _) => network.add_service(name, tasks, tasks),
        }
    }

    fn ports(&self, target: &Arc<str>, address: Ipv4Addr) -> impl Iterator<Item = ServicePort> {
        self.ports.iter().map(move |port| ServicePort {
            name: port.name.clone(),
            port: port.port,
            target: target.clone(),
            address,
        })
    }
}

/// By label, and by the names that ports were given when they were published.
fn named_ports(service: &Service, labels: &NameLabels) -> Vec<NamedPort> {
    let mut ports = labels.services.clone();
    for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let named =
            NamedPort { name: format!("_{}._{protocol}", port.name.to_ascii_lowercase()), port: port.target };
        if !ports.contains(&named) {
            ports.push(named);
        }
    }
    ports
}

/// Whether a task is one that callers may be sent to.
fn answers(index: &Index<'_>, task: &Task, starting: bool) -> bool {
    let earliest = if starting { TaskState::Starting } else { TaskState::Running };
    if task.desired_state != TaskState::Running || !(earliest..=TaskState::Running).contains(&task.state) {
        return false;
    }
    if task.node_id == index.local.node.id && !task.service_id.is_empty() {
        // Its container's end shows here before the managers hear of it.
        let container = index.containers_by_task.get(task.id.as_str());
        return container.is_some_and(|container| !container.draining || task.state != TaskState::Running);
    }
    if index.snapshot.conditions.contains_key(&task.id) {
        return false;
    }
    let node = index.snapshot.nodes.get(&task.node_id);
    // A manager that has just become the leader knows no node's state yet.
    node.is_some_and(|node| matches!(node.state, NodeState::Ready | NodeState::Unknown))
}

fn hostname(index: &Index<'_>, service: &Service, task: &Task) -> Option<String> {
    let container = index.containers_by_task.get(task.id.as_str());
    if let Some(details) = container.and_then(|container| container.details.as_ref()) {
        return Some(details.hostname.clone());
    }
    let node = index.snapshot.nodes.get(&task.node_id);
    hostname::expand(&task.hostname, service, task, node).filter(|hostname| !hostname.is_empty())
}

fn short_id(task: &Task) -> Option<&str> {
    task.container_id.as_deref().map(shortened)
}

/// What Docker shows, and gives a container for its hostname.
fn shortened(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
