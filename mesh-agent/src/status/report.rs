//! Everything that `mesh-agent status` shows. Plain data; its JSON form is what scripts read, so fields keep their names
//! and meanings.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::dns::report::DnsReport;
use crate::swarm::status::{Health, SourceRole, SourceStatus};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub agent_version: String,
    pub node: ThisNodeReport,
    pub source: SourceReport,
    pub services: Vec<ServiceRow>,
    pub backends: Vec<BackendRow>,
    pub nodes: Vec<NodeRow>,
    /// Overlays that are on this node.
    pub networks: Vec<NetworkRow>,
    /// Names, and who asked for them.
    pub dns: DnsReport,
    /// What somebody should look at and belongs to no single service.
    pub warnings: Vec<String>,
    pub dataplane: DataplaneReport,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThisNodeReport {
    pub id: String,
    pub hostname: String,
    /// This node's address in the Swarm.
    pub address: String,
    pub cluster_id: String,
}

/// How well the agent knows the Swarm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceReport {
    /// manager, worker, file, starting, not in a swarm.
    pub role: String,
    /// The Docker socket, the manager's agent or the file that answers.
    pub connected_to: Option<String>,
    /// On a manager, how changes of the Swarm are learned of: `pushed` or `polled`; else empty.
    pub changes: String,
    /// Why they are not pushed, if that is known.
    #[serde(default)]
    pub changes_error: Option<String>,
    /// Services, tasks, nodes and networks.
    pub swarm: HealthReport,
    /// This node's own containers.
    pub local: HealthReport,
    /// Serving the agents of other nodes; only on managers.
    pub peers: HealthReport,
    /// Objects of the Swarm that cannot be used, and why.
    pub skipped: Vec<String>,
    /// Agents of other nodes that read the Swarm through this one, by node id.
    pub subscribers: BTreeMap<String, SubscriberReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthReport {
    /// Seconds since the last success; none if there was none.
    pub age_seconds: Option<f64>,
    /// Why it does not work at present.
    pub error: Option<String>,
    pub errors_total: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubscriberReport {
    pub address: String,
    pub agent_version: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceRow {
    pub service: String,
    /// Like `:80/tcp`.
    pub frontends: Vec<String>,
    /// vip or dnsrr.
    pub mode: String,
    pub policy: String,
    pub backends_active: u64,
    pub backends_total: u64,
    /// What of it is left to Docker's own mesh, and why.
    pub left_to_docker: Vec<String>,
    /// Why the dataplane is not as it should be for this service.
    pub error: Option<String>,
    /// Labels that are not understood, and the like.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendRow {
    pub service: String,
    /// Like `:80/tcp`.
    pub frontend: String,
    /// ingress.
    pub mode: String,
    pub policy: String,
    /// As Docker names it: `web.1`, or `web.<node>` for a global service.
    pub task: String,
    /// The host name of its home node.
    pub node: String,
    /// The task's identity and target port.
    pub address: String,
    pub state: BackendState,
    pub weight: u32,
    /// Open at present through this node.
    pub connections: u64,
    /// Since this backend came into the tables.
    pub connections_total: u64,
    pub packets_total: u64,
    pub bytes_total: u64,
    pub new_per_second: f64,
    /// Since this backend came into its state.
    pub age_seconds: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    Active,
    /// Keeps its flows, gets no new ones.
    Draining,
    #[default]
    Down,
}

impl fmt::Display for BackendState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Down => "down",
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeRow {
    /// Its host name.
    pub node: String,
    pub id: String,
    pub role: String,
    pub state: String,
    pub availability: String,
    pub address: String,
    /// Tasks there that serve or could serve a frontend.
    pub backends: u64,
    /// Whether an agent runs there; none if this node cannot tell.
    pub agent: Option<bool>,
    /// What its dataplane says to probes through the tunnel: answers, silent, no mesh; none for this node itself and for
    /// nodes that have never given a sign.
    pub dataplane: Option<String>,
    /// The largest IP packet that the tunnel carries there, in bytes; none for this node itself and for those that are not served.
    pub inner_mtu: Option<u16>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkRow {
    pub network: String,
    pub id: String,
    /// Its VXLAN network identifier.
    pub vni: u32,
    pub subnets: Vec<String>,
    /// Virtual addresses that are served there, with their services.
    pub vips: BTreeMap<String, String>,
    /// Ports of its bridge that have our programs.
    pub ports: Vec<String>,
    /// Why it cannot be followed at present.
    pub error: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataplaneReport {
    pub attachments: Vec<AttachmentRow>,
    /// Uplinks where XDP was wanted and TC serves alone, and why.
    pub without_xdp: BTreeMap<String, String>,
    /// Established TCP flows whose clients came in by this node, and how many there may be.
    pub flows_used: u64,
    pub flows_max: u64,
    /// All tables of flows.
    pub flow_tables: Vec<FlowTableRow>,
    /// How long the last change of the kernel's tables took.
    pub update_seconds: f64,
    /// How packets left us, by outcome.
    pub outcomes: BTreeMap<String, u64>,
}

/// A table of flows, as it was when it was last looked through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowTableRow {
    /// The map's name in lower case, like `flows` or `udp_replies`.
    pub table: String,
    pub entries: u64,
    pub capacity: u64,
    /// Memory, as the kernel accounts it.
    pub bytes: u64,
}

/// A program on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachmentRow {
    pub interface: String,
    /// Like `xdp-native`, `tcx-ingress`, `connect4`.
    pub hook: String,
    pub program: String,
    /// Whether the interface is a container's port of docker_gwbridge.
    pub is_port: bool,
}

impl SourceReport {
    pub fn new(status: &SourceStatus, now: Instant) -> Self {
        Self {
            role: status.role.as_str().to_owned(),
            connected_to: status.connected_to.clone(),
            changes: changes(status).to_owned(),
            changes_error: status.watch.last_error.clone(),
            swarm: HealthReport::new(&status.swarm, now),
            local: HealthReport::new(&status.local, now),
            peers: HealthReport::new(&status.peers, now),
            skipped: status.skipped.iter().cloned().collect(),
            subscribers: status
                .subscribers
                .iter()
                .map(|(node_id, subscriber)| {
                    let address = subscriber.address.clone();
                    let agent_version = subscriber.agent_version.clone();
                    (node_id.clone(), SubscriberReport { address, agent_version })
                })
                .collect(),
        }
    }
}

fn changes(status: &SourceStatus) -> &'static str {
    match (status.role, status.watch.last_success, &status.watch.last_error) {
        (SourceRole::Manager, Some(_), None) => "pushed",
        (SourceRole::Manager, _, _) => "polled",
        _ => "",
    }
}

impl HealthReport {
    fn new(health: &Health, now: Instant) -> Self {
        let age = health.last_success.map(|last| now.saturating_duration_since(last));
        Self {
            age_seconds: age.map(|age| age.as_secs_f64()),
            error: health.last_error.clone(),
            errors_total: health.errors_total,
        }
    }
}
