//! What the sockets share: names, other servers, and the count of what happened.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::sync::watch;
use tracing::debug;

use super::host::{self, HostServers};
use super::report::{Bucket, DnsReport, LatencyRow, NamesRow, QueryRow, UpstreamRow};
use super::respond::{Circumstances, Response, fail, respond};
use super::server::Liveness;
use super::stats::{self, BOUNDS, Source, Stats};
use super::upstream::{Limits, Lookup, Upstream, Waiting};
use super::wire::{Query, Transport};
use crate::dataplane::answers::{Answers, Lasting};
use crate::desired::Names;
use crate::desired::names::{Sandbox, Seat};

/// What the operator can set.
#[derive(Clone, Debug)]
pub struct ResolverSettings {
    /// Names the servers for everything that is not the Swarm's.
    pub resolv_conf: PathBuf,
    /// How many loops read UDP, each with a socket of its own.
    pub workers: usize,
}

impl Default for ResolverSettings {
    fn default() -> Self {
        // More of them take the processor away from the tasks that ask.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { resolv_conf: "/etc/resolv.conf".into(), workers: processors.min(4) }
    }
}

/// Answers containers. One for the whole agent.
pub struct Resolver {
    settings: ResolverSettings,
    names: watch::Receiver<Arc<Names>>,
    host: watch::Sender<HostServers>,
    upstream: Arc<Upstream>,
    /// Where answers are kept that the kernel may give by itself.
    answers: Option<Arc<Answers>>,
    pub(super) stats: Stats,
    pub(super) liveness: Liveness,
    listening: Mutex<Option<SocketAddrV4>>,
    /// Namespaces in which it cannot be listened, and why.
    closed: Mutex<BTreeMap<Sandbox, String>>,
}

/// A message as it was read.
#[derive(Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub(super) message: &'a [u8],
    /// Where it came from.
    pub(super) asker: Seat,
    pub(super) transport: Transport,
    /// Which of several addresses comes first.
    pub(super) rotation: usize,
    /// The version of the names, if the kernel may give the answer from now on.
    pub(super) version: Option<u64>,
    pub(super) began: Instant,
}

/// What became of a query so far.
pub(super) enum Step {
    /// The answer was written.
    Done,
    Ignored,
    /// It waits for another server.
    Later(Later),
}

/// A query that waits for another server.
pub(super) struct Later {
    message: Box<[u8]>,
    transport: Transport,
    kind: RecordType,
    waiting: Waiting,
    began: Instant,
}

impl Resolver {
    /// Knows no name until `names` has some. Nothing is answered before `server::serve` runs.
    pub fn new(
        settings: ResolverSettings,
        names: watch::Receiver<Arc<Names>>,
        answers: Option<Arc<Answers>>,
    ) -> Arc<Self> {
        Self::with_limits(settings, names, answers, Limits::default())
    }

    pub(super) fn with_limits(
        settings: ResolverSettings,
        names: watch::Receiver<Arc<Names>>,
        answers: Option<Arc<Answers>>,
        limits: Limits,
    ) -> Arc<Self> {
        let liveness = Liveness::new(settings.workers + 1);
        Arc::new(Self {
            settings,
            names,
            host: watch::channel(HostServers::default()).0,
            upstream: Upstream::new(limits),
            answers,
            stats: Stats::default(),
            liveness,
            listening: Mutex::default(),
            closed: Mutex::default(),
        })
    }

    /// When the slowest of the resolver's loops was last seen at work; `None` while it does not listen. Loops without
    /// anything to do turn four times a second, so whoever vouches for the resolver can ask for a turn within the last
    /// half second.
    pub fn last_turn(&self) -> Option<Instant> {
        self.listening().and_then(|_| self.liveness.last_turn())
    }

    pub fn report(&self) -> DnsReport {
        let names = self.names();
        let own = self.host.borrow().servers.clone();
        let network = |network: &crate::desired::names::NetworkNames| NamesRow {
            network: network.name.clone(),
            names: network.len() as u64,
        };
        DnsReport {
            listening: self.listening().map(|address| address.to_string()),
            askers: names.askers().len() as u64,
            left_to_docker: self.left_to_docker(&names),
            networks: names.networks().iter().map(network).collect(),
            queries: self.query_rows(),
            latencies: Source::ALL.map(|source| self.latency_row(source)).into(),
            in_flight: self.upstream.waiting() as u64,
            overload: self.stats.overload.load(Relaxed),
            ignored: self.stats.ignored.load(Relaxed),
            unsent: self.stats.unsent.load(Relaxed),
            turned_away: self.stats.turned_away.load(Relaxed),
            kept: self.upstream.kept() as u64,
            upstreams: self.upstream_rows(&own),
        }
    }

    fn left_to_docker(&self, names: &Names) -> BTreeMap<String, String> {
        let mut left = names.left_to_docker().clone();
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        left.extend(closed.iter().filter_map(|(sandbox, why)| {
            Some((names.askers().get(&Seat::Sandbox(*sandbox))?.name.clone(), why.clone()))
        }));
        left
    }

    fn latency_row(&self, source: Source) -> LatencyRow {
        let (counts, seconds) = self.stats.latency(source);
        let ends = BOUNDS.iter().map(|bound| Some(*bound as f64 / 1e6)).chain([None]);
        let bucket = |(count, up_to_seconds)| Bucket { up_to_seconds, count };
        LatencyRow {
            source: source.as_str().to_owned(),
            count: counts.iter().sum(),
            seconds,
            buckets: counts.into_iter().zip(ends).map(bucket).collect(),
        }
    }

    fn upstream_rows(&self, own: &[SocketAddr]) -> Vec<UpstreamRow> {
        let asked = self.upstream.health();
        let now = tokio::time::Instant::now();
        let unasked = own.iter().filter(|server| !asked.iter().any(|(known, _)| known == *server));
        let unasked = unasked.map(|server| UpstreamRow {
            server: server.ip().to_string(),
            of_node: true,
            ..UpstreamRow::default()
        });
        let known = asked.iter().map(|(server, health)| UpstreamRow {
            server: server.ip().to_string(),
            of_node: own.contains(server),
            avoided: health.is_avoided(now),
            asked: health.asked,
            answered: health.answered,
            refused: health.refused,
            silent: health.silent,
            round_trip_seconds: health.round_trip.map(|time| time.as_secs_f64()),
        });
        let mut rows: Vec<_> = unasked.chain(known).collect();
        rows.sort_by(|one, other| (!one.of_node, &one.server).cmp(&(!other.of_node, &other.server)));
        rows
    }

    pub(super) fn settings(&self) -> &ResolverSettings {
        &self.settings
    }

    pub(super) fn names(&self) -> Arc<Names> {
        self.names.borrow().clone()
    }

    /// Of the names: to be read before these.
    pub(super) fn version(&self) -> Option<u64> {
        self.answers.as_ref().map(|answers| answers.version())
    }

    /// What was answered here, and what the kernel has answered by itself.
    fn query_rows(&self) -> Vec<QueryRow> {
        let counts = self.answers.as_ref().and_then(|answers| answers.counts().ok()).unwrap_or_default();
        self.stats.queries().chain(stats::given_by_kernel(&counts)).map(query_row).collect()
    }

    pub(super) async fn follow_host(&self) {
        host::follow(&self.settings.resolv_conf, &self.host).await;
    }

    #[cfg(test)]
    pub(super) fn set_host(&self, servers: HostServers) {
        self.host.send_replace(servers);
    }

    pub(super) fn set_listening(&self, address: Option<SocketAddrV4>) {
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// Takes note that there is no listening in a namespace, or that it is over with that.
    pub(super) fn set_closed(&self, sandbox: Sandbox, why: Option<String>) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(closed.insert(sandbox, why)),
            None => drop(closed.remove(&sandbox)),
        }
    }

    pub(super) fn follow_names(&self) -> watch::Receiver<Arc<Names>> {
        self.names.clone()
    }

    fn listening(&self) -> Option<SocketAddrV4> {
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message as far as it goes without waiting. Has to be called in a runtime.
    pub(super) fn start(&self, incoming: Incoming<'_>, names: &Names, out: &mut Vec<u8>) -> Step {
        let Incoming { message, asker, transport, rotation, version, began } = incoming;
        let searches_first = self.host.borrow().searches_first;
        let about = Circumstances { asker, transport, names, searches_first, rotation };
        match respond(message, about, out) {
            Response::Answered { kind, code, lasting } => {
                self.stats.count(kind, code, Source::Local, began.elapsed());
                if let (true, Some(version), Seat::Bridge(asker)) = (lasting, version, asker) {
                    let counter = stats::place(kind, code);
                    self.keep(Lasting { version, asker, question: message, answer: out, counter });
                }
                Step::Done
            }
            Response::Ignored => {
                self.stats.ignored.fetch_add(1, Relaxed);
                Step::Ignored
            }
            Response::Elsewhere(query) => {
                let own = names.askers().get(&asker).and_then(|asker| asker.upstream.servers.clone());
                let servers = own.unwrap_or_else(|| self.host.borrow().servers.clone());
                self.ask(incoming, &query, &servers, out)
            }
        }
    }

    fn keep(&self, lasting: Lasting<'_>) {
        if let Some(Err(error)) = self.answers.as_ref().map(|answers| answers.keep(lasting)) {
            debug!("an answer cannot be left to the kernel: {error:#}");
        }
    }

    fn ask(
        &self,
        incoming: Incoming<'_>,
        query: &Query<'_>,
        servers: &Arc<[SocketAddr]>,
        out: &mut Vec<u8>,
    ) -> Step {
        let Incoming { message, asker, transport, began, .. } = incoming;
        let (code, source) = match self.upstream.look_up(query, asker, servers) {
            Lookup::Wait(waiting) => {
                let later = Later { message: message.into(), transport, kind: query.kind, waiting, began };
                return Step::Later(later);
            }
            Lookup::Kept(reply, age) => {
                reply.pass_on(query, transport, age, out);
                (reply.code, Source::Cache)
            }
            Lookup::Overload => {
                self.stats.overload.fetch_add(1, Relaxed);
                fail(query, transport, out);
                (ResponseCode::ServFail, Source::Upstream)
            }
            Lookup::NoServers => {
                fail(query, transport, out);
                (ResponseCode::ServFail, Source::Upstream)
            }
        };
        self.stats.count(query.kind, code, source, began.elapsed());
        Step::Done
    }

    /// Waits for the other server and gives the answer.
    pub(super) async fn finish(&self, later: Later) -> Vec<u8> {
        let Later { message, transport, kind, waiting, began } = later;
        let reply = waiting.reply().await;
        let mut out = Vec::new();
        let mut code = ResponseCode::ServFail;
        if let Ok(query) = Query::parse(&message) {
            match reply {
                Some(reply) => {
                    reply.pass_on(&query, transport, 0, &mut out);
                    code = reply.code;
                }
                None => fail(&query, transport, &mut out),
            }
        }
        self.stats.count(kind, code, Source::Upstream, began.elapsed());
        out
    }
}

fn query_row((kind, code, source, count): (&str, &str, Source, u64)) -> QueryRow {
    QueryRow { kind: kind.to_owned(), code: code.to_owned(), source: source.as_str().to_owned(), count }
}
