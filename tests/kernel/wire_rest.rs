//! By which interface they leave, for packets that are not simply passed on: fragments, errors, refusals, translated flows, clients
//! that keep their task. Their bytes have cases of their own elsewhere; here it is where they come out.

use mesh_common::net::protocol;

use crate::icmp;
use crate::refusals::{self, SEQUENCE};
use crate::support::cast::{self, CLIENT_PORT, PUBLISHED, TARGET};
use crate::support::checks;
use crate::support::packet::Packet;
use crate::support::payload::{ACK, Payload, answer, between, data, icmp_error, syn, udp};
use crate::support::tunnel::Tunnel;
use crate::support::wire::{Frame, Wire};
use crate::support::world::{World, local, remote};
use crate::wire::{carries_tunnel, talk, talk_by_tunnel, to_client};

#[test]
fn all_fragments_leave_by_the_bridge_and_their_answers_by_the_uplink() {
    let mut world = World::serving(&[local(5)]);
    let [uplink, bridge] = world.attach();
    let packet = Packet::from_client(Payload::Udp(udp(&[7; 200])));
    for (fragment, delivered) in packet.in_two(64).iter().zip(packet.delivered(5).in_two(64)) {
        send(&uplink, fragment);
        bridge.carries(&delivered.bytes());
    }
    let packet = Packet::from_task(5, between(Payload::Udp(udp(&[7; 200])), TARGET, CLIENT_PORT));
    for (fragment, sent) in packet.in_two(64).iter().zip(to_client(&packet, cast::NODE).in_two(64)) {
        send(&bridge, fragment);
        uplink.carries(&sent.bytes());
    }
}

#[test]
fn all_fragments_leave_by_the_uplink_to_the_other_node() {
    let mut world = World::serving(&[remote(7)]);
    let [uplink, _bridge] = world.attach();
    for fragment in Packet::from_client(Payload::Udp(udp(&[7; 200]))).in_two(64) {
        send(&uplink, &fragment);
        carries_tunnel(&uplink, &Tunnel::to_other(7, &fragment), &fragment);
    }
}

#[test]
fn an_error_about_an_answer_leaves_by_the_bridge() {
    let mut world = World::serving(&[local(5)]);
    talk(&world);
    let [uplink, bridge] = world.attach();
    let sent = Packet::from_task(5, answer(ACK, b"odd"));
    let seen = sent.as_frontend(cast::NODE, PUBLISHED);
    let error = too_big(&seen);
    send(&uplink, &error);
    bridge.carries(&error_to_task(&error, &seen).bytes());
}

#[test]
fn an_error_about_an_answer_leaves_by_the_uplink_to_its_tasks_node_and_there_by_the_bridge() {
    let sent = Packet::from_task(5, answer(ACK, b"odd"));
    let mut entry = World::serving(&[remote(5)]);
    let _ = entry.uplink_in(&Packet::from_client(data(b"request")));
    let [uplink, _bridge] = entry.attach();
    let error = too_big(&sent.as_frontend(cast::NODE, PUBLISHED));
    send(&uplink, &error);
    carries_tunnel(&uplink, &Tunnel::to_other(5, &error), &error);

    let mut home = World::home_of(&[5]);
    talk_by_tunnel(&home);
    let [uplink, bridge] = home.attach();
    let seen = sent.as_frontend(cast::OTHER, PUBLISHED);
    let error = too_big(&seen).with(|packet| packet.destination = cast::OTHER);
    uplink.send(&Frame::finished(Tunnel::to_here(5).around(&error.ip())));
    bridge.carries(&error_to_task(&error, &seen).bytes());
}

#[test]
fn an_error_of_a_task_leaves_by_the_uplink() {
    let mut world = World::serving(&[local(5)]);
    talk(&world);
    let [uplink, bridge] = world.attach();
    let request = Packet::from_client(Payload::Udp(udp(b"odd")));
    let error = icmp::from_task(icmp_error(3, 3, 0, request.delivered(5).quote()));
    send(&bridge, &error);
    let told = icmp_error(3, 3, 0, icmp::as_received(&request).quote());
    let told = icmp::as_frontend(&error, cast::NODE, told).macs(cast::CLIENT_MAC, cast::NODE_MAC);
    uplink.carries(&told.bytes());
}

#[test]
fn a_refused_syn_leaves_by_the_bridge_once_more() {
    let mut world = World::serving(&[local(5), local(6)]);
    let [uplink, bridge] = world.attach();
    let packet = Packet::from_client(syn());
    send(&uplink, &packet);
    bridge.carries(&packet.delivered(5).bytes());
    // It comes in again by the uplink, where the client's came in, and is given to the other task.
    send(&bridge, &refusals::reset(5, SEQUENCE));
    bridge.carries(&packet.delivered(6).bytes());
}

#[test]
fn a_syn_that_was_refused_elsewhere_leaves_by_the_bridge() {
    let mut world = World::serving(&[remote(7), local(6)]);
    let [uplink, bridge] = world.attach();
    let packet = Packet::from_client(syn());
    send(&uplink, &packet);
    carries_tunnel(&uplink, &Tunnel::to_other(7, &packet), &packet);
    let inner = to_client(&refusals::reset(7, SEQUENCE), cast::NODE);
    uplink.send(&Frame::finished(Tunnel::to_here(7).reply().around(&inner.ip())));
    bridge.carries(&packet.delivered(6).bytes());
}

#[test]
fn a_client_that_keeps_its_task_is_sent_to_that_tasks_node() {
    let mut world = World::serving(&[remote(7), local(5)]);
    world.change_frontend(PUBLISHED, protocol::TCP, |frontend| frontend.affinity = 60);
    let [uplink, _bridge] = world.attach();
    for port in 2000..2004 {
        let packet = Packet::from_client(syn().with_source(port));
        send(&uplink, &packet);
        carries_tunnel(&uplink, &Tunnel::to_other(7, &packet), &packet);
    }
}

#[test]
fn a_translated_flow_leaves_by_the_bridge_and_its_answers_by_the_uplink() {
    let mut world = World::home_of(&[5]);
    talk_by_tunnel(&world);
    let [uplink, bridge] = world.attach();
    let packet = Packet::from_client(data(b"odd").with_destination(8000))
        .with(|packet| packet.destination = cast::OTHER);
    uplink.send(&Frame::finished(Tunnel::to_here(5).around(&packet.ip())));
    let bytes = bridge.receive().finish();
    let port = u16::from_be_bytes([bytes[34], bytes[35]]);
    assert_ne!(port, CLIENT_PORT);
    let expected = packet.delivered(5).with(|packet| packet.payload = packet.payload.with_source(port));
    checks::assert_same(&expected.bytes(), &bytes);

    let sent = Packet::from_task(5, answer(ACK, b"odd").with_destination(port));
    send(&bridge, &sent);
    let inner = sent
        .as_frontend(cast::OTHER, 8000)
        .macs(cast::CLIENT_MAC, cast::NODE_MAC)
        .with(|packet| packet.payload = packet.payload.with_destination(CLIENT_PORT));
    carries_tunnel(&uplink, &Tunnel::to_other(5, &sent).reply(), &inner);
}

fn send(wire: &Wire, packet: &Packet) {
    wire.send(&Frame::finished(packet.bytes()));
}

/// That an answer is too big, from a router on its way to the client.
fn too_big(seen: &Packet) -> Packet {
    icmp::from_router(icmp_error(3, 4, 1400, seen.quote()))
}

/// The same as it reaches task 5.
fn error_to_task(error: &Packet, seen: &Packet) -> Packet {
    icmp::to_task(error, icmp_error(3, 4, 1400, icmp::as_sent(seen, 5).quote()))
}
