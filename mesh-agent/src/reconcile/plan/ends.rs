//! What is not used any more.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::frontend::{Frontend as KernelFrontend, SlotKey};

use super::{Plan, is_in_tables};
use crate::desired::{Desired, FrontendId};
use crate::reconcile::allocation::Allocation;
use crate::reconcile::tables::{Operation, Tables};

pub(super) fn plan_ends(
    plan: &mut Plan,
    desired: &Desired,
    tables: &Tables,
    allocation: &Allocation,
    wanted: &BTreeSet<u32>,
) {
    let is_gone = |id: &&FrontendId| !is_served(**id, desired, tables);
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
pub(super) fn plan_ends_of(
    plan: &mut Plan,
    ids: &BTreeSet<FrontendId>,
    desired: &Desired,
    tables: &Tables,
    allocation: &Allocation,
    wanted: &BTreeSet<u32>,
) {
    for id in ids {
        let is_gone = !is_served(*id, desired, tables);
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
        let unfinished = allocation.newest_set(*id).filter(|set| next != Some(*set));
        let current = current.map(|current| current.set);
        let left = current.filter(|current| is_gone || next.is_some_and(|next| next != *current));
        for set in left.into_iter().chain(unfinished.filter(|set| Some(*set) != current)) {
            plan.remove(Some(*id), in_set(tables, set, 0));
        }
    }
}

/// Whether a frontend has anything to be in the tables for. One that is left to Docker has not, if it could not be written before.
fn is_served(id: FrontendId, desired: &Desired, tables: &Tables) -> bool {
    desired.frontends.get(&id).is_some_and(|frontend| is_in_tables(id, frontend, tables))
}

/// Takes away the slots of a set from this one on.
fn in_set(tables: &Tables, set: u32, first: u32) -> impl Iterator<Item = Operation> {
    let slots = tables.slots.range(SlotKey { set, slot: first }..=SlotKey { set, slot: u32::MAX });
    slots.map(|(slot, _)| Operation::DeleteSlot(*slot))
}

fn new_frontend(operation: &Operation) -> Option<&KernelFrontend> {
    if let Operation::SetFrontend(_, frontend) = operation { Some(frontend) } else { None }
}
