//! The names on one network.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::shared_map::SharedMap;

/// The names on one network. They are kept and looked up in lower case. Copies share what they have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkNames {
    pub id: String,
    pub name: String,
    name_in_lower_case: String,
    hosts: SharedMap<Arc<str>, Host>,
    reverse: SharedMap<Ipv4Addr, Vec<(Owner, Reverse)>>,
    claims: SharedMap<Owner, Claims>,
}

/// Whom names come from, in the order in which they are told where several have one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// By its id, as the others.
    Service(Arc<str>),
    /// A container on another node that was attached by hand: a task without a service.
    Attached(Arc<str>),
    /// One on this node.
    Container(Arc<str>),
}

/// What an owner has on the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Claims {
    names: Box<[Arc<str>]>,
    addresses: Box<[Ipv4Addr]>,
}

/// The names of one owner on a network, and its addresses.
#[derive(Debug, Default)]
pub(super) struct Part {
    hosts: BTreeMap<String, Claim>,
    reverse: BTreeMap<Ipv4Addr, Reverse>,
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
    One { owner: Owner, address: Ipv4Addr, ttl: u32 },
    Group(Box<Group>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    /// In the order of the owners; there is one at least.
    claims: Vec<(Owner, Claim)>,
    /// All claims in one, if there are several.
    merged: Option<Claim>,
}

/// What one owner says that a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Claim {
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

    /// Of several claims to one address, that of a task which is answered with counts.
    pub fn reverse(&self, address: Ipv4Addr) -> Option<&Reverse> {
        let claims = self.reverse.get(&address)?;
        let answered = claims.iter().find(|(_, reverse)| reverse.is_answered_with);
        answered.or_else(|| claims.first()).map(|(_, reverse)| reverse)
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Puts this part in the place of what the owner had here. Where others have the same name, it stands for all of them.
    pub(super) fn set(&mut self, owner: &Owner, part: Part) {
        if let Some(claims) = self.claims.remove(owner) {
            self.withdraw(owner, &claims);
        }
        if part.hosts.is_empty() && part.reverse.is_empty() {
            return;
        }
        let mut names = Vec::with_capacity(part.hosts.len());
        for (name, claim) in part.hosts {
            let name: Arc<str> = name.into();
            names.push(name.clone());
            match self.hosts.get_mut(&*name) {
                Some(host) => host.add(owner, claim),
                None => self.hosts.insert(name, Host::of(owner, claim)),
            }
        }
        let addresses = part.reverse.keys().copied().collect();
        for (address, reverse) in part.reverse {
            match self.reverse.get_mut(&address) {
                Some(claims) => {
                    let place = claims.partition_point(|(known, _)| known < owner);
                    claims.insert(place, (owner.clone(), reverse));
                }
                None => self.reverse.insert(address, vec![(owner.clone(), reverse)]),
            }
        }
        self.claims.insert(owner.clone(), Claims { names: names.into(), addresses });
    }

    fn withdraw(&mut self, owner: &Owner, claims: &Claims) {
        for name in &claims.names {
            if self.hosts.get_mut(name).is_some_and(|host| host.withdraw(owner)) {
                self.hosts.remove(name);
            }
        }
        for address in &claims.addresses {
            let Some(claims) = self.reverse.get_mut(address) else { continue };
            claims.retain(|(known, _)| known != owner);
            if claims.is_empty() {
                self.reverse.remove(address);
            }
        }
    }
}

impl Part {
    /// A name of one task or container. Where others of this owner have the same name, it stands for all of them.
    pub(super) fn add_single(&mut self, name: &str, addresses: &[Ipv4Addr], ttl: u32) {
        if !(name.is_empty() || addresses.is_empty()) {
            self.claim(name).own.merge(Found { addresses, ttl, ports: &[] });
        }
    }

    /// A name of a service. Where others of this owner have the same name, it stands for all of them.
    pub(super) fn add_service(&mut self, name: &str, own: Found<'_>, tasks: Found<'_>) {
        if !name.is_empty() {
            let claim = self.claim(name);
            claim.own.merge(own);
            claim.tasks.get_or_insert_default().merge(tasks);
        }
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

    /// DNS knows no other case than ASCII's (RFC 4343).
    fn claim(&mut self, name: &str) -> &mut Claim {
        self.hosts.entry(name.to_ascii_lowercase()).or_default()
    }
}

impl Found<'_> {
    /// The name exists, and nobody has it at present.
    pub(super) fn nothing(ttl: u32) -> Self {
        Found { addresses: &[], ttl, ports: &[] }
    }
}

impl Host {
    fn of(owner: &Owner, claim: Claim) -> Self {
        match (&*claim.own.addresses, &claim.tasks) {
            ([address], None) => Self::One { owner: owner.clone(), address: *address, ttl: claim.own.ttl },
            _ => Self::Group(Box::new(Group { claims: vec![(owner.clone(), claim)], merged: None })),
        }
    }

    fn own(&self) -> Found<'_> {
        match self {
            Self::One { address, ttl, .. } => {
                Found { addresses: std::slice::from_ref(address), ttl: *ttl, ports: &[] }
            }
            Self::Group(group) => group.all().map_or(Found::nothing(u32::MAX), |claim| claim.own.found()),
        }
    }

    fn tasks(&self) -> Option<Found<'_>> {
        match self {
            Self::One { .. } => None,
            Self::Group(group) => group.all()?.tasks.as_ref().map(Answers::found),
        }
    }

    fn add(&mut self, owner: &Owner, claim: Claim) {
        let mut claims = self.claims();
        let place = claims.partition_point(|(known, _)| known < owner);
        claims.insert(place, (owner.clone(), claim));
        *self = Self::from(claims);
    }

    /// Whether nothing is left.
    fn withdraw(&mut self, owner: &Owner) -> bool {
        let mut claims = self.claims();
        claims.retain(|(known, _)| known != owner);
        let is_empty = claims.is_empty();
        *self = Self::from(claims);
        is_empty
    }

    fn claims(&mut self) -> Vec<(Owner, Claim)> {
        match self {
            Self::One { owner, address, ttl } => {
                let own = Answers { addresses: vec![*address], ttl: *ttl, ports: Vec::new() };
                vec![(owner.clone(), Claim { own, tasks: None })]
            }
            Self::Group(group) => std::mem::take(&mut group.claims),
        }
    }

    fn from(mut claims: Vec<(Owner, Claim)>) -> Self {
        if claims.len() == 1
            && let Some((owner, claim)) = claims.pop()
        {
            return Self::of(&owner, claim);
        }
        let mut merged = Claim::default();
        for (_, claim) in &claims {
            merged.own.merge(claim.own.found());
            if let Some(tasks) = &claim.tasks {
                merged.tasks.get_or_insert_default().merge(tasks.found());
            }
        }
        Self::Group(Box::new(Group { claims, merged: Some(merged) }))
    }
}

impl Group {
    fn all(&self) -> Option<&Claim> {
        self.merged.as_ref().or_else(|| self.claims.first().map(|(_, claim)| claim))
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
