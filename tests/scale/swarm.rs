//! A Swarm of any size, and changes to it as they happen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use mesh_agent::swarm::snapshot::{
    Attachment, BridgeEndpoint, ContainerDetails, LocalContainer, LocalView, Network, Node, NodeState, Port,
    Protocol, PublishMode, Service, ServiceNetwork, Snapshot, Task, TaskState, ThisNode, VirtualIp,
};

/// How large it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) services: usize,
    /// Of each service.
    pub(crate) tasks: usize,
    /// Networks that containers on this node are on.
    pub(crate) networks_here: usize,
}

pub(crate) struct Swarm {
    shape: Shape,
    /// As a source keeps it.
    pub(crate) snapshot: Snapshot,
    pub(crate) local: Arc<LocalView>,
    /// How often a task has been replaced, by service and slot.
    generations: HashMap<(usize, usize), usize>,
}

/// Beside this one, each with its share of the tasks.
pub(crate) const NODES: usize = 50;
/// Published by the first service; the others have the ports behind it.
pub(crate) const FIRST_PORT: u16 = 10_000;
const SERVICES_PER_NETWORK: usize = 100;
const INGRESS: &str = "ingress0000000000000000000";

impl Swarm {
    pub(crate) fn new(shape: Shape) -> Self {
        let mut snapshot = Snapshot::default();
        let ingress =
            Network { id: INGRESS.into(), name: "ingress".into(), ingress: true, ..Network::default() };
        snapshot.networks.insert(INGRESS.into(), ingress);
        for number in 0..shape.services.div_ceil(SERVICES_PER_NETWORK) {
            let network = Network {
                id: network_id(number),
                name: format!("stack{number}_default"),
                driver: "overlay".into(),
                vni: 4100 + number as u32,
                ..Network::default()
            };
            snapshot.networks.insert(network.id.clone(), network);
        }
        for number in 0..=NODES {
            let node = Node {
                id: node_id(number),
                hostname: format!("node{number}"),
                address: Some(IpAddr::V4(address([10, 99, 0, 0], number + 1))),
                state: NodeState::Ready,
                ..Node::default()
            };
            snapshot.nodes.insert(node.id.clone(), node);
        }
        let mut services = BTreeMap::new();
        let mut tasks = BTreeMap::new();
        for number in 0..shape.services {
            let service = service(number);
            for slot in 1..=shape.tasks {
                let task = task(number, slot, shape, 0);
                tasks.insert(task.id.clone(), task);
            }
            services.insert(service.id.clone(), service);
        }
        (snapshot.services, snapshot.tasks) = (services.into(), tasks.into());
        Self { shape, snapshot, local: Arc::new(local(shape)), generations: HashMap::new() }
    }

    pub(crate) fn overlays(&self) -> BTreeSet<String> {
        (0..self.shape.networks_here).map(network_id).collect()
    }

    /// A task of one service gives way to another.
    pub(crate) fn change(&mut self, number: usize) {
        let service = number * 7919 % self.shape.services;
        let slot = number % self.shape.tasks + 1;
        let generation = self.generations.entry((service, slot)).or_default();
        let tasks = &mut self.snapshot.tasks;
        let old = task(service, slot, self.shape, *generation);
        tasks.remove(&old.id);
        *generation += 1;
        let new = task(service, slot, self.shape, *generation);
        tasks.insert(new.id.clone(), new);
    }
}

fn service(number: usize) -> Service {
    let network_id = network_id(number / SERVICES_PER_NETWORK);
    let place = number % SERVICES_PER_NETWORK;
    let port = Port {
        name: String::new(),
        protocol: Protocol::Tcp,
        target: 8080,
        published: FIRST_PORT + number as u16,
        mode: PublishMode::Ingress,
    };
    Service {
        id: format!("s{number:07}kq0zzz9vl2v1c3t5m"),
        version: 1,
        name: format!("stack{}_service{place}", number / SERVICES_PER_NETWORK),
        ports: vec![port],
        virtual_ips: vec![
            VirtualIp { network_id: INGRESS.into(), address: address([10, 0, 0, 0], 200_000 + number) },
            VirtualIp { network_id: network_id.clone(), address: address([10, 20, 0, 0], number) },
        ],
        networks: vec![ServiceNetwork { target: network_id, aliases: vec![format!("service{place}")] }],
        ..Service::default()
    }
}

fn task(service: usize, slot: usize, shape: Shape, generation: usize) -> Task {
    let number = service * shape.tasks + slot + generation * shape.services * shape.tasks;
    let attachment = |network_id: String, base, aliases| Attachment {
        network_id,
        addresses: vec![address(base, number)],
        aliases,
    };
    let alias = format!("service{}", service % SERVICES_PER_NETWORK);
    let port = Port {
        name: String::new(),
        protocol: Protocol::Tcp,
        target: 8080,
        published: FIRST_PORT + service as u16,
        mode: PublishMode::Ingress,
    };
    Task {
        id: format!("t{number:09}zz9vl2v1c3t5m0a"),
        version: 1,
        service_id: format!("s{service:07}kq0zzz9vl2v1c3t5m"),
        slot: slot as u64,
        node_id: node_id(1 + number % NODES),
        desired_state: TaskState::Running,
        state: TaskState::Running,
        since: 1_795_000_000,
        container_id: Some(format!("{number:012x}")),
        hostname: String::new(),
        attachments: vec![
            attachment(INGRESS.into(), [10, 128, 0, 0], Vec::new()),
            attachment(network_id(service / SERVICES_PER_NETWORK), [10, 64, 0, 0], vec![alias]),
        ],
        ports: Some(vec![port]),
    }
}

/// A container on each of the networks.
fn local(shape: Shape) -> LocalView {
    let containers = (0..shape.networks_here).map(|number| {
        let container = LocalContainer {
            name: format!("byhand{number}"),
            bridge: Some(BridgeEndpoint {
                address: address([172, 18, 0, 0], number + 2),
                mac: [2, 66, 0, 0, 0, 1],
            }),
            addresses: [(network_id(number), address([10, 64, 255, 0], number))].into(),
            details: Some(ContainerDetails::default()),
            ..LocalContainer::default()
        };
        (format!("{number:064x}"), container)
    });
    let node = ThisNode { id: node_id(0), address: Some([10, 99, 0, 1].into()), ..ThisNode::default() };
    LocalView { node, containers: containers.collect(), networks: BTreeMap::new() }
}

fn network_id(number: usize) -> String {
    format!("n{number:07}vl2v1c3t5mq8p0a0k")
}

fn node_id(number: usize) -> String {
    format!("m{number:07}c3t5mq8p0a0kvl2v1")
}

fn address(base: [u8; 4], number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::from(base).to_bits() + number as u32)
}
