//! On every node: who this node is and which containers of the Swarm run here, from the local Docker API.
//!
//! Events take effect at once; lists follow within [`COALESCE`] of them, and periodically anyway. What a list does not
//! tell about a container is asked for once, beside all that: Docker lets such questions wait while it is busy with the
//! container.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info};

use super::backoff::Backoff;
use super::container::details;
use super::containers::{Containers, is_stop_signal};
use super::docker::{Docker, DockerError};
use super::manager::a_moment_ago;
use super::membership::{Membership, membership};
use super::snapshot::{ContainerDetails, LocalView, ThisNode};
use super::status::{Part, StatusBoard};
use crate::node::namespaces;
use crate::peers::certificates::Certificates;

pub(super) struct Local<'a> {
    pub(super) socket: &'a Path,
    /// Where the files of network namespaces are.
    pub(super) docker_run: &'a Path,
    /// The name of `docker_gwbridge`.
    pub(super) bridge: &'a str,
    /// How long to go without asking Docker at most.
    pub(super) resync: Duration,
    pub(super) certificates: &'a Certificates,
    pub(super) board: &'a StatusBoard,
    pub(super) view: &'a watch::Sender<Option<Arc<LocalView>>>,
    pub(super) standing: &'a watch::Sender<Option<Standing>>,
    pub(super) managers: &'a watch::Sender<Vec<IpAddr>>,
}

/// What decides where the snapshots come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    NotInSwarm { why: String },
    Manager { node_id: String },
    Worker { node_id: String },
}

const COALESCE: Duration = Duration::from_millis(5);

/// How soon, and how often, to look again for a container's place on the bridge that is still missing. Containers on
/// internal networks only never get one.
const BRIDGE_RETRY: Duration = Duration::from_millis(25);
const BRIDGE_RETRIES: u32 = 20;

impl Local<'_> {
    /// Runs until dropped. While Docker does not answer, the last view stays.
    pub(super) async fn run(&self) -> Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let started = Instant::now();
            let Err(error) = self.follow().await;
            self.board.failed(Part::Local, &error);
            sleep(backoff.pause_after(started.elapsed())).await;
        }
    }

    async fn follow(&self) -> Result<Infallible, DockerError> {
        let docker = Docker::connect(self.socket).await?;
        let mut events = Box::pin(docker.events(&["container", "network"], a_moment_ago()));
        let mut containers = Containers::default();
        let mut node = self.ask_who_we_are(&docker).await?;
        let mut identity_due = Instant::now() + self.resync;
        let mut list_due = Instant::now();
        let mut has_listed = false;
        let mut retries = BRIDGE_RETRIES;
        let mut asked = BTreeSet::new();
        let mut inspections = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                event = events.next() => {
                    let event = event.ok_or(DockerError::EventsEnded)??;
                    let effect = react(&docker, &mut containers, &event).await;
                    if effect.look {
                        retries = BRIDGE_RETRIES;
                        list_due = list_due.min(Instant::now() + COALESCE);
                    }
                    if !(effect.changed && has_listed) {
                        continue;
                    }
                }
                () = sleep_until(list_due) => {
                    let (summaries, endpoints) =
                        tokio::try_join!(docker.containers(), docker.bridge_endpoints(self.bridge))?;
                    containers.listed(summaries, &endpoints);
                    has_listed = true;
                    self.board.succeeded(Part::Local);
                    list_due = Instant::now() + self.resync;
                    if containers.lacks_a_bridge_address() && retries > 0 {
                        retries -= 1;
                        list_due = Instant::now() + BRIDGE_RETRY;
                    }
                    for id in containers.without_details() {
                        if asked.insert(id.to_owned()) {
                            let (id, docker) = (id.to_owned(), &docker);
                            inspections.push(async move { (self.inspect(docker, &id).await, id) });
                        }
                    }
                }
                Some((answer, id)) = inspections.next() => {
                    asked.remove(&id);
                    if !answer.is_some_and(|details| containers.inspected(&id, details)) {
                        continue;
                    }
                }
                () = sleep_until(identity_due) => {
                    node = self.ask_who_we_are(&docker).await?;
                    identity_due = Instant::now() + self.resync;
                }
            }
            if let (Some(node), true) = (&node, has_listed) {
                self.publish(LocalView {
                    node: node.clone(),
                    containers: containers.alive().clone(),
                    networks: containers.networks().clone(),
                });
            }
        }
    }

    async fn inspect(&self, docker: &Docker, id: &str) -> Option<ContainerDetails> {
        let mut details = docker.container(id).await.map(details)?;
        let name = Path::new(&details.sandbox).file_name().and_then(|name| name.to_str());
        if let Some(name) = name {
            match namespaces::id_of(&namespaces::of_sandbox(self.docker_run, name)).await {
                Ok(id) => details.namespace = id,
                Err(error) => debug!(container = id, "its network namespace's id is unknown: {error:#}"),
            }
        }
        Some(details)
    }

    /// Publishes where this node stands and gives who it is, if it is in a Swarm.
    async fn ask_who_we_are(&self, docker: &Docker) -> Result<Option<ThisNode>, DockerError> {
        let (standing, node) = match membership(&docker.info().await?) {
            Membership::NotInSwarm { why } => (Standing::NotInSwarm { why }, None),
            Membership::Member { mut node, managers } => {
                if node.cluster_id.is_empty() {
                    node.cluster_id = self.cluster_id_of_certificate();
                }
                set(self.managers, managers);
                let node_id = node.id.clone();
                let standing =
                    if node.manager { Standing::Manager { node_id } } else { Standing::Worker { node_id } };
                (standing, Some(node))
            }
        };
        set(self.standing, Some(standing));
        Ok(node)
    }

    /// Workers are not told the cluster's id, but it is in their certificate.
    fn cluster_id_of_certificate(&self) -> String {
        match self.certificates.identity() {
            Ok(identity) => identity.cluster_id.clone(),
            Err(error) => {
                debug!("the id of the cluster is unknown: {error}");
                String::new()
            }
        }
    }

    fn publish(&self, view: LocalView) {
        self.view.send_if_modified(|current| {
            if current.as_deref() == Some(&view) {
                return false;
            }
            let containers = view.containers.len();
            if current.as_ref().is_none_or(|current| current.node != view.node) {
                let node = &view.node;
                info!(
                    id = node.id,
                    hostname = node.hostname,
                    manager = node.manager,
                    containers,
                    "this node"
                );
            } else {
                debug!(containers, "this node's containers changed");
            }
            *current = Some(Arc::new(view));
            true
        });
    }
}

async fn react(
    docker: &Docker,
    containers: &mut Containers,
    event: &EventMessage,
) -> super::containers::Effect {
    let effect = containers.happened(event);
    match &effect.signal {
        Some((id, signal)) => match docker.stop_signal(id).await {
            Some(configured) if is_stop_signal(signal, &configured) => containers.told_to_stop(id),
            Some(_) | None => effect,
        },
        None => effect,
    }
}

fn set<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|current| {
        let is_news = *current != value;
        *current = value;
        is_news
    });
}
