//! Tasks that leave a SYN unanswered: its retransmission goes to another one.

use mesh_common::backend::{Backend, flags};
use mesh_common::flow::{FlowKey, Opening, SYN_PATIENCE_NANOSECONDS};
use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;
use mesh_common::overlay::VipFlowKey;

use crate::egress::{self, from_node, leave, leave_own_socket};
use crate::support::cast::TARGET;
use crate::support::overlay::{self, call, given};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, SYN, answer, between, syn};
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, flow_key, local, remote};

#[test]
fn a_syn_that_is_left_unanswered_goes_to_another_task() {
    let mut world = World::serving(&[local(1), remote(2), local(3)]);
    let packet = Packet::from_client(syn());
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(1).bytes());
    // A second copy on the way does not count, nor one that another processor has sent since this one looked at the clock.
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(1).bytes());
    let key = flow_key(protocol::TCP);
    let mut opening = world.opening(&key).expect("it is opening");
    opening.flow.last_seen += 2 * SYN_PATIENCE_NANOSECONDS;
    world.insert("OPENING", key, opening);
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(1).bytes());
    wait(&mut world);
    world.uplink_in(&packet).enters_tunnel(Outcome::Tunnelled, Tunnel::to_other(2, &packet), &packet.ip());
    assert_ne!(world.suspected_until(1), 0);
    // Nobody is given the silent one for a while.
    wait(&mut world);
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(3).bytes());
    let other = Packet::from_client(syn().with_source(1234));
    world.uplink_in(&other).leaves_as(Outcome::Delivered, &other.delivered(3).bytes());
}

#[test]
fn a_syn_whose_answer_got_lost_stays_with_its_task() {
    let mut world = World::serving(&[local(1), local(2)]);
    let packet = Packet::from_client(syn());
    let _ = world.uplink_in(&packet).leaves(Outcome::Delivered);
    let _ = world.bridge_in(&Packet::from_task(1, answer(SYN | ACK, b""))).leaves(Outcome::Replied);
    wait(&mut world);
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(1).bytes());
    assert_eq!(world.suspected_until(1), 0);
}

#[test]
fn a_task_that_has_taken_others_since_is_not_silent() {
    let mut world = World::serving(&[local(1), local(2)]);
    let packet = Packet::from_client(syn());
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(1).bytes());
    wait(&mut world);
    let other = Packet::from_client(syn().with_source(1234));
    for _ in 0..2 {
        let _ = world.uplink_in(&other);
    }
    let [one, another] = [1235, 1236].map(|port| Packet::from_client(syn().with_source(port)));
    world.uplink_in(&one).leaves_as(Outcome::Delivered, &one.delivered(1).bytes());
    let greeting = between(answer(SYN | ACK, b""), TARGET, 1235);
    let _ = world.bridge_in(&Packet::from_task(1, greeting)).leaves(Outcome::Replied);
    // The client gets another one all the same; the others do not avoid the first for it.
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(2).bytes());
    assert_eq!(world.suspected_until(1), 0);
    world.uplink_in(&another).leaves_as(Outcome::Delivered, &another.delivered(1).bytes());
}

#[test]
fn a_task_whose_answers_do_not_pass_here_is_not_silent() {
    let direct = |number| Backend { flags: flags::RETURN_DIRECT, ..remote(number) };
    let mut world = World::serving(&[direct(1), direct(2)]);
    let packet = Packet::from_client(syn());
    for _ in 0..2 {
        let tunnel = Tunnel::to_other(1, &packet);
        world.uplink_in(&packet).enters_tunnel(Outcome::Tunnelled, tunnel, &packet.ip());
        wait(&mut world);
    }
}

#[test]
fn the_only_task_is_asked_again() {
    let mut world = World::serving(&[local(1)]);
    let packet = Packet::from_client(syn());
    for _ in 0..3 {
        world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(1).bytes());
        wait(&mut world);
    }
}

#[test]
fn a_syn_of_a_process_of_the_node_goes_to_another_task_too() {
    let mut world = World::serving(&[remote(1), remote(2)]);
    let packet = from_node(syn());
    leave_own_socket(&mut world, &packet).leaves(Outcome::TunnelledFromNode);
    leave(&world, &packet).enters_tunnel(
        Outcome::TunnelledFromNode,
        Tunnel::to_other(1, &packet),
        &packet.ip(),
    );
    age(&mut world, &egress::key(protocol::TCP));
    leave(&world, &packet).enters_tunnel(Outcome::Tunnelled, Tunnel::to_other(2, &packet), &packet.ip());
    leave(&world, &packet).enters_tunnel(
        Outcome::TunnelledFromNode,
        Tunnel::to_other(2, &packet),
        &packet.ip(),
    );
}

#[test]
fn a_call_of_a_virtual_address_goes_to_another_task_too() {
    let mut world = World::calling(&[1, 2]);
    let packet = call(syn());
    world.overlay_in(&packet).passes_as(Outcome::VipToTask, &given(&packet, 1).bytes());
    let key = overlay::flow_key(protocol::TCP);
    let mut opening = world.value::<VipFlowKey, Opening>("VIP_OPENING", &key).expect("it is opening");
    opening.flow.last_seen -= SYN_PATIENCE_NANOSECONDS;
    world.insert("VIP_OPENING", key, opening);
    world.overlay_in(&packet).passes_as(Outcome::VipToTask, &given(&packet, 2).bytes());
}

/// Long enough for the client's SYN to count as unanswered.
fn wait(world: &mut World) {
    age(world, &flow_key(protocol::TCP));
}

fn age(world: &mut World, key: &FlowKey) {
    let mut opening = world.opening(key).expect("it is opening");
    opening.flow.last_seen -= SYN_PATIENCE_NANOSECONDS;
    world.insert("OPENING", *key, opening);
}
