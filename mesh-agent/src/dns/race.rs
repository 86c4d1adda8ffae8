//! One question put to several servers.
//!
//! The first server gets a head start, then the next is asked too, and so on; a failure starts the next at once. The
//! first good reply wins. Two things keep the meaning that the order of servers has in `resolv.conf`: servers that fare
//! well are asked in that order, and "there is no such name" from a later server does not count before the earlier ones
//! have had their say; one of them may be the only one that knows the names of a company.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use hickory_proto::op::ResponseCode;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::exchange::{Question, exchange};
use super::relay::Reply;

/// For how long one server is asked alone.
const HEAD_START: Duration = Duration::from_millis(100);
/// When a question that may have been lost is repeated.
const REPEAT: Duration = Duration::from_secs(1);
/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Stubs ask again after five seconds; they should have an answer by then.
const DEADLINE: Duration = Duration::from_millis(4500);
/// How often each server is asked.
const ROUNDS: usize = 2;

/// A server that was silent this often in a row is asked after the others for a while.
const SILENT_OFTEN: u32 = 2;
const AVOIDED: Duration = Duration::from_secs(10);

/// How the servers fare.
#[derive(Clone, Debug, Default)]
pub(super) struct Servers(Arc<Mutex<HashMap<SocketAddr, Health>>>);

#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    pub(super) asked: u64,
    pub(super) answered: u64,
    /// Answered that it could not say.
    pub(super) refused: u64,
    pub(super) silent: u64,
    silent_in_a_row: u32,
    avoided_until: Option<Instant>,
    /// Smoothed.
    pub(super) round_trip: Option<Duration>,
}

impl Health {
    pub(super) fn is_avoided(&self, now: Instant) -> bool {
        self.avoided_until.is_some_and(|until| now < until)
    }
}

impl Servers {
    pub(super) fn all(&self) -> Vec<(SocketAddr, Health)> {
        let mut all: Vec<_> = self.lock().iter().map(|(server, health)| (*server, health.clone())).collect();
        all.sort_unstable_by_key(|(server, _)| *server);
        all
    }

    fn is_avoided(&self, server: SocketAddr) -> bool {
        self.lock().get(&server).is_some_and(|health| health.is_avoided(Instant::now()))
    }

    fn answered(&self, server: SocketAddr, code: ResponseCode, after: Duration) {
        let mut all = self.lock();
        let health = all.entry(server).or_default();
        health.asked += 1;
        health.answered += 1;
        health.refused += u64::from(is_refusal(code));
        health.silent_in_a_row = 0;
        health.avoided_until = None;
        health.round_trip = Some(health.round_trip.map_or(after, |before| (before * 7 + after) / 8));
    }

    fn was_silent(&self, server: SocketAddr) {
        let mut all = self.lock();
        // Old ones make room; there are as many as containers name with `--dns`.
        if all.len() > 1000 {
            all.retain(|_, health| health.is_avoided(Instant::now()));
        }
        let health = all.entry(server).or_default();
        health.asked += 1;
        health.silent += 1;
        health.silent_in_a_row += 1;
        if health.silent_in_a_row >= SILENT_OFTEN {
            health.avoided_until = Some(Instant::now() + AVOIDED);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Health>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Server failure, and a refusal that may be meant for now only, are reasons to ask another (moby,
/// daemon/libnetwork/resolver.go, `forwardExtDNS`).
fn is_refusal(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::ServFail | ResponseCode::Refused)
}

/// The best reply in time; `None` if nobody said anything.
pub(super) async fn race(question: Arc<Question>, servers: &[SocketAddr], health: &Servers) -> Option<Reply> {
    let mut race = Race::new(question, servers, health);
    let best = race.run().await;
    // What still runs tells how its server fares.
    if !race.running.is_empty() {
        let mut rest = race.running;
        tokio::spawn(async move { while rest.next().await.is_some() {} });
    }
    best
}

struct Race<'a> {
    question: Arc<Question>,
    servers: &'a [SocketAddr],
    health: &'a Servers,
    /// Whom to ask next, as places in `servers`; backwards.
    waiting: Vec<usize>,
    running: FuturesUnordered<BoxFuture<'static, (usize, Option<Reply>)>>,
    /// Asked and not done, of those that fare well.
    awaited: Vec<usize>,
    /// Said no.
    refused: Vec<usize>,
}

impl<'a> Race<'a> {
    fn new(question: Arc<Question>, servers: &'a [SocketAddr], health: &'a Servers) -> Self {
        let mut round: Vec<usize> = (0..servers.len()).collect();
        round.sort_by_key(|place| health.is_avoided(servers[*place]));
        let mut waiting: Vec<usize> = round.iter().copied().cycle().take(round.len() * ROUNDS).collect();
        waiting.reverse();
        let running = FuturesUnordered::new();
        Self { question, servers, health, waiting, running, awaited: Vec::new(), refused: Vec::new() }
    }

    async fn run(&mut self) -> Option<Reply> {
        let start = Instant::now();
        let deadline = start + DEADLINE;
        let mut next = start;
        let mut absence: Option<(usize, Reply)> = None;
        let mut refusal = None;
        loop {
            if let Some((place, _)) = &absence
                && !self.awaited.iter().any(|earlier| earlier < place)
            {
                break;
            }
            if self.running.is_empty() && self.waiting.is_empty() {
                break;
            }
            tokio::select! {
                Some((place, reply)) = self.running.next() => {
                    self.awaited.retain(|awaited| *awaited != place);
                    match reply {
                        Some(reply) if is_refusal(reply.code) => {
                            self.refused.push(place);
                            refusal = Some(reply);
                            next = Instant::now();
                        }
                        Some(reply) if reply.is_negative() => {
                            if absence.as_ref().is_none_or(|(earlier, _)| place < *earlier) {
                                absence = Some((place, reply));
                            }
                        }
                        Some(reply) => return Some(reply),
                        None => next = Instant::now(),
                    }
                }
                () = sleep_until(next.min(deadline)), if !self.waiting.is_empty() => {
                    next = Instant::now() + self.ask_next();
                }
                () = sleep_until(deadline) => break,
            }
        }
        absence.map(|(_, reply)| reply).or(refusal)
    }

    /// Returns how long to wait before the one after that.
    fn ask_next(&mut self) -> Duration {
        let Some(place) = self.waiting.pop() else { return DEADLINE };
        if self.refused.contains(&place) {
            return Duration::ZERO;
        }
        let (server, health, question) = (self.servers[place], self.health.clone(), self.question.clone());
        let is_avoided = self.health.is_avoided(server);
        if !is_avoided {
            self.awaited.push(place);
        }
        self.running.push(Box::pin(async move { (place, ask(server, &question, &health).await) }));
        match self.waiting.len() {
            left if left <= self.servers.len() => REPEAT,
            _ if is_avoided => Duration::ZERO,
            _ => HEAD_START,
        }
    }
}

async fn ask(server: SocketAddr, question: &Question, health: &Servers) -> Option<Reply> {
    let start = Instant::now();
    let reason = match timeout(PATIENCE, exchange(server, question)).await {
        Ok(Ok(reply)) => {
            health.answered(server, reply.code, start.elapsed());
            return Some(reply);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no reply within {} s", PATIENCE.as_secs()),
    };
    debug!("the name server {server} does not help: {reason}");
    health.was_silent(server);
    None
}
