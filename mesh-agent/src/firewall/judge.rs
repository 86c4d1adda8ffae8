//! Pure: which rules can meet a packet from an uplink to a published port, and keep it from getting there.
//!
//! A packet of each kind that matters is sent through the chains, as the kernel would: what is known of it decides about a
//! match for good, and what is not known (who the client is) leaves it open. A rule that may stop such a packet counts;
//! one that certainly accepts it ends the way. What Docker's own rules do on that way is its mesh's business: where the
//! packet comes to Docker's chain for published ports, it is Docker's, and what stands behind is of no effect.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::net::protocol;

use super::dockers::{dockers_turn, is_dockers_chain, is_dockers_table};
use super::probe::{Place, Probe, PublishedPort, Scene, Truth, all};
use super::ruleset::{Action, Field, Hook, Rule, Ruleset, Test, Verdict};
use super::text;

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
