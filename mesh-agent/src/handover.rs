//! Reads which connections Docker's mesh carries, when the mesh takes frontends from it, and until they have ended
//! ([`crate::reconcile::handover`] decides what follows from it).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use mesh_common::flow::FlowKey;
use mesh_common::net::Port;
use mesh_common::overlay::VipFlowKey;
use mesh_common::unread::UnreadPort;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::dataplane::Dataplane;
use crate::dataplane::unread_ports::UnreadPorts;
use crate::desired::{Desired, FrontendId};
use crate::netfilter::conntrack::{self, Translated};
use crate::netfilter::ipvs;
use crate::node::namespaces;
use crate::reconcile::handover;
use crate::reconcile::reconciler::Reconciler;
use crate::reconcile::tables::DockerFlow;

/// How long packets that have looked at a frontend before it was taken may still be on their way to connection tracking.
const PACKETS_PASS: Duration = Duration::from_millis(20);
/// How often it is looked whether connections of Docker's have ended, and tried again what has failed.
const ROUND: Duration = Duration::from_secs(30);
/// Where it cannot be read what Docker carries: how long segments of unknown connections are left to it. IPVS forgets a TCP
/// connection that is silent for 900 s.
const BLIND: Duration = Duration::from_mins(15);

/// The sandboxes of overlays' load balancers, with the networks' VXLAN identifiers.
pub type Balancers = Vec<(u32, PathBuf)>;

/// Follows the connections that stay Docker's.
#[derive(Debug, Default)]
pub struct Handover {
    reading: Option<JoinHandle<Reading>>,
    due: Option<Instant>,
    /// Since when nothing could be read.
    blind: Option<Instant>,
    /// Whether a round has been made.
    has_begun: bool,
}

/// What was read.
#[derive(Debug)]
pub struct Reading {
    /// The frontends that were served when the reading began.
    frontends: BTreeSet<FrontendId>,
    /// The interfaces that had programs when the reading began.
    ports: BTreeSet<UnreadPort>,
    /// The networks whose load balancers alone were looked into; `None` for everything that Docker carries.
    networks: Option<BTreeSet<u32>>,
    carried: Result<BTreeSet<DockerFlow>>,
}

impl Handover {
    /// Before the tables are made what is `desired`: flows that no segment tells from new ones (UDP) must be known when a frontend
    /// that Docker has served comes into them. `before` is what was desired last.
    pub async fn prepare<D: Dataplane>(
        &mut self,
        reconciler: &mut Reconciler<D>,
        desired: &Desired,
        before: Option<&Desired>,
        balancers: &Balancers,
    ) {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let arrives = |id: &FrontendId| {
            let known = reconciler.tables().frontends.get(id);
            known.is_none_or(|known| known.flags & mesh_common::frontend::flags::LEFT != 0)
        };
        let was_dockers = |id: &FrontendId| {
            let known = before.and_then(|before| before.frontends.get(id));
            is_first || known.is_some_and(|frontend| frontend.left.is_some())
        };
        let arriving: BTreeSet<FrontendId> = desired
            .frontends
            .iter()
            .filter(|(id, frontend)| frontend.left.is_none() && arrives(id) && was_dockers(id))
            .map(|(id, _)| *id)
            .collect();
        if arriving.is_empty() {
            return;
        }
        let balancers = balancers.clone();
        let carried = spawn_blocking(move || carried(&balancers)).await;
        let carried = carried.context("read what Docker's mesh carries").flatten();
        let done =
            carried.and_then(|carried| Ok(reconciler.hand_over(&carried, &BTreeSet::new(), &arriving)?));
        if let Err(error) = done {
            warn!("UDP flows that Docker's mesh carries may move to other tasks: {error:#}");
        }
    }

    /// After the tables have changed, or programs have come to interfaces: begins to read where that is needed.
    pub fn begin<D: Dataplane>(
        &mut self,
        reconciler: &Reconciler<D>,
        unread_ports: &UnreadPorts,
        balancers: &Balancers,
    ) {
        let unread = handover::unread(reconciler.tables());
        let ports = unread_ports.all();
        if self.due.is_none() && self.reading.is_none() && !handover::shared(reconciler.tables()).is_empty() {
            // An agent before this one may have left them.
            self.due = Some(Instant::now() + ROUND);
        }
        let is_due = self.due.is_some_and(|due| due <= Instant::now());
        // After a failure only when it is time to try again.
        let is_news = self.blind.is_none() && !(unread.is_empty() && ports.is_empty());
        if self.reading.is_some() || !(is_due || is_news) {
            return;
        }
        // Containers come and go often, and all that the node translates can be much.
        let only_overlays = unread.is_empty() && !is_due && ports.iter().all(|port| port.network != 0);
        let networks: Option<BTreeSet<u32>> =
            only_overlays.then(|| ports.iter().map(|port| port.network).collect());
        if networks.is_none() {
            self.due = None;
        }
        let mut balancers = balancers.clone();
        if let Some(networks) = &networks {
            balancers.retain(|(network, _)| networks.contains(network));
        }
        self.reading = Some(tokio::spawn(async move {
            sleep(PACKETS_PASS).await;
            let read = move || if only_overlays { called_by(&balancers) } else { carried(&balancers) };
            let carried = spawn_blocking(read).await.context("read connections").flatten();
            Reading { frontends: unread, ports, networks, carried }
        }));
    }

    /// Waits for what is being read; for ever, if that is nothing.
    pub async fn read(&mut self) -> Reading {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let read = reading.await;
        self.reading = None;
        read.unwrap_or_else(|error| Reading {
            frontends: BTreeSet::new(),
            ports: BTreeSet::new(),
            networks: None,
            carried: Err(error.into()),
        })
    }

    /// When to look again.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Lets the programs know what was read.
    pub fn finish<D: Dataplane>(
        &mut self,
        reconciler: &mut Reconciler<D>,
        unread_ports: &UnreadPorts,
        reading: Reading,
    ) {
        let now = Instant::now();
        let before = reconciler.tables().docker_flows.len();
        let behind = handover::behind(reconciler.tables(), &reading.ports);
        let not_looked_at = |flow: &&DockerFlow| match (&reading.networks, flow) {
            (None, _) => false,
            (Some(networks), DockerFlow::Vip(key)) => !networks.contains(&key.network),
            (Some(_), DockerFlow::Published(_)) => true,
        };
        let others: Vec<DockerFlow> =
            reconciler.tables().docker_flows.iter().filter(not_looked_at).copied().collect();
        let done = reading
            .carried
            .map(|mut carried| {
                carried.extend(others);
                carried
            })
            .and_then(|carried| Ok(reconciler.hand_over(&carried, &reading.frontends, &behind)?));
        match done {
            Ok(()) => {
                self.blind = None;
                unread_ports.forget(&reading.ports);
                let after = reconciler.tables().docker_flows.len();
                if after > before {
                    info!(connections = after, "Docker's mesh goes on with the connections that it carries");
                } else if before > 0 && after == 0 {
                    info!("the connections that Docker's mesh went on with have ended");
                }
            }
            Err(error) => {
                let since = *self.blind.get_or_insert(now);
                if since == now {
                    warn!(
                        "which connections Docker's mesh carries cannot be told: for {} minutes it gets what is not known: {error:#}",
                        BLIND.as_secs() / 60
                    );
                }
                if now.duration_since(since) >= BLIND {
                    self.blind = None;
                    let known = reconciler.tables().docker_flows.clone();
                    match reconciler.hand_over(&known, &reading.frontends, &BTreeSet::new()) {
                        Ok(()) => unread_ports.forget(&reading.ports),
                        Err(error) => warn!("the tables cannot be changed: {error:#}"),
                    }
                }
            }
        }
        let tables = reconciler.tables();
        let goes_on = !handover::shared(tables).is_empty()
            || !handover::unread(tables).is_empty()
            || self.blind.is_some();
        self.due = goes_on.then(|| now + ROUND);
    }
}

/// What Docker's mesh carries: to published ports by the node's connection tracking, to virtual addresses by IPVS in the
/// networks' load balancers.
fn carried(balancers: &Balancers) -> Result<BTreeSet<DockerFlow>> {
    let translated = conntrack::translated().context("read the kernel's connection tracking")?;
    let mut carried = called_by(balancers)?;
    carried.extend(translated.iter().map(published));
    Ok(carried)
}

/// What goes to virtual addresses by these load balancers.
fn called_by(balancers: &Balancers) -> Result<BTreeSet<DockerFlow>> {
    let mut carried = BTreeSet::new();
    for (network, sandbox) in balancers.iter().filter(|(_, sandbox)| sandbox.exists()) {
        let place = sandbox.clone();
        let visitor = thread::spawn(move || -> Result<Vec<Translated>> {
            namespaces::enter(&place)?;
            ipvs::connections().context("read IPVS' connections")
        });
        let found = visitor.join().map_err(|_| anyhow!("the visitor of a load balancer panicked"))?;
        match found {
            Ok(found) => carried.extend(found.iter().map(|connection| called(*network, connection))),
            // A network that goes takes its load balancer along.
            Err(_) if !sandbox.exists() => {}
            Err(error) => return Err(error.context(format!("look into {}", sandbox.display()))),
        }
    }
    Ok(carried)
}

fn published(connection: &Translated) -> DockerFlow {
    DockerFlow::Published(FlowKey {
        client: connection.client.into(),
        frontend: connection.destination.into(),
        client_port: Port::new(connection.client_port),
        frontend_port: Port::new(connection.port),
        protocol: connection.protocol,
        padding: [0; 3],
    })
}

fn called(network: u32, connection: &Translated) -> DockerFlow {
    DockerFlow::Vip(VipFlowKey {
        network,
        caller: connection.client.into(),
        vip: connection.destination.into(),
        caller_port: Port::new(connection.client_port),
        port: Port::new(connection.port),
        protocol: connection.protocol,
        padding: [0; 3],
    })
}
