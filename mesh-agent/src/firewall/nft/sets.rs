//! Sets and maps: what a lookup can find.

use std::collections::BTreeMap;

use super::constants::{attribute, message as kind};
use super::expressions::verdict;
use crate::firewall::ruleset::Verdict;
use crate::netfilter::message::{Attributes, attributes, messages};

/// By family, table and name.
#[derive(Debug, Default)]
pub(super) struct Sets(BTreeMap<(u8, String, String), Set>);

#[derive(Debug, Default)]
pub(super) struct Set {
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) name: String,
    is_interval: bool,
    key_type: u32,
    key_length: u32,
    is_verdict_map: bool,
    elements: Vec<Element>,
}

/// Keys from the first to the last, and the verdict for them, if the set is a map of verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
    pub(super) verdict: Option<Verdict>,
    /// Stands for all keys that no other element has.
    pub(super) is_catchall: bool,
    ends: bool,
}

/// Sets whose elements decide something that can be judged: addresses are not known, and there may be very many of them.
pub(super) fn worth_reading(bytes: &[u8]) -> Vec<Set> {
    /// nft's number for names of interfaces (nftables, datatype.h).
    const INTERFACE_NAME: u32 = 41;
    let tells = |set: &Set| match set.key_length {
        // Ports and protocols.
        0..=2 => true,
        // Written into the rule itself, so not large.
        4 => !set.is_interval && set.name.starts_with("__"),
        _ => set.key_type == INTERFACE_NAME,
    };
    let sets = messages(bytes).filter(|message| message.kind == kind::NEW_SET);
    let sets = sets.filter_map(|message| set(message.family(), &message.attributes()));
    sets.filter(|set| set.is_verdict_map || tells(set)).collect()
}

fn set(family: u8, told: &Attributes<'_>) -> Option<Set> {
    const INTERVAL: u32 = 4;
    const VERDICT: u32 = 0xffff_ff00;

    Some(Set {
        family,
        table: told.string(attribute::set::TABLE)?,
        name: told.string(attribute::set::NAME)?,
        is_interval: told.u32(attribute::set::FLAGS).unwrap_or(0) & INTERVAL != 0,
        key_type: told.u32(attribute::set::KEY_TYPE).unwrap_or(0),
        key_length: told.u32(attribute::set::KEY_LENGTH).unwrap_or(0),
        is_verdict_map: told.u32(attribute::set::DATA_TYPE) == Some(VERDICT),
        elements: Vec::new(),
    })
}

impl Sets {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut sets = Self::default();
        for message in messages(bytes).filter(|message| message.kind == kind::NEW_SET) {
            if let Some(set) = set(message.family(), &message.attributes()) {
                sets.0.insert((set.family, set.table.clone(), set.name.clone()), set);
            }
        }
        for message in messages(bytes).filter(|message| message.kind == kind::NEW_ELEMENT) {
            let told = message.attributes();
            let names =
                told.string(attribute::element_list::TABLE).zip(told.string(attribute::element_list::SET));
            let Some((table, name)) = names else { continue };
            let Some(set) = sets.0.get_mut(&(message.family(), table, name)) else { continue };
            let elements = told.nested(attribute::element_list::ELEMENTS);
            set.elements.extend(elements.map(|(_, told)| element(&attributes(told))));
        }
        for set in sets.0.values_mut().filter(|set| set.is_interval) {
            set.elements = intervals(std::mem::take(&mut set.elements));
        }
        sets
    }

    /// What is in a set; `None` if it was not read.
    pub(super) fn elements(&self, (family, table): &(u8, String), name: &str) -> Option<&[Element]> {
        let set = self.0.get(&(*family, table.clone(), name.to_owned()))?;
        (!set.elements.is_empty()).then_some(&set.elements)
    }
}

fn element(told: &Attributes<'_>) -> Element {
    const INTERVAL_END: u32 = 1;
    const CATCHALL: u32 = 2;

    let key = told.nested(attribute::element::KEY).get(attribute::data::VALUE).unwrap_or_default().to_vec();
    let flags = told.u32(attribute::element::FLAGS).unwrap_or(0);
    Element {
        first: key.clone(),
        last: key,
        verdict: verdict(&told.nested(attribute::element::DATA)),
        is_catchall: flags & CATCHALL != 0,
        ends: flags & INTERVAL_END != 0,
    }
}

/// An interval is told as its first key, and one behind its last that ends it; one without an end goes to the last key of all.
fn intervals(mut elements: Vec<Element>) -> Vec<Element> {
    // An end comes before a beginning at the same key.
    elements.sort_by(|a, b| (&a.first, !a.ends).cmp(&(&b.first, !b.ends)));
    let mut whole = Vec::new();
    let mut following = elements.into_iter().peekable();
    while let Some(element) = following.next() {
        if element.ends {
            continue;
        }
        if element.is_catchall {
            whole.push(element);
            continue;
        }
        let last = match following.peek() {
            Some(next) => before(&next.first),
            None => vec![0xff; element.first.len()],
        };
        whole.push(Element { last, ..element });
    }
    whole
}

fn before(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    for byte in key.iter_mut().rev() {
        let (less, borrows) = byte.overflowing_sub(1);
        *byte = less;
        if !borrows {
            break;
        }
    }
    key
}
