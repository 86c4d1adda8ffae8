//! On managers: takes the reports of all nodes about their own tasks and containers, and adds them to what Docker says.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::OptionFuture;
use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;
use tracing::{debug, info};

use super::client::SILENCE;
use super::conditions::{AllTold, ByHand, Told, within_bounds};
use super::messages::{Conditions, ReportEnd};
use super::pace::Pace;
use super::remains::Remains;
use crate::swarm::snapshot::{AttachedContainers, Snapshot};

/// How long after its last report a node is still believed about what may change: an agent that is restarted comes back
/// in the meantime.
const LINGER: Duration = Duration::from_secs(10);
/// How long it is believed about the names of its containers.
const LOST: Duration = Duration::from_mins(10);

/// A report that is longer is refused: this is more than a node with thousands of tasks tells.
pub(super) const REPORT_BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct Reports {
    told: watch::Sender<AllTold>,
    /// By node id.
    reporters: Mutex<BTreeMap<String, Reporting>>,
}

/// How a node reports.
#[derive(Debug, Default)]
struct Reporting {
    /// The number of its latest stream: an earlier one may be found dead after a new one has begun.
    latest: u64,
    pace: Pace,
}

/// What became of a report.
enum Heard {
    Taken,
    /// It comes too soon after others.
    NotBefore(Instant),
    /// The node reports by another stream now.
    Superseded,
}

impl Reports {
    pub(super) fn subscribe(&self) -> watch::Receiver<AllTold> {
        self.told.subscribe()
    }

    /// Believes a node for as long as its stream lasts, and a little longer. Of what it tells too often, the latest counts.
    pub(super) async fn receive(
        self: Arc<Self>,
        node_id: &str,
        mut reports: impl Stream<Item = Result<Conditions, Status>> + Unpin,
    ) -> Result<ReportEnd, Status> {
        debug!(node_id, "a node reports");
        let mine = self.begin(node_id);
        let mut waiting: Option<(Conditions, Instant)> = None;
        let end = loop {
            let due = waiting.as_ref().map(|(_, due)| *due);
            tokio::select! {
                report = timeout(SILENCE, reports.next()) => match report {
                    Ok(Some(Ok(report))) if report.node_id != node_id => {
                        break Err(Status::permission_denied(format!(
                            "node {node_id:?} cannot speak for node {:?}",
                            report.node_id
                        )));
                    }
                    Ok(Some(Ok(report))) => waiting = Some((report, Instant::now())),
                    Ok(Some(Err(status))) => break Err(status),
                    Ok(None) => break Ok(ReportEnd {}),
                    Err(_) => break Err(Status::deadline_exceeded("no report for too long")),
                },
                Some(()) = OptionFuture::from(due.map(sleep_until)) => {}
            }
            if let Some((report, _)) = waiting.take() {
                match self.heard(node_id, mine, &report) {
                    Heard::Taken => {}
                    Heard::NotBefore(due) => waiting = Some((report, due)),
                    Heard::Superseded => {
                        break Err(Status::aborted("this node reports by another stream now"));
                    }
                }
            }
        };
        tokio::spawn(self.follow_up(node_id.to_owned(), mine, waiting));
        end
    }

    fn begin(&self, node_id: &str) -> u64 {
        let mut reporters = self.reporters();
        let reporting = reporters.entry(node_id.to_owned()).or_default();
        reporting.latest += 1;
        reporting.latest
    }

    /// What is not taken is not looked at either.
    fn heard(&self, node_id: &str, number: u64, report: &Conditions) -> Heard {
        let mut reporters = self.reporters();
        let Some(reporting) = reporters.get_mut(node_id).filter(|known| known.latest == number) else {
            return Heard::Superseded;
        };
        if let Err(due) = reporting.pace.take(Instant::now()) {
            return Heard::NotBefore(due);
        }
        let told = told(node_id, report);
        self.told.send_if_modified(|all| all.set(node_id, told));
        Heard::Taken
    }

    /// After a stream's end: takes what still waits, and in time forgets what may not be true any more.
    async fn follow_up(
        self: Arc<Self>,
        node_id: String,
        mine: u64,
        mut waiting: Option<(Conditions, Instant)>,
    ) {
        let end = Instant::now();
        while let Some((report, due)) = waiting.take() {
            sleep_until(due).await;
            if let Heard::NotBefore(due) = self.heard(&node_id, mine, &report) {
                waiting = Some((report, due));
            }
        }
        sleep_until(end + LINGER).await;
        let fell_silent = self.if_latest(&node_id, mine, |all| all.fell_silent(&node_id));
        if fell_silent {
            info!(node_id, "a node's agent reports no more: only the Swarm tells of its tasks now");
        }
        sleep_until(end + LOST).await;
        self.if_latest(&node_id, mine, |all| all.is_lost(&node_id));
    }

    /// Changes what a node has told unless it reports by another stream; whether that was news.
    fn if_latest(&self, node_id: &str, number: u64, change: impl FnOnce(&mut AllTold) -> bool) -> bool {
        let reporters = self.reporters();
        let is_latest = reporters.get(node_id).is_some_and(|reporting| reporting.latest == number);
        is_latest && self.told.send_if_modified(change)
    }

    /// Forgets nodes that have left the Swarm.
    fn keep(&self, swarm: &Snapshot) {
        self.told.send_if_modified(|all| all.keep(&swarm.nodes));
    }

    fn reporters(&self) -> MutexGuard<'_, BTreeMap<String, Reporting>> {
        self.reporters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(node_id: &str, report: &Conditions) -> Told {
    Told {
        ended: report.ended.iter().cloned().collect(),
        draining: report.draining.iter().cloned().collect(),
        attached: Arc::new(within_bounds(attached(node_id, &report.attached))),
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
    reports: Arc<Reports>,
    mut swarm: watch::Receiver<Option<Arc<Snapshot>>>,
    publish: &watch::Sender<Option<Arc<Snapshot>>>,
) -> Infallible {
    let mut told = reports.subscribe();
    let (mut remains, mut by_hand) = (Remains::default(), ByHand::default());
    loop {
        let conditions = told.borrow_and_update().clone();
        if let Some(snapshot) = swarm.borrow_and_update().clone() {
            reports.keep(&snapshot);
            remains.follow(&snapshot, &conditions, Instant::now());
            by_hand.follow(&snapshot.tasks);
            let whole = with(snapshot, &conditions, &remains, &by_hand);
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

fn with(mut snapshot: Arc<Snapshot>, told: &AllTold, remains: &Remains, by_hand: &ByHand) -> Arc<Snapshot> {
    if !remains.is_empty() {
        let tasks = &mut Arc::make_mut(&mut snapshot).tasks;
        for (id, task) in remains.tasks() {
            tasks.insert_shared(id.clone(), task.clone());
        }
    }
    let (conditions, attached) = (told.conditions(&snapshot), told.attached(&snapshot, by_hand));
    if snapshot.conditions != conditions || snapshot.attached != attached {
        let snapshot = Arc::make_mut(&mut snapshot);
        snapshot.conditions = conditions;
        snapshot.attached = attached;
    }
    snapshot
}
