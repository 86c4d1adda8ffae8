//! The tables get to what is desired whatever fails, one frontend that cannot be written holds up no other one, and whatever is
//! removed makes room again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use mesh_common::backend::state;
use mesh_common::frontend::SlotKey;
use mesh_common::maps;
use proptest::prelude::*;

use super::plan::NodeFacts;
use super::reconciler::Reconciler;
use super::tables::Tables;
use crate::dataplane::memory::Memory;
use crate::desired::{Backend, Desired, Frontend, FrontendId, Home, Policy, Return, State};
use crate::swarm::snapshot::Protocol;

const WEB: u16 = 80;

const fn port(port: u16) -> FrontendId {
    FrontendId::Published { port, protocol: Protocol::Tcp }
}

pub(super) fn backend(last: u8) -> Backend {
    Backend {
        home: Home::There(Ipv4Addr::new(10, 99, 0, 2)),
        identity: Ipv4Addr::new(10, 0, 0, last),
        port: 80,
        state: State::Active,
        return_by: Return::Tunnel,
        weight: 1,
        drain: None,
        since: 0,
    }
}

fn frontend(tasks: &BTreeSet<u8>, policy: Policy) -> Frontend {
    let backends = tasks.iter().map(|task| (format!("t{task}"), backend(*task)));
    Frontend { service_id: "s".into(), policy, backends: backends.collect(), ..Frontend::default() }
}

/// For each port its tasks.
type Ports = BTreeMap<u16, BTreeSet<u8>>;

fn desired(ports: &Ports) -> Desired {
    let frontends = ports.iter().map(|(id, tasks)| (port(*id), frontend(tasks, Policy::RoundRobin)));
    Desired { frontends: frontends.collect(), ..Desired::default() }
}

/// One port with these tasks.
fn web<const N: usize>(tasks: [u8; N]) -> Desired {
    desired(&Ports::from([(WEB, BTreeSet::from(tasks))]))
}

/// An agent on tables of these sizes, and its clock.
struct Node {
    reconciler: Reconciler<Memory>,
    now: Instant,
}

impl Node {
    fn new(memory: Memory, backends: u32) -> Self {
        Self { reconciler: Reconciler::new(memory, backends).unwrap(), now: Instant::now() }
    }

    fn round(&mut self, desired: &Desired) {
        let rest = self.reconciler.begin(desired, &NodeFacts::default(), self.now);
        self.reconciler.finish(&rest);
    }

    /// Rounds until all that may be tried again has been.
    fn settle(&mut self, desired: &Desired) {
        for _ in 0..6 {
            self.round(desired);
            self.now += Duration::from_mins(1);
        }
    }

    fn tables(&self) -> &Tables {
        self.reconciler.tables()
    }

    fn memory(&mut self) -> &mut Memory {
        self.reconciler.dataplane_mut()
    }

    /// The tasks behind a port, as packets find them.
    fn served(&self, id: u16) -> Option<BTreeSet<u8>> {
        let tables = self.tables();
        let there = tables.frontends.get(&port(id))?;
        let ids = (0..there.count).map(|slot| tables.slots[&SlotKey { set: there.set, slot }]);
        Some(ids.map(|id| tables.backends[&id].identity.octets()[3]).collect())
    }

    fn leads_nobody_astray(&self) -> bool {
        let tables = self.tables();
        tables.frontends.values().all(|there| {
            (0..there.count).all(|slot| {
                let id = tables.slots.get(&SlotKey { set: there.set, slot });
                id.is_some_and(|id| tables.backends[id].state == state::ACTIVE)
            })
        })
    }
}

fn tasks() -> impl Strategy<Value = BTreeSet<u8>> {
    prop::collection::btree_set(1_u8..8, 0..6)
}

proptest! {
    #[test]
    fn whatever_is_removed_room_comes_back(
        steps in prop::collection::vec(prop::collection::btree_map(1_u16..7, tasks(), 0..6), 1..8),
        last in prop::collection::btree_map(1_u16..4, prop::collection::btree_set(1_u8..8, 0..3), 0..4),
        failing in 0_usize..7,
    ) {
        // Room for what the last step wants, twice, and for less than others do.
        let memory = Memory { slots: 12, frontends: 4, ..Memory::default() };
        let mut node = Node::new(memory, 14);
        for ports in &steps {
            let desired = desired(ports);
            node.memory().failing = failing;
            node.settle(&desired);
            prop_assert!(node.leads_nobody_astray());
            for (id, tasks) in ports {
                let is_told = node.reconciler.problems().frontends.contains_key(&port(*id));
                prop_assert!(is_told || node.served(*id).as_ref() == Some(tasks), "port {}", id);
            }
        }
        node.memory().failing = 0;
        node.settle(&desired(&last));
        prop_assert!(node.reconciler.problems().is_empty(), "{:?}", node.reconciler.problems());
        for (id, tasks) in &last {
            prop_assert_eq!(node.served(*id), Some(tasks.clone()));
        }
        node.settle(&Desired::default());
        let tables = node.tables();
        prop_assert!(tables.frontends.is_empty() && tables.slots.is_empty());
        prop_assert!(tables.backends.values().all(|backend| backend.state == state::DOWN));
    }
}

#[test]
fn with_every_third_write_failing_the_tables_get_there_and_never_point_at_nothing() {
    let mut node = Node::new(Memory { failing: 3, ..Memory::default() }, maps::BACKENDS);
    for tasks in [BTreeSet::from([1, 2, 3]), [2, 3].into(), [4, 5, 6, 7].into(), BTreeSet::new()] {
        for _ in 0..20 {
            node.round(&desired(&Ports::from([(WEB, tasks.clone())])));
            node.now += Duration::from_mins(1);
            assert!(node.leads_nobody_astray());
        }
        assert!(node.reconciler.problems().is_empty());
        assert_eq!(node.served(WEB), Some(tasks));
        let there = node.memory().tables.clone();
        assert_eq!(*node.tables(), there);
    }
}

#[test]
fn a_problem_is_named_at_its_frontend_until_it_is_gone() {
    // Node facts and ports take one write each; the third one is the frontend's.
    let mut node = Node::new(Memory { failing: 3, ..Memory::default() }, maps::BACKENDS);
    node.round(&web([1]));
    assert!(node.reconciler.problems().frontends.contains_key(&port(WEB)));
    node.memory().failing = 0;
    node.settle(&web([1]));
    assert!(node.reconciler.problems().is_empty());
}

#[test]
fn an_agent_that_starts_again_changes_nothing() {
    let mut node = Node::new(Memory::default(), maps::BACKENDS);
    node.round(&web([1, 2, 3]));
    let before = node.tables().clone();
    let mut node = Node::new(Memory { tables: before.clone(), ..Memory::default() }, maps::BACKENDS);
    node.round(&web([1, 2, 3]));
    assert_eq!(node.memory().changes, 0);
    assert_eq!(*node.tables(), before);
}

#[test]
fn somebody_elses_change_is_put_right() {
    let mut node = Node::new(Memory::default(), maps::BACKENDS);
    node.round(&web([1, 2]));
    node.memory().tables.frontends.clear();
    node.reconciler.refresh();
    node.round(&web([1, 2]));
    assert_eq!(node.memory().tables.frontends.len(), 1);
    assert_eq!(node.memory().tables.slots.len(), 2);
}

#[test]
fn a_frontend_that_the_kernel_never_takes_holds_up_no_other_one() {
    let mut node = Node::new(Memory { refused: Some(port(1)), ..Memory::default() }, 64);
    for step in 0..200_u8 {
        let tasks = |first: u8| BTreeSet::from([first + step % 3, first + 4]);
        let ports = Ports::from([(1, tasks(1)), (2, tasks(2)), (3, tasks(3))]);
        node.round(&desired(&ports));
        node.now += Duration::from_millis(300);
        assert_eq!((node.served(2), node.served(3)), (Some(tasks(2)), Some(tasks(3))), "step {step}");
        assert!(node.reconciler.problems().frontends.keys().eq([&port(1)]), "step {step}");
        let live = node.tables().backends.values().filter(|backend| backend.state != state::DOWN).count();
        assert!(live <= 6 && node.tables().slots.len() <= 6, "step {step}: {live} backends");
    }
}

#[test]
fn services_with_large_sets_leave_room_for_all_others() {
    const MANY: u16 = 60;

    let mut node = Node::new(Memory { slots: maps::SLOTS as usize, ..Memory::default() }, 1024);
    let maglev = |id: u16| (port(1_000 + id), frontend(&BTreeSet::from([1, 2]), Policy::Maglev));
    let mut all = desired(&Ports::from([(80, BTreeSet::from([1, 2, 3]))]));
    all.frontends.extend((0..MANY).map(maglev));
    node.round(&all);
    let problems = &node.reconciler.problems().frontends;
    assert_eq!(problems.len(), 4);
    assert!(problems.values().all(|problem| problem.contains("mesh.policy=maglev")), "{problems:?}");
    assert_eq!(node.served(80), Some(BTreeSet::from([1, 2, 3])));

    // One goes, and the first of those that wait has its place.
    all.frontends.remove(&port(1_000));
    node.round(&all);
    node.round(&all);
    assert_eq!(node.reconciler.problems().frontends.len(), 3);
}
