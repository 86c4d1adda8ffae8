//! Questions that others have to answer: each is put once however many ask, and its reply is kept as long as it may be.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use super::cache::{Cache, Key};
use super::exchange::Question;
use super::race::{Health, Servers, race};
use super::relay::Reply;
use super::wire::Query;
use crate::desired::names::Seat;

/// What may be going on at a time. What comes on top fails at once, so that a dead server does not make the agent
/// collect questions without end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Different questions put to servers; each takes a socket or two.
    pub(super) exchanges: usize,
    /// Queries that wait.
    pub(super) waiting: usize,
    /// The same of one container (Docker's resolver: 1024).
    pub(super) waiting_of_one: usize,
    /// Bytes.
    pub(super) cache: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { exchanges: 512, waiting: 8192, waiting_of_one: 1024, cache: 8 << 20 }
    }
}

pub(super) struct Upstream {
    limits: Limits,
    servers: Servers,
    state: Mutex<State>,
}

struct State {
    cache: Cache,
    running: HashMap<Key, Running>,
    waiting: usize,
    waiting_by_asker: HashMap<Seat, usize>,
}

type Running = Shared<BoxFuture<'static, Option<Arc<Reply>>>>;

/// What can be said about a question right now.
pub(super) enum Lookup {
    /// A kept reply, and its age in seconds.
    Kept(Arc<Reply>, u32),
    Wait(Waiting),
    /// Too much is going on.
    Overload,
    /// There is nobody to ask.
    NoServers,
}

/// A query that waits for a reply; it counts as long as this lives.
pub(super) struct Waiting {
    running: Running,
    _place: Place,
}

struct Place {
    upstream: Arc<Upstream>,
    asker: Seat,
}

impl Upstream {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let state = State {
            cache: Cache::new(limits.cache),
            running: HashMap::new(),
            waiting: 0,
            waiting_by_asker: HashMap::new(),
        };
        Arc::new(Self { limits, servers: Servers::default(), state: Mutex::new(state) })
    }

    /// Has to be called in a runtime: a question that is new is put to `servers` beside everything else.
    pub(super) fn look_up(
        self: &Arc<Self>,
        query: &Query<'_>,
        asker: Seat,
        servers: &Arc<[SocketAddr]>,
    ) -> Lookup {
        if servers.is_empty() {
            return Lookup::NoServers;
        }
        let key = Key::new(query, servers.clone());
        let mut state = self.state();
        if let Some((reply, age)) = state.cache.get(&key, Instant::now()) {
            return Lookup::Kept(reply, age);
        }
        let of_asker = state.waiting_by_asker.get(&asker).copied().unwrap_or_default();
        if state.waiting >= self.limits.waiting || of_asker >= self.limits.waiting_of_one {
            return Lookup::Overload;
        }
        let exchanges = state.running.len();
        let running = match state.running.entry(key) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(_) if exchanges >= self.limits.exchanges => return Lookup::Overload,
            Entry::Vacant(entry) => {
                let question =
                    Question { bytes: query.question.into(), flags: query.flags, edns: query.edns };
                let running =
                    self.clone().put(question, servers.clone(), entry.key().clone()).boxed().shared();
                // Those who ask may lose interest; others may ask meanwhile.
                tokio::spawn(running.clone());
                entry.insert(running).clone()
            }
        };
        state.waiting += 1;
        *state.waiting_by_asker.entry(asker).or_default() += 1;
        Lookup::Wait(Waiting { running, _place: Place { upstream: self.clone(), asker } })
    }

    async fn put(
        self: Arc<Self>,
        question: Question,
        servers: Arc<[SocketAddr]>,
        key: Key,
    ) -> Option<Arc<Reply>> {
        let _running = Exchange { upstream: &self, key: &key };
        let reply = race(Arc::new(question), &servers, &self.servers).await.map(Arc::new);
        if let Some(reply) = &reply {
            self.state().cache.insert(key.clone(), reply.clone(), Instant::now());
        }
        reply
    }

    /// How many queries wait.
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// How many replies are kept.
    pub(super) fn kept(&self) -> usize {
        self.state().cache.len()
    }

    pub(super) fn health(&self) -> Vec<(SocketAddr, Health)> {
        self.servers.all()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// `None` if no server said anything in time.
    pub(super) async fn reply(self) -> Option<Arc<Reply>> {
        self.running.await
    }
}

/// Is over when this goes, however it ends: one that stayed would take the place of another for ever.
struct Exchange<'a> {
    upstream: &'a Upstream,
    key: &'a Key,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.upstream.state().running.remove(self.key);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.upstream.state();
        state.waiting = state.waiting.saturating_sub(1);
        if let Entry::Occupied(mut entry) = state.waiting_by_asker.entry(self.asker) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}
