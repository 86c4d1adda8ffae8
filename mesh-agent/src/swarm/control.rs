//! On a manager: has the Swarm's changes pushed, by swarmkit's watch on the control socket (moby/swarmkit,
//! manager/watchapi). It makes changes early; what it cannot tell, lists do.
//!
//! The watch reads the manager's own copy of the Swarm's state, so it matters little who leads. Only a manager has the
//! socket: it appears with a promotion and goes with a demotion, and with every restart of Docker.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;
use tracing::{debug, info};

use super::backoff::Backoff;
use super::control_api::{change, task_change};
use super::control_wire::{
    EVERY_ACTION, LIST_TASKS, ListTasksRequest, ListTasksResponse, Version, WATCH, WatchEntry, WatchMessage,
    WatchRequest,
};
use super::status::{Part, StatusBoard};
use super::store::Change;
use crate::peers::certificates::{Certificates, CertificatesError};
use crate::peers::tls::{self, MANAGER, Witness};

/// Where this node's manager is watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control<'a> {
    pub(super) socket: &'a Path,
    pub(super) certificates: &'a Certificates,
    pub(super) board: &'a StatusBoard,
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// From now on nothing is missed. With what happened before it is no other: `true` if there may be a gap.
    Watching {
        is_gap: bool,
    },
    Changes(Vec<Change>),
    /// Nothing is told any more.
    Ended,
}

#[derive(Debug, Error)]
pub(super) enum ControlError {
    #[error("cannot connect to {}: {reason}; if the agent runs in a container, mount Docker's folder of run-time state (--docker-run)", socket.display())]
    Unreachable { socket: PathBuf, reason: String },
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    #[error("the manager at {} is not to be trusted: {reason}", socket.display())]
    Untrusted { socket: PathBuf, reason: String },
    #[error("the manager does not tell: {reason}")]
    Refused { reason: String },
    #[error("the manager ended the stream of changes; is Docker being restarted?")]
    Ended,
}

const PATIENCE: Duration = Duration::from_secs(10);
/// Windows that let many changes flow without waiting for us.
const WINDOW: u32 = 4 * 1024 * 1024;

impl Control<'_> {
    /// Runs until dropped or until nobody listens.
    pub(super) async fn run(self, told: mpsc::Sender<Told>) -> Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut last_version = None;
        loop {
            let started = Instant::now();
            let resumed = last_version;
            let Err(error) = self.follow(&mut last_version, &told).await;
            // What cannot be resumed begins anew.
            if matches!(error, ControlError::Refused { .. }) && last_version == resumed {
                last_version = None;
            }
            self.board.failed(Part::Watch, &error);
            // Nobody listens only when this future is about to be dropped.
            let _ = told.send(Told::Ended).await;
            sleep(backoff.pause_after(started.elapsed())).await;
        }
    }

    async fn follow(
        self,
        last_version: &mut Option<Version>,
        told: &mpsc::Sender<Told>,
    ) -> Result<Infallible, ControlError> {
        let mut client = self.connect().await?;
        let mut stream = watch(&mut client, *last_version).await?;
        // The first message is empty and says that nothing is missed from now on.
        let first = timeout(PATIENCE, stream.message()).await.map_err(|_| silent())?;
        let first = first.map_err(|status| refused(&status))?.ok_or(ControlError::Ended)?;
        let is_gap = last_version.is_none();
        info!(socket = %self.socket.display(), resumed = !is_gap, "watching the changes of the Swarm");
        self.board.succeeded(Part::Watch);
        let _ = told.send(Told::Watching { is_gap }).await;
        if is_gap {
            match tasks(&mut client).await {
                Ok(tasks) => {
                    let changes = tasks.tasks.into_iter().map(task_change);
                    let _ = told.send(Told::Changes(changes.collect())).await;
                }
                // Tasks made later are pushed with their ports; those of others are taken to be their service's.
                Err(error) => debug!("the ports of each task are not known: {error}"),
            }
        }
        let mut message = first;
        loop {
            *last_version = message.version.or(*last_version);
            let changes: Vec<Change> = message.events.into_iter().filter_map(change).collect();
            if !changes.is_empty() {
                let _ = told.send(Told::Changes(changes)).await;
            }
            self.board.succeeded(Part::Watch);
            message =
                stream.message().await.map_err(|status| refused(&status))?.ok_or(ControlError::Ended)?;
        }
    }

    /// Ready for calls.
    async fn connect(self) -> Result<Grpc<Channel>, ControlError> {
        let socket = self.socket.to_owned();
        let untrusted = |reason| ControlError::Untrusted { socket: socket.clone(), reason };
        let unreachable = |reason| ControlError::Unreachable { socket: socket.clone(), reason };
        // Without the socket nothing else is of interest.
        let stream =
            UnixStream::connect(self.socket).await.map_err(|error| unreachable(error.to_string()))?;
        let identity = self.certificates.identity()?;
        let witness = Witness::default();
        let config = tls::client_config(&identity, witness.clone()).map_err(untrusted)?;
        let name = ServerName::try_from(MANAGER).map_err(|error| untrusted(error.to_string()))?;
        let stream = timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream))
            .await
            .map_err(|_| silent())?
            .map_err(|error| untrusted(witness.explain(&error)))?;
        let channel = channel_over(stream).await.map_err(|error| unreachable(tls::in_words(&error)))?;
        // Everything that a manager knows may be one message.
        Ok(Grpc::new(channel).max_decoding_message_size(usize::MAX))
    }
}

async fn watch(
    client: &mut Grpc<Channel>,
    resume_from: Option<Version>,
) -> Result<Streaming<WatchMessage>, ControlError> {
    let kinds = ["task", "service", "node", "network"];
    let entries = kinds.map(|kind| WatchEntry { kind: kind.to_owned(), action: EVERY_ACTION });
    let request = Request::new(WatchRequest { entries: entries.to_vec(), resume_from });
    let codec = ProstCodec::<WatchRequest, WatchMessage>::default();
    client.ready().await.map_err(|error| ControlError::Refused { reason: tls::in_words(&error) })?;
    let answer = client.server_streaming(request, PathAndQuery::from_static(WATCH), codec);
    let answer = timeout(PATIENCE, answer).await.map_err(|_| silent())?;
    Ok(answer.map_err(|status| refused(&status))?.into_inner())
}

async fn tasks(client: &mut Grpc<Channel>) -> Result<ListTasksResponse, ControlError> {
    let codec = ProstCodec::<ListTasksRequest, ListTasksResponse>::default();
    client.ready().await.map_err(|error| ControlError::Refused { reason: tls::in_words(&error) })?;
    let path = PathAndQuery::from_static(LIST_TASKS);
    let answer = client.unary(Request::new(ListTasksRequest {}), path, codec);
    let answer = timeout(PATIENCE, answer).await.map_err(|_| silent())?;
    Ok(answer.map_err(|status| refused(&status))?.into_inner())
}

fn silent() -> ControlError {
    ControlError::Refused { reason: format!("nothing within {} s", PATIENCE.as_secs()) }
}

fn refused(status: &tonic::Status) -> ControlError {
    ControlError::Refused { reason: tls::in_words(status) }
}

/// A channel that lives and dies with one connection. Without pings: swarmkit takes offence at frequent ones, and the end
/// of a process on this machine shows at once.
async fn channel_over(stream: TlsStream<UnixStream>) -> Result<Channel, tonic::transport::Error> {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().map(TokioIo::new);
        async { stream.ok_or_else(|| std::io::Error::other("the connection ended")) }
    });
    Endpoint::from_static("http://swarm-manager")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .connect_with_connector(connector)
        .await
}
