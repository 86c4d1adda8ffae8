//! Rows of a report, from what the core has left. But for a backend's age, pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_common::net::Address;

use super::published::Published;
use super::report::{
    AttachmentRow, BackendRow, BackendState, FlowTableRow, NetworkRow, ServiceRow, ThisNodeReport,
};
use crate::dataplane::attachments::Attached;
use crate::dataplane::flows::{Collection, TableUse};
use crate::dataplane::object::program;
use crate::dataplane::xdp::XdpState;
use crate::desired::{Backend, FrontendId, ServiceView, State, backends};
use crate::swarm::snapshot::{Availability, EndpointMode, NodeState, Role};

pub(super) fn this_node(published: &Published) -> ThisNodeReport {
    let node = &published.local.node;
    ThisNodeReport {
        id: node.id.clone(),
        hostname: node.hostname.clone(),
        address: node.address.map(|address| address.to_string()).unwrap_or_default(),
        cluster_id: node.cluster_id.clone(),
    }
}

pub(super) fn services(published: &Published) -> Vec<ServiceRow> {
    let desired = &published.desired;
    let row = |view: &ServiceView| {
        let mut frontends: Vec<_> = view.frontends.iter().collect();
        frontends.sort();
        let errors: Vec<_> = frontends
            .iter()
            .filter_map(|id| published.problems.frontends.get(id).map(|problem| format!("{id}: {problem}")))
            .collect();
        let active = frontends.first().and_then(|id| desired.frontends.get(id)).map_or(0, |frontend| {
            frontend.backends.values().filter(|backend| backend.state == State::Active).count()
        });
        ServiceRow {
            service: view.name.clone(),
            frontends: frontends.iter().map(ToString::to_string).collect(),
            mode: mode(view.endpoint_mode).to_owned(),
            policy: view.policy.as_str().to_owned(),
            backends_active: active as u64,
            backends_total: view.tasks as u64,
            left_to_docker: left_to_docker(view),
            error: (!errors.is_empty()).then(|| errors.join("; ")),
            warnings: view.warnings.clone(),
        }
    };
    let mut rows: Vec<_> = desired.services.values().map(row).collect();
    rows.sort_by(|a, b| a.service.cmp(&b.service));
    rows
}

/// By reason; without the frontends where it is all of them.
fn left_to_docker(view: &ServiceView) -> Vec<String> {
    let mut by_reason = BTreeMap::<String, Vec<String>>::new();
    for (id, why) in &view.left {
        by_reason.entry(why.to_string()).or_default().push(id.to_string());
    }
    let text = |(why, frontends): (String, Vec<String>)| {
        if frontends.len() == view.frontends.len() { why } else { format!("{}: {why}", frontends.join(" ")) }
    };
    by_reason.into_iter().map(text).collect()
}

pub(super) fn networks(published: &Published) -> Vec<NetworkRow> {
    let mut rows = Vec::new();
    for (id, state) in &published.overlays {
        let Some(network) = published.snapshot.networks.get(id) else { continue };
        let vips = published.desired.frontends.iter().filter_map(|(frontend, entry)| match frontend {
            FrontendId::Vip { network: vni, address } if *vni == network.vni && entry.left.is_none() => {
                let service = published.snapshot.services.get(&entry.service_id);
                Some((address.to_string(), service.map(|service| service.name.clone()).unwrap_or_default()))
            }
            FrontendId::Vip { .. } | FrontendId::Published { .. } => None,
        });
        rows.push(NetworkRow {
            network: network.name.clone(),
            id: id.clone(),
            vni: network.vni,
            subnets: network.subnets.clone(),
            vips: vips.collect(),
            ports: state.ports.iter().cloned().collect(),
            error: state.error.clone(),
        });
    }
    rows.sort_by(|a, b| a.network.cmp(&b.network));
    rows
}

pub(super) fn backend_row(frontend: FrontendId, backend: &Backend) -> BackendRow {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    BackendRow {
        frontend: frontend.to_string(),
        mode: mode_of(frontend).to_owned(),
        address: match frontend {
            FrontendId::Published { .. } => format!("{}:{}", backend.identity, backend.port),
            FrontendId::Vip { .. } => backend.identity.to_string(),
        },
        state: match backend.state {
            State::Active => BackendState::Active,
            State::Draining => BackendState::Draining,
        },
        weight: backend.weight,
        age_seconds: if backend.since == 0 { 0 } else { now.saturating_sub(backend.since) },
        ..BackendRow::default()
    }
}

/// The names of a task and of its node.
pub(super) fn whereabouts(published: &Published, service_id: &str, task_id: &str) -> (String, String) {
    let snapshot = &published.snapshot;
    let (Some(service), Some(task)) = (snapshot.services.get(service_id), snapshot.tasks.get(task_id)) else {
        return (task_id.to_owned(), String::new());
    };
    let node = snapshot.nodes.get(&task.node_id);
    let node = node.map_or_else(|| task.node_id.clone(), |node| node.hostname.clone());
    (backends::name(service, task), node)
}

fn mode_of(frontend: FrontendId) -> &'static str {
    match frontend {
        FrontendId::Published { .. } => "ingress",
        FrontendId::Vip { .. } => "vip",
    }
}

/// Uplinks that have TC alone, and why.
pub(super) fn without_xdp(published: &Published) -> BTreeMap<String, String> {
    let why = |attached: &Attached| match &attached.xdp {
        XdpState::TcAlone(why) => Some((attached.interface.clone(), why.clone())),
        XdpState::Native | XdpState::Generic | XdpState::Off => None,
    };
    published.attached.iter().filter_map(why).collect()
}

pub(super) fn attachments(published: &Published) -> Vec<AttachmentRow> {
    let mut rows = Vec::new();
    for attached in &published.attached {
        if let Some(hook) = attached.xdp.hook() {
            rows.push(AttachmentRow {
                interface: attached.interface.clone(),
                hook: hook.to_owned(),
                program: program::UPLINK_XDP.to_owned(),
                is_port: false,
            });
        }
        for name in attached.programs {
            let direction = if program::is_egress(name) { "egress" } else { "ingress" };
            rows.push(AttachmentRow {
                interface: attached.interface.clone(),
                hook: format!("{}-{direction}", attached.hook),
                program: (*name).to_owned(),
                is_port: attached.is_port,
            });
        }
    }
    for name in program::CGROUP {
        rows.push(AttachmentRow {
            interface: "cgroup".into(),
            hook: name.to_owned(),
            program: name.to_owned(),
            is_port: false,
        });
    }
    rows
}

/// Tasks on a node that serve a frontend.
pub(super) fn backends_on(published: &Published, node_id: &str) -> u64 {
    let frontends = published.desired.frontends.values();
    let tasks: BTreeSet<_> = frontends.flat_map(|frontend| frontend.backends.keys()).collect();
    let node = |task: &str| published.snapshot.tasks.get(task).map(|task| task.node_id.as_str());
    tasks.into_iter().filter(|task| node(task) == Some(node_id)).count() as u64
}

/// The largest packet that the tunnel carries to a node, as the kernel has it.
pub(super) fn inner_mtu(published: &Published, node: Option<IpAddr>) -> Option<u16> {
    let Some(IpAddr::V4(address)) = node else { return None };
    let peer = published.peers.get(&Address::from(address))?;
    Some(peer.inner_mtu).filter(|mtu| *mtu != 0)
}

pub(super) fn flow_tables(collection: &Collection) -> Vec<FlowTableRow> {
    let row = |table: &TableUse| FlowTableRow {
        table: table.table.to_lowercase(),
        entries: table.entries,
        capacity: u64::from(table.capacity),
        bytes: table.bytes,
    };
    collection.tables.iter().map(row).collect()
}

fn mode(mode: EndpointMode) -> &'static str {
    match mode {
        EndpointMode::Vip => "vip",
        EndpointMode::Dnsrr => "dnsrr",
    }
}

pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::Worker => "worker",
        Role::Manager => "manager",
    }
}

pub(super) fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Unknown => "unknown",
        NodeState::Down => "down",
        NodeState::Ready => "ready",
        NodeState::Disconnected => "disconnected",
    }
}

pub(super) fn availability(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "active",
        Availability::Pause => "pause",
        Availability::Drain => "drain",
    }
}
