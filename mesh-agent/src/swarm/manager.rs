//! On a manager: lists the Swarm through the local Docker API, has its changes pushed, and publishes what it is now.
//!
//! The full list is the truth. What is pushed makes it early, so none of it can be missed for longer than one resync
//! period. Where nothing is pushed, Docker's events make the next list early.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{EventMessage, EventMessageTypeEnum};
use futures::future::OptionFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::api;
use super::backoff::Backoff;
use super::control::{Control, Told};
use super::docker::{Docker, DockerError};
use super::listing::{Complaint, Listed};
use super::snapshot::Snapshot;
use super::status::{Part, StatusBoard};
use super::store::{Change, Pushed, Store};

/// Runs until dropped. While Docker does not answer, or has no quorum, the last snapshot stays.
pub(super) async fn run(
    socket: &Path,
    resync: Duration,
    control: Control<'_>,
    publish: &watch::Sender<Option<Arc<Snapshot>>>,
) -> Infallible {
    let (sender, told) = mpsc::channel(AT_ONCE);
    let mut manager = Manager {
        publish,
        board: control.board,
        complaints: BTreeSet::new(),
        store: Store::default(),
        told,
        is_watching: false,
    };
    tokio::select! {
        never = control.run(sender) => never,
        never = manager.run(socket, resync) => never,
    }
}

/// The moment to ask Docker to repeat events from: a little before now, as its clock counts in seconds.
pub(super) fn a_moment_ago() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().saturating_sub(1))
}

/// How much of what was pushed is published together, if it is there already.
const AT_ONCE: usize = 256;

struct Manager<'a> {
    publish: &'a watch::Sender<Option<Arc<Snapshot>>>,
    board: &'a StatusBoard,
    complaints: BTreeSet<Complaint>,
    store: Store,
    told: mpsc::Receiver<Told>,
    /// Whether changes are pushed at present.
    is_watching: bool,
}

impl Manager<'_> {
    async fn run(&mut self, socket: &Path, resync: Duration) -> Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let started = Instant::now();
            let Err(error) = self.follow(socket, resync).await;
            self.board.failed(Part::Swarm, &error);
            self.hear_for(backoff.pause_after(started.elapsed())).await;
        }
    }

    async fn follow(&mut self, socket: &Path, resync: Duration) -> Result<Infallible, DockerError> {
        let docker = Docker::connect(socket).await?;
        let types = ["service", "node", "network", "container"];
        let mut events = Box::pin(docker.events(&types, a_moment_ago()));
        let mut schedule = Schedule::new(Instant::now(), resync);
        // What is pushed counts also while a list is on its way.
        let mut listing = None;
        let mut heard = Vec::new();
        loop {
            tokio::select! {
                event = events.next() => {
                    if is_of_interest(&event.ok_or(DockerError::EventsEnded)??) && !self.is_watching {
                        schedule.hurry(Instant::now());
                    }
                }
                _ = self.told.recv_many(&mut heard, AT_ONCE) => {
                    if self.heard(&mut heard) {
                        schedule.at_once(Instant::now());
                    }
                }
                () = sleep_until(schedule.due()), if listing.is_none() => {
                    let begun = Instant::now();
                    listing = Some(Box::pin(list_all(&docker).map(move |list| (begun, list))));
                }
                Some((begun, list)) = OptionFuture::from(listing.as_mut()) => {
                    listing = None;
                    let (list, complaints) = list?;
                    self.store.list(list, begun);
                    // What is pushed needs no looking for.
                    let is_news = self.published() && !self.is_watching;
                    self.complained(complaints);
                    self.board.connected_to(&socket.to_string_lossy());
                    self.board.succeeded(Part::Swarm);
                    schedule.listed(begun, Instant::now(), is_news);
                }
            }
        }
    }

    /// While Docker's API does not answer.
    async fn hear_for(&mut self, pause: Duration) {
        let pause = sleep(pause);
        tokio::pin!(pause);
        let mut heard = Vec::new();
        loop {
            tokio::select! {
                () = &mut pause => return,
                _ = self.told.recv_many(&mut heard, AT_ONCE) => {
                    self.heard(&mut heard);
                }
            }
        }
    }

    /// Takes over what was pushed and publishes it. Returns whether it is time for a list.
    fn heard(&mut self, heard: &mut Vec<Told>) -> bool {
        let now = Instant::now();
        let (mut is_list_due, mut is_news) = (false, false);
        for told in heard.drain(..) {
            match told {
                Told::Watching { is_gap } => {
                    self.is_watching = true;
                    is_list_due |= is_gap;
                }
                Told::Ended => {
                    is_list_due |= self.is_watching;
                    self.is_watching = false;
                }
                Told::Changes(changes) => {
                    is_news = true;
                    for change in changes {
                        // By what address managers know each other is only in lists.
                        is_list_due |= matches!(&change, Change::Set { object: Pushed::Node(_), .. });
                        self.store.push(change, now);
                    }
                }
            }
        }
        if is_news {
            self.published();
        }
        is_list_due
    }

    fn published(&self) -> bool {
        let Some(snapshot) = self.store.view() else { return false };
        self.publish.send_if_modified(|current| {
            if current.as_deref() == Some(snapshot) {
                return false;
            }
            let (services, tasks, nodes) =
                (snapshot.services.len(), snapshot.tasks.len(), snapshot.nodes.len());
            if current.is_none() {
                info!(services, tasks, nodes, "first view of the Swarm");
            } else {
                debug!(services, tasks, nodes, "the Swarm changed");
            }
            *current = Some(Arc::new(snapshot.clone()));
            true
        })
    }

    fn complained(&mut self, complaints: BTreeSet<Complaint>) {
        for complaint in complaints.difference(&self.complaints) {
            warn!("Docker lists something that cannot be used: {complaint}");
        }
        if complaints != self.complaints {
            self.board.set_skipped(complaints.iter().map(ToString::to_string).collect());
            self.complaints = complaints;
        }
    }
}

/// A whole snapshot or none: one list that fails makes the others worthless.
async fn list_all(docker: &Docker) -> Result<(Snapshot, BTreeSet<Complaint>), DockerError> {
    let (services, tasks, nodes, networks) =
        tokio::try_join!(docker.services(), docker.tasks(), docker.nodes(), docker.networks())?;
    let convert = move || {
        let services = understood("services", api::services(&services))?;
        let tasks = understood("tasks", api::tasks(&tasks))?;
        let nodes = understood("nodes", api::nodes(&nodes))?;
        let networks = understood("networks", api::networks(&networks))?;
        let mut complaints = services.complaints;
        complaints.extend(tasks.complaints);
        complaints.extend(nodes.complaints);
        complaints.extend(networks.complaints);
        let snapshot = Snapshot {
            services: services.objects.into(),
            tasks: tasks.objects.into(),
            nodes: nodes.objects.into(),
            networks: networks.objects.into(),
            ..Snapshot::default()
        };
        Ok((snapshot, complaints))
    };
    // A hundred thousand tasks take a while to parse.
    match tokio::task::spawn_blocking(convert).await {
        Ok(result) => result,
        Err(error) => Err(DockerError::Malformed { what: "the Swarm", reason: error.to_string() }),
    }
}

fn understood<T>(
    what: &'static str,
    listed: Result<Listed<T>, serde_json::Error>,
) -> Result<Listed<T>, DockerError> {
    listed.map_err(|error| DockerError::Malformed { what, reason: error.to_string() })
}

/// Health checks make `exec_…` events all the time; they change no task.
fn is_of_interest(event: &EventMessage) -> bool {
    event.typ != Some(EventMessageTypeEnum::CONTAINER)
        || !event.action.as_deref().unwrap_or_default().starts_with("exec_")
}

/// When to list next. Pure: the clock is an argument.
#[derive(Debug)]
struct Schedule {
    resync: Duration,
    due: Instant,
    /// Not even an event makes the next list earlier than this, so that Docker has time for others.
    not_before: Instant,
    lively_until: Instant,
}

/// A burst of events becomes one list.
const COALESCE: Duration = Duration::from_millis(50);

/// One change is followed by others of which no event tells (a task on another node starts): look more often for a while.
const LIVELY: Duration = Duration::from_secs(10);
const LIVELY_PAUSE: Duration = Duration::from_millis(250);

impl Schedule {
    fn new(now: Instant, resync: Duration) -> Self {
        Self { resync, due: now, not_before: now, lively_until: now }
    }

    fn due(&self) -> Instant {
        self.due
    }

    fn hurry(&mut self, now: Instant) {
        self.due = self.due.min((now + COALESCE).max(self.not_before));
    }

    /// As soon as Docker had its rest.
    fn at_once(&mut self, now: Instant) {
        self.due = self.due.min(now.max(self.not_before));
    }

    fn listed(&mut self, started: Instant, now: Instant, is_news: bool) {
        if is_news {
            self.lively_until = now + LIVELY;
        }
        let pause = if now < self.lively_until { LIVELY_PAUSE.min(self.resync) } else { self.resync };
        let effort = now - started;
        self.not_before = now + effort;
        self.due = now + pause.max(effort * 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESYNC: Duration = Duration::from_secs(2);
    const EFFORT: Duration = Duration::from_millis(5);

    #[test]
    fn the_first_list_is_due_at_once_and_a_quiet_swarm_is_listed_once_per_resync() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, RESYNC);
        assert_eq!(schedule.due(), now);
        schedule.listed(now, now + EFFORT, false);
        assert_eq!(schedule.due(), now + EFFORT + RESYNC);
    }

    #[test]
    fn a_burst_of_events_makes_one_early_list() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, RESYNC);
        schedule.listed(now, now + EFFORT, false);
        let later = now + Duration::from_millis(500);
        schedule.hurry(later);
        schedule.hurry(later + Duration::from_millis(40));
        assert_eq!(schedule.due(), later + COALESCE);
    }

    #[test]
    fn what_is_pushed_waits_for_no_company() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, RESYNC);
        schedule.listed(now, now + EFFORT, false);
        schedule.at_once(now + EFFORT);
        assert_eq!(schedule.due(), now + EFFORT * 2, "Docker has its rest");
        let later = now + Duration::from_millis(500);
        schedule.listed(now, now + EFFORT, false);
        schedule.at_once(later);
        assert_eq!(schedule.due(), later);
    }

    #[test]
    fn after_a_change_the_next_lists_come_sooner_for_a_while() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, RESYNC);
        schedule.listed(now, now, true);
        assert_eq!(schedule.due(), now + LIVELY_PAUSE);
        let calm = now + LIVELY;
        schedule.listed(calm, calm, false);
        assert_eq!(schedule.due(), calm + RESYNC);
    }

    #[test]
    fn lists_that_take_long_leave_docker_time_to_breathe() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, RESYNC);
        let done = now + Duration::from_secs(1);
        schedule.listed(now, done, true);
        assert_eq!(schedule.due(), done + Duration::from_secs(4));
        schedule.hurry(done);
        assert_eq!(schedule.due(), done + Duration::from_secs(1));
    }
}
