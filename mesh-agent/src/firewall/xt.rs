//! Matches and targets of xtables (`linux/netfilter/x_tables.h` and xt_*.h), which legacy iptables and `iptables-nft` share.

use super::ruleset::{Field, Match, Stop, Test, Verdict};

/// What a match demands, by its name, revision and data.
pub(super) fn matches(name: &str, revision: u8, info: &[u8]) -> Vec<Match> {
    let info = Info(info);
    let known = match name {
        "tcp" => tcp(info),
        "udp" => udp(info),
        "multiport" => multiport(revision, info),
        "conntrack" => conntrack(revision, info),
        "state" => info.u32(0).map(|bits| vec![Match::any_bit(Field::ConntrackState, bits, false)]),
        "addrtype" => addrtype(revision, info),
        "pkttype" => info.u32(0).zip(info.u32(4)).map(|(kind, inverted)| {
            vec![Match::number(Field::PacketType, vec![(kind, kind)], inverted != 0)]
        }),
        _ => None,
    };
    known.unwrap_or_else(|| vec![Match::opaque(format!("-m {name}"))])
}

/// What becomes of a packet, if the target decides that. Those of the tables (ACCEPT, DROP, jumps) are not among them.
pub(super) fn target(name: &str) -> Option<Verdict> {
    Some(match name {
        "REJECT" => Verdict::Stop(Stop::Reject),
        "DNAT" | "NETMAP" => Verdict::Stop(Stop::Dnat),
        "REDIRECT" => Verdict::Stop(Stop::Redirect),
        "TPROXY" => Verdict::Stop(Stop::Tproxy),
        "NFQUEUE" | "QUEUE" => Verdict::Stop(Stop::Queue),
        "SYNPROXY" => Verdict::Stop(Stop::Synproxy),
        "TARPIT" | "DELUDE" | "CHAOS" => Verdict::Stop(Stop::Drop),
        "MASQUERADE" | "SNAT" => Verdict::Accept,
        _ => return None,
    })
}

/// The data of a match: a struct of the kernel's.
#[derive(Clone, Copy)]
struct Info<'a>(&'a [u8]);

impl Info<'_> {
    fn u8(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn u16(self, at: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(self.0.get(at..at + 2)?.try_into().ok()?))
    }

    fn u32(self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.0.get(at..at + 4)?.try_into().ok()?))
    }

    /// An IPv4 address in host byte order.
    fn address(self, at: usize) -> Option<u32> {
        self.u32(at).map(u32::from_be)
    }
}

/// First and last port of a range; the whole range says nothing.
fn ports(info: Info<'_>, at: usize, field: Field, inverted: bool) -> Option<Vec<Match>> {
    let range = (u32::from(info.u16(at)?), u32::from(info.u16(at + 2)?));
    let says_nothing = range == (0, u32::from(u16::MAX)) && !inverted;
    Some(if says_nothing { Vec::new() } else { vec![Match::number(field, vec![range], inverted)] })
}

/// `struct xt_tcp`.
fn tcp(info: Info<'_>) -> Option<Vec<Match>> {
    let inverted = info.u8(11)?;
    let mut all = ports(info, 0, Field::SourcePort, inverted & 1 != 0)?;
    all.extend(ports(info, 4, Field::DestinationPort, inverted & 2 != 0)?);
    if info.u8(8)? != 0 {
        all.push(Match::opaque("--tcp-option"));
    }
    let (mask, wanted) = (u32::from(info.u8(9)?), u32::from(info.u8(10)?));
    if mask != 0 {
        let test = Test::Number { mask, ranges: vec![(wanted, wanted)] };
        all.push(Match { field: Field::TcpFlags, test, inverted: inverted & 4 != 0 });
    }
    Some(all)
}

/// `struct xt_udp`.
fn udp(info: Info<'_>) -> Option<Vec<Match>> {
    let inverted = info.u8(8)?;
    let mut all = ports(info, 0, Field::SourcePort, inverted & 1 != 0)?;
    all.extend(ports(info, 4, Field::DestinationPort, inverted & 2 != 0)?);
    Some(all)
}

/// `struct xt_multiport_v1`; a port that is marked begins a range that the next one ends.
fn multiport(revision: u8, info: Info<'_>) -> Option<Vec<Match>> {
    let field = match (revision, info.u8(0)?) {
        (1, 0) => Field::SourcePort,
        (1, 1) => Field::DestinationPort,
        // Either of both.
        _ => return None,
    };
    let count = usize::from(info.u8(1)?).min(15);
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < count {
        let first = u32::from(info.u16(2 + 2 * at)?);
        let begins = info.u8(32 + at)? != 0;
        at += usize::from(begins);
        ranges.push((first, u32::from(info.u16(2 + 2 * at)?)));
        at += 1;
    }
    Some(vec![Match::number(field, ranges, info.u8(47)? != 0)])
}

/// `struct xt_conntrack_mtinfo1` to `3`: the later ones have wider masks, and ranges of ports in host byte order.
fn conntrack(revision: u8, info: Info<'_>) -> Option<Vec<Match>> {
    const STATE: u16 = 1;
    const PROTOCOL: u16 = 1 << 1;
    const ORIGINAL_DESTINATION: u16 = 1 << 3;
    const STATUS: u16 = 1 << 6;
    const ORIGINAL_DESTINATION_PORT: u16 = 1 << 9;
    const DIRECTION: u16 = 1 << 12;
    /// What `-m state` is spelled as.
    const ALIAS: u16 = 1 << 13;
    const JUDGED: u16 =
        STATE | PROTOCOL | ORIGINAL_DESTINATION | STATUS | ORIGINAL_DESTINATION_PORT | DIRECTION | ALIAS;

    let (wanted, inverted) = (info.u16(146)?, info.u16(148)?);
    let (state, status) = match revision {
        1 => (info.u8(150)?.into(), info.u8(151)?.into()),
        2 | 3 => (info.u16(150)?, info.u16(152)?),
        _ => return None,
    };
    let is_inverted = |flag: u16| inverted & flag != 0;
    let mut all = Vec::new();
    if wanted & STATE != 0 {
        all.push(Match::any_bit(Field::ConntrackState, state.into(), is_inverted(STATE)));
    }
    if wanted & STATUS != 0 {
        all.push(Match::any_bit(Field::ConntrackStatus, status.into(), is_inverted(STATUS)));
    }
    if wanted & PROTOCOL != 0 {
        let protocol = u32::from(info.u16(136)?);
        all.push(Match::number(Field::Protocol, vec![(protocol, protocol)], is_inverted(PROTOCOL)));
    }
    if wanted & ORIGINAL_DESTINATION != 0 {
        let (address, mask) = (info.address(32)?, info.address(48)?);
        let field = Field::OriginalDestination;
        let subnet = Match::subnet(field, address.into(), mask.into(), is_inverted(ORIGINAL_DESTINATION));
        all.push(subnet.unwrap_or_else(|| Match::opaque("--ctorigdst")));
    }
    if wanted & ORIGINAL_DESTINATION_PORT != 0 {
        let ports = if revision == 3 {
            (info.u16(140)?, info.u16(156)?)
        } else {
            (u16::from_be(info.u16(140)?), u16::from_be(info.u16(140)?))
        };
        let range = (u32::from(ports.0), u32::from(ports.1.max(ports.0)));
        all.push(Match::number(Field::OriginalPort, vec![range], is_inverted(ORIGINAL_DESTINATION_PORT)));
    }
    if wanted & DIRECTION != 0 {
        // The flag stands for the direction of the first packet, inverted for the other one.
        let direction = u32::from(is_inverted(DIRECTION));
        all.push(Match::number(Field::ConntrackDirection, vec![(direction, direction)], false));
    }
    if wanted & !JUDGED != 0 {
        all.push(Match::opaque("-m conntrack"));
    }
    Some(all)
}

/// `struct xt_addrtype_info_v1`: bits of `RTN_…`.
fn addrtype(revision: u8, info: Info<'_>) -> Option<Vec<Match>> {
    const INVERTED_SOURCE: u32 = 1;
    const INVERTED_DESTINATION: u32 = 2;

    let (source, destination) = (info.u16(0)?, info.u16(2)?);
    let (invert_source, invert_destination) = if revision == 0 {
        (info.u32(4)? != 0, info.u32(8)? != 0)
    } else {
        let flags = info.u32(4)?;
        (flags & INVERTED_SOURCE != 0, flags & INVERTED_DESTINATION != 0)
    };
    let mut all = Vec::new();
    if source != 0 {
        let not = if invert_source { "! " } else { "" };
        all.push(Match::opaque(format!("-m addrtype {not}--src-type {source:#x}")));
    }
    if destination != 0 {
        let kinds = (0..16).filter(|kind| destination & (1 << kind) != 0).map(|kind| (kind, kind));
        all.push(Match::number(Field::DestinationType, kinds.collect(), invert_destination));
    }
    Some(all)
}
