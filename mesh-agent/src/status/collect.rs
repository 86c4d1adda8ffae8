//! Puts together what `status` shows: what is desired, what was done about it, and what the kernel counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::debug;

use super::published::Published;
use super::report::{BackendRow, BackendState, DataplaneReport, NodeRow, Report, SourceReport};
use super::rows::{
    attachments, availability, backend_row, backends_on, flow_tables, inner_mtu, networks, role, services,
    state, this_node, whereabouts, without_xdp,
};
use super::server::ReportSource;
use crate::dataplane::clock::monotonic_nanoseconds;
use crate::dataplane::counters::{Counters, FlowSummary};
use crate::dataplane::flows::Collection;
use crate::dns::resolver::Resolver;
use crate::health::{self, Health, Vitals};
use crate::swarm::snapshot::Node;
use crate::swarm::status::{SourceRole, StatusBoard};

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
        let row = |node: &Node| NodeRow {
            node: node.hostname.clone(),
            id: node.id.clone(),
            role: role(node.role).to_owned(),
            state: state(node.state).to_owned(),
            availability: availability(node.availability).to_owned(),
            address: node.address.as_ref().map(IpAddr::to_string).unwrap_or_default(),
            backends: backends_on(published, &node.id),
            agent: agent(&node.id),
            dataplane: dataplane(node.address),
            inner_mtu: inner_mtu(published, node.address),
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
