//! Which table a conversation is in: what a flood can make us forget, and what it cannot.

use mesh_common::flow::{Flow, FlowKey, Opening};
use mesh_common::net::{Address, Port, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::reply::{Reply, ReplyKey};

use crate::support::cast::{self, CLIENT_PORT, PUBLISHED, TARGET};
use crate::support::overlay::{self, call};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, FIN, Payload, RST, SYN, Tcp, answer, between, data, syn, tcp, udp};
use crate::support::run::{Hook, Run};
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, flow_key, local, remote, reply_key};

const SEQUENCE: u32 = 0x1122_3344;
/// So many that the flood is done soon. The kernel forgets by batches of 128 for each CPU.
const SMALL_FLOWS: u32 = 512;

#[test]
fn the_right_number_establishes_a_flow_at_both_nodes() {
    let world = World::serving(&[local(5)]);
    shake_hands(&world, 5);
    assert!(world.established(&flow_key(protocol::TCP)).is_some());
    assert!(world.opening(&flow_key(protocol::TCP)).is_none());
    assert!(world.established_reply(&reply_key(5, protocol::TCP)).is_some());
    assert_eq!(world.entries::<ReplyKey, Reply>("OPENING_REPLIES"), 0);

    let world = World::serving(&[remote(7)]);
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Tunnelled);
    let _ = come_back(&world, 7, SYN | ACK).leaves(Outcome::RepliedFromTunnel);
    let _ = world.uplink_in(&acknowledge(SEQUENCE + 1)).leaves(Outcome::Tunnelled);
    assert!(world.established(&flow_key(protocol::TCP)).is_some());
}

#[test]
fn ports_that_are_used_again_for_another_way_to_the_task_are_not_ours() {
    let world = World::serving(&[local(5)]);
    shake_hands(&world, 5);
    let _ = world.uplink_in(&Packet::from_client(Payload::Tcp(tcp(FIN | ACK)))).leaves(Outcome::Delivered);
    let _ = world.bridge_in(&Packet::from_task(5, answer(FIN | ACK, b""))).leaves(Outcome::Replied);
    // The last acknowledgement still is.
    let _ = world.uplink_in(&Packet::from_client(Payload::Tcp(tcp(ACK)))).leaves(Outcome::Delivered);
    let _ = world.bridge_in(&Packet::from_task(5, answer(ACK, b""))).leaves(Outcome::Replied);
    // The answer to a SYN that has not passed here.
    world.bridge_in(&Packet::from_task(5, answer(SYN | ACK, b""))).passes(Outcome::NotOurs);
    // One that comes this way again is.
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
    let _ = world.bridge_in(&Packet::from_task(5, answer(SYN | ACK, b""))).leaves(Outcome::Replied);
}

#[test]
fn other_numbers_establish_nothing() {
    for number in [SEQUENCE, SEQUENCE + 2 + 0xffff, 0, SEQUENCE ^ 0x8000_0000] {
        let world = World::serving(&[local(5)]);
        let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
        let _ = world.bridge_in(&Packet::from_task(5, answer(SYN | ACK, b""))).leaves(Outcome::Replied);
        let _ = world.uplink_in(&acknowledge(number)).leaves(Outcome::Delivered);
        assert!(world.established(&flow_key(protocol::TCP)).is_none(), "{number:x}");
        assert!(world.established_reply(&reply_key(5, protocol::TCP)).is_none(), "{number:x}");
        // The right one still does.
        let _ = world.uplink_in(&acknowledge(SEQUENCE + 1)).leaves(Outcome::Delivered);
        assert!(world.established(&flow_key(protocol::TCP)).is_some(), "{number:x}");
    }
}

#[test]
fn a_flow_whose_syn_was_not_seen_is_established_by_its_task() {
    let world = World::serving(&[local(5)]);
    let _ = world.uplink_in(&Packet::from_client(data(b"moved"))).leaves(Outcome::Delivered);
    let _ = world.bridge_in(&Packet::from_task(5, answer(RST, b""))).leaves(Outcome::Replied);
    assert!(world.established(&flow_key(protocol::TCP)).is_none(), "a reset shows that nobody knows it");

    let world = World::serving(&[local(5)]);
    let _ = world.uplink_in(&Packet::from_client(data(b"moved"))).leaves(Outcome::Delivered);
    let _ = world.bridge_in(&Packet::from_task(5, answer(ACK, b"yes"))).leaves(Outcome::Replied);
    assert!(world.established(&flow_key(protocol::TCP)).is_some());
    assert!(world.established_reply(&reply_key(5, protocol::TCP)).is_some());
}

#[test]
fn where_answers_go_straight_the_clients_next_segment_is_all_there_is() {
    let mut world = World::serving(&[remote(7)]);
    world.change_backend(1, |backend| backend.flags = mesh_common::backend::flags::RETURN_DIRECT);
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Tunnelled);
    let wrong = Tcp { sequence: SEQUENCE, ..tcp(ACK) };
    let _ = world.uplink_in(&Packet::from_client(Payload::Tcp(wrong))).leaves(Outcome::Tunnelled);
    assert!(world.established(&flow_key(protocol::TCP)).is_none());
    let _ = world.uplink_in(&acknowledge(1)).leaves(Outcome::Tunnelled);
    assert!(world.established(&flow_key(protocol::TCP)).is_some());
}

#[test]
fn where_answers_go_straight_the_clients_end_is_the_flows() {
    let mut world = World::serving(&[remote(7), remote(8)]);
    world.change_backend(1, |backend| backend.flags = mesh_common::backend::flags::RETURN_DIRECT);
    let client = |flags| Packet::from_client(Payload::Tcp(Tcp { sequence: SEQUENCE + 1, ..tcp(flags) }));
    for packet in [Packet::from_client(syn()), client(ACK), client(FIN | ACK)] {
        let tunnel = Tunnel::to_other(7, &packet);
        world.uplink_in(&packet).enters_tunnel(Outcome::Tunnelled, tunnel, &packet.ip());
    }
    assert!(world.established(&flow_key(protocol::TCP)).is_none());
    // The task may go on sending, and the client goes on acknowledging that to the same task.
    let packet = client(ACK);
    world.uplink_in(&packet).enters_tunnel(Outcome::Tunnelled, Tunnel::to_other(7, &packet), &packet.ip());
}

#[test]
fn a_flow_that_ends_leaves_the_established_ones() {
    let client = |flags| Packet::from_client(Payload::Tcp(tcp(flags)));
    let task = |flags| Packet::from_task(5, answer(flags, b""));
    for packets in [
        vec![client(RST)],
        vec![task(RST | ACK)],
        vec![client(FIN | ACK), task(FIN | ACK)],
        vec![task(FIN | ACK), client(FIN | ACK)],
    ] {
        let world = World::serving(&[local(5)]);
        shake_hands(&world, 5);
        for packet in &packets {
            assert!(world.established(&flow_key(protocol::TCP)).is_some());
            let _ =
                if packet.source == cast::CLIENT { world.uplink_in(packet) } else { world.bridge_in(packet) };
        }
        assert!(world.established(&flow_key(protocol::TCP)).is_none());
        assert!(world.established_reply(&reply_key(5, protocol::TCP)).is_none());
        // What is still on its way gets through.
        let _ = world.uplink_in(&client(ACK)).leaves(Outcome::Delivered);
        let _ = world.bridge_in(&task(ACK)).leaves(Outcome::Replied);
        assert!(world.established(&flow_key(protocol::TCP)).is_none());
    }
}

#[test]
fn no_flood_pushes_an_established_flow_out() {
    let world = World::with_flows(SMALL_FLOWS).serves(&[local(5)]);
    shake_hands(&world, 5);
    for number in 0..4 * SMALL_FLOWS {
        let from = |payload| {
            let mut packet = Packet::from_client(payload);
            packet.source = [198, 18, (number >> 8) as u8, number as u8];
            packet
        };
        for payload in [syn(), Payload::Tcp(tcp(ACK)), Payload::Udp(udp(b"flood"))] {
            let _ = world.uplink_in(&from(payload)).leaves(Outcome::Delivered);
        }
    }
    assert!(world.established(&flow_key(protocol::TCP)).is_some());
    assert!(world.established_reply(&reply_key(5, protocol::TCP)).is_some());
    assert_eq!(world.entries::<FlowKey, Flow>("FLOWS"), 1);
    assert_eq!(world.entries::<ReplyKey, Reply>("REPLIES"), 1);
    let places = SMALL_FLOWS as usize;
    assert!(world.entries::<FlowKey, Opening>("OPENING") <= places);
    assert!(world.entries::<FlowKey, Flow>("UDP_FLOWS") <= places);
    let packet = Packet::from_task(5, answer(ACK, b"still here"));
    let expected = packet.as_frontend(cast::NODE, PUBLISHED).macs(cast::CLIENT_MAC, cast::NODE_MAC);
    world.bridge_in(&packet).leaves_as(Outcome::Replied, &expected.bytes());
}

#[test]
fn a_flow_that_finds_the_table_full_goes_on_and_is_counted() {
    let world = World::with_flows(1).serves(&[local(5)]);
    shake_hands(&world, 5);
    let port = CLIENT_PORT + 1;
    let _ = world.uplink_in(&Packet::from_client(syn().with_source(port))).leaves(Outcome::Delivered);
    let to = |payload: Payload| Packet::from_task(5, payload.with_destination(port));
    let _ = world.bridge_in(&to(answer(SYN | ACK, b""))).leaves(Outcome::Replied);
    let third = acknowledge(SEQUENCE + 1).with(|packet| packet.payload = packet.payload.with_source(port));
    let run = world.uplink_in(&third);
    // At its entry node and at its home node, which are the same here.
    assert_eq!(run.outcomes, [(Outcome::Delivered, 1), (Outcome::FlowUnprotected, 2)]);
    let _ = world.uplink_in(&third).leaves(Outcome::Delivered);
    let _ = world.bridge_in(&to(answer(ACK, b"answer"))).leaves(Outcome::Replied);
    assert!(world.established(&flow_key(protocol::TCP)).is_some(), "the first is not dropped");
    // When there is room again, it is entered.
    let _ = world.uplink_in(&Packet::from_client(Payload::Tcp(tcp(RST)))).leaves(Outcome::Delivered);
    let _ = world.uplink_in(&third).leaves(Outcome::Delivered);
    let key = FlowKey { client_port: Port::new(port), ..flow_key(protocol::TCP) };
    assert!(world.established(&key).is_some());
}

#[test]
fn a_call_of_a_virtual_address_is_established_by_its_number() {
    let world = World::calling(&[1]);
    let key = overlay::flow_key(protocol::TCP);
    let answered = |flags| between(Payload::Tcp(tcp(flags)), PUBLISHED, CLIENT_PORT);
    let _ = world.overlay_in(&call(syn()));
    let _ = world.overlay_out(&overlay::answer(1, answered(SYN | ACK)));
    let third = |number| call(Payload::Tcp(Tcp { acknowledgement: number, ..tcp(ACK) }));
    let _ = world.overlay_in(&third(SEQUENCE));
    assert!(world.established_call(&key).is_none());
    let _ = world.overlay_in(&third(SEQUENCE + 1));
    assert!(world.established_call(&key).is_some());
    for flags in [ACK, FIN | ACK] {
        let _ = world.overlay_out(&overlay::answer(1, answered(flags)));
    }
    let _ = world.overlay_in(&call(Payload::Tcp(tcp(FIN | ACK))));
    assert!(world.established_call(&key).is_none());
}

#[test]
fn a_call_whose_syn_was_not_seen_is_established_by_its_task() {
    let world = World::calling(&[1]);
    let _ = world.overlay_in(&call(data(b"moved")));
    let text = between(answer(ACK, b"yes"), PUBLISHED, CLIENT_PORT);
    let _ = world.overlay_out(&overlay::answer(1, text));
    let _ = world.overlay_in(&call(data(b"on")));
    assert!(world.established_call(&overlay::flow_key(protocol::TCP)).is_some());
}

#[test]
fn a_new_task_at_an_address_is_not_taken_for_the_earlier_one() {
    let mut world = World::home_of(&[5, 6]);
    let request = |port: u16| {
        Packet::from_client(data(b"hello").with_destination(port))
            .with(|packet| packet.destination = cast::OTHER)
    };
    let arrive = |world: &World, number, packet: &Packet| {
        world
            .run(Hook::UplinkIn, &Tunnel::to_here(number).around(&packet.ip()))
            .leaves(Outcome::DeliveredFromTunnel)
    };
    let _ = arrive(&world, 5, &request(PUBLISHED));
    // Task 6 gets the address of task 5, and a client calls it by another frontend from the same port.
    let task = mesh_common::backend::LocalTask {
        bridge: Address::new(cast::task(5)),
        mac: cast::task_mac(5),
        ..mesh_common::backend::LocalTask::default()
    };
    world.insert("TASKS", crate::support::world::task_key(6, protocol::TCP), task);
    let delivered = arrive(&world, 6, &request(8000));
    assert_eq!(delivered[34..36], CLIENT_PORT.to_be_bytes(), "the client keeps its port");
    let reply = world.reply(&reply_key(5, protocol::TCP)).expect("it is known");
    assert_eq!((reply.identity, reply.frontend_port), (Address::new(cast::identity(6)), Port::new(8000)));
}

#[test]
fn a_task_that_dials_from_the_port_of_an_old_conversation_is_its_own() {
    let world = World::serving(&[local(5)]);
    shake_hands(&world, 5);
    let dial = Packet::from_task(5, between(syn(), TARGET, CLIENT_PORT));
    world.bridge_in(&dial).passes(Outcome::NotOurs);
    world.bridge_in(&Packet::from_task(5, answer(ACK, b"mine"))).passes(Outcome::NotOurs);
}

#[test]
fn a_datagram_of_a_new_task_does_not_go_to_an_old_client_as_the_frontends() {
    let mut world = World::home_of(&[5]);
    let packet =
        Packet::from_client(Payload::Udp(udp(b"query"))).with(|packet| packet.destination = cast::OTHER);
    let run = world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&packet.ip()));
    let _ = run.leaves(Outcome::DeliveredFromTunnel);
    let own = Packet::from_task(5, between(Payload::Udp(udp(b"mine")), TARGET, CLIENT_PORT));
    let _ = world.bridge_in(&own).leaves(Outcome::ReplyTunnelled);
    // The task has moved on, and another one has its address.
    let task = mesh_common::backend::LocalTask { bridge: Address::new(cast::task(9)), ..Default::default() };
    world.insert("TASKS", crate::support::world::task_key(5, protocol::UDP), task);
    world.bridge_in(&own).passes(Outcome::NotOurs);
}

fn shake_hands(world: &World, number: u8) {
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
    let _ = world.bridge_in(&Packet::from_task(number, answer(SYN | ACK, b""))).leaves(Outcome::Replied);
    let _ = world.uplink_in(&acknowledge(SEQUENCE + 1)).leaves(Outcome::Delivered);
}

/// The client's segment after its SYN, with this acknowledgement number. The task's SYN has [`SEQUENCE`] as well.
fn acknowledge(number: u32) -> Packet {
    let segment = Tcp { sequence: SEQUENCE + 1, acknowledgement: number, ..tcp(ACK) };
    Packet::from_client(Payload::Tcp(segment))
}

fn come_back(world: &World, number: u8, flags: u8) -> Run {
    let inner = Packet::from_task(number, answer(flags, b"")).as_frontend(cast::NODE, PUBLISHED);
    world.run(Hook::UplinkIn, &Tunnel::to_here(number).reply().around(&inner.ip()))
}
