//! A packet that is sent through the rules: what is known of it at each place, and so of a condition. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use mesh_common::net::protocol;
use mesh_common::tcp::flag;

use super::ruleset::{Base, Field, Hook, Match, Table, Test};

/// What the rules are judged for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scene {
    /// Name and index of each.
    pub uplinks: BTreeMap<String, u32>,
    /// The bridge that Docker's mesh sends packets to: docker_gwbridge.
    pub bridge: String,
    /// First and last address on it; `None` while it has none.
    pub bridge_subnet: Option<(Ipv4Addr, Ipv4Addr)>,
    /// This node's own.
    pub addresses: BTreeSet<Ipv4Addr>,
    pub published: Arc<BTreeSet<PublishedPort>>,
}

/// Protocol, as in an IP header, and port.
pub type PublishedPort = (u8, u16);

/// A kind of packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe<'a> {
    pub(super) uplink: (&'a str, u32),
    pub(super) protocol: u8,
    pub(super) port: u16,
    pub(super) is_general: bool,
    /// The first of its connection, or a later one.
    pub(super) is_new: bool,
}

/// What is known about a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    Always,
    Maybe,
    Never,
}

/// Where a probe is.
pub(super) struct Place<'a, 's> {
    pub(super) table: (usize, &'a Table),
    pub(super) base: &'a Base,
    pub(super) scene: &'s Scene,
    pub(super) probe: &'s Probe<'s>,
}

impl Place<'_, '_> {
    /// Whether the probe meets a condition.
    pub(super) fn judge(&self, condition: &Match) -> Truth {
        let truth = match &condition.test {
            Test::Opaque(_) => return Truth::Maybe,
            Test::Name(patterns) => {
                // Nothing else is a name.
                let name = if condition.field == Field::InInterface {
                    self.probe.uplink.0
                } else if self.base.hook == Hook::Forward {
                    &self.scene.bridge
                } else {
                    ""
                };
                if patterns.iter().any(|pattern| pattern.matches(name)) {
                    Truth::Always
                } else {
                    Truth::Never
                }
            }
            Test::Number { mask, ranges } => {
                all_or_none(self.known(condition.field).iter().map(|known| compare(*known, *mask, ranges)))
            }
        };
        match (truth, condition.inverted) {
            (Truth::Always, true) => Truth::Never,
            (Truth::Never, true) => Truth::Always,
            (truth, _) => truth,
        }
    }

    /// The values that a field can have: one of these ranges.
    fn known(&self, field: Field) -> Vec<(u32, u32)> {
        const ANY: (u32, u32) = (0, u32::MAX);
        /// From `linux/netfilter/nf_conntrack_common.h`: seen a reply, assured, confirmed.
        const ANSWERED: u32 = 2 | 4 | 8;
        /// Destination translated, and both translations decided on.
        const TRANSLATED: u32 = 32 | 128 | 256;

        let (probe, scene) = (self.probe, self.scene);
        let is_forward = self.base.hook == Hook::Forward;
        let one = |value: u32| vec![(value, value)];
        match field {
            Field::InIndex => one(probe.uplink.1),
            Field::OutIndex if !is_forward => one(0),
            Field::Family => one(2),
            Field::EtherType => one(0x0800),
            Field::Protocol => one(probe.protocol.into()),
            Field::Destination if is_forward => {
                let subnet = scene.bridge_subnet;
                vec![subnet.map_or(ANY, |(first, last)| (first.into(), last.into()))]
            }
            Field::Destination | Field::OriginalDestination => {
                scene.addresses.iter().map(|address| (u32::from(*address), u32::from(*address))).collect()
            }
            Field::DestinationPort | Field::OriginalPort => one(probe.port.into()),
            Field::SourcePort => vec![(1, u16::MAX.into())],
            Field::ConntrackState => one(if probe.is_new { 8 } else { 2 } | if is_forward { 128 } else { 0 }),
            Field::ConntrackStatus => match (probe.is_new, is_forward) {
                (true, true) => one(TRANSLATED),
                (true, false) => one(0),
                (false, _) => one(TRANSLATED | ANSWERED),
            },
            Field::ConntrackDirection | Field::PacketType => one(0),
            Field::TcpFlags if probe.protocol == protocol::TCP => tcp_flags(probe.is_new),
            Field::DestinationType => one(if is_forward { 1 } else { 2 }),
            Field::InInterface
            | Field::OutInterface
            | Field::OutIndex
            | Field::Source
            | Field::TcpFlags
            | Field::Other => vec![ANY],
        }
    }
}

/// Those that belong together; with ECN and without (RFC 3168).
fn tcp_flags(is_new: bool) -> Vec<(u32, u32)> {
    const PSH: u8 = 0x08;
    const ECE: u8 = 0x40;
    const CWR: u8 = 0x80;
    const ACK: u8 = flag::ACK;
    let flags: &[u8] = if is_new {
        &[flag::SYN, flag::SYN | ECE | CWR]
    } else {
        &[
            ACK,
            ACK | PSH,
            ACK | flag::FIN,
            ACK | PSH | flag::FIN,
            ACK | flag::RST,
            flag::RST,
            ACK | ECE,
            ACK | CWR,
        ]
    };
    flags.iter().map(|flags| (u32::from(*flags), u32::from(*flags))).collect()
}

/// Whether a value in a range has these bits in one of the wanted ranges.
fn compare(known: (u32, u32), mask: u32, wanted: &[(u32, u32)]) -> Truth {
    let holds = |value: u32| wanted.iter().any(|(first, last)| (*first..=*last).contains(&value));
    if known.0 == known.1 {
        return if holds(known.0 & mask) { Truth::Always } else { Truth::Never };
    }
    if mask != u32::MAX {
        return Truth::Maybe;
    }
    if wanted.iter().any(|(first, last)| *first <= known.0 && known.1 <= *last) {
        Truth::Always
    } else if wanted.iter().all(|(first, last)| *last < known.0 || known.1 < *first) {
        Truth::Never
    } else {
        Truth::Maybe
    }
}

/// Of one that each of several values may be.
fn all_or_none(mut truths: impl Iterator<Item = Truth>) -> Truth {
    let Some(first) = truths.next() else { return Truth::Maybe };
    if truths.all(|truth| truth == first) { first } else { Truth::Maybe }
}

/// Of conditions that must all hold.
pub(super) fn all(truths: impl Iterator<Item = Truth>) -> Truth {
    let mut whole = Truth::Always;
    for truth in truths {
        match truth {
            Truth::Never => return Truth::Never,
            Truth::Maybe => whole = Truth::Maybe,
            Truth::Always => {}
        }
    }
    whole
}
