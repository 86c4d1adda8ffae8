//! One rule: what its expressions load into registers, compare, and decide.

use std::collections::BTreeMap;

use super::constants::attribute::{data, expression};
use super::register::{Loaded, What, conntrack, fib, meta};
use super::sets::Sets;
use crate::firewall::ruleset::{Action, Match, Rule, Stop, Verdict};
use crate::firewall::xt;
use crate::netfilter::message::{Attributes, attributes, text};

/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;
/// `NFT_CMP_EQ` and `NFT_CMP_NEQ`.
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;

/// Follows the expressions of a rule.
pub(super) struct Reader<'a> {
    sets: &'a Sets,
    /// Family and name.
    table: &'a (u8, String),
    registers: BTreeMap<u32, Loaded>,
    rule: Rule,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sets: &'a Sets, table: &'a (u8, String)) -> Self {
        Self { sets, table, registers: BTreeMap::new(), rule: Rule::default() }
    }

    pub(super) fn finish(self) -> Rule {
        self.rule
    }

    pub(super) fn read(&mut self, told: &Attributes<'_>) {
        let name = told.string(expression::NAME).unwrap_or_default();
        let told = told.nested(expression::DATA);
        match name.as_str() {
            "payload" => self.payload(&told),
            "meta" => self.load(&told, 1, meta(told.u32(2).unwrap_or(u32::MAX))),
            "ct" => self.load(&told, 1, conntrack(told.u32(2).unwrap_or(u32::MAX), told.u8(3))),
            "fib" => self.load(&told, 1, fib(told.u32(2), told.u32(3))),
            "bitwise" => self.bitwise(&told),
            "cmp" => self.compare(&told),
            "range" => self.range(&told),
            "lookup" => self.lookup(&told),
            "immediate" => self.immediate(&told),
            "match" => self.xt_match(&told),
            "target" => self.xt_target(&told),
            "reject" => self.stop(Stop::Reject),
            "nat" if told.u32(1) == Some(1) => self.stop(Stop::Dnat),
            "redir" => self.stop(Stop::Redirect),
            "tproxy" => self.stop(Stop::Tproxy),
            "queue" => self.stop(Stop::Queue),
            "fwd" => self.stop(Stop::Forward),
            "synproxy" => self.stop(Stop::Synproxy),
            "nat" | "masq" => self.rule.action = Action::Verdict(Verdict::Accept),
            // They match whatever comes by.
            "counter" | "log" | "last" | "notrack" | "dup" | "objref" | "flow_offload" => {}
            other => self.other(other, &told),
        }
    }

    fn stop(&mut self, stop: Stop) {
        self.rule.action = Action::Verdict(Verdict::Stop(stop));
    }

    /// Of what is not known whether it matches, nor what it loads.
    fn other(&mut self, name: &str, told: &Attributes<'_>) {
        const LOADS: [&str; 10] =
            ["rt", "socket", "osf", "xfrm", "tunnel", "exthdr", "hash", "numgen", "byteorder", "inner"];
        let text = match LOADS.iter().find(|known| **known == name) {
            // The register differs: whoever reads any that is not known cannot judge either.
            Some(name) => {
                self.registers.clear();
                if told.get(1).is_some() {
                    return;
                }
                (*name).to_owned()
            }
            None => name.to_owned(),
        };
        self.rule.matches.push(Match::opaque(text));
    }

    fn load(&mut self, told: &Attributes<'_>, register: u16, what: What) {
        // Without a destination it writes.
        if let Some(register) = told.u32(register) {
            self.registers.insert(place(register), Loaded { what, mask: None });
        }
    }

    fn payload(&mut self, told: &Attributes<'_>) {
        let number = |kind| told.u32(kind).unwrap_or(u32::MAX);
        self.load(told, 1, What::Payload { base: number(2), offset: number(3), length: number(4) });
    }

    fn bitwise(&mut self, told: &Attributes<'_>) {
        let (Some(from), Some(to)) = (told.u32(1), told.u32(2)) else { return };
        let value = |kind: u16| told.nested(kind).get(data::VALUE).map(<[u8]>::to_vec);
        let loaded = self.registers.get(&place(from)).cloned();
        let keeps_bits =
            told.u32(6).unwrap_or(0) == 0 && value(5).is_none_or(|xor| xor.iter().all(|byte| *byte == 0));
        let changed = match (loaded, value(4)) {
            (Some(Loaded { what, mask: None }), Some(mask)) if keeps_bits => {
                Loaded { what, mask: Some(mask) }
            }
            _ => Loaded { what: What::Other("bits"), mask: None },
        };
        self.registers.insert(place(to), changed);
    }

    fn loaded(&self, told: &Attributes<'_>, register: u16) -> Loaded {
        let known = told.u32(register).and_then(|register| self.registers.get(&place(register)));
        known.cloned().unwrap_or(Loaded { what: What::Other("register"), mask: None })
    }

    fn compare(&mut self, told: &Attributes<'_>) {
        let loaded = self.loaded(told, 1);
        let operator = told.u32(2).unwrap_or(EQUAL);
        let value = told.nested(3).get(data::VALUE).unwrap_or_default();
        let matches = match operator {
            EQUAL => loaded.equals(value),
            UNEQUAL => inverted(loaded.equals(value)),
            // Less, at most, more, at least: `NFT_CMP_LT` and on.
            _ => {
                let last = vec![0xff; value.len()];
                let first = vec![0; value.len()];
                match operator {
                    2 => inverted(loaded.between(value, &last)),
                    3 => vec![loaded.one(&first, value)],
                    4 => inverted(loaded.between(&first, value)),
                    _ => vec![loaded.one(value, &last)],
                }
            }
        };
        self.rule.matches.extend(matches);
    }

    fn range(&mut self, told: &Attributes<'_>) {
        let loaded = self.loaded(told, 1);
        let value = |kind: u16| told.nested(kind).get(data::VALUE).unwrap_or_default();
        let found = loaded.between(value(3), value(4));
        let matches = if told.u32(2) == Some(UNEQUAL) { inverted(found) } else { found };
        self.rule.matches.extend(matches);
    }

    fn lookup(&mut self, told: &Attributes<'_>) {
        const INVERTED: u32 = 1;

        let loaded = self.loaded(told, 2);
        let name = told.string(1).unwrap_or_default();
        let elements = self.sets.elements(self.table, &name);
        if told.u32(3) == Some(VERDICT_REGISTER) {
            let verdicts = elements.unwrap_or_default().iter().filter_map(|element| {
                let condition = if element.is_catchall {
                    Match::opaque("any other")
                } else {
                    loaded.one(&element.first, &element.last)
                };
                Some((condition, element.verdict.clone()?))
            });
            self.rule.action = Action::Map(verdicts.collect());
            return;
        }
        let mut condition = match elements {
            Some(elements) => loaded.among(elements),
            None => loaded.opaque(format!("@{name}")),
        };
        condition.inverted = told.u32(5).unwrap_or(0) & INVERTED != 0;
        // It looks something up, and something else is done with it.
        if told.u32(3).is_some() {
            condition = Match::opaque(format!("@{name}"));
        }
        self.rule.matches.push(condition);
    }

    fn immediate(&mut self, told: &Attributes<'_>) {
        let found = verdict(&told.nested(2)).filter(|_| told.u32(1) == Some(VERDICT_REGISTER));
        if let Some(verdict) = found {
            self.rule.action = Action::Verdict(verdict);
        }
    }

    fn xt_match(&mut self, told: &Attributes<'_>) {
        let (name, info) = (told.string(1).unwrap_or_default(), told.get(3).unwrap_or_default());
        let revision = told.u32(2).unwrap_or(0) as u8;
        if name == "comment" {
            self.rule.comment = Some(text(info));
            return;
        }
        self.rule.matches.extend(xt::matches(&name, revision, info));
    }

    fn xt_target(&mut self, told: &Attributes<'_>) {
        if let Some(verdict) = xt::target(&told.string(1).unwrap_or_default()) {
            self.rule.action = Action::Verdict(verdict);
        }
    }
}

/// Registers have two numberings: 16 bytes each, or 4.
fn place(register: u32) -> u32 {
    match register {
        1..=4 => (register - 1) * 16,
        8.. => (register - 8) * 4,
        other => 1000 + other,
    }
}

fn inverted(matches: Vec<Match>) -> Vec<Match> {
    match <[Match; 1]>::try_from(matches) {
        Ok([condition]) => vec![Match { inverted: !condition.inverted, ..condition }],
        // Not all of them hold: which one does not is open.
        Err(matches) => vec![Match::opaque(format!("not {} fields", matches.len()))],
    }
}

/// `NFTA_DATA_VERDICT`. What continues with the next rule is none.
pub(super) fn verdict(told: &Attributes<'_>) -> Option<Verdict> {
    const DROP: i32 = 0;
    const ACCEPT: i32 = 1;
    const QUEUE: i32 = 3;
    const JUMP: i32 = -3;
    const GOTO: i32 = -4;
    const RETURN: i32 = -5;

    let told = attributes(told.get(data::VERDICT)?);
    let chain = || told.string(data::VERDICT_CHAIN);
    match told.u32(data::VERDICT_CODE)?.cast_signed() {
        DROP => Some(Verdict::Stop(Stop::Drop)),
        ACCEPT => Some(Verdict::Accept),
        QUEUE => Some(Verdict::Stop(Stop::Queue)),
        JUMP => Some(Verdict::Jump(chain()?)),
        GOTO => Some(Verdict::Goto(chain()?)),
        RETURN => Some(Verdict::Return),
        _ => None,
    }
}
