//! Rules as operators write them: iptables' in its words, others in nft's.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "most fields are numbers, and need no words of their own"
)]

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::ruleset::{Backend, Family, Field, Match, Rule, Stop, Table, Test};

/// A rule, with where it stands.
pub(super) fn rule(table: &Table, chain: &str, rule: &Rule, stop: Stop) -> String {
    let is_iptables = table.is_of_iptables();
    let (iptables, nft) = stop.words();
    let conditions = if is_iptables { rule.matches.clone() } else { as_nft_writes(&rule.matches) };
    let mut words: Vec<String> = conditions
        .iter()
        .map(|condition| matched(condition, is_iptables))
        .filter(|word| !word.is_empty())
        .collect();
    if !is_iptables && let Some(protocol) = protocol_of_ports(&rule.matches) {
        for word in &mut words {
            *word = word.replace("th ", &format!("{protocol} "));
        }
    }
    if is_iptables {
        if let Some(comment) = &rule.comment {
            words.push(format!("-m comment --comment \"{comment}\""));
        }
        words.push(format!("-j {iptables}"));
        let program = if table.backend == Backend::Legacy { "iptables-legacy" } else { "iptables" };
        return format!("{program} -t {} -A {chain} {}", table.name, words.join(" "));
    }
    words.push(nft.to_owned());
    if let Some(comment) = &rule.comment {
        words.push(format!("comment \"{comment}\""));
    }
    format!("{}: {}", place(table, chain), words.join(" "))
}

/// nft does not write what its other words say already: the family in front of an address, the protocol in front of a port.
fn as_nft_writes(conditions: &[Match]) -> Vec<Match> {
    let has_address =
        conditions.iter().any(|condition| matches!(condition.field, Field::Source | Field::Destination));
    let is_said = |condition: &&Match| match condition.field {
        Field::Family | Field::EtherType => has_address,
        Field::Protocol => protocol_of_ports(conditions).is_some(),
        _ => false,
    };
    conditions.iter().filter(|condition| !is_said(condition)).cloned().collect()
}

/// The one protocol whose ports are compared.
fn protocol_of_ports(conditions: &[Match]) -> Option<&'static str> {
    let has_ports = conditions
        .iter()
        .any(|condition| matches!(condition.field, Field::SourcePort | Field::DestinationPort));
    let protocol =
        conditions.iter().find(|condition| condition.field == Field::Protocol && !condition.inverted)?;
    match &protocol.test {
        Test::Number { ranges, .. } if has_ports && ranges[..] == [(6, 6)] => Some("tcp"),
        Test::Number { ranges, .. } if has_ports && ranges[..] == [(17, 17)] => Some("udp"),
        _ => None,
    }
}

/// The policy of a base chain that drops.
pub(super) fn policy(table: &Table, chain: &str) -> String {
    if table.is_of_iptables() {
        let program = if table.backend == Backend::Legacy { "iptables-legacy" } else { "iptables" };
        return format!("{program} -t {} -P {chain} DROP", table.name);
    }
    format!("{}: policy drop", place(table, chain))
}

fn place(table: &Table, chain: &str) -> String {
    let family = match table.family {
        Family::Ip => "ip",
        Family::Inet => "inet",
        Family::Netdev => "netdev",
    };
    format!("nft table {family} {}, chain {chain}", table.name)
}

fn matched(condition: &Match, is_iptables: bool) -> String {
    let Some((iptables, nft)) = words(condition.field) else {
        return if let Test::Opaque(text) = &condition.test { text.clone() } else { String::new() };
    };
    let value = value(condition.field, &condition.test, is_iptables);
    // See `Match::any_bit`.
    let is_any_bit = matches!(&condition.test, Test::Number { mask, ranges } if *mask != u32::MAX && ranges[..] == [(0, 0)]);
    match (is_iptables, condition.inverted != is_any_bit) {
        (true, false) => format!("{iptables} {value}"),
        (true, true) => format!("! {iptables} {value}"),
        (false, false) => format!("{nft} {value}"),
        (false, true) => format!("{nft} != {value}"),
    }
}

/// What a field is called by iptables and by nft.
fn words(field: Field) -> Option<(&'static str, &'static str)> {
    Some(match field {
        Field::InInterface => ("-i", "iifname"),
        Field::OutInterface => ("-o", "oifname"),
        Field::InIndex => ("-i", "iif"),
        Field::OutIndex => ("-o", "oif"),
        Field::Family => ("-m", "meta nfproto"),
        Field::EtherType => ("-m", "meta protocol"),
        Field::Protocol => ("-p", "meta l4proto"),
        Field::Source => ("-s", "ip saddr"),
        Field::Destination => ("-d", "ip daddr"),
        Field::SourcePort => ("--sport", "th sport"),
        Field::DestinationPort => ("--dport", "th dport"),
        Field::ConntrackState => ("-m conntrack --ctstate", "ct state"),
        Field::ConntrackStatus => ("-m conntrack --ctstatus", "ct status"),
        Field::ConntrackDirection => ("-m conntrack --ctdir", "ct direction"),
        Field::OriginalDestination => ("-m conntrack --ctorigdst", "ct original ip daddr"),
        Field::OriginalPort => ("-m conntrack --ctorigdstport", "ct original proto-dst"),
        Field::TcpFlags => ("--tcp-flags", "tcp flags"),
        Field::DestinationType => ("-m addrtype --dst-type", "fib daddr type"),
        Field::PacketType => ("-m pkttype --pkt-type", "meta pkttype"),
        Field::Other => return None,
    })
}

fn value(field: Field, tested: &Test, is_iptables: bool) -> String {
    match tested {
        Test::Opaque(text) => text.clone(),
        Test::Name(patterns) => {
            let wildcard = if is_iptables { "+" } else { "*" };
            let quoted = |name: String| if is_iptables { name } else { format!("\"{name}\"") };
            let names = patterns.iter().map(|pattern| {
                let end = if pattern.is_prefix { wildcard } else { "" };
                quoted(format!("{}{end}", pattern.name))
            });
            list(&names.collect::<Vec<_>>(), is_iptables)
        }
        Test::Number { mask, ranges } if *mask != u32::MAX => bits(field, *mask, ranges, is_iptables),
        Test::Number { ranges, .. } => {
            let values = ranges.iter().map(|range| number(field, *range, is_iptables));
            list(&values.collect::<Vec<_>>(), is_iptables)
        }
    }
}

fn list(values: &[String], is_iptables: bool) -> String {
    /// A set of thousands says no more than its beginning.
    const MOST: usize = 8;

    let more = values.len() > MOST;
    let mut text =
        values.iter().take(MOST).cloned().collect::<Vec<_>>().join(if is_iptables { "," } else { ", " });
    if more {
        let _ = write!(text, ", … {} in all", values.len());
    }
    if values.len() == 1 || is_iptables { text } else { format!("{{ {text} }}") }
}

fn number(field: Field, (first, last): (u32, u32), is_iptables: bool) -> String {
    match field {
        Field::Source | Field::Destination | Field::OriginalDestination => {
            addresses(first, last, is_iptables)
        }
        Field::Protocol if first == last => match first {
            1 => "icmp".into(),
            6 => "tcp".into(),
            17 => "udp".into(),
            132 => "sctp".into(),
            other => other.to_string(),
        },
        Field::Family if first == 2 => "ipv4".into(),
        Field::Family if first == 10 => "ipv6".into(),
        Field::EtherType if first == 0x0800 => "ip".into(),
        Field::EtherType if first == 0x86dd => "ip6".into(),
        Field::DestinationType if first == 2 => if is_iptables { "LOCAL" } else { "local" }.into(),
        Field::TcpFlags => format!("{first:#04x}"),
        _ if first == last => first.to_string(),
        _ => format!("{first}{}{last}", if is_iptables { ":" } else { "-" }),
    }
}

fn addresses(first: u32, last: u32, is_iptables: bool) -> String {
    let size = last.wrapping_sub(first).wrapping_add(1);
    let length = 32 - size.trailing_zeros().min(32);
    let address = Ipv4Addr::from(first);
    if first == last {
        if is_iptables { format!("{address}/32") } else { address.to_string() }
    } else if size == 0 || size.is_power_of_two() && first.is_multiple_of(size) {
        format!("{address}/{}", if size == 0 { 0 } else { length })
    } else {
        format!("{address}-{}", Ipv4Addr::from(last))
    }
}

/// Fields that are compared bit by bit.
fn bits(field: Field, mask: u32, ranges: &[(u32, u32)], is_iptables: bool) -> String {
    let names: &[(u32, &str)] = match field {
        Field::ConntrackState => &[
            (1, "invalid"),
            (2, "established"),
            (4, "related"),
            (8, "new"),
            (64, "untracked"),
            (128, "dnat"),
        ],
        Field::ConntrackStatus => {
            &[(1, "expected"), (2, "seen-reply"), (4, "assured"), (16, "snat"), (32, "dnat")]
        }
        Field::TcpFlags => &[(1, "fin"), (2, "syn"), (4, "rst"), (8, "psh"), (16, "ack"), (32, "urg")],
        _ => &[],
    };
    let words = |value: u32| {
        let names: Vec<_> = names.iter().filter(|(bit, _)| value & bit != 0).map(|(_, name)| *name).collect();
        let text = if names.is_empty() { format!("{value:#x}") } else { names.join(",") };
        if is_iptables { text.to_uppercase() } else { text }
    };
    match ranges {
        // Any of them: see `Match::any_bit`.
        [(0, 0)] => words(mask),
        [(first, _)] => format!("{} {}", words(mask), words(*first)),
        _ => words(mask),
    }
}

impl Stop {
    /// Its names in iptables and in nft.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Drop => ("DROP", "drop"),
            Self::Reject => ("REJECT", "reject"),
            Self::Dnat => ("DNAT", "dnat"),
            Self::Redirect => ("REDIRECT", "redirect"),
            Self::Tproxy => ("TPROXY", "tproxy"),
            Self::Queue => ("NFQUEUE", "queue"),
            Self::Forward => ("TEE", "fwd"),
            Self::Synproxy => ("SYNPROXY", "synproxy"),
        }
    }
}
