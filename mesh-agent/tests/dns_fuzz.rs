//! Whatever bytes come in, the resolver stays on its feet, and what it says can be understood.
//!
//! Runs for `MESH_FUZZ_SECONDS` (2 by default) on all processors, and begins with the same seeds each time; `MESH_FUZZ_SEED` goes on from
//! another. A failure names its seed.

use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use mesh_agent::desired::Names;
use mesh_agent::dns::respond::{Circumstances, Response, respond};
use mesh_agent::dns::wire::Transport;
use mesh_agent::swarm::snapshot::{LocalView, Snapshot};
use serde::Deserialize;

#[derive(Deserialize)]
struct Swarm {
    snapshot: Snapshot,
    local: LocalView,
}

#[test]
fn any_message_is_answered_in_words_that_can_be_understood_or_not_at_all() {
    let until = Instant::now() + Duration::from_secs(setting("MESH_FUZZ_SECONDS").unwrap_or(2));
    let next = AtomicU64::new(setting("MESH_FUZZ_SEED").unwrap_or_default());
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let sum = thread::scope(|scope| {
        let fuzzing: Vec<_> = (0..threads).map(|_| scope.spawn(|| fuzz(&next, until))).collect();
        fuzzing.into_iter().map(|thread| thread.join().expect("a seed failed")).fold(Sum::default(), Sum::add)
    });
    println!("{sum:?} up to seed {}", next.into_inner());
    assert!(
        sum.answered > 0 && sum.lasting > 0 && sum.elsewhere > 0,
        "the messages are too broken to tell anything"
    );
}

/// How many messages were dealt with how.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    answered: u64,
    lasting: u64,
    /// Left to other servers.
    elsewhere: u64,
}

impl Sum {
    fn add(self, other: Self) -> Self {
        Self {
            answered: self.answered + other.answered,
            lasting: self.lasting + other.lasting,
            elsewhere: self.elsewhere + other.elsewhere,
        }
    }
}

/// Takes a thousand seeds at a time.
fn fuzz(next: &AtomicU64, until: Instant) -> Sum {
    const BATCH: u64 = 1000;

    let swarm: Swarm =
        serde_json::from_str(include_str!("../src/dns/testdata/swarm.json")).expect("it is a Swarm");
    let names = Names::from(&swarm.snapshot, &swarm.local);
    let corpus = corpus();
    let (mut out, mut sum) = (Vec::new(), Sum::default());
    while Instant::now() < until {
        let first = next.fetch_add(BATCH, Relaxed);
        for seed in first..first + BATCH {
            one(seed, &names, &corpus, &mut out, &mut sum);
        }
    }
    sum
}

fn one(seed: u64, names: &Names, corpus: &[Vec<u8>], out: &mut Vec<u8>, sum: &mut Sum) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut message = mutated(corpus, &mut random);
    let about = Circumstances {
        asker: Ipv4Addr::new(172, 18, 0, random.u8(2..8)).into(),
        transport: if random.bool() { Transport::Udp } else { Transport::Tcp },
        names,
        searches_first: random.bool(),
        rotation: random.usize(..),
    };
    match respond(&message, about, out) {
        Response::Answered { lasting, .. } => {
            sum.answered += 1;
            check(&message, out, about.transport, seed);
            if lasting {
                sum.lasting += 1;
                check_lasting(&mut message, about, out, seed);
            }
        }
        Response::Elsewhere(_) => sum.elsewhere += 1,
        Response::Ignored => assert!(out.is_empty(), "seed {seed}"),
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn check(message: &[u8], answer: &[u8], transport: Transport, seed: u64) {
    let parsed = Message::from_vec(answer);
    let parsed = parsed.unwrap_or_else(|error| panic!("seed {seed}: {error}: {message:?} gives {answer:?}"));
    assert_eq!(answer[..2], message[..2], "seed {seed}: the id");
    assert_eq!(parsed.metadata.message_type, MessageType::Response, "seed {seed}");
    let limit = if transport == Transport::Udp { 1232 } else { 65_535 };
    assert!(answer.len() <= limit, "seed {seed}: {} bytes", answer.len());
    if let Some(query) = parsed.queries.first() {
        assert_eq!(parsed.queries.len(), 1, "seed {seed}");
        let owners = parsed.answers.iter().map(|record| &record.name);
        assert!(owners.into_iter().all(|owner| *owner == query.name), "seed {seed}: {parsed:?}");
    }
}

/// The kernel gives such an answer to the same question whenever it comes, with another id.
fn check_lasting(message: &mut [u8], about: Circumstances<'_>, answer: &[u8], seed: u64) {
    message[..2].iter_mut().for_each(|byte| *byte ^= 0xff);
    let later = Circumstances {
        rotation: about.rotation.wrapping_add(1),
        searches_first: !about.searches_first,
        ..about
    };
    let mut out = Vec::new();
    let response = respond(message, later, &mut out);
    assert!(matches!(response, Response::Answered { lasting: true, .. }), "seed {seed}: {response:?}");
    assert_eq!(out[2..], answer[2..], "seed {seed}: {message:?}");
}

/// Questions of every kind that is answered in a way of its own.
fn corpus() -> Vec<Vec<u8>> {
    let names = [
        "web.",
        "App_Web.app_default.",
        "tasks.rr.",
        "db.back.end.",
        "_http._tcp.web.",
        "_peer._tcp.tasks.rr.app_default.",
        "app_web.1.t1.",
        "idle.",
        "6.1.0.10.in-addr.arpa.",
        "5.1.0.10.in-addr.arpa.",
        "example.com.",
        "nosuch.",
        ".",
    ];
    let kinds = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::PTR,
        RecordType::SRV,
        RecordType::MX,
        RecordType::HTTPS,
        RecordType::ANY,
        RecordType::AXFR,
    ];
    let mut corpus = Vec::new();
    for name in names {
        for kind in kinds {
            let mut message =
                Message::new(fastrand::Rng::with_seed(7).u16(..), MessageType::Query, OpCode::Query);
            message.metadata.recursion_desired = true;
            message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
            corpus.push(message.to_vec().expect("a message"));
            let mut edns = Edns::new();
            edns.set_max_payload(4096).set_dnssec_ok(true);
            message.set_edns(edns);
            corpus.push(message.to_vec().expect("a message"));
        }
    }
    corpus
}

/// Lengths, pointers and types.
const TELLING: [u8; 9] = [0, 1, 12, 41, 63, 64, 0xC0, 0xff, b'.'];

fn mutated(corpus: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut message = random.choice(corpus).cloned().unwrap_or_default();
    for _ in 0..random.usize(0..4) {
        let length = message.len();
        let at = random.usize(..=length);
        match random.u8(..9) {
            // One bit, or one byte, often one that means something.
            0 if at < length => message[at] ^= 1 << random.u8(..8),
            1 if at < length => message[at] = random.u8(..),
            2 if at < length => message[at] = TELLING[random.usize(..TELLING.len())],
            3 => message.truncate(at),
            4 => message.insert(at, random.u8(..)),
            5 if at < length => {
                message.remove(at);
            }
            // A piece once more, a piece of another message, or plain noise.
            6 => message.extend_from_within(at..),
            7 => {
                let other = random.choice(corpus).cloned().unwrap_or_default();
                message.truncate(at);
                message.extend_from_slice(&other[random.usize(..=other.len())..]);
            }
            8 => message.extend((0..random.usize(..600)).map(|_| random.u8(..))),
            _ => {}
        }
    }
    message
}
