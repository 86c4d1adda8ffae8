//! On workers: follows the agent of one of the managers, and of another one when that fails.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;
use tracing::{debug, info, warn};

use super::assembly::{Assembly, AssemblyError, Received};
use super::certificates::{Certificates, CertificatesError, Identity};
use super::messages::{SUBSCRIBE, SubscribeRequest, Update};
use super::server::{KEEP_ALIVE, KEEP_ALIVE_TIMEOUT};
use super::tls::{self, MANAGER, REFUSED_US, Witness};
use crate::swarm::backoff::Backoff;
use crate::swarm::snapshot::{Role, Snapshot};
use crate::swarm::status::{Part, StatusBoard};

#[derive(Debug)]
pub struct Client<'a> {
    pub peer_port: u16,
    pub certificates: &'a Certificates,
    /// Where Docker says the managers are. Those of the last snapshot are tried too.
    pub managers: watch::Receiver<Vec<IpAddr>>,
    pub snapshot: &'a watch::Sender<Option<Arc<Snapshot>>>,
    pub board: &'a StatusBoard,
}

/// Who is silent for this long is dead, whatever TCP thinks: four heartbeats.
pub(super) const SILENCE: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Windows that let a large snapshot flow without waiting for the other end.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;

/// Managers' agents keep far below that; one of another version may not.
const UPDATE_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug, Error)]
pub(super) enum ClientError {
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    #[error(
        "manager {manager} does not answer: {reason}; does its agent run, and is the port open between the nodes?"
    )]
    Unreachable { manager: SocketAddr, reason: String },
    #[error("the agent at {manager} is not to be trusted, or does not trust us: {reason}")]
    Untrusted { manager: SocketAddr, reason: String },
    #[error("the agent on manager {manager} does not tell us: {reason}")]
    Refused { manager: SocketAddr, reason: String },
    #[error("the agent on manager {manager} fell silent")]
    Silent { manager: SocketAddr },
    #[error("the connection to manager {manager} broke: {reason}")]
    Broken { manager: SocketAddr, reason: String },
    #[error("manager {manager}: {source}")]
    Nonsense { manager: SocketAddr, source: AssemblyError },
    #[error("Docker names no manager of this Swarm yet")]
    NoManager,
}

impl Client<'_> {
    /// Runs until dropped. While no manager answers, the last snapshot stays.
    pub async fn run(mut self) -> Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        // Workers spread over the managers.
        let mut turn = fastrand::usize(..);
        loop {
            let started = Instant::now();
            let candidates = self.candidates();
            let error = match pick(&candidates, turn) {
                None => ClientError::NoManager,
                Some(address) => {
                    let Err(error) = self.follow(SocketAddr::new(address, self.peer_port)).await;
                    error
                }
            };
            self.board.failed_for_now(Part::Swarm, &error);
            turn = turn.wrapping_add(1);
            sleep(backoff.pause_after(started.elapsed())).await;
        }
    }

    fn candidates(&mut self) -> Vec<IpAddr> {
        let from_docker = self.managers.borrow_and_update().clone();
        let snapshot = self.snapshot.borrow();
        candidates(&from_docker, snapshot.as_deref())
    }

    async fn follow(&self, manager: SocketAddr) -> Result<Infallible, ClientError> {
        let identity = self.certificates.identity()?;
        let witness = Witness::default();
        let stream = connect(manager, &identity, &witness).await?;
        let mut updates = subscribe(manager, stream, &identity).await?;
        let mut assembly = Assembly::default();
        loop {
            let update = timeout(SILENCE, updates.message())
                .await
                .map_err(|_| ClientError::Silent { manager })?
                .map_err(|status| trouble(manager, &status))?
                .ok_or_else(|| ClientError::Broken { manager, reason: "the stream ended".into() })?;
            let sequence = update.sequence;
            match assembly.receive(update).map_err(|source| ClientError::Nonsense { manager, source })? {
                Received::Part => {}
                Received::Heartbeat => self.board.succeeded(Part::Swarm),
                Received::Snapshot { complaints } => {
                    for complaint in &complaints {
                        warn!("manager {manager} tells of something that this agent cannot use: {complaint}");
                    }
                    if self.board.read().connected_to != Some(manager.to_string()) {
                        info!(%manager, "following the agent on this manager");
                        self.board.connected_to(&manager.to_string());
                    }
                    self.board.succeeded(Part::Swarm);
                    self.publish(assembly.snapshot(), sequence);
                }
            }
        }
    }

    fn publish(&self, snapshot: &Arc<Snapshot>, sequence: u64) {
        self.snapshot.send_if_modified(|current| {
            if current.as_ref() == Some(snapshot) {
                return false;
            }
            debug!(sequence, tasks = snapshot.tasks.len(), "the Swarm changed");
            *current = Some(snapshot.clone());
            true
        });
    }
}

pub(super) async fn connect(
    manager: SocketAddr,
    identity: &Identity,
    witness: &Witness,
) -> Result<TlsStream<TcpStream>, ClientError> {
    let unreachable = |reason: String| ClientError::Unreachable { manager, reason };
    let untrusted = |reason: String| ClientError::Untrusted { manager, reason };
    let too_slow = |_| unreachable(format!("nothing within {} s", CONNECT_TIMEOUT.as_secs()));
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(manager))
        .await
        .map_err(too_slow)?
        .map_err(|error| unreachable(error.to_string()))?;
    // Acknowledgements of pings must not wait for company.
    let _ = stream.set_nodelay(true);
    let config = tls::client_config(identity, witness.clone()).map_err(untrusted)?;
    let name = ServerName::try_from(MANAGER).map_err(|error| untrusted(error.to_string()))?;
    timeout(CONNECT_TIMEOUT, TlsConnector::from(Arc::new(config)).connect(name, stream))
        .await
        .map_err(too_slow)?
        .map_err(|error| untrusted(witness.explain(&error)))
}

async fn subscribe(
    manager: SocketAddr,
    stream: TlsStream<TcpStream>,
    identity: &Identity,
) -> Result<Streaming<Update>, ClientError> {
    let mut client = grpc_over(manager, stream).await?;
    let request = SubscribeRequest {
        node_id: identity.node_id.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let codec = ProstCodec::<SubscribeRequest, Update>::default();
    let path = PathAndQuery::from_static(SUBSCRIBE);
    let answer = client.server_streaming(tonic::Request::new(request), path, codec);
    match timeout(SILENCE, answer).await {
        Err(_) => Err(ClientError::Silent { manager }),
        Ok(Err(status)) => Err(trouble(manager, &status)),
        Ok(Ok(response)) => Ok(response.into_inner()),
    }
}

/// Ready for one call.
pub(super) async fn grpc_over(
    manager: SocketAddr,
    stream: TlsStream<TcpStream>,
) -> Result<tonic::client::Grpc<Channel>, ClientError> {
    let broken =
        |error: tonic::transport::Error| ClientError::Broken { manager, reason: tls::in_words(&error) };
    let channel = channel_over(stream).await.map_err(broken)?;
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(UPDATE_BYTES);
    client.ready().await.map_err(broken)?;
    Ok(client)
}

/// A channel that lives and dies with one connection: choosing and re-trying managers is our own business.
async fn channel_over(stream: TlsStream<TcpStream>) -> Result<Channel, tonic::transport::Error> {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().map(TokioIo::new);
        async { stream.ok_or_else(|| std::io::Error::other("the connection ended")) }
    });
    Endpoint::from_static("http://swarm-manager")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW)
        .connect_with_connector(connector)
        .await
}

pub(super) fn trouble(manager: SocketAddr, status: &Status) -> ClientError {
    let is_verdict =
        matches!(status.code(), Code::PermissionDenied | Code::Unavailable | Code::Unimplemented);
    let reason = tls::in_words(status);
    // With TLS 1.3 the manager's verdict on our certificate arrives after the handshake.
    if reason.starts_with(REFUSED_US) {
        ClientError::Untrusted { manager, reason }
    } else if is_verdict && std::error::Error::source(status).is_none() {
        ClientError::Refused { manager, reason: status.message().to_owned() }
    } else {
        ClientError::Broken { manager, reason }
    }
}

pub(super) fn candidates(from_docker: &[IpAddr], snapshot: Option<&Snapshot>) -> Vec<IpAddr> {
    let nodes = snapshot.into_iter().flat_map(|snapshot| snapshot.nodes.values());
    let remembered = nodes.filter(|node| node.role == Role::Manager).filter_map(|node| node.address);
    let all: BTreeSet<IpAddr> = from_docker.iter().copied().chain(remembered).collect();
    all.into_iter().collect()
}

fn pick(candidates: &[IpAddr], turn: usize) -> Option<IpAddr> {
    let index = turn.checked_rem(candidates.len())?;
    Some(candidates[index])
}

#[cfg(test)]
mod unit_tests {
    use super::*;
    use crate::swarm::snapshot::Node;

    #[test]
    fn managers_come_from_docker_and_from_the_last_snapshot_and_take_turns() {
        let node = |role, last| Node { role, address: Some([10, 0, 0, last].into()), ..Node::default() };
        let mut snapshot = Snapshot::default();
        snapshot.nodes.insert("m1".into(), node(Role::Manager, 1));
        snapshot.nodes.insert("m2".into(), node(Role::Manager, 2));
        snapshot.nodes.insert("w".into(), node(Role::Worker, 3));
        let all = candidates(&[[10, 0, 0, 9].into(), [10, 0, 0, 1].into()], Some(&snapshot));
        let expected: Vec<IpAddr> = [1, 2, 9].map(|last| IpAddr::from([10, 0, 0, last])).to_vec();
        assert_eq!(all, expected);
        assert_eq!([0, 1, 2, 3].map(|turn| pick(&all, turn).unwrap()), [all[0], all[1], all[2], all[0]]);
        assert_eq!(pick(&candidates(&[], None), 5), None);
    }
}
