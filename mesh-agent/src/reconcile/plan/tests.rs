//! Any change of what is desired ends in tables that say it, and never points a packet at what is not there.

use std::net::Ipv4Addr;

use mesh_common::frontend::PortBit;
use mesh_common::net::{Port, protocol};
use proptest::prelude::*;

use super::*;
use crate::desired::{Backend, State};
use crate::reconcile::allocation::BackendOwner;
use crate::reconcile::tests;
use crate::swarm::snapshot::Protocol;

fn backend(last: u8, state: State) -> Backend {
    Backend { state, ..tests::backend(last) }
}

/// For each port the tasks behind it, and whether they are active.
fn desired(ports: &BTreeMap<u16, BTreeMap<u8, bool>>) -> Desired {
    let frontends = ports.iter().map(|(port, tasks)| {
        let state = |active| if active { State::Active } else { State::Draining };
        let backends =
            tasks.iter().map(|(last, active)| (format!("t{last}"), backend(*last, state(*active))));
        let frontend =
            Frontend { service_id: "s".into(), backends: backends.collect(), ..Frontend::default() };
        (FrontendId::Published { port: *port, protocol: Protocol::Tcp }, frontend)
    });
    Desired { frontends: frontends.collect(), ..Desired::default() }
}

fn node() -> NodeFacts {
    NodeFacts {
        settings: Settings { tunnel_port: Port::new(4799), ..Settings::default() },
        ..NodeFacts::default()
    }
}

/// Carries a plan out, and looks at every step whether packets find what they are sent to.
fn carry_out(plan: &Plan, tables: &mut Tables, allocation: &mut Allocation) {
    for operation in
        plan.before.iter().chain(plan.frontends.values().flatten()).chain(&plan.ports).chain(removals(plan))
    {
        tables.apply(operation);
        for frontend in tables.frontends.values() {
            let slots = slots(frontend, tables);
            assert_eq!(slots.len(), frontend.count as usize, "after {operation:?}");
            for id in slots {
                assert_eq!(tables.backends[&id].state, state::ACTIVE, "after {operation:?}");
            }
        }
    }
    for (owner, remains) in &plan.after {
        remains.released.iter().for_each(|id| allocation.release(*id));
        owner.filter(|_| remains.has_ended).into_iter().for_each(|id| allocation.release_turn(id));
    }
}

fn removals(plan: &Plan) -> impl Iterator<Item = &Operation> {
    plan.after.values().flat_map(|remains| &remains.operations)
}

fn number(id: FrontendId) -> u16 {
    match id {
        FrontendId::Published { port, .. } => port,
        FrontendId::Vip { .. } => 0,
    }
}

/// The active tasks behind each port, as a packet finds them.
fn served(tables: &Tables) -> BTreeMap<u16, BTreeSet<u8>> {
    let tasks = |frontend: &KernelFrontend| {
        slots(frontend, tables).iter().map(|id| tables.backends[id].identity.octets()[3]).collect()
    };
    tables.frontends.iter().map(|(id, frontend)| (number(*id), tasks(frontend))).collect()
}

proptest! {
    #[test]
    fn every_step_of_every_change_leaves_frontends_whole(
        steps in prop::collection::vec(
            prop::collection::btree_map(1_u16..4, prop::collection::btree_map(1_u8..6, any::<bool>(), 0..5), 0..4),
            1..6,
        )
    ) {
        let (mut tables, mut allocation) = (Tables::default(), Allocation::new(64, 16, 1024));
        let mut scope = Scope::Everything;
        let mut before = Desired::default();
        for ports in &steps {
            let desired = desired(ports);
            if tables.settings.is_some() {
                let changed = desired.frontends.differences(&before.frontends);
                scope = Scope::Frontends(changed.into_iter().map(|difference| *difference.key).collect());
            }
            let step = plan(&desired, &node(), &tables, &mut allocation, &scope);
            carry_out(&step, &mut tables, &mut allocation);

            let active = |tasks: &BTreeMap<u8, bool>| tasks.iter().filter(|(_, active)| **active).map(|(last, _)| *last).collect();
            prop_assert_eq!(served(&tables), ports.iter().map(|(port, tasks)| (*port, active(tasks))).collect());
            prop_assert_eq!(tables.slots.len(), tables.frontends.values().map(|frontend| frontend.count as usize).sum::<usize>());
            let again = plan(&desired, &node(), &tables, &mut allocation, &Scope::Everything);
            prop_assert!(again.is_empty(), "{:?}", again);
            before = desired;
        }
    }
}

#[test]
fn a_task_that_stays_keeps_its_id_when_others_come_and_go() {
    let (mut tables, mut allocation) = (Tables::default(), Allocation::new(64, 16, 1024));
    let mut ids = Vec::new();
    for tasks in [vec![1, 2], vec![2, 3], vec![2]] {
        let ports = BTreeMap::from([(80, tasks.into_iter().map(|last| (last, true)).collect())]);
        let step = plan(&desired(&ports), &node(), &tables, &mut allocation, &Scope::Everything);
        carry_out(&step, &mut tables, &mut allocation);
        ids.push(allocation.known_id(&BackendOwner {
            frontend: FrontendId::Published { port: 80, protocol: Protocol::Tcp },
            task_id: "t2".into(),
        }));
    }
    assert_eq!(ids, [Some(1), Some(1), Some(1)]);
}

#[test]
fn the_tunnels_port_passes_the_first_test() {
    let step = plan(
        &Desired::default(),
        &node(),
        &Tables::default(),
        &mut Allocation::new(4, 4, 1024),
        &Scope::Everything,
    );
    let bit = PortBit::of(protocol::UDP, Port::new(4799));
    assert_eq!(step.ports, [Operation::SetPorts(bit.word, bit.mask)]);
}

#[test]
fn a_peer_is_as_it_is_known_to_be_and_heard_by_all_uplinks_before() {
    let other = Ipv4Addr::new(10, 99, 0, 2);
    let desired = Desired { peers: BTreeSet::from([other]), ..Desired::default() };
    let (mut tables, mut allocation) = (Tables::default(), Allocation::new(4, 4, 1024));
    let mut node = NodeFacts { uplinks: BTreeSet::from([2, 3]), ..node() };
    let mut peers_after = |node: &NodeFacts| {
        let step = plan(&desired, node, &tables, &mut allocation, &Scope::Frontends(BTreeSet::new()));
        carry_out(&step, &mut tables, &mut allocation);
        assert_eq!(tables.uplinks, node.uplinks);
        tables.peers.clone()
    };
    assert_eq!(peers_after(&node), BTreeMap::from([(other.into(), Peer::default())]));
    let known = Peer { uplink: 3, inner_mtu: 1_450, flags: 0 };
    node.peers.insert(other.into(), known);
    node.uplinks.remove(&2);
    assert_eq!(peers_after(&node), BTreeMap::from([(other.into(), known)]));
    node.peers.insert(other.into(), Peer { inner_mtu: 1_350, ..known });
    assert_eq!(peers_after(&node)[&other.into()].inner_mtu, 1_350);
    node.peers.clear();
    assert_eq!(peers_after(&node), BTreeMap::from([(other.into(), Peer::default())]));
    let step = plan(&Desired::default(), &node, &tables, &mut allocation, &Scope::Everything);
    assert_eq!(removals(&step).collect::<Vec<_>>(), [&Operation::DeletePeer(other.into())]);
}

#[test]
fn a_frontend_that_could_not_be_written_gives_its_numbers_back_when_it_is_left_to_docker() {
    let id = FrontendId::Published { port: 80, protocol: Protocol::Tcp };
    let mut desired = desired(&BTreeMap::from([(80, BTreeMap::from([(1, true)]))]));
    let mut allocation = Allocation::new(1, 1, 1024);
    let first = plan(&desired, &node(), &Tables::default(), &mut allocation, &Scope::Everything);
    assert!(first.frontends.contains_key(&id) && first.impossible.is_empty());
    // Nothing of it is written.
    let frontend = desired.frontends.get(&id).expect("it is desired").clone();
    desired.frontends.insert(id, Frontend { left: Some(crate::desired::Left::Filtered), ..frontend });
    for scope in [Scope::Everything, Scope::Frontends(BTreeSet::from([id]))] {
        let left = plan(&desired, &node(), &Tables::default(), &mut allocation, &scope);
        let remains = &left.after[&Some(id)];
        assert!(remains.has_ended && remains.released == [0], "{remains:?}");
    }
}
