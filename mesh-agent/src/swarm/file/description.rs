//! What may stand in the file, as it stands there.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;

use crate::swarm::snapshot::{Availability, EndpointMode, NodeState, Role, ServiceMode};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    pub(super) node: Option<String>,
    pub(super) nodes: BTreeMap<String, DescribedNode>,
    #[serde(default)]
    pub(super) networks: BTreeMap<String, DescribedNetwork>,
    #[serde(default)]
    pub(super) services: BTreeMap<String, DescribedService>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DescribedNode {
    pub(super) address: IpAddr,
    #[serde(default)]
    pub(super) role: Role,
    #[serde(default)]
    pub(super) availability: Availability,
    #[serde(default = "ready")]
    pub(super) state: NodeState,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DescribedNetwork {
    pub(super) subnet: String,
    #[serde(default)]
    pub(super) internal: bool,
    #[serde(default)]
    pub(super) vni: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct DescribedService {
    #[serde(default)]
    pub(super) mode: ServiceMode,
    #[serde(default)]
    pub(super) endpoint_mode: EndpointMode,
    #[serde(default)]
    pub(super) ports: Vec<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) virtual_addresses: BTreeMap<String, Ipv4Addr>,
    #[serde(default)]
    pub(super) backends: Vec<DescribedBackend>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DescribedBackend {
    pub(super) node: String,
    pub(super) address: Ipv4Addr,
    #[serde(default)]
    pub(super) state: DescribedState,
    pub(super) bridge: Option<Ipv4Addr>,
    pub(super) mac: Option<String>,
    #[serde(default)]
    pub(super) addresses: BTreeMap<String, Ipv4Addr>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DescribedState {
    #[default]
    Active,
    Draining,
    Down,
}

fn ready() -> NodeState {
    NodeState::Ready
}
