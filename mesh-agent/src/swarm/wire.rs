//! The parts of the Docker API's objects that count, as Docker names them. Whatever may be absent or null is an `Option`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::snapshot::TaskState;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Identified {
    #[serde(rename = "ID", alias = "Id")]
    pub(super) id: String,
    #[serde(rename = "Version")]
    pub(super) version: WireVersion,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct WireVersion {
    pub(super) index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireService {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(default)]
    pub(super) version: WireVersion,
    pub(super) spec: WireServiceSpec,
    pub(super) endpoint: Option<WireEndpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireServiceSpec {
    pub(super) name: String,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) mode: Option<WireMode>,
    pub(super) endpoint_spec: Option<WireEndpointSpec>,
    pub(super) task_template: Option<WireTaskSpec>,
    /// Where services of old clients name their networks.
    pub(super) networks: Option<Vec<WireTarget>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireMode {
    pub(super) global: Option<IgnoredAny>,
    pub(super) replicated_job: Option<IgnoredAny>,
    pub(super) global_job: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireEndpointSpec {
    pub(super) mode: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireEndpoint {
    pub(super) spec: Option<WireEndpointSpec>,
    pub(super) ports: Option<Vec<WirePort>>,
    #[serde(rename = "VirtualIPs")]
    pub(super) virtual_ips: Option<Vec<WireVirtualIp>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WirePort {
    pub(super) name: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) target_port: Option<u64>,
    pub(super) published_port: Option<u64>,
    pub(super) publish_mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireVirtualIp {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: Option<String>,
    pub(super) addr: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireTask {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(default)]
    pub(super) version: WireVersion,
    pub(super) spec: Option<WireTaskSpec>,
    #[serde(rename = "ServiceID")]
    pub(super) service_id: Option<String>,
    pub(super) slot: Option<u64>,
    #[serde(rename = "NodeID")]
    pub(super) node_id: Option<String>,
    pub(super) desired_state: TaskState,
    pub(super) status: WireTaskStatus,
    pub(super) networks_attachments: Option<Vec<WireAttachment>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireTaskSpec {
    pub(super) networks: Option<Vec<WireTarget>>,
    pub(super) container_spec: Option<WireContainerSpec>,
    pub(super) network_attachment_spec: Option<WireNetworkAttachmentSpec>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireContainerSpec {
    pub(super) hostname: Option<String>,
}

#[derive(Default, Deserialize)]
pub(super) struct WireNetworkAttachmentSpec {
    #[serde(rename = "ContainerID")]
    pub(super) container_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireTarget {
    #[serde(default)]
    pub(super) target: String,
    pub(super) aliases: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireTaskStatus {
    pub(super) timestamp: Option<String>,
    pub(super) state: TaskState,
    pub(super) container_status: Option<WireContainerStatus>,
}

#[derive(Deserialize)]
pub(super) struct WireContainerStatus {
    #[serde(rename = "ContainerID")]
    pub(super) container_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireAttachment {
    pub(super) network: Option<WireAttachedNetwork>,
    pub(super) addresses: Option<Vec<String>>,
}

#[derive(Deserialize)]
pub(super) struct WireAttachedNetwork {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(rename = "Spec")]
    pub(super) spec: Option<WireName>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireName {
    pub(super) name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireNode {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(default)]
    pub(super) version: WireVersion,
    pub(super) spec: WireNodeSpec,
    pub(super) description: Option<WireDescription>,
    pub(super) status: Option<WireNodeStatus>,
    pub(super) manager_status: Option<WireManagerStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireNodeSpec {
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) role: Option<String>,
    pub(super) availability: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireDescription {
    pub(super) hostname: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireNodeStatus {
    pub(super) state: Option<String>,
    pub(super) addr: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireManagerStatus {
    pub(super) addr: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireNetwork {
    #[serde(rename = "Id", alias = "ID")]
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) driver: Option<String>,
    pub(super) ingress: Option<bool>,
    pub(super) internal: Option<bool>,
    pub(super) attachable: Option<bool>,
    #[serde(rename = "IPAM")]
    pub(super) ipam: Option<WireIpam>,
    pub(super) options: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireIpam {
    pub(super) config: Option<Vec<WireIpamConfiguration>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireIpamConfiguration {
    pub(super) subnet: Option<String>,
}
