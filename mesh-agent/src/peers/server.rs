//! On managers: tells the agents of other nodes about the Swarm, as long as it runs.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::Stream;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tonic_prost::ProstCodec;
use tracing::{debug, info, warn};

use super::certificates::{Certificates, CertificatesError, Subject};
use super::history::{History, Lacking};
use super::messages::{Conditions, REPORT, ReportEnd, SUBSCRIBE, SubscribeRequest, Update};
use super::refusals::Refusals;
use super::reports::{self, Reports};
use super::tls::{self, Witness};
use crate::swarm::backoff::Backoff;
use crate::swarm::snapshot::Snapshot;
use crate::swarm::status::{Part, StatusBoard, Subscriber};

/// Serves the Swarm as Docker has it in `swarm`, with what the nodes report of their own tasks, and publishes that for
/// this node too. Runs until dropped, and takes its connections with it; what goes wrong is reported on the board and
/// tried again.
pub async fn serve(
    address: SocketAddr,
    certificates: Arc<Certificates>,
    swarm: watch::Receiver<Option<Arc<Snapshot>>>,
    publish: &watch::Sender<Option<Arc<Snapshot>>>,
    board: StatusBoard,
) -> Infallible {
    let (history_sender, history) = watch::channel(Arc::new(History::default()));
    let reports = Arc::new(Reports::default());
    let server = Arc::new(Server {
        certificates,
        history,
        reports: reports.clone(),
        board,
        refusals: Mutex::default(),
    });
    tokio::select! {
        never = reports::add(reports, swarm, publish) => never,
        never = keep_history(publish.subscribe(), history_sender) => never,
        never = server.listen(address) => never,
    }
}

/// How often a subscriber hears from us although nothing changed.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);

/// HTTP/2 pings find a dead end of a connection on which nothing is sent.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(2);
pub(super) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A request names a node and a version.
const REQUEST_BYTES: usize = 4 * 1024;

/// Callers that do not get through their handshakes must not use up the node's memory.
const CONNECTIONS_AT_MOST: usize = 10_000;

#[derive(Debug, Error)]
enum ServerError {
    #[error("cannot listen on TCP {address}: {source}; another program may use this port, see --peer-port")]
    Port { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
}

async fn keep_history(
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    history: watch::Sender<Arc<History>>,
) -> Infallible {
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            let next = history.borrow().advanced(snapshot);
            history.send_if_modified(|current| {
                let is_news = current.sequence() != next.sequence();
                *current = Arc::new(next);
                is_news
            });
        }
        if snapshots.changed().await.is_err() {
            // No more news, but what is known is still served.
            std::future::pending::<()>().await;
        }
    }
}

struct Server {
    certificates: Arc<Certificates>,
    history: watch::Receiver<Arc<History>>,
    reports: Arc<Reports>,
    board: StatusBoard,
    refusals: Mutex<Refusals>,
}

/// Who is at the other end of a connection, proved by its certificate.
#[derive(Clone, Debug)]
struct Caller {
    address: SocketAddr,
    subject: Subject,
}

impl Server {
    async fn listen(self: Arc<Self>, address: SocketAddr) -> Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        let listener = loop {
            match self.open(address).await {
                Ok(listener) => break listener,
                Err(error) => self.board.failed(Part::Peers, &error),
            }
            sleep(backoff.pause()).await;
        };
        info!(%address, "serving the agents of other nodes");
        self.board.succeeded(Part::Peers);
        let mut connections = JoinSet::new();
        loop {
            match listener.accept().await {
                Ok((stream, caller)) if connections.len() < CONNECTIONS_AT_MOST => {
                    connections.spawn(self.clone().connection(stream, caller));
                }
                Ok((_, caller)) => self.refuse(caller.ip(), "there are too many connections already"),
                Err(error) => {
                    // Out of file descriptors, for example; the next one may work.
                    self.board.failed(Part::Peers, &error);
                    sleep(backoff.pause()).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    }

    async fn open(&self, address: SocketAddr) -> Result<TcpListener, ServerError> {
        // Without an identity every caller would be turned away.
        self.certificates.identity()?;
        TcpListener::bind(address).await.map_err(|source| ServerError::Port { address, source })
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let witness = Witness::default();
        let stream = match timeout(HANDSHAKE_TIMEOUT, self.handshake(stream, &witness)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(reason)) => return self.refuse(address.ip(), &reason),
            Err(_) => return self.refuse(address.ip(), "its TLS handshake took too long"),
        };
        let caller = Caller { address, subject: witness.subject().unwrap_or_default() };
        let service = service_fn(move |request| {
            let (server, caller) = (self.clone(), caller.clone());
            async move { Ok::<_, Infallible>(server.answer(request, caller).await) }
        });
        let outcome = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = outcome {
            debug!(%address, "connection ended: {error}");
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        witness: &Witness,
    ) -> Result<tokio_rustls::server::TlsStream<TcpStream>, String> {
        let identity = self.certificates.identity().map_err(|error| error.to_string())?;
        let config = tls::server_config(&identity, witness.clone())?;
        // The small messages of this protocol are urgent.
        let _ = stream.set_nodelay(true);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        acceptor.accept(stream).await.map_err(|error| witness.explain(&error))
    }

    async fn answer(&self, request: Request<Incoming>, caller: Caller) -> hyper::Response<tonic::body::Body> {
        match request.uri().path() {
            SUBSCRIBE => self.subscription(request, caller).await,
            REPORT => self.report(request, caller).await,
            _ => Status::unimplemented("only the methods of mesh.v1.Swarm are served").into_http(),
        }
    }

    async fn report(&self, request: Request<Incoming>, caller: Caller) -> hyper::Response<tonic::body::Body> {
        let reports = self.reports.clone();
        let receive = tower::service_fn(move |request: tonic::Request<tonic::Streaming<Conditions>>| {
            let (reports, node_id) = (reports.clone(), caller.subject.common_name.clone());
            async move { reports.receive(&node_id, request.into_inner()).await.map(tonic::Response::new) }
        });
        let codec = ProstCodec::<ReportEnd, Conditions>::default();
        let mut server = tonic::server::Grpc::new(codec).max_decoding_message_size(reports::REPORT_BYTES);
        server.client_streaming(receive, request).await
    }

    async fn subscription(
        &self,
        request: Request<Incoming>,
        caller: Caller,
    ) -> hyper::Response<tonic::body::Body> {
        let history = self.history.clone();
        let board = self.board.clone();
        let subscribe = tower::service_fn(move |request: tonic::Request<SubscribeRequest>| {
            let subscription = subscribe(request.into_inner(), &caller, history.clone(), board.clone());
            async { subscription.map(tonic::Response::new) }
        });
        let codec = ProstCodec::<Update, SubscribeRequest>::default();
        let mut server = tonic::server::Grpc::new(codec).max_decoding_message_size(REQUEST_BYTES);
        server.server_streaming(subscribe, request).await
    }

    fn refuse(&self, caller: IpAddr, reason: &str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.refused(caller, reason, Instant::now());
    }
}

fn subscribe(
    request: SubscribeRequest,
    caller: &Caller,
    history: watch::Receiver<Arc<History>>,
    board: StatusBoard,
) -> Result<impl Stream<Item = Result<Update, Status>> + Send + use<>, Status> {
    let node_id = caller.subject.common_name.clone();
    if request.node_id != node_id {
        return Err(Status::permission_denied(format!(
            "node {:?} cannot be told in the name of node {:?}",
            node_id, request.node_id
        )));
    }
    if history.borrow().is_empty() {
        return Err(Status::unavailable("this manager's agent has not read the Swarm yet"));
    }
    let address = caller.address.to_string();
    info!(node_id, address, version = request.agent_version, "an agent subscribes");
    let subscriber = Subscriber { address, agent_version: request.agent_version };
    board.subscribed(&node_id, subscriber.clone());
    let subscription = Subscription {
        presence: Presence { node_id, subscriber, board },
        history,
        sequence: None,
        lacking: Lacking::Changes(VecDeque::new()),
        updates: VecDeque::new(),
    };
    Ok(futures::stream::unfold(Some(subscription), |subscription| async {
        let mut subscription = subscription?;
        match subscription.next().await {
            Ok(update) => Some((Ok(update), Some(subscription))),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

struct Subscription {
    presence: Presence,
    history: watch::Receiver<Arc<History>>,
    /// Where the subscriber is when it has all of `lacking` and `updates`.
    sequence: Option<u64>,
    lacking: Lacking,
    updates: VecDeque<Update>,
}

impl Subscription {
    async fn next(&mut self) -> Result<Update, Status> {
        loop {
            if let Some(update) = self.updates.pop_front() {
                return Ok(update);
            }
            let mut refused = Vec::new();
            self.updates = self.lacking.next_updates(&mut refused);
            for what in refused {
                warn!("{what}");
            }
            if !self.updates.is_empty() {
                continue;
            }
            let history = self.history.borrow_and_update().clone();
            let is_first = self.sequence.is_none();
            // A node that joined a moment ago may not be in our snapshot yet, but one that was removed never comes back.
            if !is_first && !history.snapshot().nodes.contains_key(&self.presence.node_id) {
                return Err(Status::permission_denied("this node is not in the Swarm (any more)"));
            }
            if self.sequence != Some(history.sequence()) {
                self.lacking = history.since(self.sequence);
                self.sequence = Some(history.sequence());
                continue;
            }
            tokio::select! {
                changed = self.history.changed() => if changed.is_err() {
                    return Err(Status::unavailable("this node is not a manager any more"));
                },
                () = sleep(HEARTBEAT) => {
                    let sequence = history.sequence();
                    return Ok(Update { sequence, complete: true, ..Update::default() });
                }
            }
        }
    }
}

/// Lists the subscriber on the board for as long as it exists.
struct Presence {
    node_id: String,
    subscriber: Subscriber,
    board: StatusBoard,
}

impl Drop for Presence {
    fn drop(&mut self) {
        debug!(node_id = self.node_id, "an agent's subscription ended");
        self.board.unsubscribed(&self.node_id, &self.subscriber);
    }
}
