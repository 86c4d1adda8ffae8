//! What goes over the wire between agents: the service `mesh.v1.Swarm`, in protocol buffers.
//!
//! ```proto
//! service Swarm {
//!   rpc Subscribe(SubscribeRequest) returns (stream Update);
//!   rpc Report(stream Conditions) returns (ReportEnd);
//! }
//! ```
//!
//! Field numbers are never given another meaning. Objects travel as JSON of the types in `swarm::snapshot`, whose
//! absent fields take their defaults: agents of neighbouring versions understand each other.

use hyper::body::Bytes;

pub(super) const SUBSCRIBE: &str = "/mesh.v1.Swarm/Subscribe";
pub(super) const REPORT: &str = "/mesh.v1.Swarm/Report";

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SubscribeRequest {
    /// Must be the node of the certificate.
    #[prost(string, tag = "1")]
    pub(super) node_id: String,
    #[prost(string, tag = "2")]
    pub(super) agent_version: String,
}

/// What a node knows first-hand of its own tasks and containers: all of it, replacing what it told before. Repeated now and then, so that
/// the manager knows that the node is still there.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Conditions {
    /// Must be the node of the certificate.
    #[prost(string, tag = "1")]
    pub(super) node_id: String,
    /// Ids of tasks whose containers are dead.
    #[prost(string, repeated, tag = "2")]
    pub(super) ended: Vec<String>,
    /// Ids of tasks that shall get nothing new.
    #[prost(string, repeated, tag = "3")]
    pub(super) draining: Vec<String>,
    /// `AttachedContainers` as JSON: those on networks of the Swarm. Nothing from agents that do not tell of them.
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) attached: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct ReportEnd {}

/// A part of a change. The change takes effect with the part that is `complete`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Update {
    /// Counts changes; all parts of one have the same number. A heartbeat is empty and repeats the last number.
    #[prost(uint64, tag = "1")]
    pub(super) sequence: u64,
    /// Starts from nothing instead of from what was there.
    #[prost(bool, tag = "2")]
    pub(super) full: bool,
    #[prost(message, repeated, tag = "3")]
    pub(super) upserts: Vec<Object>,
    #[prost(message, repeated, tag = "4")]
    pub(super) removes: Vec<ObjectRef>,
    #[prost(bool, tag = "5")]
    pub(super) complete: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Object {
    #[prost(enumeration = "Kind", tag = "1")]
    pub(super) kind: i32,
    #[prost(string, tag = "2")]
    pub(super) id: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) json: Bytes,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct ObjectRef {
    #[prost(enumeration = "Kind", tag = "1")]
    pub(super) kind: i32,
    #[prost(string, tag = "2")]
    pub(super) id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Kind {
    Unknown = 0,
    Network = 1,
    Node = 2,
    Service = 3,
    Task = 4,
    /// Of a task, by its id.
    Condition = 5,
    /// The containers attached by hand on a node, by the node's id.
    Attached = 6,
}
