//! Sockets inside containers that cannot reach the node's: those on internal networks only. The dataplane sends their
//! questions there, to the same address as Docker's resolver's but another port.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddrV4, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use mesh_common::asker::DOCKERS_RESOLVER;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tracing::debug;

use super::resolver::{Incoming, Resolver, Step};
use super::server::{open_tcp, open_udp};
use super::tcp::{self, Clients};
use super::wire::Transport;
use crate::desired::names::{Sandbox, Seat};
use crate::node::namespaces;

/// How often a namespace is tried again in which a socket could not be opened.
const RETRY: Duration = Duration::from_secs(1);

/// The longest question that is understood.
const LONGEST: usize = 4_096;

/// In which namespaces questions are answered now.
pub type Open = Arc<BTreeSet<Sandbox>>;

/// Answers in every namespace that has no way to the node, at `port`, until dropped. An open socket keeps its namespace
/// alive, so those of containers that are gone are closed at once.
pub async fn serve(
    docker_run: PathBuf,
    port: u16,
    resolver: Arc<Resolver>,
    open: watch::Sender<Open>,
) -> Infallible {
    let mut names = resolver.follow_names();
    let mut tasks = JoinSet::new();
    let mut running = BTreeMap::<Sandbox, AbortHandle>::new();
    let open = Arc::new(open);
    loop {
        let wanted: BTreeSet<Sandbox> = names.borrow_and_update().sandboxes().collect();
        running.retain(|sandbox, task| {
            let is_wanted = wanted.contains(sandbox);
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
        for sandbox in wanted {
            running.entry(sandbox).or_insert_with(|| {
                let file = namespaces::of_sandbox(&docker_run, &sandbox.to_string());
                let inside = Inside { sandbox, file, port, resolver: resolver.clone(), open: open.clone() };
                tasks.spawn(inside.keep_open())
            });
        }
        while tasks.try_join_next().is_some() {}
        if names.changed().await.is_err() {
            // No more news, but who is served is served on.
            std::future::pending::<()>().await;
        }
    }
}

/// One namespace.
struct Inside {
    sandbox: Sandbox,
    file: PathBuf,
    port: u16,
    resolver: Arc<Resolver>,
    open: Arc<watch::Sender<Open>>,
}

impl Inside {
    async fn keep_open(self) -> Infallible {
        loop {
            let (file, port) = (self.file.clone(), self.port);
            let opened = tokio::task::spawn_blocking(move || sockets(&file, port)).await;
            match opened.map_err(anyhow::Error::from).flatten() {
                Ok((udp, tcp)) => {
                    let error = self.answer(udp, tcp).await;
                    debug!(sandbox = %self.sandbox, "names are not answered in a container for a moment: {error}");
                }
                Err(error) => {
                    let why = format!("names cannot be answered inside of it, at port {port}: {error:#}");
                    debug!(sandbox = %self.sandbox, "{why}");
                    self.resolver.set_closed(self.sandbox, Some(why));
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Ends with the sockets.
    async fn answer(&self, udp: UdpSocket, tcp: TcpListener) -> io::Error {
        let (udp, tcp) = match (tokio::net::UdpSocket::from_std(udp), tokio::net::TcpListener::from_std(tcp))
        {
            (Ok(udp), Ok(tcp)) => (Arc::new(udp), tcp),
            (Err(error), _) | (_, Err(error)) => return error,
        };
        self.resolver.set_closed(self.sandbox, None);
        self.show(true);
        let _closing = Closing(self);
        tokio::select! {
            () = tcp::run(tcp, self.resolver.clone(), Clients::In(self.sandbox)) => io::Error::other("TCP ended"),
            error = self.answer_datagrams(&udp) => error,
        }
    }

    async fn answer_datagrams(&self, socket: &Arc<tokio::net::UdpSocket>) -> io::Error {
        let mut buffer = vec![0; LONGEST];
        let mut out = Vec::with_capacity(4096);
        let mut rotation = 0_usize;
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => return error,
            };
            rotation = rotation.wrapping_add(1);
            let incoming = Incoming {
                message: &buffer[..length],
                asker: Seat::Sandbox(self.sandbox),
                transport: Transport::Udp,
                rotation,
                version: None,
                began: Instant::now(),
            };
            match self.resolver.start(incoming, &self.resolver.names(), &mut out) {
                // A client that is gone, or reads nothing, misses its answer.
                Step::Done => drop(socket.try_send_to(&out, client)),
                Step::Ignored => {}
                Step::Later(later) => {
                    let (socket, resolver) = (socket.clone(), self.resolver.clone());
                    tokio::spawn(async move {
                        let answer = resolver.finish(later).await;
                        socket.try_send_to(&answer, client)
                    });
                }
            }
        }
    }

    fn show(&self, is_open: bool) {
        self.open.send_modify(|open| {
            let open = Arc::make_mut(open);
            if is_open {
                open.insert(self.sandbox)
            } else {
                open.remove(&self.sandbox)
            };
        });
    }
}

struct Closing<'a>(&'a Inside);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.show(false);
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.resolver.set_closed(self.sandbox, None);
    }
}

/// Opened by a thread that goes there; sockets stay in the namespace that they were made in.
fn sockets(namespace: &Path, port: u16) -> Result<(UdpSocket, TcpListener)> {
    let namespace = namespace.to_owned();
    let visitor = thread::spawn(move || {
        namespaces::enter(&namespace)?;
        let address = SocketAddrV4::new(DOCKERS_RESOLVER.into(), port);
        let tcp = open_tcp(address).with_context(|| format!("listen at {address}"))?;
        let udp = open_udp(address).with_context(|| format!("open {address}"))?;
        udp.set_nonblocking(true)?;
        Ok((udp, tcp))
    });
    visitor.join().map_err(|_| anyhow!("the visitor of a namespace panicked"))?
}
