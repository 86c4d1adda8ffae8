//! What `mesh-agent status dns` shows, and the metrics are made of. Plain data; fields keep their names and meanings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsReport {
    /// Where names are answered; none while that is not possible.
    pub listening: Option<String>,
    /// Containers on this node whose questions are answered.
    pub askers: u64,
    /// Containers whose questions go to Docker's own resolver, and why.
    pub left_to_docker: BTreeMap<String, String>,
    pub networks: Vec<NamesRow>,
    pub queries: Vec<QueryRow>,
    pub latencies: Vec<LatencyRow>,
    /// Queries that wait for another server at present.
    pub in_flight: u64,
    /// Answered with a failure because too many were waiting.
    pub overload: u64,
    /// Messages that were no queries.
    pub ignored: u64,
    /// Answers that could not be sent.
    pub unsent: u64,
    /// TCP connections that found no place.
    pub turned_away: u64,
    /// Replies of other servers that are kept.
    pub kept: u64,
    /// The node's own name servers come first, then those that containers name with `--dns`.
    pub upstreams: Vec<UpstreamRow>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamesRow {
    pub network: String,
    pub names: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueryRow {
    /// Like `AAAA`, or `other`.
    pub kind: String,
    /// Like `NXDOMAIN`, or `other`.
    pub code: String,
    /// local, cache or upstream.
    pub source: String,
    pub count: u64,
}

/// A histogram.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LatencyRow {
    /// local, cache or upstream.
    pub source: String,
    pub count: u64,
    pub seconds: f64,
    pub buckets: Vec<Bucket>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bucket {
    /// None for the last, which has no end.
    pub up_to_seconds: Option<f64>,
    /// In this bucket alone.
    pub count: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamRow {
    pub server: String,
    /// Whether it is one of the node's own.
    pub of_node: bool,
    /// Silent lately, so that others are asked first.
    pub avoided: bool,
    pub asked: u64,
    pub answered: u64,
    /// Of these, with SERVFAIL or REFUSED.
    pub refused: u64,
    pub silent: u64,
    pub round_trip_seconds: Option<f64>,
}
