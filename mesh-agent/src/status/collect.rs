//! Puts together what `status` shows: what is desired, what was done about it, and what the kernel counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::debug;

use super::report::{
    AttachmentRow, BackendRow, BackendState, DataplaneReport, FlowTableRow, NetworkRow, NodeRow, Report,
    ServiceRow, SourceReport, ThisNodeReport,
};
use super::server::ReportSource;
use crate::dataplane::Dataplane;
use crate::dataplane::attachments::Attached;
use crate::dataplane::counters::{Counters, FlowSummary};
use crate::dataplane::flows::{Collection, IdleLimits, TableUse};
use crate::dataplane::object::program;
use crate::dataplane::overlays::OverlayState;
use crate::dataplane::xdp::XdpState;
use crate::desired::{Backend, Desired, Frontend, FrontendId, State, backends};
use crate::dns::resolver::Resolver;
use crate::health::{self, Health, Vitals};
use crate::reach::Pulses;
use crate::reconcile::reconciler::{BackendIds, Problems, Reconciler};
use crate::swarm::snapshot::{Availability, EndpointMode, LocalView, NodeState, Role, Snapshot};
use crate::swarm::status::{SourceRole, StatusBoard};

/// What the agent's core last did.
#[derive(Debug, Default)]
pub struct Published {
    snapshot: Arc<Snapshot>,
    local: Arc<LocalView>,
    desired: Desired,
    problems: Problems,
    /// Id and generation of each backend, in the order of its frontend's backends.
    ids: BackendIds,
    attached: Vec<Attached>,
    warnings: Vec<String>,
    overlays: BTreeMap<String, OverlayState>,
    pub pulses: Arc<Pulses>,
    /// How long the last change of the kernel's tables took.
    pub update: Duration,
}

impl Published {
    pub fn new<D: Dataplane>(
        snapshot: &Arc<Snapshot>,
        local: &Arc<LocalView>,
        desired: &Desired,
        reconciler: &Reconciler<D>,
        attached: Vec<Attached>,
        overlays: BTreeMap<String, OverlayState>,
        warnings: &[String],
    ) -> Self {
        Self {
            snapshot: snapshot.clone(),
            local: local.clone(),
            desired: desired.clone(),
            problems: reconciler.problems().clone(),
            ids: reconciler.ids().clone(),
            attached,
            warnings: warnings.to_vec(),
            overlays,
            pulses: Arc::default(),
            update: reconciler.last_update(),
        }
    }
}

impl Published {
    /// How long flows may be silent, where a service has its own idea of that.
    pub fn idle_limits(&self) -> IdleLimits {
        let frontends = self.desired.frontends.iter();
        let own = frontends.filter_map(|(id, frontend)| Some((id, frontend, frontend.idle_timeout?)));
        let by_backend = own.flat_map(|(id, frontend, limit)| {
            let known = self.backends(*id, frontend).filter_map(|(_, _, key)| key);
            known.map(move |(backend, _)| (backend, limit))
        });
        IdleLimits { by_backend: by_backend.collect() }
    }

    /// The backends of a frontend by task, each with its id and generation.
    fn backends<'a>(
        &'a self,
        id: FrontendId,
        frontend: &'a Frontend,
    ) -> impl Iterator<Item = (&'a String, &'a Backend, Option<(u32, u32)>)> {
        let keys = self.ids.get(&id).map_or(&[][..], Vec::as_slice);
        let keys = keys.iter().copied().chain(std::iter::repeat(None));
        frontend.backends.iter().zip(keys).map(|((task, backend), key)| (task, backend, key))
    }
}

/// A request for the differences that only the agent's core can see.
pub type Inquiry = oneshot::Sender<Vec<String>>;

/// Answers `mesh-agent status`.
pub struct Collector {
    inquiries: mpsc::Sender<Inquiry>,
    counters: Counters,
    published: Arc<Mutex<Arc<Published>>>,
    board: StatusBoard,
    resolver: Arc<Resolver>,
    flows_max: u32,
    collection: watch::Receiver<Collection>,
    rates: Mutex<Rates>,
    vitals: watch::Receiver<Vitals>,
}

/// New flows per second, from two looks at the counters.
#[derive(Debug, Default)]
struct Rates {
    taken: Option<Instant>,
    totals: BTreeMap<(u32, u32), u64>,
    per_second: BTreeMap<(u32, u32), f64>,
}

impl Rates {
    fn update(&mut self, totals: BTreeMap<(u32, u32), u64>, now: Instant) {
        if let Some(before) = self.taken {
            let elapsed = now.saturating_duration_since(before).max(Duration::from_millis(1)).as_secs_f64();
            let rate = |(key, total): (&(u32, u32), &u64)| {
                let earlier = self.totals.get(key).copied().unwrap_or(0);
                (*key, total.saturating_sub(earlier) as f64 / elapsed)
            };
            self.per_second = totals.iter().map(rate).collect();
        }
        self.taken = Some(now);
        self.totals = totals;
    }
}

impl Collector {
    pub fn new(
        counters: Counters,
        published: Arc<Mutex<Arc<Published>>>,
        board: StatusBoard,
        resolver: Arc<Resolver>,
        flows_max: u32,
        inquiries: mpsc::Sender<Inquiry>,
        collection: watch::Receiver<Collection>,
    ) -> Self {
        Self {
            inquiries,
            counters,
            published,
            board,
            resolver,
            flows_max,
            collection,
            rates: Mutex::default(),
            vitals: watch::channel(Vitals::default()).1,
        }
    }

    /// Tells how the core is that shows these.
    #[must_use]
    pub fn with_vitals(self, vitals: watch::Receiver<Vitals>) -> Self {
        Self { vitals, ..self }
    }

    /// Takes the rates; to be called every few seconds.
    pub fn sample(&self) {
        let ids: BTreeSet<(u32, u32)> = self.published().ids.values().flatten().flatten().copied().collect();
        let mut totals = BTreeMap::new();
        for id in ids {
            match self.counters.backend(id.0) {
                Ok(counters) => {
                    totals.insert(id, counters.flows);
                }
                Err(error) => debug!("no rates: {error:#}"),
            }
        }
        self.rates().update(totals, Instant::now());
    }

    fn collect(&self) -> Report {
        let flows = self.counters.flows(monotonic_nanoseconds());
        let published = self.published();
        let mut report = Report {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            node: this_node(&published),
            source: SourceReport::new(&self.board.read(), Instant::now()),
            services: services(&published),
            backends: self.backends(&published, &flows),
            nodes: self.nodes(&published),
            networks: networks(&published),
            dns: self.resolver.report(),
            warnings: published.warnings.clone(),
            dataplane: DataplaneReport {
                attachments: attachments(&published),
                without_xdp: without_xdp(&published),
                flows_used: flows.established as u64,
                flows_max: u64::from(self.flows_max),
                flow_tables: flow_tables(&self.collection.borrow()),
                update_seconds: published.update.as_secs_f64(),
                outcomes: BTreeMap::new(),
            },
        };
        match self.counters.outcomes() {
            Ok(outcomes) => {
                let named = outcomes.into_iter().map(|(name, count)| (name.to_owned(), count));
                report.dataplane.outcomes = named.collect();
            }
            Err(error) => report.warnings.push(format!("{error:#}")),
        }
        report.warnings.extend(published.problems.node.clone());
        report
    }

    fn backends(&self, published: &Published, flows: &FlowSummary) -> Vec<BackendRow> {
        let mut rows = Vec::new();
        let served = published.desired.frontends.iter().filter(|(_, frontend)| frontend.left.is_none());
        for (id, frontend) in served {
            let service = published.snapshot.services.get(&frontend.service_id);
            for (task, backend, key) in published.backends(*id, frontend) {
                let mut row = backend_row(*id, backend);
                (row.task, row.node) = whereabouts(published, &frontend.service_id, task);
                row.service = service.map(|service| service.name.clone()).unwrap_or_default();
                frontend.policy.as_str().clone_into(&mut row.policy);
                if let Some(key) = key.as_ref() {
                    row.connections = flows.open.get(key).copied().unwrap_or(0);
                    let counters = self.counters.backend(key.0).unwrap_or_default();
                    row.connections_total = counters.flows;
                    row.packets_total = counters.packets;
                    row.bytes_total = counters.bytes;
                    row.new_per_second = self.rates().per_second.get(key).copied().unwrap_or(0.0);
                } else {
                    row.state = BackendState::Down;
                }
                rows.push(row);
            }
        }
        rows.sort_by(|a, b| (&a.service, &a.frontend, &a.task).cmp(&(&b.service, &b.frontend, &b.task)));
        rows
    }

    fn nodes(&self, published: &Published) -> Vec<NodeRow> {
        let source = self.board.read();
        let agent = |id: &String| match source.role {
            _ if *id == published.local.node.id => Some(true),
            SourceRole::Manager => Some(source.subscribers.contains_key(id)),
            SourceRole::Worker | SourceRole::File | SourceRole::Starting | SourceRole::NotInSwarm => None,
        };
        let dataplane = |address: Option<IpAddr>| match address {
            Some(IpAddr::V4(address)) => {
                published.pulses.get(&address).map(|pulse| pulse.as_str().to_owned())
            }
            _ => None,
        };
        let row = |node: &crate::swarm::snapshot::Node| NodeRow {
            node: node.hostname.clone(),
            id: node.id.clone(),
            role: role(node.role).to_owned(),
            state: state(node.state).to_owned(),
            availability: availability(node.availability).to_owned(),
            address: node.address.as_ref().map(IpAddr::to_string).unwrap_or_default(),
            backends: backends_on(published, &node.id),
            agent: agent(&node.id),
            dataplane: dataplane(node.address),
        };
        let mut rows: Vec<_> = published.snapshot.nodes.values().map(row).collect();
        rows.sort_by(|a, b| a.node.cmp(&b.node));
        rows
    }

    /// Without holding it: the core publishes in every round, and reading maps takes its time.
    fn published(&self) -> Arc<Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReportSource for Collector {
    fn health(&self) -> Health {
        health::judge(&self.vitals.borrow(), &self.board.read(), Instant::now())
    }

    fn report(&self) -> BoxFuture<'_, Report> {
        Box::pin(async { tokio::task::block_in_place(|| self.collect()) })
    }

    fn differences(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async {
            let (inquiry, answer) = oneshot::channel();
            if self.inquiries.send(inquiry).await.is_err() {
                return vec!["the agent is about to stop".to_owned()];
            }
            answer
                .await
                .unwrap_or_else(|_| vec!["the agent knows no complete state of the Swarm yet".to_owned()])
        })
    }
}

fn this_node(published: &Published) -> ThisNodeReport {
    let node = &published.local.node;
    ThisNodeReport {
        id: node.id.clone(),
        hostname: node.hostname.clone(),
        address: node.address.map(|address| address.to_string()).unwrap_or_default(),
        cluster_id: node.cluster_id.clone(),
    }
}

fn services(published: &Published) -> Vec<ServiceRow> {
    let desired = &published.desired;
    let row = |view: &crate::desired::ServiceView| {
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
fn left_to_docker(view: &crate::desired::ServiceView) -> Vec<String> {
    let mut by_reason = BTreeMap::<String, Vec<String>>::new();
    for (id, why) in &view.left {
        by_reason.entry(why.to_string()).or_default().push(id.to_string());
    }
    let text = |(why, frontends): (String, Vec<String>)| {
        if frontends.len() == view.frontends.len() { why } else { format!("{}: {why}", frontends.join(" ")) }
    };
    by_reason.into_iter().map(text).collect()
}

fn networks(published: &Published) -> Vec<NetworkRow> {
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

fn backend_row(frontend: FrontendId, backend: &Backend) -> BackendRow {
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
fn whereabouts(published: &Published, service_id: &str, task_id: &str) -> (String, String) {
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
fn without_xdp(published: &Published) -> BTreeMap<String, String> {
    let why = |attached: &Attached| match &attached.xdp {
        XdpState::TcAlone(why) => Some((attached.interface.clone(), why.clone())),
        XdpState::Native | XdpState::Generic | XdpState::Off => None,
    };
    published.attached.iter().filter_map(why).collect()
}

fn attachments(published: &Published) -> Vec<AttachmentRow> {
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
            let direction = if *name == program::UPLINK_OUT { "egress" } else { "ingress" };
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
fn backends_on(published: &Published, node_id: &str) -> u64 {
    let frontends = published.desired.frontends.values();
    let tasks: BTreeSet<_> = frontends.flat_map(|frontend| frontend.backends.keys()).collect();
    let node = |task: &str| published.snapshot.tasks.get(task).map(|task| task.node_id.as_str());
    tasks.into_iter().filter(|task| node(task) == Some(node_id)).count() as u64
}

fn flow_tables(collection: &Collection) -> Vec<FlowTableRow> {
    let row = |table: &TableUse| FlowTableRow {
        table: table.table.to_lowercase(),
        entries: table.entries,
        capacity: u64::from(table.capacity),
        bytes: table.bytes,
    };
    collection.tables.iter().map(row).collect()
}

/// The clock that flows are dated by.
pub fn monotonic_nanoseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct lives through the call, which fills it.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) } != 0 {
        return 0;
    }
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn mode(mode: EndpointMode) -> &'static str {
    match mode {
        EndpointMode::Vip => "vip",
        EndpointMode::Dnsrr => "dnsrr",
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Worker => "worker",
        Role::Manager => "manager",
    }
}

fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Unknown => "unknown",
        NodeState::Down => "down",
        NodeState::Ready => "ready",
        NodeState::Disconnected => "disconnected",
    }
}

fn availability(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "active",
        Availability::Pause => "pause",
        Availability::Drain => "drain",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_two_looks() {
        let mut rates = Rates::default();
        let begin = Instant::now();
        rates.update(BTreeMap::from([((1, 1), 100)]), begin);
        assert!(rates.per_second.is_empty());
        rates.update(BTreeMap::from([((1, 1), 150), ((2, 1), 10)]), begin + Duration::from_secs(2));
        assert_eq!(rates.per_second, BTreeMap::from([((1, 1), 25.0), ((2, 1), 5.0)]));
    }
}
