//! What the resolver counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use mesh_common::maps;

/// Kinds of questions that are counted apart; everything else is `other`.
const KINDS: [RecordType; 11] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::PTR,
    RecordType::SRV,
    RecordType::MX,
    RecordType::TXT,
    RecordType::HTTPS,
    RecordType::SVCB,
    RecordType::SOA,
    RecordType::NS,
    RecordType::ANY,
];
const CODES: [ResponseCode; 7] = [
    ResponseCode::NoError,
    ResponseCode::FormErr,
    ResponseCode::ServFail,
    ResponseCode::NXDomain,
    ResponseCode::NotImp,
    ResponseCode::Refused,
    ResponseCode::BADVERS,
];
const CODE_NAMES: [&str; CODES.len() + 1] =
    ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "BADVERS", "other"];

/// Who knew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The Swarm, or the resolver by itself.
    Local,
    /// A kept reply of another server.
    Cache,
    /// Another server.
    Upstream,
    /// The kernel, which has an answer of the resolver's.
    Kernel,
}

impl Source {
    /// Those of answers that pass the resolver.
    pub(super) const ALL: [Self; 3] = [Self::Local, Self::Cache, Self::Upstream];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cache => "cache",
            Self::Upstream => "upstream",
            Self::Kernel => "kernel",
        }
    }
}

/// Of kinds of questions, and of codes, in the kernel's counters; the last one is for all others. They outlive the agent, so
/// a new kind or code must not take another's place.
const PLACES: usize = 16;
const _: () =
    assert!(KINDS.len() < PLACES && CODES.len() < PLACES && PLACES * PLACES <= maps::ANSWERED as usize);

/// Where the kernel counts what it answers like this.
pub(super) fn place(kind: RecordType, code: ResponseCode) -> u32 {
    let kind = KINDS.iter().position(|known| *known == kind).unwrap_or(PLACES - 1);
    let code = CODES.iter().position(|known| *known == code).unwrap_or(PLACES - 1);
    (kind * PLACES + code) as u32
}

/// As [`Stats::queries`], from the kernel's counters by [`place`].
pub(super) fn given_by_kernel(
    counts: &[u64],
) -> impl Iterator<Item = (&'static str, &'static str, Source, u64)> {
    counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(place, count)| {
        let kind = KINDS.get(place / PLACES).map_or("other", |kind| <&'static str>::from(*kind));
        let code = CODE_NAMES[(place % PLACES).min(CODES.len())];
        (kind, code, Source::Kernel, *count)
    })
}

/// The upper ends of the histogram's buckets, in microseconds.
pub(super) const BOUNDS: [u64; 15] =
    [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000];

#[derive(Debug, Default)]
pub(super) struct Stats {
    queries: [[[AtomicU64; Source::ALL.len()]; CODES.len() + 1]; KINDS.len() + 1],
    /// The last bucket is for what takes longer.
    latency: [[AtomicU64; BOUNDS.len() + 1]; Source::ALL.len()],
    nanoseconds: [AtomicU64; Source::ALL.len()],
    /// Not even a query.
    pub(super) ignored: AtomicU64,
    /// Answered with a failure because too many were waiting.
    pub(super) overload: AtomicU64,
    /// Answers that could not be sent.
    pub(super) unsent: AtomicU64,
    /// TCP connections that found no place.
    pub(super) turned_away: AtomicU64,
}

impl Stats {
    pub(super) fn count(&self, kind: RecordType, code: ResponseCode, source: Source, took: Duration) {
        let kind = KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len());
        let code = CODES.iter().position(|known| *known == code).unwrap_or(CODES.len());
        self.queries[kind][code][source as usize].fetch_add(1, Relaxed);
        let microseconds = took.as_micros() as u64;
        let bucket = BOUNDS.iter().position(|bound| microseconds <= *bound).unwrap_or(BOUNDS.len());
        self.latency[source as usize][bucket].fetch_add(1, Relaxed);
        self.nanoseconds[source as usize].fetch_add(took.as_nanos() as u64, Relaxed);
    }

    /// Kind, code, source and count of all that were not 0.
    pub(super) fn queries(&self) -> impl Iterator<Item = (&'static str, &'static str, Source, u64)> {
        self.queries.iter().enumerate().flat_map(|(kind, codes)| {
            let kind = KINDS.get(kind).map_or("other", |kind| <&'static str>::from(*kind));
            codes.iter().zip(CODE_NAMES).flat_map(move |(sources, code)| {
                let counts = sources.iter().map(|count| count.load(Relaxed)).zip(Source::ALL);
                counts.filter(|(count, _)| *count > 0).map(move |(count, source)| (kind, code, source, count))
            })
        })
    }

    /// How many took how long, by the buckets of [`BOUNDS`] and one for the rest; and their sum in seconds.
    pub(super) fn latency(&self, source: Source) -> (Vec<u64>, f64) {
        let buckets = self.latency[source as usize].iter().map(|count| count.load(Relaxed)).collect();
        (buckets, self.nanoseconds[source as usize].load(Relaxed) as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counters_have_a_place_for_each_kind_and_code() {
        let mut counts = vec![0; PLACES * PLACES];
        for (kind, code) in [
            (RecordType::AAAA, ResponseCode::NoError),
            (RecordType::NAPTR, ResponseCode::NoError),
            (RecordType::A, ResponseCode::NotZone),
        ] {
            counts[place(kind, code) as usize] += 1;
        }
        let counted: Vec<_> = given_by_kernel(&counts).collect();
        let row = |kind, code| (kind, code, Source::Kernel, 1);
        assert_eq!(counted, [row("A", "other"), row("AAAA", "NOERROR"), row("other", "NOERROR")]);
    }

    #[test]
    fn queries_are_counted_by_kind_code_and_source() {
        let stats = Stats::default();
        let took = Duration::from_micros(20);
        stats.count(RecordType::A, ResponseCode::NoError, Source::Local, took);
        stats.count(RecordType::A, ResponseCode::NoError, Source::Local, took);
        stats.count(RecordType::NAPTR, ResponseCode::NotZone, Source::Upstream, Duration::from_secs(9));
        let counted: Vec<_> = stats.queries().collect();
        let expected = [("A", "NOERROR", Source::Local, 2), ("other", "other", Source::Upstream, 1)];
        assert_eq!(counted, expected);
        let (buckets, seconds) = stats.latency(Source::Local);
        assert_eq!((buckets[1], buckets.iter().sum::<u64>()), (2, 2));
        assert!((seconds - 40e-6).abs() < 1e-9);
        assert_eq!(stats.latency(Source::Upstream).0.last(), Some(&1));
    }
}
