//! Numbers that the maps are keyed by: backend ids, turns and sets. Pure.
//!
//! They are found again in the maps after a restart, so that flows keep their backends.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mesh_common::backend::{Backend, state};
use mesh_common::frontend::Frontend;
use mesh_common::net::{Address, Port};

use super::tables::Tables;
use crate::desired::FrontendId;

/// Which backend an id stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendOwner {
    pub frontend: FrontendId,
    pub task_id: String,
}

/// What a backend looked like before a restart, when nobody remembers its task: the same place is taken for the same task.
/// One that drains is in no set, so nothing tells its frontend any more; whichever asks first may have it.
type Place = (Option<FrontendId>, Address, Address, Port, [u8; 6]);

/// There are no more backend ids, or turns, than the maps have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    #[error("all {0} backend ids are in use: give the agent more of them with --backends")]
    Backends(u32),
    #[error("all {0} places for published ports are in use")]
    Turns(u32),
    #[error(
        "there is no room for its tasks in the tables of backend sets, which hold {0} places: a service with mesh.policy=maglev takes \
         16381 of them for each of its ports and virtual addresses"
    )]
    Slots(u32),
}

/// Who has which number.
#[derive(Clone, Debug)]
pub struct Allocation {
    ids: BTreeMap<FrontendId, BTreeMap<String, u32>>,
    /// Of ids that have an owner.
    frontends: HashMap<u32, FrontendId>,
    generations: BTreeMap<u32, u32>,
    restored: BTreeMap<Place, Vec<u32>>,
    used_ids: BTreeSet<u32>,
    next_id: u32,
    id_capacity: u32,
    turns: BTreeMap<FrontendId, u32>,
    used_turns: BTreeSet<u32>,
    next_turn: u32,
    turn_capacity: u32,
    next_set: u32,
    pending_sets: BTreeMap<FrontendId, u32>,
    slot_capacity: u32,
}

impl Allocation {
    /// With so many places in sets in all.
    pub fn new(id_capacity: u32, turn_capacity: u32, slot_capacity: u32) -> Self {
        Self {
            ids: BTreeMap::new(),
            frontends: HashMap::new(),
            generations: BTreeMap::new(),
            restored: BTreeMap::new(),
            used_ids: BTreeSet::new(),
            next_id: 0,
            id_capacity,
            turns: BTreeMap::new(),
            used_turns: BTreeSet::new(),
            next_turn: 0,
            turn_capacity,
            next_set: 1,
            pending_sets: BTreeMap::new(),
            slot_capacity,
        }
    }

    /// How many places in sets there are in all.
    pub fn slots(&self) -> u32 {
        self.slot_capacity
    }

    /// Takes over the numbers that are in use in the kernel.
    pub fn restore(&mut self, tables: &Tables) {
        let mut owners = BTreeMap::new();
        let sets: BTreeMap<u32, FrontendId> =
            tables.frontends.iter().map(|(key, frontend)| (frontend.set, *key)).collect();
        for (slot, id) in &tables.slots {
            if let Some(frontend) = sets.get(&slot.set) {
                owners.insert(*id, *frontend);
            }
        }
        for (id, backend) in &tables.backends {
            if backend.state == state::DOWN {
                // What the agent before has released: flows that it had must not find whoever gets the id next.
                self.generations.insert(*id, backend.generation.wrapping_add(1));
                continue;
            }
            self.generations.insert(*id, backend.generation);
            self.used_ids.insert(*id);
            self.next_id = self.next_id.max(id + 1);
            self.restored.entry(place(owners.get(id).copied(), backend)).or_default().push(*id);
        }
        for (key, frontend) in &tables.frontends {
            self.turns.insert(*key, frontend.turn);
            self.used_turns.insert(frontend.turn);
            self.next_set = self.next_set.max(frontend.set + 1);
        }
        let highest = tables.slots.keys().map(|slot| slot.set + 1).max();
        self.next_set = self.next_set.max(highest.unwrap_or(1));
    }

    /// The id of a backend, and the generation that goes with it.
    pub fn id(&mut self, owner: &BackendOwner, backend: &Backend) -> Result<(u32, u32), Exhausted> {
        if let Some(id) = self.known_id(owner) {
            return Ok((id, self.generation(id)));
        }
        let id = match self.restored_id(owner.frontend, backend) {
            Some(id) => id,
            None => self.free_id()?,
        };
        self.ids.entry(owner.frontend).or_default().insert(owner.task_id.clone(), id);
        self.frontends.insert(id, owner.frontend);
        Ok((id, self.generation(id)))
    }

    /// The id of a backend that has one.
    pub fn known_id(&self, owner: &BackendOwner) -> Option<u32> {
        self.ids.get(&owner.frontend)?.get(&owner.task_id).copied()
    }

    /// The ids of a frontend's backends, by task.
    pub fn ids_of(&self, frontend: FrontendId) -> impl Iterator<Item = (&String, u32)> {
        self.ids.get(&frontend).into_iter().flatten().map(|(task, id)| (task, *id))
    }

    /// Whose backend an id is, if anybody's.
    pub fn owner(&self, id: u32) -> Option<FrontendId> {
        self.frontends.get(&id).copied()
    }

    /// Those that have any number.
    pub fn frontends(&self) -> impl Iterator<Item = &FrontendId> {
        self.ids.keys().chain(self.turns.keys()).chain(self.pending_sets.keys())
    }

    pub fn knows(&self, frontend: FrontendId) -> bool {
        self.ids.contains_key(&frontend)
            || self.turns.contains_key(&frontend)
            || self.pending_sets.contains_key(&frontend)
    }

    /// The set that a frontend has been given last, whether it points to it by now or not.
    pub fn newest_set(&self, frontend: FrontendId) -> Option<u32> {
        self.pending_sets.get(&frontend).copied()
    }

    /// A frontend that cannot be served keeps no ids but those that it had before, or that the kernel knows it by.
    pub fn give_back(&mut self, frontend: FrontendId, before: &BTreeSet<u32>, tables: &Tables) {
        let is_new = |id: &u32| {
            !before.contains(id) && tables.backends.get(id).is_none_or(|backend| backend.state == state::DOWN)
        };
        let new: Vec<u32> = self.ids_of(frontend).map(|(_, id)| id).filter(is_new).collect();
        for id in new {
            self.release(id);
        }
    }

    /// Ids that are none of `wanted`; they are not given out again before [`Self::release`].
    pub fn unwanted(&self, wanted: &BTreeSet<u32>) -> Vec<u32> {
        self.used_ids.difference(wanted).copied().collect()
    }

    /// An id whose backend is down in the kernel may be given out again, under another generation.
    pub fn release(&mut self, id: u32) {
        self.used_ids.remove(&id);
        if let Some(frontend) = self.frontends.remove(&id) {
            if let Some(ids) = self.ids.get_mut(&frontend) {
                ids.retain(|_, used| *used != id);
                if ids.is_empty() {
                    self.ids.remove(&frontend);
                }
            }
        } else {
            self.restored.retain(|_, ids| {
                ids.retain(|used| *used != id);
                !ids.is_empty()
            });
        }
        let generation = self.generation(id).wrapping_add(1);
        self.generations.insert(id, generation);
    }

    /// The frontend's index into `TURNS`, the same for as long as it lives.
    pub fn turn(&mut self, frontend: FrontendId) -> Result<u32, Exhausted> {
        if let Some(turn) = self.turns.get(&frontend) {
            return Ok(*turn);
        }
        let circle = (self.next_turn..self.turn_capacity).chain(0..self.next_turn);
        let free = circle.into_iter().find(|turn| !self.used_turns.contains(turn));
        let turn = free.ok_or(Exhausted::Turns(self.turn_capacity))?;
        self.next_turn = (turn + 1) % self.turn_capacity;
        self.turns.insert(frontend, turn);
        self.used_turns.insert(turn);
        Ok(turn)
    }

    pub fn release_turn(&mut self, frontend: FrontendId) {
        self.pending_sets.remove(&frontend);
        if let Some(turn) = self.turns.remove(&frontend) {
            self.used_turns.remove(&turn);
        }
    }

    /// A set number that no packet has seen. It stays the same until the frontend points to it, so that a set whose slots
    /// could be written only in part is completed, not begun again.
    pub fn new_set(&mut self, key: FrontendId, current: Option<&Frontend>) -> u32 {
        let in_use = current.map(|frontend| frontend.set);
        if let Some(set) = self.pending_sets.get(&key)
            && Some(*set) != in_use
        {
            return *set;
        }
        let set = self.next_set;
        self.next_set = self.next_set.wrapping_add(1);
        self.pending_sets.insert(key, set);
        set
    }

    fn restored_id(&mut self, frontend: FrontendId, backend: &Backend) -> Option<u32> {
        let places = [place(Some(frontend), backend), place(None, backend)];
        let (place, id) =
            places.into_iter().find_map(|place| Some((place, self.restored.get_mut(&place)?.pop()?)))?;
        if self.restored.get(&place).is_some_and(Vec::is_empty) {
            self.restored.remove(&place);
        }
        Some(id)
    }

    /// Ids are given out in a circle, so that a flow that still has one in mind finds it unused, not reused.
    fn free_id(&mut self) -> Result<u32, Exhausted> {
        let circle = (self.next_id..self.id_capacity).chain(0..self.next_id.min(self.id_capacity));
        let id = circle
            .into_iter()
            .find(|id| !self.used_ids.contains(id))
            .ok_or(Exhausted::Backends(self.id_capacity))?;
        self.used_ids.insert(id);
        self.next_id = (id + 1) % self.id_capacity;
        Ok(id)
    }

    fn generation(&self, id: u32) -> u32 {
        self.generations.get(&id).copied().unwrap_or(1)
    }
}

fn place(frontend: Option<FrontendId>, backend: &Backend) -> Place {
    (frontend, backend.node, backend.identity, backend.port, backend.mac)
}

#[cfg(test)]
mod tests {
    use mesh_common::frontend::SlotKey;

    use super::*;
    use crate::swarm::snapshot::Protocol;

    const FRONTEND: FrontendId = FrontendId::Published { port: 80, protocol: Protocol::Tcp };

    fn owner(task: &str) -> BackendOwner {
        BackendOwner { frontend: FRONTEND, task_id: task.into() }
    }

    fn backend(last: u8) -> Backend {
        Backend { identity: Address::new([10, 0, 0, last]), port: Port::new(80), ..Backend::default() }
    }

    #[test]
    fn an_id_comes_back_last_and_under_another_generation() {
        let mut allocation = Allocation::new(3, 4, 64);
        assert_eq!(allocation.id(&owner("a"), &backend(1)), Ok((0, 1)));
        assert_eq!(allocation.id(&owner("b"), &backend(2)), Ok((1, 1)));
        assert_eq!(allocation.id(&owner("a"), &backend(1)), Ok((0, 1)));
        allocation.release(0);
        assert_eq!(allocation.id(&owner("c"), &backend(3)), Ok((2, 1)));
        assert_eq!(allocation.id(&owner("d"), &backend(4)), Ok((0, 2)));
        assert_eq!(allocation.id(&owner("e"), &backend(5)), Err(Exhausted::Backends(3)));
    }

    #[test]
    fn a_restart_finds_the_ids_again() {
        let live = Backend { generation: 7, state: state::ACTIVE, ..backend(1) };
        let draining = Backend { generation: 5, state: state::DRAINING, ..backend(3) };
        let gone = Backend { generation: 3, state: state::DOWN, ..backend(2) };
        let tables = Tables {
            frontends: BTreeMap::from([(
                FRONTEND,
                Frontend { turn: 5, set: 9, count: 1, ..Frontend::default() },
            )]),
            slots: BTreeMap::from([(SlotKey { set: 9, slot: 0 }, 4)]),
            backends: BTreeMap::from([(4, live), (1, gone), (2, draining)]),
            ..Tables::default()
        };
        let mut allocation = Allocation::new(5, 16, 64);
        allocation.restore(&tables);
        assert_eq!(allocation.id(&owner("a"), &backend(1)), Ok((4, 7)));
        assert_eq!(allocation.id(&owner("c"), &backend(3)), Ok((2, 5)), "its flows go on too");
        assert_eq!(allocation.turn(FRONTEND), Ok(5));
        assert_eq!(allocation.new_set(FRONTEND, tables.frontends.get(&FRONTEND)), 10);
        assert!(allocation.unwanted(&BTreeSet::from([4, 2])).is_empty());
        assert_eq!(allocation.unwanted(&BTreeSet::new()), [2, 4]);
        let others = ["d", "e", "f"].map(|task| allocation.id(&owner(task), &backend(9)));
        assert_eq!(
            others,
            [Ok((0, 1)), Ok((1, 4)), Ok((3, 1))],
            "flows of the one that is gone do not go on"
        );
    }
}
