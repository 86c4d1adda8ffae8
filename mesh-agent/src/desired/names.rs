//! Which names the containers on this node can ask for, and what they mean to each of them.
//!
//! Docker gives names to services and tasks per network, and looks them up on the networks of the container that asks
//! (moby, daemon/libnetwork: `service_common.go`, `sandbox.go`). So do we; only networks that somebody here is on count.

mod hostname;
mod network;
mod seat;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use mesh_common::asker::DOCKERS_RESOLVER;
pub use network::{Found, NetworkNames, Reverse, ServicePort};
use network::{Owner, Part};
pub use seat::{Sandbox, Seat};

use super::index::{Index, Members, Touched};
use super::labels::{NameLabels, NamedPort};
use super::{Surroundings, backends};
use crate::swarm::snapshot::{
    Attachment, ContainerDetails, EndpointMode, LocalContainer, LocalView, NodeState, Protocol, Service,
    ServiceNetwork, Snapshot, Task, TaskState,
};

/// For how many seconds an answer with a task's address may be kept. Docker says 600, and names tasks that are long gone.
pub const TASK_TTL: u32 = 5;
/// The same for a virtual address, which a service keeps for life.
pub const VIRTUAL_TTL: u32 = 30;

/// The names on the networks of this node's containers. Copies share what they have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    networks: Vec<NetworkNames>,
    askers: HashMap<Seat, Asker>,
    left_to_docker: BTreeMap<String, String>,
    /// Where each network stands in `networks`, by its id.
    places: BTreeMap<String, usize>,
}

/// A container on this node whose questions are answered by the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// What Docker calls the container.
    pub name: String,
    /// The networks it is on, in the order in which names are looked up there: places in [`Names::networks`].
    networks: Vec<usize>,
    pub upstream: Upstream,
}

/// What a container was told about names that are not the Swarm's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// `--dns`; `None` for the servers of the node itself.
    pub servers: Option<Arc<[SocketAddr]>>,
    /// Whether `--dns-option ndots:…` asks for the search domains to be tried before a name of one label is looked up
    /// elsewhere; `None` if it says nothing about it.
    pub searches_first: Option<bool>,
}

impl Names {
    pub fn from(snapshot: &Snapshot, local: &LocalView) -> Self {
        let members = Members::of(snapshot);
        let mut names = Self::default();
        names.update(&Index::of(snapshot, local, Surroundings::NONE, &members), &Touched::EVERYTHING);
        names
    }

    /// Works out anew what was touched; all of it, if other networks count than before.
    pub(super) fn update(&mut self, index: &Index<'_>, touched: &Touched) {
        let networks_stay = self.find_askers(index);
        let is_known = |id: &String| self.places.contains_key(id);
        if touched.everything || !networks_stay || touched.networks.iter().any(is_known) {
            self.networks
                .iter_mut()
                .for_each(|network| *network = NetworkNames::new(&network.id, &network.name));
            let snapshot = index.snapshot;
            snapshot.services.values().for_each(|service| self.set_service(index, &service.id));
            index.attached().for_each(|task| self.set_attached(index, &task.id));
            index.local.containers.keys().for_each(|id| self.set_container(index, id));
            return;
        }
        touched.services.iter().for_each(|id| self.set_service(index, id));
        touched.attached.iter().for_each(|id| self.set_attached(index, id));
        touched.containers.iter().for_each(|id| self.set_container(index, id));
    }

    /// Whose questions are answered, and about which networks. Returns whether these are the same networks as before.
    fn find_askers(&mut self, index: &Index<'_>) -> bool {
        let (snapshot, local) = (index.snapshot, index.local);
        self.left_to_docker.clear();
        let mut askers = BTreeMap::new();
        for container in local.containers.values() {
            let Some(details) = &container.details else { continue };
            let Some(seat) = seat(snapshot, container, details) else { continue };
            let networks = networks_of(snapshot, local, container);
            if !networks.iter().any(|order| !order.local) {
                continue;
            }
            match upstream(snapshot, container, details) {
                Ok(upstream) => {
                    // Who is shut in has no way to other servers, and must not get one.
                    let servers =
                        if let Seat::Sandbox(_) = seat { Some([].into()) } else { upstream.servers };
                    askers.insert(seat, (container, networks, Upstream { servers, ..upstream }));
                }
                Err(reason) => {
                    self.left_to_docker.insert(container.name.clone(), reason);
                }
            }
        }
        let wanted: BTreeMap<&str, &str> = askers
            .values()
            .flat_map(|(_, networks, _)| networks)
            .map(|order| (order.id, order.name))
            .collect();
        let known = self.networks.iter().map(|network| (network.id.as_str(), network.name.as_str()));
        let networks_stay = wanted == known.collect();
        if !networks_stay {
            self.networks = wanted.iter().map(|(id, name)| NetworkNames::new(id, name)).collect();
            self.places = wanted.keys().zip(0..).map(|(id, place)| ((*id).to_owned(), place)).collect();
        }
        self.askers.clear();
        for (seat, (container, networks, upstream)) in askers {
            let networks = networks.iter().filter_map(|order| self.places.get(order.id).copied()).collect();
            self.askers.insert(seat, Asker { name: container.name.clone(), networks, upstream });
        }
        networks_stay
    }

    fn set_service(&mut self, index: &Index<'_>, id: &str) {
        let mut parts = Parts::at(&self.places);
        if let Some(service) = index.snapshot.services.get(id) {
            parts.service(index, service);
        }
        let parts = parts.parts;
        self.set(&Owner::Service(id.into()), parts);
    }

    fn set_attached(&mut self, index: &Index<'_>, id: &str) {
        let mut parts = Parts::at(&self.places);
        if let Some(task) = index.snapshot.tasks.get(id).filter(|task| task.service_id.is_empty()) {
            parts.attached_elsewhere(index, task);
        }
        let parts = parts.parts;
        self.set(&Owner::Attached(id.into()), parts);
    }

    fn set_container(&mut self, index: &Index<'_>, id: &str) {
        let mut parts = Parts::at(&self.places);
        if let Some(container) = index.local.containers.get(id) {
            parts.container(index, id, container);
        }
        let parts = parts.parts;
        self.set(&Owner::Container(id.into()), parts);
    }

    fn set(&mut self, owner: &Owner, mut parts: BTreeMap<usize, Part>) {
        for (place, network) in self.networks.iter_mut().enumerate() {
            network.set(owner, parts.remove(&place).unwrap_or_default());
        }
    }

    /// Whose questions are answered.
    pub fn askers(&self) -> &HashMap<Seat, Asker> {
        &self.askers
    }

    /// The namespaces in which questions are answered because there is no way out of them.
    pub fn sandboxes(&self) -> impl Iterator<Item = Sandbox> {
        self.askers
            .keys()
            .filter_map(|seat| if let Seat::Sandbox(sandbox) = seat { Some(*sandbox) } else { None })
    }

    /// The networks of a container, in the order in which they are asked.
    pub fn networks_of<'a>(&'a self, asker: &'a Asker) -> impl Iterator<Item = &'a NetworkNames> {
        asker.networks.iter().filter_map(|place| self.networks.get(*place))
    }

    /// Every network that a container on this node can ask for names on.
    pub fn networks(&self) -> &[NetworkNames] {
        &self.networks
    }

    /// Containers, by name, whose questions must go to Docker's own resolver, and why.
    pub fn left_to_docker(&self) -> &BTreeMap<String, String> {
        &self.left_to_docker
    }
}

/// The order in which a container's networks are asked: the Swarm's first, then by name (moby,
/// daemon/libnetwork/endpoint.go, `Less`; sandbox.go, `ResolveName`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Order<'a> {
    local: bool,
    internal: bool,
    name: &'a str,
    id: &'a str,
}

/// The ingress network has no names.
fn networks_of<'a>(
    snapshot: &'a Snapshot,
    local: &'a LocalView,
    container: &'a LocalContainer,
) -> Vec<Order<'a>> {
    let order = |id: &'a String| match snapshot.networks.get(id) {
        Some(network) if network.ingress => None,
        Some(network) => {
            Some(Order { local: false, internal: network.internal, name: &network.name, id: &network.id })
        }
        None => {
            let name = local.networks.get(id)?;
            Some(Order { local: true, internal: false, name, id })
        }
    };
    let mut networks: Vec<_> = container.addresses.keys().filter_map(order).collect();
    networks.sort_unstable();
    networks
}

/// From where a container asks; `None` for who cannot be reached, or not yet.
fn seat(snapshot: &Snapshot, container: &LocalContainer, details: &ContainerDetails) -> Option<Seat> {
    if let Some(bridge) = container.bridge {
        return Some(Seat::Bridge(bridge.address));
    }
    let is_internal = |id: &String| snapshot.networks.get(id).is_some_and(|network| network.internal);
    if !container.addresses.keys().all(is_internal) {
        return None;
    }
    Sandbox::of(Path::new(&details.sandbox)).map(Seat::Sandbox)
}

/// Docker asks the servers of `--dns` from inside the container. The agent asks from the node, so it leaves alone whom
/// it could not reach from there.
fn upstream(
    snapshot: &Snapshot,
    container: &LocalContainer,
    details: &ContainerDetails,
) -> Result<Upstream, String> {
    // As its own upstream Docker's resolver would ask itself (moby #47716).
    let dockers = IpAddr::V4(DOCKERS_RESOLVER.into());
    let mut servers = Vec::new();
    for server in details.name_servers.iter().filter(|server| **server != dockers) {
        if server.is_loopback() {
            return Err(format!("its name server {server} is inside of it"));
        }
        let networks = container.addresses.keys().filter_map(|id| snapshot.networks.get(id));
        if let IpAddr::V4(address) = server
            && let Some(network) = networks
                .into_iter()
                .find(|network| network.subnets.iter().any(|subnet| is_in(subnet, *address)))
        {
            return Err(format!("its name server {server} is on its network {}", network.name));
        }
        servers.push(SocketAddr::new(*server, 53));
    }
    let ndots = details.dns_options.iter().filter_map(|option| option.strip_prefix("ndots:")).next_back();
    Ok(Upstream {
        servers: (!details.name_servers.is_empty()).then(|| servers.into()),
        searches_first: ndots.map(|number| number.parse::<u32>().is_ok_and(|number| number > 0)),
    })
}

fn is_in(subnet: &str, address: Ipv4Addr) -> bool {
    let Some((network, length)) = subnet.split_once('/') else { return false };
    let (Ok(network), Ok(length @ 0..=32)) = (network.parse::<Ipv4Addr>(), length.parse::<u32>()) else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or_default();
    network.to_bits() & mask == address.to_bits() & mask
}

/// What one owner has on each network.
struct Parts<'a> {
    places: &'a BTreeMap<String, usize>,
    parts: BTreeMap<usize, Part>,
}

/// A task of a service on one network.
struct Member<'a> {
    task: &'a Task,
    attachment: &'a Attachment,
    /// What Docker calls its container.
    name: Arc<str>,
}

impl<'a> Parts<'a> {
    fn at(places: &'a BTreeMap<String, usize>) -> Self {
        Self { places, parts: BTreeMap::new() }
    }

    fn network(&mut self, id: &str) -> Option<&mut Part> {
        Some(self.parts.entry(*self.places.get(id)?).or_default())
    }

    fn service(&mut self, index: &Index<'_>, service: &Service) {
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
            let name: Arc<str> = container_name(service, task).into();
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
        let is_meant = |network: &&crate::swarm::snapshot::Network| {
            network.name == wanted.target && self.places.contains_key(&network.id)
        };
        // Only those few that somebody here is on.
        let here = self.places.keys().filter_map(|id| snapshot.networks.get(id));
        here.into_iter().find(is_meant).map(|network| network.id.as_str())
    }

    /// A container attached by hand on another node: the Swarm knows its id and its addresses, and that node's agent tells
    /// what it is called.
    fn attached_elsewhere(&mut self, index: &Index<'_>, task: &Task) {
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
    fn container(&mut self, index: &Index<'_>, id: &str, container: &LocalContainer) {
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

/// As Docker names a task's container (swarmkit, api/naming): tasks of global services have the node for a slot.
fn container_name(service: &Service, task: &Task) -> String {
    format!("{}.{}", backends::name(service, task), task.id)
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

#[cfg(test)]
pub(crate) mod tests;
