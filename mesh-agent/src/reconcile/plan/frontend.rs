//! What has to be done so that one frontend is as it shall be: its backends, the slots of its set, and itself.

use std::collections::BTreeSet;

use mesh_common::backend::{self, Backend as KernelBackend};
use mesh_common::frontend::{Frontend as KernelFrontend, SlotKey, flags, policy};
use mesh_common::net::Port;

use super::room::Room;
use super::{NodeFacts, slots};
use crate::desired::spread::{self, MAGLEV_SLOTS, Share};
use crate::desired::{Backend, Frontend, FrontendId, Home, Policy, State};
use crate::reconcile::allocation::{Allocation, BackendOwner, Exhausted};
use crate::reconcile::tables::{Operation, Tables};

/// What has to be done for a frontend.
pub(super) struct Planned {
    pub(super) operations: Vec<Operation>,
    /// The ids of its backends.
    pub(super) backends: BTreeSet<u32>,
}

/// Backends first, then the slots of the new set, then the frontend itself: one write that a packet sees or does not.
pub(super) fn plan_frontend(
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

/// What of a frontend is Docker's. When the mesh takes one, Docker may carry connections of it: which, is read then
/// ([`crate::reconcile::handover`]).
fn handover(frontend: &Frontend, current: Option<&KernelFrontend>) -> u8 {
    match current.map(|current| current.flags) {
        _ if frontend.left.is_some() => flags::LEFT,
        Some(known) if known & flags::LEFT == 0 => known,
        _ => flags::UNREAD | flags::SHARED,
    }
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
