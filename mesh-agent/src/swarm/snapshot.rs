//! What the Swarm says, in our own words: the one input of `desired/`.
//!
//! A [`Snapshot`] is the Swarm as a manager sees it: services, tasks, nodes and networks. A [`LocalView`] is what this
//! node knows first-hand: who it is, and the containers that run here. Both are plain data; the Docker API, the
//! managers' agents and a file are three ways to fill them. Agents send each other these types as JSON, so a field that
//! an older agent does not send takes its default.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::shared_map::SharedMap;

/// The Swarm as a manager sees it. Keys are the objects' ids. Copies share what they have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    pub services: SharedMap<String, Service>,
    pub tasks: SharedMap<String, Task>,
    pub nodes: SharedMap<String, Node>,
    pub networks: SharedMap<String, Network>,
    /// What tasks' own nodes tell of them, by task id: earlier than Docker tells the managers, who do not even hear of
    /// everything.
    pub conditions: SharedMap<String, Condition>,
    /// What nodes tell of the containers that were attached to networks by hand there, by node id: the Swarm knows only
    /// their ids and addresses.
    pub attached: SharedMap<String, AttachedContainers>,
}

/// What containers are called that no service made, by container id.
pub type AttachedContainers = BTreeMap<String, ContainerNames>;

/// Docker's resolver knows a container by these and by its short id (moby, `daemon/container_operations.go`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerNames {
    pub name: String,
    pub hostname: String,
    /// By network id.
    pub aliases: BTreeMap<String, Vec<String>>,
}

/// What a task's node knows first-hand and the Swarm does not know yet, or never will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Told to stop, paused or unhealthy: see [`LocalContainer::draining`].
    Draining,
    /// Its container is dead. Tasks are never started twice, so this is final.
    Ended,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    pub id: String,
    /// Raft index of the last change (`Version.Index`).
    pub version: u64,
    pub name: String,
    /// `deploy.labels`, not container labels.
    pub labels: BTreeMap<String, String>,
    pub mode: ServiceMode,
    pub endpoint_mode: EndpointMode,
    /// The ports as allocated (`Endpoint.Ports`), so that `published` is never 0 for a port in ingress mode.
    pub ports: Vec<Port>,
    pub virtual_ips: Vec<VirtualIp>,
    /// Where its tasks shall be, also while it has none.
    pub networks: Vec<ServiceNetwork>,
}

/// A network that a service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceNetwork {
    /// The id of the network; its name, if the service was made by something that did not look it up.
    pub target: String,
    /// What the service is called there besides its name.
    pub aliases: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceMode {
    #[default]
    Replicated,
    Global,
    Job,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointMode {
    #[default]
    Vip,
    Dnsrr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    #[serde(default)]
    pub name: String,
    pub protocol: Protocol,
    /// Port inside the task.
    pub target: u16,
    /// Port on the nodes.
    pub published: u16,
    #[serde(default)]
    pub mode: PublishMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    #[default]
    Ingress,
    Host,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualIp {
    pub network_id: String,
    pub address: Ipv4Addr,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Task {
    pub id: String,
    pub version: u64,
    /// Empty for a container that was attached to a network by hand (`docker run --network`).
    pub service_id: String,
    /// 0 for tasks of global services.
    pub slot: u64,
    pub node_id: String,
    pub desired_state: TaskState,
    pub state: TaskState,
    /// When `state` was reached, seconds since the Unix epoch; 0 if unknown.
    pub since: u64,
    /// Of a service's task only what Docker shows: the first twelve characters.
    pub container_id: Option<String>,
    /// As the service's specification has it, with its placeholders; empty for Docker's own choice.
    pub hostname: String,
    pub attachments: Vec<Attachment>,
    /// The ports of its service at the time it was made; they stay its own when the service is given others. `None` if
    /// unknown: lists do not tell.
    pub ports: Option<Vec<Port>>,
}

/// A task's place on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    pub network_id: String,
    pub addresses: Vec<Ipv4Addr>,
    pub aliases: Vec<String>,
}

/// Task states in the order of swarmkit's `TaskState` (api/types.proto); a task only ever moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    #[default]
    New,
    Allocated,
    Pending,
    Assigned,
    Accepted,
    Preparing,
    Ready,
    Starting,
    Running,
    Complete,
    Shutdown,
    Failed,
    Rejected,
    Remove,
    Orphaned,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    pub id: String,
    pub version: u64,
    pub hostname: String,
    /// Where the other nodes reach it. `None` until known: `Status.Addr` is 0.0.0.0 for some managers, their
    /// `ManagerStatus.Addr` is taken instead (moby #35437).
    pub address: Option<IpAddr>,
    pub role: Role,
    pub availability: Availability,
    pub state: NodeState,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[default]
    Worker,
    Manager,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    #[default]
    Active,
    Pause,
    Drain,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    #[default]
    Unknown,
    Down,
    Ready,
    Disconnected,
}

#[expect(clippy::struct_excessive_bools, reason = "as Docker tells them")]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    pub id: String,
    pub name: String,
    pub driver: String,
    pub ingress: bool,
    pub internal: bool,
    pub attachable: bool,
    /// `--opt encrypted`: Docker sends its packets between nodes through `IPsec`.
    pub encrypted: bool,
    /// In CIDR notation.
    pub subnets: Vec<String>,
    /// The VXLAN network identifier of an overlay: its number in the whole Swarm. 0 if there is none.
    pub vni: u32,
}

/// What this node knows first-hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalView {
    pub node: ThisNode,
    /// By container id, only while they run: containers of Swarm tasks, and those that share a network with them.
    pub containers: BTreeMap<String, LocalContainer>,
    /// The names of these containers' networks, by id.
    pub networks: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThisNode {
    pub id: String,
    pub hostname: String,
    /// `Swarm.NodeAddr` of `GET /info`.
    pub address: Option<Ipv4Addr>,
    pub cluster_id: String,
    pub manager: bool,
}

/// A task's container on this node, or one that was attached to a network by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalContainer {
    /// From the label `com.docker.swarm.task.id`; empty for a container of no task.
    pub task_id: String,
    /// From the label `com.docker.swarm.service.id`.
    pub service_id: String,
    /// Its place on `docker_gwbridge`; `None` for containers without one.
    pub bridge: Option<BridgeEndpoint>,
    /// Its address on each network but `docker_gwbridge`, by network id.
    pub addresses: BTreeMap<String, Ipv4Addr>,
    /// Told to stop, paused or unhealthy: it keeps its flows and gets no new ones.
    pub draining: bool,
    pub name: String,
    /// What only a look at this one container tells; `None` until Docker was asked.
    pub details: Option<ContainerDetails>,
}

/// What a container was made with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerDetails {
    pub hostname: String,
    /// What it is called on each network besides its name, by network id.
    pub aliases: BTreeMap<String, Vec<String>>,
    /// `--dns`: whom Docker asks for names that it does not know itself.
    pub name_servers: Vec<IpAddr>,
    /// `--dns-option`, like `ndots:2`.
    pub dns_options: Vec<String>,
    /// The file of its network namespace, as Docker sees it.
    pub sandbox: String,
    /// The id that the agent's network namespace has for it.
    pub namespace: Option<u16>,
}

/// A container's place on `docker_gwbridge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeEndpoint {
    pub address: Ipv4Addr,
    pub mac: [u8; 6],
}
