//! Pure: which rules can meet a packet from an uplink to a published port, and keep it from getting there.
//!
//! A packet of each kind that matters is sent through the chains, as the kernel would: what is known of it decides about a
//! match for good, and what is not known (who the client is) leaves it open. A rule that may stop such a packet counts;
//! one that certainly accepts it ends the way. What Docker's own rules do on that way is its mesh's business: where the
//! packet comes to Docker's chain for published ports, it is Docker's, and what stands behind is of no effect.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use mesh_common::net::protocol;
use mesh_common::tcp::flag;

use super::ruleset::{
    Action, Backend, Base, Chain, Family, Field, Hook, Match, Rule, Ruleset, Stop, Table, Test, Verdict,
};
use super::text;

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

/// A rule that Docker's mesh obeys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// As an operator would recognise it.
    pub text: String,
    /// Whether it concerns whatever port is published, not certain ones.
    pub is_general: bool,
    /// Those among the published ports that it was seen to concern; not all of them where it is general.
    pub ports: BTreeSet<PublishedPort>,
}

/// The rules of `ruleset` that count, in the order of its tables.
pub fn filters(ruleset: &Ruleset, scene: &Scene) -> Vec<Filter> {
    let ranges = named_ports(ruleset);
    let general = general_port(&ranges);
    let differs = |port: u32| {
        ranges.iter().any(|range| {
            let holds = |port: u32| (range.0..=range.1).contains(&port);
            holds(port) != holds(general)
        })
    };
    let named = scene.published.iter().filter(|(_, port)| differs(u32::from(*port)));
    let mut found = Found::new(ruleset);
    for (name, index) in &scene.uplinks {
        let usual = [protocol::TCP, protocol::UDP].map(|protocol| (protocol, general as u16, true));
        for (protocol, port, is_general) in
            usual.into_iter().chain(named.clone().map(|(protocol, port)| (*protocol, *port, false)))
        {
            for is_new in [true, false] {
                let probe = Probe { uplink: (name, *index), protocol, port, is_general, is_new };
                found.send(ruleset, scene, &probe);
            }
        }
    }
    let mut filters: Vec<_> = found.rules.into_values().collect();
    if found.steps > MOST_STEPS {
        let text = format!(
            "more rules than can be judged: the first {MOST_STEPS} steps through them say nothing else"
        );
        filters.push(Filter { text, is_general: true, ..Filter::default() });
    }
    filters
}

/// A kind of packet.
#[derive(Clone, Copy, Debug)]
struct Probe<'a> {
    uplink: (&'a str, u32),
    protocol: u8,
    port: u16,
    is_general: bool,
    /// The first of its connection, or a later one.
    is_new: bool,
}

/// What is known about a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Always,
    Maybe,
    Never,
}

/// Whether packets may go on behind a chain or rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    On,
    /// Back to the chain that has jumped here.
    Return,
    /// For no packet: all were accepted, stopped, or are Docker's.
    Ended,
}

/// Deeper than the kernel lets chains jump.
const DEEPEST: usize = 32;
/// Rules that are looked at, all probes taken together: less than a second.
const MOST_STEPS: usize = 10_000_000;

#[derive(Debug)]
struct Found<'a> {
    /// Whether Docker's own rules are in a table.
    has_docker: bool,
    /// By the number of the table, the name of the chain, and the number of the rule.
    rules: BTreeMap<(usize, &'a str, usize), Filter>,
    steps: usize,
}

/// Where a probe is.
struct Place<'a, 's> {
    table: (usize, &'a Table),
    base: &'a Base,
    scene: &'s Scene,
    probe: &'s Probe<'s>,
}

impl<'a> Found<'a> {
    fn new(ruleset: &Ruleset) -> Self {
        let mut chains =
            ruleset.tables.iter().flat_map(|table| table.chains.keys().map(move |name| (table, name)));
        Self {
            has_docker: chains.any(|(table, name)| is_dockers_chain(table, name)),
            rules: BTreeMap::new(),
            steps: 0,
        }
    }

    fn send(&mut self, ruleset: &'a Ruleset, scene: &Scene, probe: &Probe<'_>) {
        for (number, table) in ruleset.tables.iter().enumerate() {
            if is_dockers_table(table) {
                continue;
            }
            for (name, chain) in &table.chains {
                let Some(base) = &chain.base else { continue };
                let is_elsewhere =
                    base.hook == Hook::Ingress && !base.devices.iter().any(|device| device == probe.uplink.0);
                let before_docker = dockers_turn(table, name, chain, self.has_docker);
                if is_elsewhere || before_docker == Some(0) {
                    continue;
                }
                let place = Place { table: (number, table), base, scene, probe };
                let rules = &chain.rules[..before_docker.unwrap_or(chain.rules.len())];
                let flow = self.rules(&place, name, rules, 0);
                if flow != Flow::Ended && base.drops && before_docker.is_none() {
                    self.note((number, name, usize::MAX), probe, || text::policy(table, name));
                }
            }
        }
    }

    fn chain(&mut self, place: &Place<'a, '_>, name: &'a str, depth: usize) -> Flow {
        let table = place.table.1;
        match table.chains.get(name) {
            Some(chain) if depth <= DEEPEST && !is_dockers_chain(table, name) => {
                self.rules(place, name, &chain.rules, depth)
            }
            _ => Flow::On,
        }
    }

    fn rules(&mut self, place: &Place<'a, '_>, chain: &'a str, rules: &'a [Rule], depth: usize) -> Flow {
        for (number, rule) in rules.iter().enumerate() {
            self.steps += 1;
            if self.steps > MOST_STEPS {
                return Flow::On;
            }
            let truth = all(rule.matches.iter().map(|condition| place.judge(condition)));
            if truth == Truth::Never {
                continue;
            }
            let ways: Vec<(Truth, &'a Verdict)> = match &rule.action {
                Action::Continue => continue,
                Action::Verdict(verdict) => vec![(truth, verdict)],
                Action::Map(map) => {
                    let ways = map.iter().map(|(condition, verdict)| {
                        (all([truth, place.judge(condition)].into_iter()), verdict)
                    });
                    ways.filter(|(truth, _)| *truth != Truth::Never).collect()
                }
            };
            for (truth, verdict) in ways {
                let flow = self.verdict(place, (chain, number), rule, verdict, depth);
                if truth == Truth::Always && flow != Flow::On {
                    return flow;
                }
            }
        }
        Flow::On
    }

    fn verdict(
        &mut self,
        place: &Place<'a, '_>,
        (chain, number): (&'a str, usize),
        rule: &Rule,
        verdict: &'a Verdict,
        depth: usize,
    ) -> Flow {
        match verdict {
            Verdict::Accept => Flow::Ended,
            Verdict::Return => Flow::Return,
            // What comes back from a chain goes on behind the jump.
            Verdict::Jump(name) => match self.chain(place, name, depth + 1) {
                Flow::Return => Flow::On,
                flow @ (Flow::On | Flow::Ended) => flow,
            },
            Verdict::Goto(name) => match self.chain(place, name, depth + 1) {
                Flow::Ended => Flow::Ended,
                Flow::On | Flow::Return => Flow::Return,
            },
            Verdict::Stop(stop) => {
                let (table_number, table) = place.table;
                self.note((table_number, chain, number), place.probe, || {
                    text::rule(table, chain, rule, *stop)
                });
                Flow::Ended
            }
        }
    }

    fn note(&mut self, rule: (usize, &'a str, usize), probe: &Probe<'_>, text: impl FnOnce() -> String) {
        let filter = self.rules.entry(rule).or_insert_with(|| Filter { text: text(), ..Filter::default() });
        if probe.is_general {
            filter.is_general = true;
        } else {
            filter.ports.insert((probe.protocol, probe.port));
        }
    }
}

/// In a chain of iptables' where Docker's own rules take published ports: how many rules stand before that. Docker puts its own
/// before others, at the latest when it makes the first port. `has_docker` tells whether its rules are in any table; then those
/// of the other backend (`iptables-legacy` beside `iptables`) are not its.
fn dockers_turn(table: &Table, name: &str, chain: &Chain, has_docker: bool) -> Option<usize> {
    let is_dockers = table.family == Family::Ip
        && matches!((table.name.as_str(), name), ("filter", "FORWARD") | ("nat", "PREROUTING"));
    if !is_dockers {
        return None;
    }
    let jump = |wanted: &[&str]| {
        chain.rules.iter().position(
            |rule| matches!(&rule.action, Action::Verdict(Verdict::Jump(to)) if wanted.contains(&to.as_str())),
        )
    };
    // 28 has the jump to DOCKER-INGRESS in DOCKER-FORWARD.
    let turn = jump(&["DOCKER-INGRESS", "DOCKER-FORWARD"]);
    let turn = turn.or_else(|| jump(&["DOCKER-USER"]).map(|place| place + 1));
    let is_other_backend = has_docker && !table.chains.keys().any(|name| is_dockers_chain(table, name));
    turn.or((!is_other_backend).then_some(0))
}

/// Chains that Docker fills by itself. DOCKER-USER is the operators'.
fn is_dockers_chain(table: &Table, name: &str) -> bool {
    const CHAINS: [&str; 9] = [
        "DOCKER",
        "DOCKER-INGRESS",
        "DOCKER-FORWARD",
        "DOCKER-BRIDGE",
        "DOCKER-CT",
        "DOCKER-INTERNAL",
        "DOCKER-ISOLATION",
        "DOCKER-ISOLATION-STAGE-1",
        "DOCKER-ISOLATION-STAGE-2",
    ];
    table.family == Family::Ip && CHAINS.contains(&name)
}

/// Docker 29 can keep its rules in tables of its own.
fn is_dockers_table(table: &Table) -> bool {
    table.backend == Backend::NfTables && table.name == "docker-bridges"
}

impl Place<'_, '_> {
    fn judge(&self, condition: &Match) -> Truth {
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
fn all(truths: impl Iterator<Item = Truth>) -> Truth {
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

/// What rules say about ports, Docker's own aside.
fn named_ports(ruleset: &Ruleset) -> BTreeSet<(u32, u32)> {
    let tables = ruleset.tables.iter().filter(|table| !is_dockers_table(table));
    let chains = tables.flat_map(|table| {
        table.chains.iter().filter(|(name, _)| !is_dockers_chain(table, name)).map(|(_, chain)| chain)
    });
    let mut ranges = BTreeSet::new();
    for rule in chains.flat_map(|chain| &chain.rules) {
        let of_map = if let Action::Map(map) = &rule.action { &map[..] } else { &[] };
        for condition in rule.matches.iter().chain(of_map.iter().map(|(condition, _)| condition)) {
            if matches!(condition.field, Field::DestinationPort | Field::OriginalPort)
                && let Test::Number { ranges: named, .. } = &condition.test
            {
                ranges.extend(named.iter().copied());
            }
        }
    }
    ranges
}

/// A port that stands for any: one that Docker chooses from by itself where none is asked for, and that no rule means by itself.
fn general_port(named: &BTreeSet<(u32, u32)>) -> u32 {
    /// Wider ranges mean more than a port.
    const NARROW: u32 = 1000;
    /// moby, swarmkit's port allocator.
    const DYNAMIC: std::ops::RangeInclusive<u32> = 30_000..=32_767;

    let is_meant = |port: &u32| {
        named
            .iter()
            .any(|(first, last)| last.saturating_sub(*first) < NARROW && (*first..=*last).contains(port))
    };
    DYNAMIC.into_iter().find(|port| !is_meant(port)).unwrap_or(*DYNAMIC.start())
}

impl Stop {
    /// Its names in iptables and in nft.
    pub(super) fn words(self) -> (&'static str, &'static str) {
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
