//! On every node: tells the agents of all managers what this node sees of its own tasks before Docker
//! tells anybody, and what its containers that are no tasks are called.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use hyper::body::Bytes;
use hyper::http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tonic_prost::ProstCodec;
use tracing::{debug, info, warn};

use super::certificates::Certificates;
use super::client::{self, ClientError, candidates};
use super::conditions::{Observer, Told};
use super::messages::{Conditions, REPORT, ReportEnd};
use super::reports::REPORT_BYTES;
use super::server::HEARTBEAT;
use super::tls::Witness;
use crate::swarm::backoff::Backoff;
use crate::swarm::snapshot::{AttachedContainers, LocalView, Snapshot};
use crate::swarm::trouble::{PATIENCE, Trouble};

/// What the reports are made from, and whom they go to.
#[derive(Debug)]
pub struct Reporter {
    pub peer_port: u16,
    pub certificates: Arc<Certificates>,
    /// Where Docker says the managers are. Those of the last snapshot are told too.
    pub managers: watch::Receiver<Vec<IpAddr>>,
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pub local: watch::Receiver<Option<Arc<LocalView>>>,
}

impl Reporter {
    /// Runs until dropped.
    pub async fn run(mut self) -> Infallible {
        let (sender, told) = watch::channel(Told::default());
        let mut observer = Observer::default();
        let mut lines = Lines::default();
        loop {
            let snapshot = self.snapshot.borrow_and_update().clone();
            if let Some(local) = self.local.borrow_and_update().clone() {
                let next = observer.look(&local, snapshot.as_deref());
                sender.send_if_modified(|current| {
                    let is_news = *current != next;
                    *current = next;
                    is_news
                });
            }
            let managers = candidates(&self.managers.borrow_and_update(), snapshot.as_deref());
            lines.keep(&managers.into_iter().collect(), |manager| {
                let manager = SocketAddr::new(manager, self.peer_port);
                Line { manager, certificates: self.certificates.clone(), told: told.clone() }
            });
            let changed = tokio::select! {
                changed = self.local.changed() => changed,
                changed = self.snapshot.changed() => changed,
                changed = self.managers.changed() => changed,
            };
            if changed.is_err() {
                // The senders live as long as this future.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A connection to each manager.
#[derive(Debug, Default)]
struct Lines {
    tasks: JoinSet<Infallible>,
    by_manager: BTreeMap<IpAddr, AbortHandle>,
}

impl Lines {
    fn keep(&mut self, managers: &BTreeSet<IpAddr>, line: impl Fn(IpAddr) -> Line) {
        self.by_manager.retain(|manager, task| {
            let is_wanted = managers.contains(manager);
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
        for manager in managers {
            let tasks = &mut self.tasks;
            self.by_manager.entry(*manager).or_insert_with(|| tasks.spawn(line(*manager).run()));
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

struct Line {
    manager: SocketAddr,
    certificates: Arc<Certificates>,
    told: watch::Receiver<Told>,
}

impl Line {
    async fn run(self) -> Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut trouble = Trouble::default();
        loop {
            let started = Instant::now();
            let Err(error) = self.tell(&mut trouble).await;
            let text = error.to_string();
            if trouble.is_news(&text, PATIENCE, Instant::now()) {
                warn!("what happens on this node reaches others only as fast as Docker tells them: {text}");
            }
            sleep(backoff.pause_after(started.elapsed())).await;
        }
    }

    async fn tell(&self, trouble: &mut Trouble) -> Result<Infallible, ClientError> {
        let manager = self.manager;
        let identity = self.certificates.identity()?;
        let stream = client::connect(manager, &identity, &Witness::default()).await?;
        let mut grpc = client::grpc_over(manager, stream).await?;
        debug!(%manager, "reporting");
        let reports = reports(identity.node_id.clone(), self.told.clone());
        let codec = ProstCodec::<Conditions, ReportEnd>::default();
        let path = PathAndQuery::from_static(REPORT);
        let call = grpc.client_streaming(tonic::Request::new(reports), path, codec);
        tokio::pin!(call);
        let end = tokio::select! {
            end = &mut call => end,
            // Who refuses does so at once.
            () = sleep(2 * HEARTBEAT) => {
                if trouble.ends() {
                    info!(%manager, "what happens on this node is told at once again");
                }
                call.await
            }
        };
        match end {
            Ok(_) => Err(ClientError::Broken { manager, reason: "it wants no more reports".into() }),
            Err(status) => Err(client::trouble(manager, &status)),
        }
    }
}

/// Everything at once, then everything again whenever something changes, and now and then anyway.
fn reports(node_id: String, told: watch::Receiver<Told>) -> impl Stream<Item = Conditions> + Send + 'static {
    futures::stream::unfold((told, node_id, true), |(mut told, node_id, is_first)| async move {
        if !is_first {
            // The sender may be gone: then this node is on its way out, and so is this stream.
            if let Ok(Err(_)) = timeout(HEARTBEAT, told.changed()).await {
                return None;
            }
        }
        let now = told.borrow_and_update().clone();
        Some((report(node_id.clone(), &now), (told, node_id, false)))
    })
}

/// A report that managers take, however much there is to tell: names are left out before the rest.
fn report(node_id: String, told: &Told) -> Conditions {
    let ids = |tasks: &BTreeSet<String>| tasks.iter().cloned().collect();
    let mut report = Conditions {
        node_id,
        ended: ids(&told.ended),
        draining: ids(&told.draining),
        attached: Bytes::new(),
    };
    let room = (REPORT_BYTES - FRAMING).saturating_sub(report.encoded_len());
    let mut fitting = AttachedContainers::new();
    let mut bytes = 0;
    for (id, names) in &*told.attached {
        // Plain data with string keys: it always has a form in JSON.
        bytes += id.len() + serde_json::to_vec(names).map_or(0, |json| json.len()) + FRAMING;
        if bytes > room {
            let left_out = told.attached.len() - fitting.len();
            debug!(left_out, "more containers than can be told of: others know these by their ids only");
            break;
        }
        fitting.insert(id.clone(), names.clone());
    }
    report.attached = serde_json::to_vec(&fitting).unwrap_or_default().into();
    report
}

/// What a field or an entry takes besides its own bytes, at most.
const FRAMING: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::snapshot::ContainerNames;

    #[test]
    fn a_report_is_never_longer_than_managers_take() {
        let named = |number: usize| {
            let names = ContainerNames { name: "x".repeat(60), ..ContainerNames::default() };
            (format!("{number:064}"), names)
        };
        let few: AttachedContainers = (0..100).map(named).collect();
        let many: AttachedContainers = (0..5000).map(named).collect();
        let ended: BTreeSet<String> = (0..1000).map(|number| format!("{number:025}")).collect();
        for (attached, is_whole) in [(few, true), (many, false)] {
            let told = Told { ended: ended.clone(), attached: Arc::new(attached), ..Told::default() };
            let report = report("n1".into(), &told);
            assert!(report.encoded_len() <= REPORT_BYTES, "{}", report.encoded_len());
            assert_eq!(report.ended.len(), 1000);
            let sent: AttachedContainers = serde_json::from_slice(&report.attached).unwrap();
            assert_eq!(sent == *told.attached, is_whole);
            assert!(sent.len() >= 100 && sent.iter().all(|(id, names)| told.attached.get(id) == Some(names)));
        }
    }
}
