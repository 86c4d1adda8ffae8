//! Queries by TCP (RFC 7766): many on one connection, answered in the order in which answers are there.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant as Clock, interval, sleep, sleep_until, timeout};
use tracing::debug;

use super::resolver::{Incoming, Resolver, Step};
use super::server::IDLE_TURN;
use super::wire::Transport;
use crate::desired::names::{Sandbox, Seat};

/// How long a connection may be without a whole query.
const IDLE: Duration = Duration::from_secs(10);
/// How long a client may take to read an answer.
const SENDING: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 512;
const CONNECTIONS_OF_ONE: usize = 128;
/// Queries of one connection that wait for other servers; the next one is read when one of them is answered.
const WAITING: usize = 64;

/// Who connects to a listener.
#[derive(Clone, Copy)]
pub(super) enum Clients {
    /// Containers on the bridge. That the loop turns is noted at this place.
    OnBridge { place: usize },
    /// Whoever is inside with it.
    In(Sandbox),
}

impl Clients {
    fn seat(self, client: Ipv4Addr) -> Seat {
        match self {
            Self::OnBridge { .. } => Seat::Bridge(client),
            Self::In(sandbox) => Seat::Sandbox(sandbox),
        }
    }
}

pub(super) async fn run(listener: TcpListener, resolver: Arc<Resolver>, clients: Clients) {
    let mut connections = JoinSet::new();
    let open = Arc::new(Open::default());
    let mut idle = interval(IDLE_TURN);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => match open.admit(client.ip()) {
                    Some(admitted) => {
                        let asker = clients.seat(admitted.client);
                        connections.spawn(serve(stream, admitted, asker, resolver.clone()));
                    }
                    None => {
                        resolver.stats.turned_away.fetch_add(1, Relaxed);
                    }
                },
                Err(error) => {
                    debug!("accepting a connection: {error}");
                    sleep(Duration::from_millis(10)).await;
                }
            },
            _ = idle.tick() => {}
        }
        if let Clients::OnBridge { place } = clients {
            resolver.liveness.turned(place, Instant::now());
        }
        while connections.try_join_next().is_some() {}
    }
}

/// How many connections each client has.
#[derive(Default)]
struct Open(Mutex<HashMap<Ipv4Addr, usize>>);

struct Admitted {
    open: Arc<Open>,
    client: Ipv4Addr,
}

impl Open {
    fn admit(self: &Arc<Self>, client: IpAddr) -> Option<Admitted> {
        let IpAddr::V4(client) = client else { return None };
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = open.get(&client).copied().unwrap_or_default();
        if of_one >= CONNECTIONS_OF_ONE || open.values().sum::<usize>() >= CONNECTIONS {
            return None;
        }
        open.insert(client, of_one + 1);
        Some(Admitted { open: self.clone(), client })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = open.get(&self.client).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            open.remove(&self.client);
        } else {
            open.insert(self.client, left);
        }
    }
}

async fn serve(stream: TcpStream, admitted: Admitted, asker: Seat, resolver: Arc<Resolver>) {
    let (reader, writer) = stream.into_split();
    let mut connection = Connection {
        reader,
        writer,
        resolver,
        asker,
        unread: Vec::with_capacity(2048),
        // Most connections ask once.
        rotation: fastrand::usize(..),
    };
    if let Err(error) = connection.run().await {
        debug!(client = %admitted.client, "a connection ended: {error}");
    }
}

struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    resolver: Arc<Resolver>,
    asker: Seat,
    /// What came of a query that is not whole yet.
    unread: Vec<u8>,
    rotation: usize,
}

type Later = FuturesUnordered<BoxFuture<'static, Vec<u8>>>;

impl Connection {
    /// Until the client ends it, or nothing whole came for a while.
    async fn run(&mut self) -> io::Result<()> {
        let mut later = Later::new();
        let mut is_ended = false;
        let mut until = Clock::now() + IDLE;
        loop {
            tokio::select! {
                Some(answer) = later.next() => self.send(&[framed(&answer)].concat()).await?,
                read = self.reader.read_buf(&mut self.unread), if !is_ended && later.len() < WAITING => {
                    is_ended = read? == 0;
                }
                () = sleep_until(until), if !is_ended && later.is_empty() => return Ok(()),
                else => return Ok(()),
            }
            if self.answer_whole_queries(&mut later).await? || !later.is_empty() {
                until = Clock::now() + IDLE;
            }
        }
    }

    /// Whether there was one.
    async fn answer_whole_queries(&mut self, later: &mut Later) -> io::Result<bool> {
        let names = self.resolver.names();
        let (mut answers, mut out) = (Vec::new(), Vec::new());
        let mut done = 0;
        while later.len() < WAITING
            && let Some((length, rest)) = self.unread[done..].split_first_chunk::<2>()
            && let Some(message) = rest.get(..usize::from(u16::from_be_bytes(*length)))
        {
            done += 2 + message.len();
            self.rotation = self.rotation.wrapping_add(1);
            let (transport, rotation) = (Transport::Tcp, self.rotation);
            let incoming = Incoming {
                message,
                asker: self.asker,
                transport,
                rotation,
                version: None,
                began: Instant::now(),
            };
            match self.resolver.start(incoming, &names, &mut out) {
                Step::Done => answers.extend_from_slice(&framed(&out)),
                Step::Later(waiting) => {
                    let resolver = self.resolver.clone();
                    later.push(Box::pin(async move { resolver.finish(waiting).await }));
                }
                // Whoever speaks no DNS need not go on.
                Step::Ignored => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        self.unread.drain(..done);
        if !answers.is_empty() {
            self.send(&answers).await?;
        }
        Ok(done > 0)
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = timeout(SENDING, self.writer.write_all(bytes)).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), &message[..usize::from(length)]].concat()
}
