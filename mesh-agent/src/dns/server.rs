//! The sockets of the resolver: opened, watched over, and opened again.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

use super::resolver::Resolver;
use super::tcp::{self, Clients};
use super::udp::Worker;

/// How often a loop without anything to do turns.
pub(super) const IDLE_TURN: Duration = Duration::from_millis(250);

/// Answers at `address` until dropped. The address may be one that the node does not have yet: Docker makes
/// docker_gwbridge when the first container needs it.
pub async fn serve(address: SocketAddrV4, resolver: Arc<Resolver>) -> Infallible {
    let _ending = Ending(&resolver);
    let following = async {
        resolver.follow_host().await;
        std::future::pending().await
    };
    tokio::select! {
        never = following => never,
        never = keep_open(address, &resolver) => never,
    }
}

struct Ending<'a>(&'a Resolver);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.set_listening(None);
    }
}

async fn keep_open(address: SocketAddrV4, resolver: &Arc<Resolver>) -> Infallible {
    /// A port that is taken is tried again this often.
    const RETRY: Duration = Duration::from_secs(1);
    let mut told = String::new();
    loop {
        match Sockets::open(address, resolver.settings().workers) {
            Ok(sockets) => {
                info!("names are answered at {address}");
                resolver.set_listening(Some(address));
                let why = sockets.run(resolver).await;
                resolver.set_listening(None);
                warn!("names are not answered for a moment: {why}");
            }
            Err(error) => {
                let why = format!(
                    "names cannot be answered at {address}, so Docker's resolver does it: {error}; if the port is taken, \
                     choose another with --dns-port"
                );
                if told != why {
                    warn!("{why}");
                    told = why;
                }
            }
        }
        sleep(RETRY).await;
    }
}

struct Sockets {
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
}

impl Sockets {
    fn open(address: SocketAddrV4, workers: usize) -> io::Result<Self> {
        // Sockets of UDP are shared, even with those of another agent; a port that is taken shows with TCP.
        let tcp = TcpListener::from_std(open_tcp(address)?)?;
        let udp = (0..workers.max(1)).map(|_| open_udp(address)).collect::<io::Result<_>>()?;
        Ok(Self { udp, tcp })
    }

    /// Ends when one of the loops ends, which none should; returns why.
    async fn run(self, resolver: &Arc<Resolver>) -> String {
        let mut loops = JoinSet::new();
        resolver.liveness.begin();
        loops.spawn(tcp::run(self.tcp, resolver.clone(), Clients::OnBridge { place: 0 }));
        for (place, socket) in (1..).zip(self.udp) {
            let mut worker = match Worker::start(socket, resolver.clone(), place) {
                Ok(worker) => worker,
                Err(error) => return format!("there is no thread to answer with: {error}"),
            };
            loops.spawn(async move { worker.end().await });
        }
        match loops.join_next().await {
            Some(Err(error)) => format!("a part of the resolver ended, and starts again: {error}"),
            Some(Ok(())) => "a thread of the resolver ended".into(),
            None => "the resolver has no sockets".into(),
        }
    }
}

pub(super) fn open_udp(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = open(Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    // Bursts of a few thousand queries; the kernel gives what it may.
    socket.set_recv_buffer_size(1 << 20)?;
    socket.set_send_buffer_size(1 << 20)?;
    Ok(socket.into())
}

/// Without a runtime: it may be opened by a thread that is somewhere else.
pub(super) fn open_tcp(address: SocketAddrV4) -> io::Result<std::net::TcpListener> {
    let socket = open(Type::STREAM, Protocol::TCP)?;
    // Connections of an earlier agent may still be waiting for their end.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A socket for an address that need not be there yet.
fn open(kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
    socket.set_freebind_v4(true)?;
    Ok(socket)
}

/// When each of the resolver's loops was last seen at work.
#[derive(Debug)]
pub(super) struct Liveness {
    epoch: Instant,
    /// Milliseconds since then.
    turns: Vec<AtomicU64>,
}

impl Liveness {
    pub(super) fn new(loops: usize) -> Self {
        Self { epoch: Instant::now(), turns: (0..loops).map(|_| AtomicU64::new(0)).collect() }
    }

    fn begin(&self) {
        let now = Instant::now();
        (0..self.turns.len()).for_each(|place| self.turned(place, now));
    }

    pub(super) fn turned(&self, place: usize, now: Instant) {
        if let Some(turn) = self.turns.get(place) {
            turn.store(now.saturating_duration_since(self.epoch).as_millis() as u64, Relaxed);
        }
    }

    pub(super) fn last_turn(&self) -> Option<Instant> {
        let slowest = self.turns.iter().map(|turn| turn.load(Relaxed)).min()?;
        Some(self.epoch + Duration::from_millis(slowest))
    }
}
