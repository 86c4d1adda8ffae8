//! Queries by UDP. What can be answered at once is answered by the thread that reads.
//!
//! A thread of its own for each socket, because the way through the runtime (its poll, and the read that finds nothing)
//! costs half as much again as the whole work on a query.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::debug;

use super::resolver::{Incoming, Later, Resolver, Step};
use super::server::IDLE_TURN;
use super::wire::Transport;
use crate::desired::names::Seat;

/// A thread that answers until this is dropped.
pub(super) struct Worker {
    stop: Arc<AtomicBool>,
    ended: oneshot::Receiver<()>,
}

impl Worker {
    /// Has to be called in a runtime: queries that wait for another server do so there.
    pub(super) fn start(socket: UdpSocket, resolver: Arc<Resolver>, place: usize) -> io::Result<Self> {
        // An idle thread turns too, and sees that it shall stop.
        socket.set_read_timeout(Some(IDLE_TURN))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (ending, ended) = oneshot::channel();
        let loop_ = Loop {
            socket: Arc::new(socket),
            resolver,
            runtime: Handle::current(),
            stop: stop.clone(),
            _ending: ending,
        };
        thread::Builder::new().name("names".into()).spawn(move || loop_.run(place))?;
        Ok(Self { stop, ended })
    }

    /// Waits until the thread ends, which it should not do by itself.
    pub(super) async fn end(&mut self) {
        // The sender goes with the thread, and never sends.
        let _ = (&mut self.ended).await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

struct Loop {
    socket: Arc<UdpSocket>,
    resolver: Arc<Resolver>,
    runtime: Handle,
    stop: Arc<AtomicBool>,
    _ending: oneshot::Sender<()>,
}

impl Loop {
    fn run(self, place: usize) {
        let _in_runtime = self.runtime.enter();
        let mut buffer = vec![0; 65_536];
        let mut out = Vec::with_capacity(4096);
        let mut rotation = place;
        while !self.stop.load(Relaxed) {
            let received = self.socket.recv_from(&mut buffer);
            let began = Instant::now();
            self.resolver.liveness.turned(place, began);
            match received {
                Ok((length, client)) => {
                    rotation = rotation.wrapping_add(1);
                    self.answer(&buffer[..length], client, rotation, began, &mut out);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => {
                    debug!("reading queries: {error}");
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    fn answer(&self, message: &[u8], client: SocketAddr, rotation: usize, began: Instant, out: &mut Vec<u8>) {
        let IpAddr::V4(address) = client.ip() else { return };
        let version = self.resolver.version();
        let names = self.resolver.names();
        let asker = Seat::Bridge(address);
        let incoming = Incoming { message, asker, transport: Transport::Udp, rotation, version, began };
        match self.resolver.start(incoming, &names, out) {
            Step::Done => send(&self.socket, &self.resolver, out, client),
            Step::Ignored => {}
            Step::Later(later) => self.answer_later(later, client),
        }
    }

    fn answer_later(&self, later: Later, client: SocketAddr) {
        let (socket, resolver) = (self.socket.clone(), self.resolver.clone());
        self.runtime.spawn(async move {
            let answer = resolver.finish(later).await;
            send(&socket, &resolver, &answer, client);
        });
    }
}

/// Never waits: answers for a container that is gone may fill the socket, and the others should not suffer from it.
fn send(socket: &UdpSocket, resolver: &Resolver, answer: &[u8], client: SocketAddr) {
    if SockRef::from(socket).send_to_with_flags(answer, &client.into(), libc::MSG_DONTWAIT).is_err() {
        resolver.stats.unsent.fetch_add(1, Relaxed);
    }
}
