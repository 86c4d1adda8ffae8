//! The rules of `nf_tables`, as the kernel tells them by netlink (`linux/netfilter/nf_tables.h`). Those that `iptables-nft` makes are
//! among them; its matches and targets come as xtables' own, see [`super::xt`].

mod constants;
mod expressions;
mod register;
mod sets;

use std::io;

use self::constants::{attribute, family, hook, message as kind};
use self::expressions::Reader;
use self::sets::Sets;
use super::ruleset::{Backend, Base, Chain, Family, Hook, Ruleset, Table};
use crate::netfilter::message::{Message, attributes, messages, string};
use crate::netfilter::{Dump, Socket};

/// A number that changes with every change of the rules; `None` where the kernel has no `nf_tables`.
pub(super) fn generation() -> io::Result<Option<u32>> {
    optional(ask_generation())
}

fn ask_generation() -> io::Result<u32> {
    let answer = Socket::open()?.get(kind::GET_GENERATION, 0, &[])?;
    let generation = messages(&answer.bytes)
        .filter(|message| message.kind == kind::NEW_GENERATION)
        .find_map(|message| message.attributes().u32(attribute::generation::ID));
    generation.ok_or_else(|| io::Error::other("the kernel does not tell its generation"))
}

/// All that the kernel has, as it tells it; nothing where it has no `nf_tables`.
pub(super) fn dump() -> io::Result<Vec<u8>> {
    /// Of a look at rules that change all the time the last one counts.
    const ATTEMPTS: usize = 5;

    let mut bytes = Vec::new();
    for _ in 0..ATTEMPTS {
        let Some(before) = generation()? else { return Ok(Vec::new()) };
        let dump = dump_once()?;
        bytes = dump.bytes;
        if !dump.is_interrupted && generation()? == Some(before) {
            break;
        }
    }
    Ok(bytes)
}

fn dump_once() -> io::Result<Dump> {
    let mut socket = Socket::open()?;
    let mut whole = Dump::default();
    let mut take = |dump: Dump| {
        whole.is_interrupted |= dump.is_interrupted;
        whole.bytes.extend(dump.bytes);
    };
    for kind in [kind::GET_TABLE, kind::GET_CHAIN, kind::GET_RULE] {
        take(socket.dump(kind, family::ANY, &[])?);
    }
    let sets = socket.dump(kind::GET_SET, family::ANY, &[])?;
    for set in sets::worth_reading(&sets.bytes) {
        let which = [
            string(attribute::element_list::TABLE, &set.table),
            string(attribute::element_list::SET, &set.name),
        ];
        match socket.dump(kind::GET_ELEMENT, set.family, &which.concat()) {
            Ok(elements) => take(elements),
            // The set has gone meanwhile, and the generation tells.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    take(sets);
    Ok(whole)
}

/// What a kernel says that has no `nf_tables` at all, or has not been asked for it before and may not load it.
fn optional<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What the messages of a [`dump`] say.
pub(super) fn parse(bytes: &[u8]) -> Ruleset {
    let sets = Sets::of(bytes);
    let mut ruleset = Ruleset::default();
    for message in messages(bytes) {
        match message.kind {
            kind::NEW_TABLE => ruleset.tables.extend(table(&message)),
            kind::NEW_CHAIN => chain(&mut ruleset, &message),
            kind::NEW_RULE => rule(&mut ruleset, &message, &sets),
            _ => {}
        }
    }
    ruleset
}

fn table(message: &Message<'_>) -> Option<Table> {
    const DORMANT: u32 = 1;

    let told = message.attributes();
    let is_dormant = told.u32(attribute::table::FLAGS).unwrap_or(0) & DORMANT != 0;
    let name = told.string(attribute::table::NAME).filter(|_| !is_dormant)?;
    Some(Table { family: family_of(message)?, name, backend: Backend::NfTables, ..Table::default() })
}

/// `None` for families whose rules do not see IPv4 packets on their way.
fn family_of(message: &Message<'_>) -> Option<Family> {
    match message.family() {
        family::INET => Some(Family::Inet),
        family::IPV4 => Some(Family::Ip),
        family::NETDEV => Some(Family::Netdev),
        _ => None,
    }
}

fn table_of<'a>(ruleset: &'a mut Ruleset, message: &Message<'_>, name: u16) -> Option<&'a mut Table> {
    let (family, name) = (family_of(message)?, message.attributes().string(name)?);
    ruleset.tables.iter_mut().find(|table| table.family == family && table.name == name)
}

fn chain(ruleset: &mut Ruleset, message: &Message<'_>) {
    let told = message.attributes();
    let Some(table) = table_of(ruleset, message, attribute::chain::TABLE) else { return };
    let Some(name) = told.string(attribute::chain::NAME) else { return };
    let base = base(table.family, message);
    // One at another hook is of no interest, and nobody jumps to a base chain.
    if base.is_some() || told.get(attribute::chain::HOOK).is_none() {
        table.chains.insert(name, Chain { base, rules: Vec::new() });
    }
}

fn base(family: Family, message: &Message<'_>) -> Option<Base> {
    let told = message.attributes();
    let place = told.nested(attribute::chain::HOOK);
    let number = place.u32(attribute::hook::NUMBER)?;
    let hook = match (family, number) {
        (Family::Netdev, hook::NETDEV_INGRESS) | (Family::Inet, hook::INET_INGRESS) => Hook::Ingress,
        (Family::Ip | Family::Inet, hook::PREROUTING) => Hook::Prerouting,
        (Family::Ip | Family::Inet, hook::FORWARD) => Hook::Forward,
        _ => return None,
    };
    let list = place.nested(attribute::hook::DEVICES).map(|(_, name)| crate::netfilter::message::text(name));
    Some(Base {
        hook,
        priority: place.u32(attribute::hook::PRIORITY).unwrap_or(0).cast_signed(),
        devices: place.string(attribute::hook::DEVICE).into_iter().chain(list).collect(),
        drops: told.u32(attribute::chain::POLICY) == Some(0),
    })
}

fn rule(ruleset: &mut Ruleset, message: &Message<'_>, sets: &Sets) {
    let told = message.attributes();
    let Some(table) = table_of(ruleset, message, attribute::rule::TABLE) else { return };
    let key = (message.family(), table.name.clone());
    let Some(chain) = told.string(attribute::rule::CHAIN).and_then(|name| table.chains.get_mut(&name)) else {
        return;
    };
    let mut reader = Reader::new(sets, &key);
    for (_, expression) in told.nested(attribute::rule::EXPRESSIONS) {
        reader.read(&attributes(expression));
    }
    let mut rule = reader.finish();
    rule.comment = rule.comment.or_else(|| comment(told.get(attribute::rule::USER_DATA)?));
    chain.rules.push(rule);
}

/// `nft` keeps it among the bytes that the kernel keeps for it (libnftnl, `nftnl_udata`): kind 0, length, text.
fn comment(mut data: &[u8]) -> Option<String> {
    loop {
        let (kind, length) = (*data.first()?, usize::from(*data.get(1)?));
        let value = data.get(2..2 + length)?;
        if kind == 0 {
            return Some(crate::netfilter::message::text(value));
        }
        data = &data[2 + length..];
    }
}
