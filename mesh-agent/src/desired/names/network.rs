//! The names on one network.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// The names on one network. They are kept and looked up in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkNames {
    pub id: String,
    pub name: String,
    name_in_lower_case: String,
    hosts: HashMap<Box<str>, Host>,
    reverse: HashMap<Ipv4Addr, Reverse>,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    pub addresses: &'a [Ipv4Addr],
    /// For how many seconds the answer may be kept.
    pub ttl: u32,
    pub ports: &'a [ServicePort],
}

/// A port with a name, at one place (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// In lower case, like `_http._tcp`.
    pub name: String,
    pub port: u16,
    /// A name on the same network, without the network.
    pub target: Arc<str>,
    pub address: Ipv4Addr,
}

/// Whom an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reverse {
    /// Without the network.
    pub name: Arc<str>,
    pub ttl: u32,
    is_answered_with: bool,
}

/// Most names stand for one task: those are kept small.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    One { address: Ipv4Addr, ttl: u32 },
    Group(Box<Group>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    own: Answers,
    /// What the name with `tasks.` before it stands for; `None` for names of no service.
    tasks: Option<Answers>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Answers {
    addresses: Vec<Ipv4Addr>,
    ttl: u32,
    ports: Vec<ServicePort>,
}

impl NetworkNames {
    pub(super) fn new(id: &str, name: &str) -> Self {
        let name_in_lower_case = name.to_ascii_lowercase();
        Self { id: id.to_owned(), name: name.to_owned(), name_in_lower_case, ..Self::default() }
    }

    /// `name` in lower case.
    pub fn is_called(&self, name: &str) -> bool {
        self.name_in_lower_case == name
    }

    /// `name` in lower case, without the network.
    pub fn find(&self, name: &str) -> Option<Found<'_>> {
        match self.hosts.get(name) {
            Some(host) => Some(host.own()),
            None => self.hosts.get(name.strip_prefix("tasks.")?)?.tasks(),
        }
    }

    pub fn reverse(&self, address: Ipv4Addr) -> Option<&Reverse> {
        self.reverse.get(&address)
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// A name of one task or container. Where others have the same name, it stands for all of them.
    pub(super) fn add_single(&mut self, name: &str, addresses: &[Ipv4Addr], ttl: u32) {
        if name.is_empty() {
            return;
        }
        for &address in addresses {
            match self.hosts.entry(lower_case(name)) {
                Entry::Vacant(entry) => {
                    entry.insert(Host::One { address, ttl });
                }
                Entry::Occupied(mut entry) => entry.get_mut().add(address, ttl),
            }
        }
    }

    /// A name of a service. Where others have the same name, it stands for all of them.
    pub(super) fn add_service(&mut self, name: &str, own: Found<'_>, tasks: Found<'_>) {
        if name.is_empty() {
            return;
        }
        let host = self.hosts.entry(lower_case(name)).or_insert_with(|| Host::Group(Box::default()));
        let group = host.group();
        group.own.merge(own);
        group.tasks.get_or_insert_default().merge(tasks);
    }

    /// Of two claims to one address, that of a task which is answered with counts.
    pub(super) fn add_reverse(
        &mut self,
        addresses: &[Ipv4Addr],
        name: &Arc<str>,
        ttl: u32,
        is_answered_with: bool,
    ) {
        for address in addresses {
            let entry = Reverse { name: name.clone(), ttl, is_answered_with };
            let known = self.reverse.entry(*address).or_insert_with(|| entry.clone());
            if is_answered_with && !known.is_answered_with {
                *known = entry;
            }
        }
    }
}

impl Found<'_> {
    /// The name exists, and nobody has it at present.
    pub(super) fn nothing(ttl: u32) -> Self {
        Found { addresses: &[], ttl, ports: &[] }
    }
}

impl Host {
    fn own(&self) -> Found<'_> {
        match self {
            Self::One { address, ttl } => {
                Found { addresses: std::slice::from_ref(address), ttl: *ttl, ports: &[] }
            }
            Self::Group(group) => group.own.found(),
        }
    }

    fn tasks(&self) -> Option<Found<'_>> {
        match self {
            Self::One { .. } => None,
            Self::Group(group) => group.tasks.as_ref().map(Answers::found),
        }
    }

    fn add(&mut self, address: Ipv4Addr, ttl: u32) {
        // A container's hostname is its short id unless it was given another.
        if *self != (Self::One { address, ttl }) {
            self.group().own.merge(Found { addresses: &[address], ttl, ports: &[] });
        }
    }

    fn group(&mut self) -> &mut Group {
        if let Self::One { address, ttl } = *self {
            let own = Answers { addresses: vec![address], ttl, ports: Vec::new() };
            *self = Self::Group(Box::new(Group { own, tasks: None }));
        }
        match self {
            Self::Group(group) => group,
            Self::One { .. } => unreachable!("it was made a group above"),
        }
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self { addresses: Vec::new(), ttl: u32::MAX, ports: Vec::new() }
    }
}

impl Answers {
    fn found(&self) -> Found<'_> {
        Found { addresses: &self.addresses, ttl: self.ttl, ports: &self.ports }
    }

    fn merge(&mut self, other: Found<'_>) {
        self.ttl = self.ttl.min(other.ttl);
        if self.addresses.is_empty() {
            self.addresses.extend(other.addresses);
        } else {
            let known = self.addresses.len();
            let is_new = |address: &&Ipv4Addr| !self.addresses[..known].contains(address);
            let new: Vec<_> = other.addresses.iter().filter(is_new).copied().collect();
            self.addresses.extend(new);
        }
        for port in other.ports {
            if !self.ports.contains(port) {
                self.ports.push(port.clone());
            }
        }
    }
}

/// DNS knows no other case than ASCII's (RFC 4343).
fn lower_case(name: &str) -> Box<str> {
    name.to_ascii_lowercase().into_boxed_str()
}
