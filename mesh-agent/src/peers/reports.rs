//! On managers: takes the reports of all nodes about their own tasks and containers, and adds them to what Docker says.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::OptionFuture;
use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Status;
use tracing::{debug, info};

use super::client::SILENCE;
use super::conditions::{AllTold, Told};
use super::messages::{Conditions, ReportEnd};
use super::remains::Remains;
use crate::swarm::snapshot::{AttachedContainers, Snapshot};

/// How long after its last report a node is still believed about what may change: an agent that is restarted comes back
/// in the meantime.
const LINGER: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Reports {
    told: watch::Sender<AllTold>,
    /// By node id, the number of its latest report: an earlier connection may be found dead after a new one has begun.
    latest: Mutex<BTreeMap<String, u64>>,
}

impl Reports {
    pub(super) fn subscribe(&self) -> watch::Receiver<AllTold> {
        self.told.subscribe()
    }

    /// Believes a node for as long as its stream lasts, and a little longer.
    pub(super) async fn receive(
        self: Arc<Self>,
        node_id: &str,
        mut reports: impl Stream<Item = Result<Conditions, Status>> + Unpin,
    ) -> Result<ReportEnd, Status> {
        debug!(node_id, "a node reports");
        let mine = self.begin(node_id);
        let end = loop {
            match timeout(SILENCE, reports.next()).await {
                Ok(Some(Ok(report))) if report.node_id != node_id => {
                    break Err(Status::permission_denied(format!(
                        "node {node_id:?} cannot speak for node {:?}",
                        report.node_id
                    )));
                }
                Ok(Some(Ok(report))) => self.heard(node_id, report),
                Ok(Some(Err(status))) => break Err(status),
                Ok(None) => break Ok(ReportEnd {}),
                Err(_) => break Err(Status::deadline_exceeded("no report for too long")),
            }
        };
        let node_id = node_id.to_owned();
        tokio::spawn(async move {
            sleep(LINGER).await;
            self.forget(&node_id, mine);
        });
        end
    }

    fn begin(&self, node_id: &str) -> u64 {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let number = latest.entry(node_id.to_owned()).or_default();
        *number += 1;
        *number
    }

    fn heard(&self, node_id: &str, report: Conditions) {
        let told = Told {
            ended: report.ended.into_iter().collect(),
            draining: report.draining.into_iter().collect(),
            attached: attached(node_id, &report.attached),
        };
        self.told.send_if_modified(|all| all.set(node_id, told));
    }

    fn forget(&self, node_id: &str, number: u64) {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.get(node_id) == Some(&number) && self.told.send_if_modified(|all| all.fell_silent(node_id))
        {
            info!(node_id, "a node's agent reports no more: only the Swarm tells of its tasks now");
        }
    }
}

/// Names that are not understood are worth less than the rest of a report.
fn attached(node_id: &str, json: &[u8]) -> AttachedContainers {
    if json.is_empty() {
        return AttachedContainers::default();
    }
    serde_json::from_slice(json).unwrap_or_else(|error| {
        debug!(node_id, "what a node's containers are called is not understood: {error}");
        AttachedContainers::default()
    })
}

/// Publishes the Swarm as Docker has it together with what the nodes have told.
pub(super) async fn add(
    mut told: watch::Receiver<AllTold>,
    mut swarm: watch::Receiver<Option<Arc<Snapshot>>>,
    publish: &watch::Sender<Option<Arc<Snapshot>>>,
) -> Infallible {
    let mut remains = Remains::default();
    loop {
        let conditions = told.borrow_and_update().clone();
        if let Some(snapshot) = swarm.borrow_and_update().clone() {
            remains.follow(&snapshot, &conditions, Instant::now());
            let whole = with(snapshot, &conditions, &remains);
            publish.send_if_modified(|current| {
                let is_news = current.as_ref() != Some(&whole);
                *current = Some(whole);
                is_news
            });
        }
        let changed = tokio::select! {
            changed = told.changed() => changed,
            changed = swarm.changed() => changed,
            Some(()) = OptionFuture::from(remains.due().map(sleep_until)) => Ok(()),
        };
        if changed.is_err() {
            // No more news, but what is known stays in force.
            std::future::pending::<()>().await;
        }
    }
}

fn with(mut snapshot: Arc<Snapshot>, told: &AllTold, remains: &Remains) -> Arc<Snapshot> {
    if !remains.is_empty() {
        let tasks = &mut Arc::make_mut(&mut snapshot).tasks;
        for (id, task) in remains.tasks() {
            tasks.insert_shared(id.clone(), task.clone());
        }
    }
    let (conditions, attached) = (told.conditions(&snapshot), told.attached(&snapshot));
    if snapshot.conditions != conditions || snapshot.attached != attached {
        let snapshot = Arc::make_mut(&mut snapshot);
        snapshot.conditions = conditions;
        snapshot.attached = attached;
    }
    snapshot
}
