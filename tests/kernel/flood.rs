//! While more flows begin than can be remembered, a client's segments still come to the task that has heard its SYN.

use mesh_common::backend::Backend;
use mesh_common::flow::{FlowKey, Opening};
use mesh_common::outcome::Outcome;

use crate::support::packet::Packet;
use crate::support::payload::{ACK, Payload, Tcp, syn, tcp};
use crate::support::world::{World, local};

/// So many places has the table of half-open flows. The kernel forgets by batches of 128 for each CPU.
const PLACES: u32 = 512;
/// From so many on it is a flood.
const FLOOD: u32 = 128;
const CLIENTS: u16 = 100;

#[test]
fn clients_from_before_a_flood_and_in_it_keep_their_tasks() {
    let world = world();
    let before: Vec<Vec<u8>> =
        (0..CLIENTS).map(|client| given(&world, &from(1_000 + client, &syn()))).collect();
    flood(&world);
    let within: Vec<Vec<u8>> =
        (0..CLIENTS).map(|client| given(&world, &from(3_000 + client, &syn()))).collect();
    flood(&world);
    for (first, tasks) in [(1_000, before), (3_000, within)] {
        for (port, task) in (first..).zip(tasks) {
            assert_eq!(given(&world, &from(port, &acknowledgement())), task, "port {port}");
        }
    }
}

#[test]
fn a_flood_is_spread_over_all_tasks_and_pushes_nobody_out() {
    let world = world();
    let mut tasks: Vec<Vec<u8>> =
        (0..1_000).map(|client| given(&world, &from(1_000 + client, &syn()))).collect();
    assert_eq!(world.entries::<FlowKey, Opening>("OPENING"), FLOOD as usize);
    assert_eq!(world.count(Outcome::SynNotKept), 1_000 - u64::from(FLOOD));
    tasks.sort();
    tasks.dedup();
    assert_eq!(tasks.len(), 5);
}

#[test]
fn segments_of_no_connection_push_nobody_out_either() {
    let world = world();
    let before: Vec<Vec<u8>> =
        (0..CLIENTS).map(|client| given(&world, &from(1_000 + client, &syn()))).collect();
    for port in 10_000..10_000 + 10 * PLACES as u16 {
        let _ = given(&world, &from(port, &acknowledgement()));
    }
    assert_eq!(world.entries::<FlowKey, Opening>("OPENING"), FLOOD as usize);
    for (port, task) in (1_000..).zip(before) {
        assert_eq!(given(&world, &from(port, &acknowledgement())), task, "port {port}");
    }
}

#[test]
fn without_a_limit_every_syn_is_remembered() {
    let mut world = world();
    world.settings(|settings| settings.flood = 0);
    for client in 0..2 * FLOOD as u16 {
        let _ = given(&world, &from(1_000 + client, &syn()));
    }
    assert_eq!(world.entries::<FlowKey, Opening>("OPENING"), 2 * FLOOD as usize);
    assert_eq!(world.count(Outcome::SynNotKept), 0);
}

fn world() -> World {
    let tasks: Vec<Backend> = [5, 6, 7, 8, 9].map(local).to_vec();
    let mut world = World::with_flows(PLACES).serves(&tasks);
    world.settings(|settings| settings.flood = FLOOD);
    world
}

fn flood(world: &World) {
    for number in 0..2 * PLACES as u16 {
        let [high, low] = number.to_be_bytes();
        let _ = given(world, &from(1, &syn()).with(|packet| packet.source = [198, 18, high, low]));
    }
}

fn from(port: u16, payload: &Payload) -> Packet {
    Packet::from_client(payload.with_source(port))
}

/// Where the task is that the packet goes to.
fn given(world: &World, packet: &Packet) -> Vec<u8> {
    let run = world.uplink_in(packet);
    assert!(run.outcomes.contains(&(Outcome::Delivered, 1)), "{:?}", run.outcomes);
    run.after[30..34].to_vec()
}

/// The client's segment after its SYN.
fn acknowledgement() -> Payload {
    Payload::Tcp(Tcp { sequence: 0x1122_3345, acknowledgement: 0x1122_3345, ..tcp(ACK) })
}
