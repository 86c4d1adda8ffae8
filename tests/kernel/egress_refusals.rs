//! Tasks elsewhere that refuse a process of the node: its SYN goes to another one, which may be on this node.

use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;

use crate::egress::{from_node, key, leave, leave_own_socket};
use crate::support::cast::{self, CLIENT_PORT, PUBLISHED, TARGET};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, Payload, RST, SYN, Tcp, between, data, icmp_error, syn, tcp};
use crate::support::run::{Hook, Run};
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, local, remote};

const SEQUENCE: u32 = 0x1122_3344;

#[test]
fn a_refused_syn_comes_in_again_and_goes_to_another_task_elsewhere() {
    let world = refused(&[remote(1), remote(2)]);
    let again = replayed();
    world.uplink_in(&again).enters_tunnel(Outcome::Tunnelled, Tunnel::to_other(2, &again), &again.ip());

    // What the socket sends from now on, its retransmissions among it, goes there too.
    for payload in [syn(), data(b"data")] {
        let packet = from_node(payload);
        let tunnel = Tunnel::to_other(2, &packet);
        leave(&world, &packet).enters_tunnel(Outcome::TunnelledFromNode, tunnel, &packet.ip());
    }
    let flow = world.flow(&key(protocol::TCP)).expect("the flow is remembered");
    assert_eq!(flow.backend, 2);
}

#[test]
fn a_refused_syn_goes_to_a_task_here_whose_answers_come_from_what_was_dialled() {
    let world = refused(&[remote(1), local(2)]);
    let again = replayed();
    world.uplink_in(&again).leaves_as(Outcome::Delivered, &again.delivered(2).bytes());

    let answer = Packet {
        destination: cast::NODE,
        ..Packet::from_task(2, between(Payload::Tcp(tcp(SYN | ACK)), TARGET, CLIENT_PORT))
    };
    let expected = answer.as_frontend(cast::OTHER, PUBLISHED).macs(cast::NODE_MAC, cast::OTHER_MAC);
    world.bridge_in(&answer).leaves_as(Outcome::Replied, &expected.bytes());

    let packet = from_node(data(b"data"));
    leave(&world, &packet).leaves_as(Outcome::Delivered, &packet.delivered(2).bytes());
    let flow = world.flow(&key(protocol::TCP)).expect("the flow is remembered");
    assert_eq!(flow.backend, 2);
}

#[test]
fn a_task_here_that_refuses_it_as_well_is_replaced_by_the_next() {
    let world = refused(&[remote(1), local(2), remote(3)]);
    let again = replayed();
    world.uplink_in(&again).leaves_as(Outcome::Delivered, &again.delivered(2).bytes());
    let refusal = Packet { destination: cast::NODE, ..Packet::from_task(2, reset(TARGET)) };
    world.bridge_in(&refusal).leaves_as(Outcome::RefusalReplayed, &again.bytes());
    world.uplink_in(&again).enters_tunnel(Outcome::Tunnelled, Tunnel::to_other(3, &again), &again.ip());
}

#[test]
fn an_icmp_error_refuses_a_process_as_a_reset_does() {
    let mut world = World::serving(&[remote(1), remote(2)]);
    let packet = from_node(syn());
    leave_own_socket(&mut world, &packet).leaves(Outcome::TunnelledFromNode);
    let error =
        Packet { destination: cast::NODE, ..Packet::from_task(1, icmp_error(3, 3, 0, packet.quote())) };
    from_home(&world, &error).leaves_as(Outcome::RefusalReplayed, &replayed().bytes());
}

#[test]
fn when_all_have_refused_the_process_is_told() {
    let world = refused(&[remote(1), remote(2)]);
    world.uplink_in(&replayed()).leaves(Outcome::Tunnelled);
    let refusal = told_by(2);
    from_home(&world, &refusal).passes_as(Outcome::RepliedToNode, &bare(&refusal));
}

#[test]
fn a_refused_syn_that_gets_lost_on_its_way_is_offered_again_when_it_is_sent_again() {
    let world = refused(&[remote(1), remote(2)]);
    let packet = from_node(syn());
    let tunnel = Tunnel::to_other(2, &packet);
    leave(&world, &packet).enters_tunnel(Outcome::Tunnelled, tunnel, &packet.ip());
}

#[test]
fn a_process_is_told_on_the_way_out_that_nobody_is_left() {
    let mut world = refused(&[remote(1), remote(2)]);
    world.frontend(PUBLISHED, protocol::TCP, &[]);
    world.uplink_in(&replayed()).is_dropped(Outcome::RefusalSwallowed);
    let answer = leave(&world, &from_node(syn())).leaves(Outcome::RefusedWithReset);
    let expected = from_node(syn()).macs(cast::NODE_MAC, cast::OTHER_MAC);
    assert_eq!(answer[..12], expected.bytes()[..12]);
    assert_eq!(answer[26..30], cast::OTHER);
    assert_eq!(answer[30..34], cast::NODE);
}

#[test]
fn a_syn_from_the_network_with_the_nodes_own_address_is_not_ours() {
    let world = World::serving(&[remote(1), remote(2)]);
    world.uplink_in(&replayed()).passes(Outcome::NotOurs);

    let mut world = World::serving(&[remote(1), remote(2)]);
    leave_own_socket(&mut world, &from_node(syn())).leaves(Outcome::TunnelledFromNode);
    world.uplink_in(&replayed()).passes(Outcome::NotOurs);
}

/// A process's connection to the other node that its first task has refused.
fn refused(backends: &[mesh_common::backend::Backend]) -> World {
    let mut world = World::serving(backends);
    let packet = from_node(syn());
    let tunnel = Tunnel::to_other(1, &packet);
    let run = leave_own_socket(&mut world, &packet);
    run.enters_tunnel(Outcome::TunnelledFromNode, tunnel, &packet.ip());
    from_home(&world, &told_by(1)).leaves_as(Outcome::RefusalReplayed, &replayed().bytes());
    world
}

/// The process's SYN as it comes in by the uplink.
fn replayed() -> Packet {
    from_node(syn()).macs(cast::NODE_MAC, cast::OTHER_MAC)
}

fn reset(source: u16) -> Payload {
    let segment = Tcp { sequence: 0, acknowledgement: SEQUENCE + 1, window: 0, ..tcp(RST | ACK) };
    between(Payload::Tcp(segment), source, CLIENT_PORT)
}

/// What task `number` elsewhere says to the process.
fn told_by(number: u8) -> Packet {
    Packet { destination: cast::NODE, ..Packet::from_task(number, reset(TARGET)) }
}

/// A task's packet as its home node sends it into the tunnel.
fn from_home(world: &World, packet: &Packet) -> Run {
    let inner = as_sent(packet);
    world.run(Hook::UplinkIn, &tunnel(packet).around(&inner.ip()))
}

fn tunnel(packet: &Packet) -> Tunnel {
    Tunnel::to_here(packet.source[3]).reply()
}

fn as_sent(packet: &Packet) -> Packet {
    match packet.payload {
        Payload::Icmp(_) => Packet { source: cast::OTHER, ..packet.clone() },
        Payload::Tcp(_) | Payload::Udp(_) | Payload::Other(..) => packet.as_frontend(cast::OTHER, PUBLISHED),
    }
}

/// It, out of the tunnel.
fn bare(packet: &Packet) -> Vec<u8> {
    as_sent(packet).macs(cast::NODE_MAC, cast::OTHER_MAC).bytes()
}
