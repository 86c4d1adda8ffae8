//! The rules of legacy iptables (`linux/netfilter_ipv4/ip_tables.h)`: tables as the kernel has them, in one piece each.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Error, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use super::ruleset::{
    Action, Backend, Base, Chain, Family, Field, Hook, Match, NamePattern, Rule, Ruleset, Stop, Table, Test,
    Verdict,
};
use super::xt;
use crate::netfilter::message::text;

/// `struct ipt_getinfo`.
pub(super) const INFO: usize = 84;
/// `struct ipt_get_entries` in front of its entries.
const ENTRIES: usize = 40;
/// `struct ipt_entry` in front of its matches.
const ENTRY: usize = 112;
/// `struct xt_entry_match` and `struct xt_entry_target` in front of their data.
const EXTENSION: usize = 32;
/// `NF_INET_…`.
const HOOKS: [(usize, &str, Option<Hook>); 5] = [
    (0, "PREROUTING", Some(Hook::Prerouting)),
    (1, "INPUT", None),
    (2, "FORWARD", Some(Hook::Forward)),
    (3, "OUTPUT", None),
    (4, "POSTROUTING", None),
];

/// A table as the kernel tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) info: Vec<u8>,
    pub(super) entries: Vec<u8>,
}

/// The tables that there are. Asking for one that is not there would make it.
pub(super) fn dump() -> io::Result<Vec<Raw>> {
    let names = match fs::read_to_string("/proc/thread-self/net/ip_tables_names") {
        Ok(names) => names,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    names.lines().map(table).collect()
}

fn table(name: &str) -> io::Result<Raw> {
    /// A table that is changed between the two questions has another size in the second.
    const ATTEMPTS: usize = 5;

    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut failed = Error::from(ErrorKind::Interrupted);
    for _ in 0..ATTEMPTS {
        match read(&socket, name) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => failed = error,
            other => return other,
        }
    }
    Err(failed)
}

fn read(socket: &UdpSocket, name: &str) -> io::Result<Raw> {
    const GET_INFO: libc::c_int = 64;
    const GET_ENTRIES: libc::c_int = 65;

    let mut info = vec![0; INFO];
    let name = name.as_bytes().get(..31.min(name.len())).unwrap_or_default();
    info[..name.len()].copy_from_slice(name);
    ask(socket, GET_INFO, &mut info)?;
    let size = number(&info, INFO - 4).ok_or(ErrorKind::InvalidData)?;
    let mut entries = vec![0; ENTRIES + size as usize];
    entries[..name.len()].copy_from_slice(name);
    entries[32..36].copy_from_slice(&size.to_ne_bytes());
    ask(socket, GET_ENTRIES, &mut entries)?;
    entries.drain(..ENTRIES);
    Ok(Raw { info, entries })
}

fn ask(socket: &UdpSocket, what: libc::c_int, bytes: &mut [u8]) -> io::Result<()> {
    let mut length = bytes.len() as libc::socklen_t;
    // SAFETY: the buffer is as long as `length` says, and lives through the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_IP, what, bytes.as_mut_ptr().cast(), &raw mut length)
    };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// What the tables say.
pub(super) fn parse(tables: &[Raw]) -> Ruleset {
    Ruleset { tables: tables.iter().filter_map(parse_table).collect() }
}

fn parse_table(raw: &Raw) -> Option<Table> {
    let hooks = number(&raw.info, 32)?;
    let (mut chains, mut names) = (BTreeMap::<String, Chain>::new(), BTreeMap::<usize, String>::new());
    let mut bases = BTreeMap::new();
    for (number_of, name, hook) in HOOKS.iter().filter(|(number, ..)| hooks & (1 << number) != 0) {
        bases.insert(number(&raw.info, 36 + 4 * number_of)? as usize, (*name, *hook));
    }
    let underflows: Vec<usize> =
        HOOKS.iter().filter_map(|(place, ..)| Some(number(&raw.info, 56 + 4 * place)? as usize)).collect();
    // Jumps lead to the first rule of a chain, behind the entry that has its name.
    let mut current = String::new();
    let mut rules: Vec<(String, usize, Entry<'_>)> = Vec::new();
    for entry in entries(&raw.entries) {
        if let Some((name, hook)) = bases.get(&entry.place) {
            (*name).clone_into(&mut current);
            let base = hook.map(|hook| Base { hook, priority: 0, devices: Vec::new(), drops: false });
            chains.insert(current.clone(), Chain { base, rules: Vec::new() });
        } else if entry.target_name() == "ERROR" {
            current = text(entry.target_data());
            chains.insert(current.clone(), Chain::default());
            names.insert(entry.place + entry.bytes.len(), current.clone());
            continue;
        }
        rules.push((current.clone(), entry.place, entry));
    }
    for (name, place, entry) in rules {
        let Some(chain) = chains.get_mut(&name) else { continue };
        match (&mut chain.base, underflows.contains(&place)) {
            (Some(base), true) => base.drops = entry.verdict(&names) == Some(Verdict::Stop(Stop::Drop)),
            _ => chain.rules.push(entry.rule(&names)),
        }
    }
    // Packets enter by the hooks alone, and INPUT's and others' rules are of no interest.
    chains.retain(|name, chain| chain.base.is_some() || !HOOKS.iter().any(|(_, known, _)| known == name));
    Some(Table { family: Family::Ip, name: text(&raw.info[..32]), backend: Backend::Legacy, chains })
}

/// `struct ipt_entry`, with what belongs to it.
#[derive(Clone, Copy)]
struct Entry<'a> {
    /// Where it stands in the table.
    place: usize,
    bytes: &'a [u8],
    target: usize,
}

fn entries(bytes: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let mut place = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(place..)?;
        let (target, next) = (short(rest, 88)? as usize, short(rest, 90)? as usize);
        let bytes = rest.get(..next).filter(|_| target >= ENTRY && next >= target + EXTENSION)?;
        let entry = Entry { place, bytes, target };
        place += next;
        Some(entry)
    })
}

impl Entry<'_> {
    fn target_name(&self) -> String {
        text(&self.bytes[self.target + 2..self.target + 31])
    }

    fn target_data(&self) -> &[u8] {
        &self.bytes[self.target + EXTENSION..]
    }

    fn rule(&self, chains: &BTreeMap<usize, String>) -> Rule {
        let mut rule = Rule { matches: self.addresses(), ..Rule::default() };
        let mut at = ENTRY;
        while let Some(size) = short(self.bytes, at).filter(|size| *size as usize >= EXTENSION)
            && at < self.target
        {
            let (end, name) = (at + size as usize, at + 2..at + 31);
            let Some(info) = self.bytes.get(at + EXTENSION..end) else { break };
            match text(&self.bytes[name]).as_str() {
                "comment" => rule.comment = Some(text(info)),
                name => rule.matches.extend(xt::matches(name, self.bytes[at + 31], info)),
            }
            at = end;
        }
        if let Some(verdict) = self.verdict(chains) {
            rule.action = Action::Verdict(verdict);
        }
        rule
    }

    /// `struct ipt_ip`.
    fn addresses(&self) -> Vec<Match> {
        const IN_INTERFACE: u8 = 1;
        const OUT_INTERFACE: u8 = 2;
        const SOURCE: u8 = 8;
        const DESTINATION: u8 = 0x10;
        const FRAGMENT: u8 = 0x20;
        const PROTOCOL: u8 = 0x40;

        let (flags, inverted) = (self.bytes[82], self.bytes[83]);
        let is_inverted = |flag: u8| inverted & flag != 0;
        let address = |at: usize| {
            number(self.bytes, at).map_or(Ipv4Addr::UNSPECIFIED, |address| u32::from_be(address).into())
        };
        let mut all = Vec::new();
        for (field, at, flag) in [(Field::Source, 0, SOURCE), (Field::Destination, 4, DESTINATION)] {
            let mask = address(at + 8);
            if mask != Ipv4Addr::UNSPECIFIED || is_inverted(flag) {
                let subnet = Match::subnet(field, address(at), mask, is_inverted(flag));
                all.push(subnet.unwrap_or(Match { field, ..Match::opaque("") }));
            }
        }
        for (field, at, flag) in
            [(Field::InInterface, 16, IN_INTERFACE), (Field::OutInterface, 32, OUT_INTERFACE)]
        {
            let (name, mask) = (&self.bytes[at..at + 16], &self.bytes[at + 32..at + 48]);
            let length = mask.iter().take_while(|byte| **byte != 0).count();
            if length > 0 {
                // The zero byte behind a whole name counts too.
                let is_prefix = name[length - 1] != 0;
                let pattern = NamePattern { name: text(&name[..length]), is_prefix };
                all.push(Match { field, test: Test::Name(vec![pattern]), inverted: is_inverted(flag) });
            }
        }
        let protocol = short(self.bytes, 80).unwrap_or(0).into();
        if protocol != 0 {
            all.push(Match::number(Field::Protocol, vec![(protocol, protocol)], is_inverted(PROTOCOL)));
        }
        if flags & 1 != 0 || is_inverted(FRAGMENT) {
            all.push(Match::opaque("-f"));
        }
        all
    }

    /// What the target decides, if it does.
    fn verdict(&self, chains: &BTreeMap<usize, String>) -> Option<Verdict> {
        const DROP: i32 = -1;
        const ACCEPT: i32 = -2;
        const QUEUE: i32 = -4;
        const RETURN: i32 = -5;
        const GOTO: u8 = 2;

        let name = self.target_name();
        if !name.is_empty() {
            return xt::target(&name);
        }
        match number(self.target_data(), 0)?.cast_signed() {
            DROP => Some(Verdict::Stop(Stop::Drop)),
            ACCEPT => Some(Verdict::Accept),
            QUEUE => Some(Verdict::Stop(Stop::Queue)),
            RETURN => Some(Verdict::Return),
            // To a chain; to the next rule from one without a target.
            place => {
                let chain = chains.get(&usize::try_from(place).ok()?)?.clone();
                Some(if self.bytes[82] & GOTO != 0 { Verdict::Goto(chain) } else { Verdict::Jump(chain) })
            }
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
