//! Rules of the node's packet filters, as data: of `nf_tables` and of legacy iptables alike.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// All tables that IPv4 packets may pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub tables: Vec<Table>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    pub name: String,
    pub backend: Backend,
    pub chains: BTreeMap<String, Chain>,
}

/// What a table holds the rules of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4 alone.
    #[default]
    Ip,
    /// IPv4 and IPv6.
    Inet,
    /// Whatever comes in by an interface.
    Netdev,
}

/// Which part of the kernel carries a table out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    #[default]
    NfTables,
    /// `ip_tables`, by `iptables-legacy`.
    Legacy,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter it; `None` for one that other chains jump to.
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub hook: Hook,
    pub priority: i32,
    /// Interfaces, for [`Hook::Ingress`].
    pub devices: Vec<String>,
    /// What becomes of packets that no rule decides about.
    pub drops: bool,
}

/// Where a packet from outside to a published port passes. What Docker passes by as well is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Ingress,
    Prerouting,
    Forward,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// All of them must hold.
    pub matches: Vec<Match>,
    pub action: Action,
    pub comment: Option<String>,
}

/// What a rule does with the packets that it matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Something that does not decide: it counts, logs, marks.
    #[default]
    Continue,
    Verdict(Verdict),
    /// A verdict for each value of a field.
    Map(Vec<(Match, Verdict)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Return,
    Jump(String),
    Goto(String),
    /// The packet does not go on to where it was sent.
    Stop(Stop),
}

/// How a packet is kept from where it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Drop,
    Reject,
    Dnat,
    Redirect,
    /// To a proxy on the node.
    Tproxy,
    /// A process decides.
    Queue,
    /// Out of another interface.
    Forward,
    /// The kernel answers for the server until the client has proven itself.
    Synproxy,
}

/// A condition on one field of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    pub field: Field,
    pub test: Test,
    pub inverted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    InInterface,
    OutInterface,
    InIndex,
    OutIndex,
    /// `NFPROTO_…`.
    Family,
    EtherType,
    Protocol,
    Source,
    Destination,
    SourcePort,
    DestinationPort,
    /// Bits: 1 invalid, 2 established, 4 related, 8 new, 64 untracked, and 128 for what iptables calls the state DNAT.
    ConntrackState,
    /// Bits of `IPS_…`, `linux/netfilter/nf_conntrack_common.h`.
    ConntrackStatus,
    ConntrackDirection,
    /// What the client dialled, before it was translated.
    OriginalDestination,
    OriginalPort,
    TcpFlags,
    /// `RTN_…`, linux/rtnetlink.h.
    DestinationType,
    /// `PACKET_…`, `linux/if_packet.h`.
    PacketType,
    Other,
}

/// What a field is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// The bits of `mask` are a number in one of these ranges. Addresses and ports are in host byte order.
    Number {
        mask: u32,
        ranges: Vec<(u32, u32)>,
    },
    Name(Vec<NamePattern>),
    /// What cannot be judged, as an operator would write it.
    Opaque(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    pub name: String,
    /// Whether other names that begin like this match too.
    pub is_prefix: bool,
}

impl NamePattern {
    pub fn matches(&self, name: &str) -> bool {
        if self.is_prefix { name.starts_with(&self.name) } else { name == self.name }
    }
}

impl Match {
    pub fn number(field: Field, ranges: Vec<(u32, u32)>, inverted: bool) -> Self {
        Self { field, test: Test::Number { mask: u32::MAX, ranges }, inverted }
    }

    /// Any of these bits is set.
    pub fn any_bit(field: Field, bits: u32, inverted: bool) -> Self {
        Self { field, test: Test::Number { mask: bits, ranges: vec![(0, 0)] }, inverted: !inverted }
    }

    pub fn opaque(text: impl Into<String>) -> Self {
        Self { field: Field::Other, test: Test::Opaque(text.into()), inverted: false }
    }

    pub fn name(field: Field, name: &str, is_prefix: bool, inverted: bool) -> Self {
        let pattern = NamePattern { name: name.to_owned(), is_prefix };
        Self { field, test: Test::Name(vec![pattern]), inverted }
    }

    /// An address and the bits of it that count; `None` if that is not the beginning of an address.
    pub fn subnet(field: Field, address: Ipv4Addr, mask: Ipv4Addr, inverted: bool) -> Option<Self> {
        let (address, mask) = (u32::from(address), u32::from(mask));
        (mask.leading_ones() + mask.trailing_zeros() >= 32)
            .then(|| Self::number(field, vec![(address & mask, address | !mask)], inverted))
    }
}

impl Table {
    /// Whether iptables made it, so that operators know its rules by iptables' words.
    pub fn is_of_iptables(&self) -> bool {
        self.family == Family::Ip
            && ["filter", "nat", "mangle", "raw", "security"].contains(&self.name.as_str())
            && ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]
                .iter()
                .any(|chain| self.chains.contains_key(*chain))
    }
}
