//! Which backend a new flow gets, by policy, and which clients keep theirs.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::flow::FlowKey;
use mesh_common::frontend::{Affinity, AffinityKey, policy};
use mesh_common::net::{Address, Port, protocol};
use mesh_common::outcome::Outcome;

use crate::support::cast::{self, PUBLISHED};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, FIN, SYN, answer, syn, tcp};
use crate::support::payload::{Payload, Tcp};
use crate::support::world::{World, flow_key, local};

/// Which backend a new flow from this port is given.
fn given(world: &World, client_port: u16) -> u32 {
    let opening = Packet::from_client(syn().with_source(client_port));
    let _ = world.uplink_in(&opening).leaves(Outcome::Delivered);
    let key = FlowKey { client_port: Port::new(client_port), ..flow_key(protocol::TCP) };
    world.flow(&key).expect("the flow is known").backend
}

fn world(backends: u8, policy: u8, affinity: u32) -> World {
    let members: Vec<_> = (5..5 + backends).map(local).collect();
    let mut world = World::serving(&members);
    world.change_frontend(PUBLISHED, protocol::TCP, |frontend| {
        frontend.policy = policy;
        frontend.affinity = affinity;
    });
    world
}

#[test]
fn maglev_gives_a_flow_the_same_backend_on_every_node() {
    let (one, other) = (world(5, policy::MAGLEV, 0), world(5, policy::MAGLEV, 0));
    // The other node has seen other flows before.
    for port in 100..120 {
        given(&other, port);
    }
    let ids: Vec<u32> = (2000..2040).map(|port| given(&one, port)).collect();
    for (port, id) in (2000..).zip(&ids) {
        assert_eq!(given(&other, port), *id, "port {port}");
    }
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 5);
    // And a packet from the middle of that flow finds it at a third node.
    let third = world(5, policy::MAGLEV, 0);
    let middle = Payload::Tcp(Tcp { source: 2000, ..tcp(ACK) });
    let _ = third.uplink_in(&Packet::from_client(middle)).leaves(Outcome::Delivered);
    let key = FlowKey { client_port: Port::new(2000), ..flow_key(protocol::TCP) };
    assert_eq!(third.flow(&key).expect("the flow is known").backend, ids[0]);
}

#[test]
fn maglev_takes_the_next_slot_for_a_suspect_on_every_node() {
    let (mut one, mut other) = (world(3, policy::MAGLEV, 0), world(3, policy::MAGLEV, 0));
    let suspect = given(&one, 2000);
    for world in [&mut one, &mut other] {
        world.set_suspect(suspect, u64::MAX);
    }
    for port in 100..110 {
        given(&other, port);
    }
    for port in 2001..2020 {
        let id = given(&one, port);
        assert_ne!(id, suspect);
        assert_eq!(given(&other, port), id);
    }
}

#[test]
fn random_uses_every_backend_in_no_order() {
    let world = world(4, policy::RANDOM, 0);
    let mut counts = BTreeMap::<u32, u32>::new();
    for port in 2000..2200 {
        *counts.entry(given(&world, port)).or_default() += 1;
    }
    assert_eq!(counts.len(), 4);
    assert!(counts.values().all(|count| *count >= 20), "{counts:?}");
    assert!(counts.values().any(|count| *count != 50), "as in turns: {counts:?}");
}

#[test]
fn least_connections_prefers_whoever_has_fewer() {
    let mut world = world(2, policy::LEAST_CONNECTIONS, 0);
    world.set_connections(1, 10);
    world.set_connections(2, 3);
    let first = (2000..2100).filter(|port| given(&world, *port) == 1).count();
    // Only when both draws fall on it: one in four.
    assert!((5..=45).contains(&first), "{first}");
    // A count below nothing is nothing.
    world.set_connections(1, u64::MAX);
    let first = (3000..3100).filter(|port| given(&world, *port) == 1).count();
    assert!(first > 50, "{first}");
}

#[test]
fn established_flows_are_counted_until_they_end() {
    let world = world(1, policy::LEAST_CONNECTIONS, 0);
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
    assert_eq!(world.connections(1), 0, "it is not established yet");
    let _ = world.bridge_in(&Packet::from_task(5, answer(SYN | ACK, b""))).leaves(Outcome::Replied);
    let proof = Tcp { acknowledgement: 0x1122_3345, ..tcp(ACK) };
    let _ = world.uplink_in(&Packet::from_client(Payload::Tcp(proof))).leaves(Outcome::Delivered);
    assert_eq!(world.connections(1), 1);
    let _ = world.uplink_in(&Packet::from_client(Payload::Tcp(tcp(FIN | ACK)))).leaves(Outcome::Delivered);
    assert_eq!(world.connections(1), 1, "half of it is open");
    let _ = world.bridge_in(&Packet::from_task(5, answer(FIN | ACK, b""))).leaves(Outcome::Replied);
    assert_eq!(world.connections(1), 0);
}

#[test]
fn a_client_keeps_its_backend_for_as_long_as_its_affinity_lasts() {
    let mut world = world(4, policy::ROUND_ROBIN, 60);
    let first = given(&world, 2000);
    assert!((2001..2020).all(|port| given(&world, port) == first));
    let key = AffinityKey { turn: world.turn(PUBLISHED, protocol::TCP), client: Address::new(cast::CLIENT) };
    let known: Affinity = world.value("AFFINITIES", &key).expect("it is known");
    // Another processor has just used it, after this packet has looked at the clock.
    world.insert("AFFINITIES", key, Affinity { last_used: known.last_used + 1_000_000_000, ..known });
    assert_eq!(given(&world, 2020), first);
    world.insert(
        "AFFINITIES",
        key,
        Affinity { last_used: known.last_used.wrapping_sub(61_000_000_000), ..known },
    );
    assert_ne!(given(&world, 3000), first, "its time was over, and it was the next one's turn");
}

#[test]
fn a_client_whose_backend_drains_or_refuses_gets_another_one_and_keeps_that() {
    for drains in [true, false] {
        let mut world = world(3, policy::RANDOM, 60);
        let first = given(&world, 2000);
        if drains {
            world.change_backend(first, |backend| backend.state = mesh_common::backend::state::DRAINING);
            world.leave_out(PUBLISHED, protocol::TCP, first);
        } else {
            world.set_suspect(first, u64::MAX);
        }
        let second = given(&world, 2001);
        assert_ne!(second, first);
        assert!((2002..2020).all(|port| given(&world, port) == second));
    }
}
