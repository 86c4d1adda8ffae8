//! What has to be done so that the kernel's tables say what is desired. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use mesh_common::backend::{self, Backend as KernelBackend, state};
use mesh_common::frontend::{Frontend as KernelFrontend, PortBit, SlotKey, flags, policy};
use mesh_common::net::{Address, Port, protocol};
use mesh_common::peer::Peer;
use mesh_common::settings::Settings;

use super::allocation::{Allocation, BackendOwner, Exhausted};
use super::tables::{Operation, Tables};
use crate::desired::spread::{self, MAGLEV_SLOTS, Share};
use crate::desired::{Backend, Desired, Frontend, FrontendId, Home, Policy, State, protocol_number};

/// What the plan needs to know of this node besides what is desired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    pub settings: Settings,
    pub addresses: BTreeSet<Address>,
    /// Interface indexes of all uplinks.
    pub uplinks: BTreeSet<u32>,
    /// Those of the ports of bridges among them, each with its bridge's.
    pub uplink_ports: BTreeMap<u32, u32>,
    /// Interface index towards each peer; `default_uplink` for those that are not in it.
    pub towards: BTreeMap<Address, u32>,
    /// How each peer is reached; in no particular way those that are not in it.
    pub peers: BTreeMap<Address, Peer>,
    /// The largest IP packet that this node's interfaces and routes take to each peer, whatever gets there.
    pub mtus: BTreeMap<Ipv4Addr, u16>,
    pub default_uplink: u32,
    /// Where the resolver answers whom ([`mesh_common::asker`]), by the cookies of network namespaces.
    pub askers: BTreeMap<u64, u32>,
}

/// Operations in the order in which they must be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What frontends need to be there before them: each by itself.
    pub before: Vec<Operation>,
    /// One that fails ends those of its frontend.
    pub frontends: BTreeMap<FrontendId, Vec<Operation>>,
    /// Which packets are looked at.
    pub ports: Vec<Operation>,
    /// What is not used any more once the packets on their way have passed; of a frontend, if all of it is done.
    pub after: BTreeMap<Owner, Remains>,
    /// Frontends that cannot be served for want of room. What is there of them stays.
    pub impossible: BTreeMap<FrontendId, Exhausted>,
}

/// The frontend that something belongs to; the node, or nobody any more, if it is none.
pub type Owner = Option<FrontendId>;

/// What is left over of a frontend, or of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    pub operations: Vec<Operation>,
    /// Ids that are free then.
    pub released: Vec<u32>,
    /// The frontend is gone: its turn is free then.
    pub has_ended: bool,
}

impl Remains {
    /// What may go even though its frontend could not be written: backends that nothing leads to. `in_use` are those that
    /// something still does.
    #[must_use]
    pub fn unused(mut self, in_use: &BTreeSet<u32>) -> Self {
        self.released.retain(|id| !in_use.contains(id));
        self.operations
            .retain(|operation| matches!(operation, Operation::SetBackend(id, _) if !in_use.contains(id)));
        Self { has_ended: false, ..self }
    }
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.before.is_empty()
            && self.ports.is_empty()
            && self.after.is_empty()
            && self.frontends.values().all(Vec::is_empty)
    }

    fn remove(&mut self, owner: Owner, operations: impl IntoIterator<Item = Operation>) {
        let mut operations = operations.into_iter().peekable();
        if operations.peek().is_some() {
            self.after.entry(owner).or_default().operations.extend(operations);
        }
    }

    /// Nobody's backend any more.
    fn release(&mut self, owner: Owner, id: u32, tables: &Tables) {
        self.after.entry(owner).or_default().released.push(id);
        if let Some(backend) = tables.backends.get(&id).filter(|backend| backend.state != state::DOWN) {
            self.remove(owner, [Operation::SetBackend(id, KernelBackend { state: state::DOWN, ..*backend })]);
        }
    }

    fn end(&mut self, frontend: FrontendId, tables: &Tables) {
        self.after.entry(Some(frontend)).or_default().has_ended = true;
        let is_there = tables.frontends.contains_key(&frontend);
        self.remove(Some(frontend), is_there.then_some(Operation::DeleteFrontend(frontend)));
    }
}

/// What a plan is to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Everything,
    /// Beside the node itself only these; the tables are as they shall be for all others.
    Frontends(BTreeSet<FrontendId>),
}

/// The way from `tables` to `desired`.
pub fn plan(
    desired: &Desired,
    node: &NodeFacts,
    tables: &Tables,
    allocation: &mut Allocation,
    scope: &Scope,
) -> Plan {
    let mut plan = Plan::default();
    plan_node(&mut plan, desired, node, tables);
    let mut wanted = BTreeSet::new();
    let mut room = Room::left(tables, allocation.slots());
    let mut look_at = |id: FrontendId, frontend: &Frontend| {
        if !is_in_tables(id, frontend, tables) {
            return;
        }
        let before: BTreeSet<u32> = allocation.ids_of(id).map(|(_, backend)| backend).collect();
        match plan_frontend(id, frontend, node, tables, allocation, &mut room) {
            Ok(planned) => {
                wanted.extend(planned.backends);
                if !planned.operations.is_empty() {
                    plan.frontends.insert(id, planned.operations);
                }
            }
            Err(exhausted) => {
                allocation.give_back(id, &before, tables);
                wanted.extend(allocation.ids_of(id).map(|(_, backend)| backend));
                wanted.extend(tables.frontends.get(&id).into_iter().flat_map(|there| slots(there, tables)));
                plan.impossible.insert(id, exhausted);
            }
        }
    };
    match scope {
        Scope::Everything => {
            desired.frontends.iter().for_each(|(id, frontend)| look_at(*id, frontend));
            plan_ports(&mut plan, desired, node, tables);
            plan_ends(&mut plan, desired, tables, allocation, &wanted);
        }
        Scope::Frontends(ids) => {
            let there = ids.iter().filter_map(|id| Some((*id, desired.frontends.get(id)?)));
            there.for_each(|(id, frontend)| look_at(id, frontend));
            plan_ports_of(&mut plan, ids, desired, node, tables);
            plan_ends_of(&mut plan, ids, desired, tables, allocation, &wanted);
        }
    }
    plan
}

/// What is left to Docker stays in the tables only if it has been there: for the flows that it has.
fn is_in_tables(id: FrontendId, frontend: &Frontend, tables: &Tables) -> bool {
    frontend.left.is_none() || tables.frontends.contains_key(&id)
}

/// What of a frontend is Docker's. When the mesh takes one, Docker may carry connections of it: which, is read then
/// ([`super::handover`]).
fn handover(frontend: &Frontend, current: Option<&KernelFrontend>) -> u8 {
    match current.map(|current| current.flags) {
        _ if frontend.left.is_some() => flags::LEFT,
        Some(known) if known & flags::LEFT == 0 => known,
        _ => flags::UNREAD | flags::SHARED,
    }
}

fn plan_node(plan: &mut Plan, desired: &Desired, node: &NodeFacts, tables: &Tables) {
    if tables.settings != Some(node.settings) {
        plan.before.push(Operation::SetSettings(node.settings));
    }
    let addresses = &node.addresses;
    plan.before.extend(addresses.difference(&tables.addresses).copied().map(Operation::AddAddress));
    plan.remove(None, tables.addresses.difference(addresses).copied().map(Operation::DeleteAddress));

    let peers: BTreeSet<Address> = desired.peers.iter().copied().map(Address::from).collect();
    for peer in &peers {
        let value: Peer = node.peers.get(peer).copied().unwrap_or_default();
        if tables.peers.get(peer) != Some(&value) {
            plan.before.push(Operation::SetPeer(*peer, value));
        }
    }
    let gone = tables.peers.keys().filter(|peer| !peers.contains(peer));
    plan.remove(None, gone.copied().map(Operation::DeletePeer));

    for (cookie, place) in &node.askers {
        if tables.askers.get(cookie) != Some(place) {
            plan.before.push(Operation::SetAsker(*cookie, *place));
        }
    }
    let gone = tables.askers.keys().filter(|cookie| !node.askers.contains_key(cookie));
    plan.remove(None, gone.copied().map(Operation::DeleteAsker));

    for (key, task) in &desired.deliveries {
        if tables.tasks.get(key) != Some(task) {
            plan.before.push(Operation::SetTask(*key, *task));
        }
    }
    let gone = tables.tasks.keys().filter(|key| !desired.deliveries.contains_key(*key));
    plan.remove(None, gone.copied().map(Operation::DeleteTask));

    let uplinks = &node.uplinks;
    plan.before.extend(uplinks.difference(&tables.uplinks).copied().map(Operation::AddUplink));
    plan.remove(None, tables.uplinks.difference(uplinks).copied().map(Operation::DeleteUplink));

    for (port, bridge) in &node.uplink_ports {
        if tables.uplink_ports.get(port) != Some(bridge) {
            plan.before.push(Operation::SetUplinkPort(*port, *bridge));
        }
    }
    let gone = tables.uplink_ports.keys().filter(|port| !node.uplink_ports.contains_key(*port));
    plan.remove(None, gone.copied().map(Operation::DeleteUplinkPort));
}

/// Places in sets that are left. Maglev tables may take all but an eighth, so that no number of them keeps others out.
struct Room {
    capacity: u32,
    all: usize,
    maglev: usize,
}

impl Room {
    fn left(tables: &Tables, capacity: u32) -> Self {
        let frontends = tables.frontends.values();
        let maglev = frontends.filter(|frontend| frontend.count == MAGLEV_SLOTS).count();
        let places = capacity as usize;
        Self {
            capacity,
            all: places.saturating_sub(tables.slots.len()),
            maglev: (places - places / 8).saturating_sub(maglev * MAGLEV_SLOTS as usize),
        }
    }

    /// Whether a Maglev table has any: it takes a while to make one.
    fn has_maglev(&self) -> bool {
        self.maglev.min(self.all) >= MAGLEV_SLOTS as usize
    }

    fn take(&mut self, policy: Policy, places: usize) -> Result<(), Exhausted> {
        let is_maglev = policy == Policy::Maglev;
        if places > self.all || is_maglev && places > self.maglev {
            return Err(Exhausted::Slots(self.capacity));
        }
        self.all -= places;
        if is_maglev {
            self.maglev -= places;
        }
        Ok(())
    }
}

/// What has to be done for a frontend.
struct Planned {
    operations: Vec<Operation>,
    /// The ids of its backends.
    backends: BTreeSet<u32>,
}

/// Backends first, then the slots of the new set, then the frontend itself: one write that a packet sees or does not.
fn plan_frontend(
    id: FrontendId,
    frontend: &Frontend,
    node: &NodeFacts,
    tables: &Tables,
    allocation: &mut Allocation,
    room: &mut Room,
) -> Result<Planned, Exhausted> {
    let current = tables.frontends.get(&id);
    if frontend.policy == Policy::Maglev
        && current.is_none_or(|current| current.count != MAGLEV_SLOTS)
        && !room.has_maglev()
    {
        return Err(Exhausted::Slots(room.capacity));
    }
    let mut wanted = BTreeSet::new();
    let mut operations = Vec::new();
    let mut active = Vec::new();
    let mut leaving = Vec::new();
    for (task_id, backend) in &frontend.backends {
        let owner = BackendOwner { frontend: id, task_id: task_id.clone() };
        let mut value = kernel_backend(backend, node);
        let (backend_id, generation) = allocation.id(&owner, &value)?;
        value.generation = generation;
        wanted.insert(backend_id);
        let known = tables.backends.get(&backend_id);
        let differs = known != Some(&value);
        // An id that was never used has counted nothing.
        if known.is_some_and(|known| known.generation != generation) {
            operations.push(Operation::ClearCounters(backend_id));
        }
        if backend.state == State::Active {
            active.push((task_id.as_str(), backend.weight, backend_id));
            operations.extend(differs.then_some(Operation::SetBackend(backend_id, value)));
        } else {
            leaving.extend(differs.then_some(Operation::SetBackend(backend_id, value)));
        }
    }
    let active = in_slots(frontend.policy, &active);
    let value = KernelFrontend {
        count: active.len() as u32,
        flags: handover(frontend, current),
        ..kernel_frontend(frontend)
    };
    if let Some(current) = current.filter(|current| may_change_in_place(frontend, current, value.count)) {
        operations.extend(set_slots(current.set, &active, tables));
        let value = KernelFrontend { turn: current.turn, set: current.set, ..value };
        operations.extend((value != *current).then_some(Operation::SetFrontend(id, value)));
    } else if current.is_none_or(|current| {
        slots(current, tables) != active
            || *current != KernelFrontend { turn: current.turn, set: current.set, ..value }
    }) {
        let set = allocation.new_set(id, current);
        let slots = set_slots(set, &active, tables);
        room.take(frontend.policy, slots.len())?;
        operations.extend(slots);
        let value = KernelFrontend { turn: allocation.turn(id)?, set, ..value };
        operations.push(Operation::SetFrontend(id, value));
    }
    // A backend stops being active only when no set gives it new flows any more.
    operations.extend(leaving);
    Ok(Planned { operations, backends: wanted })
}

/// The backends in the slots of a set, by policy.
fn in_slots(policy: Policy, active: &[(&str, u32, u32)]) -> Vec<u32> {
    let shares: Vec<_> = active.iter().map(|(name, weight, _)| Share { name, weight: *weight }).collect();
    let places = match policy {
        Policy::Maglev => spread::maglev(&shares, MAGLEV_SLOTS),
        Policy::RoundRobin | Policy::LeastConnections | Policy::Random => spread::in_turns(&shares),
    };
    places.into_iter().map(|place| active[place].2).collect()
}

/// In a Maglev table each slot stands for itself: a packet that looks at one sees the old backend or the new one. So only
/// those that change are written.
fn may_change_in_place(frontend: &Frontend, current: &KernelFrontend, count: u32) -> bool {
    frontend.policy == Policy::Maglev && current.count == count && count == MAGLEV_SLOTS
}

fn set_slots(set: u32, backends: &[u32], tables: &Tables) -> Vec<Operation> {
    let slots = backends.iter().zip(0..).map(|(backend, slot)| (SlotKey { set, slot }, *backend));
    let changed = slots.filter(|(slot, backend)| tables.slots.get(slot) != Some(backend));
    changed.map(|(slot, backend)| Operation::SetSlot(slot, backend)).collect()
}

/// Without what depends on the tables.
fn kernel_frontend(frontend: &Frontend) -> KernelFrontend {
    let affinity = frontend.affinity.map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    let policy = match frontend.policy {
        Policy::RoundRobin => policy::ROUND_ROBIN,
        Policy::Maglev => policy::MAGLEV,
        Policy::LeastConnections => policy::LEAST_CONNECTIONS,
        Policy::Random => policy::RANDOM,
    };
    KernelFrontend { policy, affinity, ..KernelFrontend::default() }
}

/// A port's bit is set when there is a frontend behind it. The tunnel's own port is among them: one test is enough for
/// the packets that are not ours.
fn plan_ports(plan: &mut Plan, desired: &Desired, node: &NodeFacts, tables: &Tables) {
    let mut words = BTreeMap::<u32, u64>::new();
    let there = desired.frontends.iter().filter(|(id, frontend)| is_in_tables(**id, frontend, tables));
    let published = there.filter_map(|(id, _)| match id {
        FrontendId::Published { port, protocol } => Some((protocol_number(*protocol), Port::new(*port))),
        FrontendId::Vip { .. } => None,
    });
    for (protocol, port) in published.chain([(protocol::UDP, node.settings.tunnel_port)]) {
        let bit = PortBit::of(protocol, port);
        *words.entry(bit.word).or_default() |= bit.mask;
    }
    for word in tables.ports.keys().chain(words.keys()).copied().collect::<BTreeSet<_>>() {
        let (now, then) = (tables.ports.get(&word).copied(), words.get(&word).copied());
        if now != then {
            plan.ports.push(Operation::SetPorts(word, then.unwrap_or(0)));
        }
    }
}

/// [`plan_ports`] for the bits of these frontends.
fn plan_ports_of(
    plan: &mut Plan,
    ids: &BTreeSet<FrontendId>,
    desired: &Desired,
    node: &NodeFacts,
    tables: &Tables,
) {
    let tunnel = (protocol::UDP, node.settings.tunnel_port);
    let mut words = BTreeMap::<u32, u64>::new();
    for id in ids {
        let FrontendId::Published { port, protocol } = id else { continue };
        let place = (protocol_number(*protocol), Port::new(*port));
        let bit = PortBit::of(place.0, place.1);
        let word = words.entry(bit.word).or_insert_with(|| tables.ports.get(&bit.word).copied().unwrap_or(0));
        *word &= !bit.mask;
        let is_there = desired.frontends.get(id).is_some_and(|frontend| is_in_tables(*id, frontend, tables));
        if is_there || place == tunnel {
            *word |= bit.mask;
        }
    }
    for (word, bits) in words {
        if tables.ports.get(&word).copied().unwrap_or(0) != bits {
            plan.ports.push(Operation::SetPorts(word, bits));
        }
    }
}

fn plan_ends(
    plan: &mut Plan,
    desired: &Desired,
    tables: &Tables,
    allocation: &Allocation,
    wanted: &BTreeSet<u32>,
) {
    let is_gone = |id: &&FrontendId| !desired.frontends.contains_key(id);
    let known = tables.frontends.keys().chain(allocation.frontends()).filter(is_gone);
    known.copied().collect::<BTreeSet<_>>().into_iter().for_each(|id| plan.end(id, tables));
    for id in allocation.unwanted(wanted) {
        plan.release(allocation.owner(id), id, tables);
    }
    let mut changed = BTreeSet::new();
    for operation in plan.frontends.values().flatten() {
        if let Operation::SetFrontend(id, _) = operation {
            changed.insert(*id);
        }
    }
    let live = tables
        .frontends
        .iter()
        .filter(|(id, _)| desired.frontends.contains_key(id) && !changed.contains(*id));
    let counts: BTreeMap<u32, u32> = live.map(|(_, frontend)| (frontend.set, frontend.count)).collect();
    let in_use = |slot: &SlotKey| counts.get(&slot.set).is_some_and(|count| slot.slot < *count);
    let written = plan.frontends.values().flatten().filter_map(new_frontend);
    let written: BTreeMap<u32, u32> = written.map(|frontend| (frontend.set, frontend.count)).collect();
    let is_written = |slot: &SlotKey| written.get(&slot.set).is_some_and(|count| slot.slot < *count);
    let stale = tables.slots.keys().filter(|slot| !in_use(slot) && !is_written(slot));
    let owners: BTreeMap<u32, FrontendId> =
        tables.frontends.iter().map(|(id, frontend)| (frontend.set, *id)).collect();
    for slot in stale {
        plan.remove(owners.get(&slot.set).copied(), [Operation::DeleteSlot(*slot)]);
    }
}

/// [`plan_ends`] for these frontends.
fn plan_ends_of(
    plan: &mut Plan,
    ids: &BTreeSet<FrontendId>,
    desired: &Desired,
    tables: &Tables,
    allocation: &Allocation,
    wanted: &BTreeSet<u32>,
) {
    for id in ids {
        let is_gone = !desired.frontends.contains_key(id);
        let current = tables.frontends.get(id);
        if is_gone && (current.is_some() || allocation.knows(*id)) {
            plan.end(*id, tables);
        }
        for (_, backend) in allocation.ids_of(*id).filter(|(_, backend)| !wanted.contains(backend)) {
            plan.release(Some(*id), backend, tables);
        }
        let next = plan.frontends.get(id).into_iter().flatten().find_map(new_frontend).copied();
        if let Some(next) = next {
            // Behind the end of a set is what it had when it could be written only in part, for more tasks.
            plan.remove(Some(*id), in_set(tables, next.set, next.count));
        }
        let next = next.map(|next| next.set);
        // Of a set that could be written only in part nothing is needed any more either.
        let unfinished = allocation.unfinished_set(*id).filter(|set| next != Some(*set));
        let current = current.map(|current| current.set);
        let left = current.filter(|current| is_gone || next.is_some_and(|next| next != *current));
        for set in left.into_iter().chain(unfinished.filter(|set| Some(*set) != current)) {
            plan.remove(Some(*id), in_set(tables, set, 0));
        }
    }
}

/// Takes away the slots of a set from this one on.
fn in_set(tables: &Tables, set: u32, first: u32) -> impl Iterator<Item = Operation> {
    let slots = tables.slots.range(SlotKey { set, slot: first }..=SlotKey { set, slot: u32::MAX });
    slots.map(|(slot, _)| Operation::DeleteSlot(*slot))
}

fn new_frontend(operation: &Operation) -> Option<&KernelFrontend> {
    if let Operation::SetFrontend(_, frontend) = operation { Some(frontend) } else { None }
}

/// The backends of a frontend in the order of its slots.
pub(super) fn slots(frontend: &KernelFrontend, tables: &Tables) -> Vec<u32> {
    (0..frontend.count)
        .filter_map(|slot| tables.slots.get(&SlotKey { set: frontend.set, slot }).copied())
        .collect()
}

fn kernel_backend(backend: &Backend, node: &NodeFacts) -> KernelBackend {
    let mut value = KernelBackend {
        identity: backend.identity.into(),
        port: Port::new(backend.port),
        state: match backend.state {
            State::Active => backend::state::ACTIVE,
            State::Draining => backend::state::DRAINING,
        },
        flags: backend.return_by.flags(),
        ..KernelBackend::default()
    };
    match backend.home {
        Home::Here(endpoint) => {
            value.bridge = endpoint.address.into();
            value.mac = endpoint.mac;
            value.interface = endpoint.port.unwrap_or(0);
            value.namespace = endpoint.namespace.and_then(|id| id.checked_add(1)).unwrap_or(0);
        }
        Home::Overlay(mac) => value.mac = mac,
        Home::There(address) => {
            value.node = address.into();
            value.interface = node.towards.get(&value.node).copied().unwrap_or(node.default_uplink);
        }
    }
    value
}

#[cfg(test)]
mod tests;
