//! What has to be done so that the kernel's tables say what is desired. Pure.

mod ends;
mod frontend;
mod ports;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use mesh_common::backend::{Backend as KernelBackend, state};
use mesh_common::frontend::{Frontend as KernelFrontend, SlotKey};
use mesh_common::net::Address;
use mesh_common::peer::Peer;
use mesh_common::settings::Settings;

use ends::{plan_ends, plan_ends_of};
use frontend::plan_frontend;
use ports::{plan_ports, plan_ports_of};
use room::Room;

use super::allocation::{Allocation, Exhausted};
use super::tables::{Operation, Tables};
use crate::desired::{Desired, Frontend, FrontendId};

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

/// The backends of a frontend in the order of its slots.
pub(super) fn slots(frontend: &KernelFrontend, tables: &Tables) -> Vec<u32> {
    (0..frontend.count)
        .filter_map(|slot| tables.slots.get(&SlotKey { set: frontend.set, slot }).copied())
        .collect()
}

#[cfg(test)]
mod tests;
