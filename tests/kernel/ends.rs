//! What ends a connection, and what only looks like its end.

use mesh_common::flow::Flow;
use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;
use mesh_common::reply::Reply;
use mesh_common::tcp::state;

use crate::support::cast::{self, CLIENT_PORT, PUBLISHED, TARGET};
use crate::support::overlay::{self, call};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, FIN, Payload, RST, SYN, Tcp, answer, between, syn, tcp};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, flow_key, local, remote, reply_key};

/// Of both ends' SYNs.
const SEQUENCE: u32 = 0x1122_3344;
/// A number that whoever does not see the connection may guess.
const GUESS: u32 = SEQUENCE ^ 0x4000_0000;

#[test]
fn an_end_with_any_number_ends_nothing_and_a_syn_behind_it_moves_nothing() {
    for ends in [RST, RST | ACK, FIN | ACK] {
        let world = World::serving(&[local(5), local(6)]);
        shake_hands(&world);
        for forged in [segment(ends, GUESS), Payload::Tcp(Tcp { sequence: GUESS + 9, ..tcp(SYN) })] {
            let packet = Packet::from_client(forged);
            // Its task knows better.
            world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(5).bytes());
        }
        let packet = Packet::from_client(segment(ACK, SEQUENCE + 1));
        world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(5).bytes());
        assert_eq!(world.established(&flow_key(protocol::TCP)).expect("it lives").state & ENDS, 0);
        assert_eq!(established_reply(&world, 5).expect("it lives").state & ENDS, 0);
        assert_eq!(world.connections(1), 1);
    }
}

#[test]
fn a_call_of_a_virtual_address_does_not_end_by_any_number() {
    for ends in [RST, FIN | ACK] {
        let world = World::calling(&[1, 2]);
        let _ = world.overlay_in(&call(syn()));
        let _ =
            world.overlay_out(&overlay::answer(1, between(answer(SYN | ACK, b""), PUBLISHED, CLIENT_PORT)));
        let _ = world.overlay_in(&call(segment(ACK, SEQUENCE + 1)));
        let _ = world.overlay_in(&call(segment(ends, GUESS)));
        let _ = world.overlay_in(&call(syn()));
        let flow = world.established_call(&overlay::flow_key(protocol::TCP)).expect("it lives");
        assert_eq!((flow.state & ENDS, flow.backend), (0, 1));
    }
}

#[test]
fn the_home_node_believes_no_more_than_the_entry_node() {
    let world = World::home_of(&[5]);
    let from_entry = |payload| {
        let bytes = Tunnel::to_here(5).around(&Packet::from_client(payload).ip());
        let _ = world.run(Hook::UplinkIn, &bytes).leaves(Outcome::DeliveredFromTunnel);
    };
    from_entry(syn());
    let _ = world.bridge_in(&Packet::from_task(5, answer(SYN | ACK, b""))).leaves(Outcome::ReplyTunnelled);
    from_entry(segment(ACK, SEQUENCE + 1));
    from_entry(segment(RST, GUESS));
    assert_eq!(established_reply(&world, 5).expect("it lives").state & ENDS, 0);
    from_entry(segment(RST, SEQUENCE + 1));
    assert_eq!(established_reply(&world, 5), None);
}

#[test]
fn an_end_near_what_the_client_has_sent_last_ends_it() {
    /// Less than lies between a number and one that is not believed.
    const STEP: u32 = 1 << 20;

    for backend in [local(5), remote(5)] {
        let world = World::serving(&[backend]);
        shake_hands_by(&world, backend.is_local());
        let mut sequence = SEQUENCE + 1;
        for _ in 0..8 {
            sequence = sequence.wrapping_add(STEP);
            let _ = world.uplink_in(&Packet::from_client(segment(ACK, sequence)));
        }
        let _ = world.uplink_in(&Packet::from_client(segment(RST, SEQUENCE + 1)));
        assert!(world.established(&flow_key(protocol::TCP)).is_some(), "that is long ago");
        let _ = world.uplink_in(&Packet::from_client(segment(RST, sequence - STEP)));
        assert_eq!(world.established(&flow_key(protocol::TCP)), None);
    }
}

#[test]
fn what_the_task_acknowledges_tells_where_the_client_is_whose_packets_went_elsewhere() {
    let world = World::serving(&[remote(5)]);
    shake_hands_by(&world, false);
    let far = SEQUENCE.wrapping_add(1 << 28);
    let acknowledges = Payload::Tcp(Tcp { acknowledgement: far, ..tcp(ACK) });
    let _ = come_back(&world, between(acknowledges, TARGET, CLIENT_PORT));
    let _ = world.uplink_in(&Packet::from_client(segment(RST, far)));
    assert_eq!(world.established(&flow_key(protocol::TCP)), None);
}

#[test]
fn a_task_that_takes_a_syn_on_the_ports_of_a_half_closed_connection_has_begun_another() {
    let world = World::serving(&[local(5)]);
    shake_hands(&world);
    let _ = world.uplink_in(&Packet::from_client(segment(FIN | ACK, SEQUENCE + 1)));
    let state_of = |flow: Option<Flow>| flow.expect("it is established").state & ENDS;
    assert_eq!(state_of(world.established(&flow_key(protocol::TCP))), state::CLIENT_FINISHED);
    let another = SEQUENCE.wrapping_add(1 << 29);
    let _ = world.uplink_in(&Packet::from_client(Payload::Tcp(Tcp { sequence: another, ..tcp(SYN) })));
    let greeting = Tcp { acknowledgement: another + 1, ..tcp(SYN | ACK) };
    let greeting = between(Payload::Tcp(greeting), TARGET, CLIENT_PORT);
    let _ = world.bridge_in(&Packet::from_task(5, greeting)).leaves(Outcome::Replied);
    assert_eq!(state_of(world.established(&flow_key(protocol::TCP))), 0);
    assert_eq!(established_reply(&world, 5).expect("it is established").state & ENDS, 0);
    let _ = world.uplink_in(&Packet::from_client(segment(RST, another + 1)));
    assert_eq!(world.established(&flow_key(protocol::TCP)), None);
    assert_eq!(established_reply(&world, 5), None);
}

/// What is known of a conversation's end.
const ENDS: u8 = state::RESET | state::CLIENT_FINISHED | state::TASK_FINISHED;

/// With task 5, or whichever is first.
fn shake_hands(world: &World) {
    shake_hands_by(world, true);
}

fn shake_hands_by(world: &World, is_local: bool) {
    let _ = world.uplink_in(&Packet::from_client(syn()));
    let greeting = answer(SYN | ACK, b"");
    if is_local {
        let _ = world.bridge_in(&Packet::from_task(5, greeting)).leaves(Outcome::Replied);
    } else {
        let _ = come_back(world, greeting);
    }
    let _ = world.uplink_in(&Packet::from_client(segment(ACK, SEQUENCE + 1)));
    assert!(world.established(&flow_key(protocol::TCP)).is_some());
}

/// Out of the tunnel, from task 5.
fn come_back(world: &World, payload: Payload) -> Vec<u8> {
    let packet = Packet::from_task(5, payload).as_frontend(cast::NODE, PUBLISHED);
    let bytes = Tunnel::to_here(5).reply().around(&packet.ip());
    world.run(Hook::UplinkIn, &bytes).leaves(Outcome::RepliedFromTunnel)
}

/// The client's.
fn segment(flags: u8, sequence: u32) -> Payload {
    Payload::Tcp(Tcp { sequence, acknowledgement: SEQUENCE + 1, ..tcp(flags) })
}

fn established_reply(world: &World, number: u8) -> Option<Reply> {
    world.established_reply(&reply_key(number, protocol::TCP))
}
