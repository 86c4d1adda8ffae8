//! What goes over a manager's control socket: the parts of swarmkit's protocol that count, with its field numbers
//! (moby/swarmkit, api/{watch,objects,specs,types,control}.proto).

use std::collections::BTreeMap;

pub(super) const WATCH: &str = "/docker.swarmkit.v1.Watch/Watch";
pub(super) const LIST_TASKS: &str = "/docker.swarmkit.v1.Control/ListTasks";

/// Creations, updates and removals (`WatchActionKind`, a bit mask).
pub(super) const EVERY_ACTION: i32 = 7;
pub(super) const REMOVE: i32 = 4;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) entries: Vec<WatchEntry>,
    /// Repeats everything after this version first; an error if that is no longer known.
    #[prost(message, optional, tag = "2")]
    pub(super) resume_from: Option<Version>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct WatchEntry {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(int32, tag = "2")]
    pub(super) action: i32,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Version {
    #[prost(uint64, tag = "1")]
    pub(super) index: u64,
}

/// The changes of one transaction. The first message of a stream is empty: nothing is missed from then on.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchMessage {
    #[prost(message, repeated, tag = "1")]
    pub(super) events: Vec<Event>,
    #[prost(message, optional, tag = "2")]
    pub(super) version: Option<Version>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Event {
    #[prost(int32, tag = "1")]
    pub(super) action: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) object: Option<Object>,
}

/// One of these.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Object {
    #[prost(message, optional, tag = "1")]
    pub(super) node: Option<Node>,
    #[prost(message, optional, tag = "2")]
    pub(super) service: Option<Service>,
    #[prost(message, optional, tag = "3")]
    pub(super) network: Option<Network>,
    #[prost(message, optional, tag = "4")]
    pub(super) task: Option<Task>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct ListTasksRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListTasksResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) tasks: Vec<Task>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Task {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) meta: Option<Meta>,
    #[prost(message, optional, tag = "3")]
    pub(super) spec: Option<TaskSpec>,
    #[prost(string, tag = "4")]
    pub(super) service_id: String,
    #[prost(uint64, tag = "5")]
    pub(super) slot: u64,
    #[prost(string, tag = "6")]
    pub(super) node_id: String,
    #[prost(message, optional, tag = "9")]
    pub(super) status: Option<TaskStatus>,
    #[prost(int32, tag = "10")]
    pub(super) desired_state: i32,
    #[prost(message, repeated, tag = "11")]
    pub(super) networks: Vec<NetworkAttachment>,
    /// The service's endpoint at the time this task was made; nowhere in the REST API.
    #[prost(message, optional, tag = "12")]
    pub(super) endpoint: Option<Endpoint>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Service {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) meta: Option<Meta>,
    #[prost(message, optional, tag = "3")]
    pub(super) spec: Option<ServiceSpec>,
    #[prost(message, optional, tag = "4")]
    pub(super) endpoint: Option<Endpoint>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Node {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) meta: Option<Meta>,
    #[prost(message, optional, tag = "3")]
    pub(super) spec: Option<NodeSpec>,
    #[prost(message, optional, tag = "4")]
    pub(super) description: Option<NodeDescription>,
    #[prost(message, optional, tag = "5")]
    pub(super) status: Option<NodeStatus>,
    /// Only in answers to lists: managers do not keep it in their store.
    #[prost(message, optional, tag = "6")]
    pub(super) manager_status: Option<ManagerStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Network {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) meta: Option<Meta>,
    #[prost(message, optional, tag = "3")]
    pub(super) spec: Option<NetworkSpec>,
    #[prost(message, optional, tag = "4")]
    pub(super) driver_state: Option<Driver>,
    #[prost(message, optional, tag = "5")]
    pub(super) ipam: Option<Ipam>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Meta {
    #[prost(message, optional, tag = "1")]
    pub(super) version: Option<Version>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Annotations {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TaskSpec {
    #[prost(message, optional, tag = "1")]
    pub(super) container: Option<ContainerSpec>,
    #[prost(message, repeated, tag = "7")]
    pub(super) networks: Vec<NetworkTarget>,
    #[prost(message, optional, tag = "8")]
    pub(super) attachment: Option<AttachmentSpec>,
    /// Neither a container nor an attachment: a plugin.
    #[prost(message, optional, tag = "10")]
    pub(super) generic: Option<Empty>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct ContainerSpec {
    #[prost(string, tag = "14")]
    pub(super) hostname: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct AttachmentSpec {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct NetworkTarget {
    #[prost(string, tag = "1")]
    pub(super) target: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) aliases: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TaskStatus {
    #[prost(message, optional, tag = "1")]
    pub(super) timestamp: Option<Timestamp>,
    #[prost(int32, tag = "2")]
    pub(super) state: i32,
    #[prost(message, optional, tag = "5")]
    pub(super) container: Option<AttachmentSpec>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NetworkAttachment {
    #[prost(message, optional, tag = "1")]
    pub(super) network: Option<Network>,
    #[prost(string, repeated, tag = "2")]
    pub(super) addresses: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Endpoint {
    #[prost(message, optional, tag = "1")]
    pub(super) spec: Option<EndpointSpec>,
    #[prost(message, repeated, tag = "2")]
    pub(super) ports: Vec<PortConfig>,
    #[prost(message, repeated, tag = "3")]
    pub(super) virtual_ips: Vec<VirtualIp>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct EndpointSpec {
    /// 0 vip, 1 dnsrr.
    #[prost(int32, tag = "1")]
    pub(super) mode: i32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct PortConfig {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    /// 0 TCP, 1 UDP, 2 SCTP.
    #[prost(int32, tag = "2")]
    pub(super) protocol: i32,
    #[prost(uint32, tag = "3")]
    pub(super) target_port: u32,
    #[prost(uint32, tag = "4")]
    pub(super) published_port: u32,
    /// 0 ingress, 1 host.
    #[prost(int32, tag = "5")]
    pub(super) publish_mode: i32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct VirtualIp {
    #[prost(string, tag = "1")]
    pub(super) network_id: String,
    /// In CIDR notation.
    #[prost(string, tag = "2")]
    pub(super) addr: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ServiceSpec {
    #[prost(message, optional, tag = "1")]
    pub(super) annotations: Option<Annotations>,
    #[prost(message, optional, tag = "2")]
    pub(super) task: Option<TaskSpec>,
    #[prost(message, optional, tag = "4")]
    pub(super) global: Option<Empty>,
    /// Where services of old clients name their networks.
    #[prost(message, repeated, tag = "7")]
    pub(super) networks: Vec<NetworkTarget>,
    #[prost(message, optional, tag = "8")]
    pub(super) endpoint: Option<EndpointSpec>,
    #[prost(message, optional, tag = "10")]
    pub(super) replicated_job: Option<Empty>,
    #[prost(message, optional, tag = "11")]
    pub(super) global_job: Option<Empty>,
}

/// Only its presence counts.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodeSpec {
    #[prost(message, optional, tag = "1")]
    pub(super) annotations: Option<Annotations>,
    /// 0 worker, 1 manager.
    #[prost(int32, tag = "2")]
    pub(super) desired_role: i32,
    /// 0 active, 1 pause, 2 drain.
    #[prost(int32, tag = "4")]
    pub(super) availability: i32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct NodeDescription {
    #[prost(string, tag = "1")]
    pub(super) hostname: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct NodeStatus {
    /// 0 unknown, 1 down, 2 ready, 3 disconnected.
    #[prost(int32, tag = "1")]
    pub(super) state: i32,
    #[prost(string, tag = "3")]
    pub(super) addr: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct ManagerStatus {
    #[prost(string, tag = "2")]
    pub(super) addr: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NetworkSpec {
    #[prost(message, optional, tag = "1")]
    pub(super) annotations: Option<Annotations>,
    #[prost(bool, tag = "4")]
    pub(super) internal: bool,
    #[prost(bool, tag = "6")]
    pub(super) attachable: bool,
    #[prost(bool, tag = "7")]
    pub(super) ingress: bool,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Driver {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(super) options: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ipam {
    #[prost(message, repeated, tag = "3")]
    pub(super) configs: Vec<IpamConfig>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct IpamConfig {
    #[prost(string, tag = "2")]
    pub(super) subnet: String,
}
