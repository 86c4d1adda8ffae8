//! What a register holds, and what is known of a packet once that is compared.

use super::sets::Element;
use crate::firewall::ruleset::{Field, Match, NamePattern, Test};
use crate::netfilter::message::text;

/// What a register holds.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) what: What,
    /// Bits that are looked at, in the order of memory; `None` for all.
    pub(super) mask: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// Bytes of a header: `NFT_PAYLOAD_…`.
    Payload {
        base: u32,
        offset: u32,
        length: u32,
    },
    /// A number in this machine's byte order, or with `is_big` in the network's.
    Number {
        field: Field,
        is_big: bool,
    },
    Name(Field),
    Other(&'static str),
}

/// A header's field: where it is.
struct HeaderField {
    base: u32,
    offset: u32,
    length: u32,
    field: Field,
}

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const HEADER_FIELDS: [HeaderField; 6] = [
    HeaderField { base: NETWORK_HEADER, offset: 9, length: 1, field: Field::Protocol },
    HeaderField { base: NETWORK_HEADER, offset: 12, length: 4, field: Field::Source },
    HeaderField { base: NETWORK_HEADER, offset: 16, length: 4, field: Field::Destination },
    HeaderField { base: TRANSPORT_HEADER, offset: 0, length: 2, field: Field::SourcePort },
    HeaderField { base: TRANSPORT_HEADER, offset: 2, length: 2, field: Field::DestinationPort },
    HeaderField { base: TRANSPORT_HEADER, offset: 13, length: 1, field: Field::TcpFlags },
];

/// `NFT_META_…`.
pub(super) fn meta(key: u32) -> What {
    match key {
        1 => What::Number { field: Field::EtherType, is_big: true },
        4 => What::Number { field: Field::InIndex, is_big: false },
        5 => What::Number { field: Field::OutIndex, is_big: false },
        6 => What::Name(Field::InInterface),
        7 => What::Name(Field::OutInterface),
        15 => What::Number { field: Field::Family, is_big: false },
        16 => What::Number { field: Field::Protocol, is_big: false },
        18 => What::Number { field: Field::PacketType, is_big: false },
        3 => What::Other("meta mark"),
        _ => What::Other("meta"),
    }
}

/// `NFT_CT_…`; direction 0 is that of the first packet.
pub(super) fn conntrack(key: u32, direction: Option<u8>) -> What {
    match (key, direction) {
        (0, _) => What::Number { field: Field::ConntrackState, is_big: false },
        (1, _) => What::Number { field: Field::ConntrackDirection, is_big: false },
        (2, _) => What::Number { field: Field::ConntrackStatus, is_big: false },
        (9 | 20, Some(0)) => What::Number { field: Field::OriginalDestination, is_big: true },
        (12, Some(0)) => What::Number { field: Field::OriginalPort, is_big: true },
        _ => What::Other("ct"),
    }
}

/// `NFT_FIB_RESULT_…` and `NFTA_FIB_F_…`.
pub(super) fn fib(result: Option<u32>, flags: Option<u32>) -> What {
    const ADDRESS_TYPE: u32 = 3;
    const DESTINATION: u32 = 2;

    if result == Some(ADDRESS_TYPE) && flags.is_some_and(|flags| flags & DESTINATION != 0) {
        What::Number { field: Field::DestinationType, is_big: false }
    } else {
        What::Other("fib")
    }
}

impl Loaded {
    /// One condition, or several where neighbouring fields are compared at once.
    pub(super) fn equals(&self, value: &[u8]) -> Vec<Match> {
        if let What::Payload { base, offset, length } = &self.what
            && self.mask.is_none()
            && let Some(matches) = split(*base, *offset, *length, value)
        {
            return matches;
        }
        vec![self.one(value, value)]
    }

    pub(super) fn between(&self, first: &[u8], last: &[u8]) -> Vec<Match> {
        vec![self.one(first, last)]
    }

    pub(super) fn among(&self, elements: &[Element]) -> Match {
        let conditions: Vec<Match> =
            elements.iter().map(|element| self.one(&element.first, &element.last)).collect();
        let mut whole = conditions.first().cloned().unwrap_or_else(|| self.opaque(String::new()));
        for condition in &conditions[1..] {
            match (&mut whole.test, &condition.test) {
                (Test::Number { ranges, .. }, Test::Number { ranges: more, .. }) => ranges.extend(more),
                (Test::Name(names), Test::Name(more)) => names.extend(more.iter().cloned()),
                _ => return self.opaque("a set".into()),
            }
        }
        whole
    }

    /// That the value is from `first` to `last`.
    pub(super) fn one(&self, first: &[u8], last: &[u8]) -> Match {
        let (field, is_big) = match &self.what {
            What::Name(field) if first == last => return name(*field, first),
            What::Number { field, is_big } => (*field, *is_big),
            What::Payload { base, offset, length } => {
                match HEADER_FIELDS
                    .iter()
                    .find(|known| known.is_at(*base, *offset) && known.length >= *length)
                {
                    Some(known) => return self.header(known, first, last),
                    None => return self.opaque("payload".into()),
                }
            }
            What::Name(_) | What::Other(_) => return self.opaque(String::new()),
        };
        let read = |bytes: &[u8]| number(bytes, is_big);
        match (read(first), read(last), self.mask.as_deref().map(read)) {
            (Some(first), Some(last), None) => Match::number(field, vec![(first, last)], false),
            (Some(first), Some(last), Some(Some(mask))) => {
                Match { field, test: Test::Number { mask, ranges: vec![(first, last)] }, inverted: false }
            }
            _ => self.opaque(String::new()),
        }
    }

    /// A header's field, or the beginning of one.
    fn header(&self, known: &HeaderField, first: &[u8], last: &[u8]) -> Match {
        let missing = known.length as usize - first.len().min(known.length as usize);
        let pad = |bytes: &[u8], with: u8| {
            let mut bytes = bytes.to_vec();
            bytes.resize(bytes.len() + missing, with);
            number(&bytes, true)
        };
        let (Some(from), Some(to)) = (pad(first, 0), pad(last, 0xff)) else {
            return self.opaque(String::new());
        };
        let Some(mask) = &self.mask else { return Match::number(known.field, vec![(from, to)], false) };
        let whole = if known.length == 4 { u32::MAX } else { (1 << (8 * known.length)) - 1 };
        match pad(mask, 0) {
            // The beginning of an address.
            Some(mask) if (mask | !whole).leading_ones() + mask.trailing_zeros() >= 32 && first == last => {
                Match::number(known.field, vec![(from & mask, (from & mask) | (whole & !mask))], false)
            }
            Some(mask) => {
                let test = Test::Number { mask, ranges: vec![(from & mask, from & mask)] };
                Match { field: known.field, test, inverted: false }
            }
            None => self.opaque(String::new()),
        }
    }

    pub(super) fn opaque(&self, with: String) -> Match {
        let field = match &self.what {
            What::Number { field, .. } | What::Name(field) => *field,
            What::Payload { base, offset, .. } => {
                let known = HEADER_FIELDS.iter().find(|known| known.is_at(*base, *offset));
                known.map_or(Field::Other, |known| known.field)
            }
            What::Other(name) => return Match::opaque(format!("{name} {with}").trim().to_owned()),
        };
        Match { field, test: Test::Opaque(with), inverted: false }
    }
}

impl HeaderField {
    fn is_at(&self, base: u32, offset: u32) -> bool {
        self.base == base && self.offset == offset
    }
}

/// nft compares neighbouring fields at once: each of them on its own.
fn split(base: u32, offset: u32, length: u32, value: &[u8]) -> Option<Vec<Match>> {
    let end = offset.checked_add(length)?;
    let within = HEADER_FIELDS
        .iter()
        .filter(|known| known.base == base && known.offset >= offset && known.offset + known.length <= end);
    let matches: Vec<Match> = within
        .filter_map(|known| {
            let from = (known.offset - offset) as usize;
            let number = number(value.get(from..from + known.length as usize)?, true)?;
            Some(Match::number(known.field, vec![(number, number)], false))
        })
        .collect();
    (matches.len() > 1).then_some(matches)
}

/// A whole name ends with a zero byte; one without is the beginning of names.
fn name(field: Field, value: &[u8]) -> Match {
    let pattern = NamePattern { name: text(value), is_prefix: !value.contains(&0) && value.len() < 16 };
    Match { field, test: Test::Name(vec![pattern]), inverted: false }
}

fn number(bytes: &[u8], is_big: bool) -> Option<u32> {
    let mut whole = [0; 4];
    if bytes.is_empty() || bytes.len() > 4 {
        return None;
    }
    if is_big {
        whole[4 - bytes.len()..].copy_from_slice(bytes);
        Some(u32::from_be_bytes(whole))
    } else {
        whole[..bytes.len()].copy_from_slice(bytes);
        Some(u32::from_le_bytes(whole))
    }
}
