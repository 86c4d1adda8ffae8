//! Packets of established flows, which take a way of their own: what they write, and what sends them the way of all.

use mesh_common::flow::Flow;
use mesh_common::net::{Address, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::reply::Reply;

use crate::support::cast::{self, CLIENT_PORT, TARGET};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, Payload, RST, SYN, Tcp, answer, between, data, syn, tcp};
use crate::support::world::{World, flow_key, local, reply_key};
use crate::wire::to_client;

/// Of the client's SYN.
const SEQUENCE: u32 = 0x1122_3344;
const SECOND: u64 = 1_100_000_000;
/// Of the node's, too.
const SECOND_ADDRESS: cast::Ip = [10, 99, 0, 100];

/// A node with an established flow to task 5.
fn world() -> World {
    let world = World::serving(&[local(5)]);
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
    let _ = world.bridge_in(&Packet::from_task(5, answer(SYN | ACK, b""))).leaves(Outcome::Replied);
    let _ = world.uplink_in(&Packet::from_client(data(b""))).leaves(Outcome::Delivered);
    world
}

fn entries(world: &World) -> (Flow, Reply) {
    let flow = world.established(&flow_key(protocol::TCP)).expect("it is established");
    (flow, world.established_reply(&reply_key(5, protocol::TCP)).expect("it is established"))
}

/// Changes when the flow was last heard of: before the machine was started, perhaps.
fn hear(world: &mut World, time: impl Fn(u64) -> u64) {
    let (flow, reply) = entries(world);
    let flow = Flow { last_seen: time(flow.last_seen), ..flow };
    let reply = Reply { last_seen: time(reply.last_seen), ..reply };
    world.insert("FLOWS", flow_key(protocol::TCP), flow);
    world.insert("REPLIES", reply_key(5, protocol::TCP), reply);
}

/// The client goes on from there.
fn segment(flags: u8, sequence: u32) -> Packet {
    Packet::from_client(Payload::Tcp(Tcp { sequence, ..tcp(flags) }))
}

#[test]
fn within_a_second_nothing_is_written() {
    let mut world = world();
    // However slow this machine is: what is ahead of a packet's time is no time ago.
    hear(&mut world, |then| then + 3_600 * SECOND);
    let before = entries(&world);
    for _ in 0..3 {
        let packet = Packet::from_client(data(b"GET /"));
        world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(5).bytes());
        let answer = Packet::from_task(5, answer(ACK, b"200 OK"));
        world.bridge_in(&answer).leaves_as(Outcome::Replied, &to_client(&answer, cast::NODE).bytes());
    }
    assert_eq!(entries(&world), before);
    assert_eq!(world.counters(1).packets, 5);
}

#[test]
fn after_a_second_either_direction_tells_that_the_flow_lives() {
    let mut world = world();
    let (flow, reply) = entries(&world);
    hear(&mut world, |then| then.wrapping_sub(SECOND));
    let _ = world.uplink_in(&Packet::from_client(data(b"GET /"))).leaves(Outcome::Delivered);
    let (now, reply_now) = entries(&world);
    assert!(now.last_seen >= flow.last_seen && reply_now.last_seen >= reply.last_seen);

    hear(&mut world, |then| then.wrapping_sub(SECOND));
    let _ = world.bridge_in(&Packet::from_task(5, answer(ACK, b"more"))).leaves(Outcome::Replied);
    assert!(entries(&world).1.last_seen >= reply.last_seen);
}

#[test]
fn a_client_that_has_sent_much_is_believed_to_end_where_it_is() {
    const MEGABYTE: u32 = 1 << 20;

    for moves in [0, 10] {
        let world = world();
        for step in 1..=moves {
            let _ = world.uplink_in(&segment(ACK, SEQUENCE + step * MEGABYTE)).leaves(Outcome::Delivered);
        }
        let _ = world.uplink_in(&segment(RST, SEQUENCE + 10 * MEGABYTE)).leaves(Outcome::Delivered);
        let is_over = world.established(&flow_key(protocol::TCP)).is_none();
        assert_eq!(is_over, moves > 0, "after {moves} MiB");
    }
}

#[test]
fn a_client_that_comes_by_another_uplink_is_noted_to() {
    let mut world = world();
    let (_, reply) = entries(&world);
    world.insert("REPLIES", reply_key(5, protocol::TCP), Reply { uplink: 77, interface: 78, ..reply });
    let packet = Packet::from_client(data(b"GET /"));
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(5).bytes());
    let (_, now) = entries(&world);
    assert_eq!((now.uplink, now.interface), (reply.uplink, reply.interface));
}

#[test]
fn a_translated_flow_keeps_its_port() {
    let mut world = world();
    let elsewhere = |payload| Packet::from_client(payload).with(|packet| packet.destination = SECOND_ADDRESS);
    world.insert("LOCAL_ADDRESSES", Address::new(SECOND_ADDRESS), 1_u32);
    let run = world.uplink_in(&elsewhere(syn()));
    let port = u16::from_be_bytes([run.after[34], run.after[35]]);
    assert_ne!(port, CLIENT_PORT);
    let _ = run.leaves(Outcome::Delivered);
    let greeting = Packet::from_task(5, between(answer(SYN | ACK, b""), TARGET, port));
    let _ = world.bridge_in(&greeting).leaves(Outcome::Replied);
    for _ in 0..2 {
        let run = world.uplink_in(&elsewhere(data(b"GET /")));
        assert_eq!(run.after[34..36], port.to_be_bytes());
        let _ = run.leaves(Outcome::Delivered);
    }
}
