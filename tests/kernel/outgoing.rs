//! What the node, or a container behind its address, has begun from a published port is answered to whoever began it.

use mesh_common::flow::FlowKey;
use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;

use crate::support::cast::{self, CLIENT_PORT, PUBLISHED, TARGET};
use crate::support::forwarding::Forwarding;
use crate::support::packet::Packet;
use crate::support::payload::{ACK, FIN, Payload, RST, SYN, between, data, syn, tcp, udp};
use crate::support::tunnel::Tunnel;
use crate::support::wire::Frame;
use crate::support::world::{World, flow_key, local, remote};

#[test]
fn what_answers_a_containers_connection_from_a_published_port_is_not_ours() {
    let forwarding = Forwarding::new(world());
    let _ = forwarding.forwards(&outgoing(syn()));
    let world = &forwarding.world;
    for flags in [SYN | ACK, ACK, FIN | ACK, RST, RST | ACK] {
        world.uplink_in(&Packet::from_client(Payload::Tcp(tcp(flags)))).passes(Outcome::NotOurs);
    }
    // Other ports of the same host, and who calls from the same one.
    for payload in [data(b"moved").with_source(CLIENT_PORT + 1), syn()] {
        let _ = world.uplink_in(&Packet::from_client(payload)).leaves(Outcome::Tunnelled);
    }
}

#[test]
fn what_answers_a_containers_datagram_is_not_ours_as_long_as_it_goes_on() {
    let mut forwarding = Forwarding::new(world());
    let _ = forwarding.forwards(&outgoing(Payload::Udp(udp(b"query"))));
    let reply = Packet::from_client(Payload::Udp(udp(b"reply")));
    forwarding.world.uplink_in(&reply).passes(Outcome::NotOurs);
    let key = flow_key(protocol::UDP);
    let asked: u64 = forwarding.world.hash("OUTGOING").get(&key, 0).expect("it was noted");
    forwarding.world.insert("OUTGOING", key, asked.wrapping_sub(180_000_000_000));
    let _ = forwarding.world.uplink_in(&reply).leaves(Outcome::Tunnelled);
}

#[test]
fn other_connections_are_nobodys_to_be_remembered() {
    let mut forwarding = Forwarding::new(world());
    for packet in [
        // Segments in the middle of one, from another port, from another address.
        outgoing(data(b"data")),
        outgoing(Payload::Tcp(tcp(SYN | ACK))),
        outgoing(syn()).with(|packet| packet.payload = packet.payload.with_source(PUBLISHED + 1)),
        outgoing(syn()).with(|packet| packet.source = cast::STRANGER),
    ] {
        let _ = forwarding.forwards(&packet);
    }
    assert_eq!(noted(&forwarding.world), 0);
    // Of programs of another version on other hooks it is not known what they send.
    forwarding.world.share_hooks();
    let _ = forwarding.forwards(&outgoing(syn()));
    assert_eq!(noted(&forwarding.world), 0);
}

#[test]
fn answers_to_clients_are_not_taken_for_what_the_node_begins() {
    let mut world = World::serving(&[local(5)]);
    world.claim_hooks();
    let forwarding = Forwarding::new(world);
    let packet = Packet::from_client(Payload::Udp(udp(b"query")));
    forwarding.uplink.send(&Frame::finished(packet.bytes()));
    let _ = forwarding.bridge.receive();
    let reply = Packet::from_task(5, between(Payload::Udp(udp(b"reply")), TARGET, CLIENT_PORT));
    forwarding.bridge.send(&Frame::finished(reply.bytes()));
    let _ = forwarding.uplink.receive();
    assert_eq!(noted(&forwarding.world), 0);

    let mut world = World::serving(&[remote(7)]);
    world.claim_hooks();
    let forwarding = Forwarding::new(world);
    forwarding.uplink.send(&Frame::finished(packet.bytes()));
    let _ = forwarding.uplink.receive();
    let reply = Packet::from_task(7, between(Payload::Udp(udp(b"reply")), TARGET, CLIENT_PORT));
    let reply = reply.as_frontend(cast::NODE, PUBLISHED);
    forwarding.uplink.send(&Frame::finished(Tunnel::to_here(7).reply().around(&reply.ip())));
    let _ = forwarding.uplink.receive();
    assert_eq!(forwarding.world.count(Outcome::RepliedFromTunnel), 1);
    assert_eq!(noted(&forwarding.world), 0);
}

#[test]
fn a_greeting_without_a_call_and_a_reset_without_a_flow_are_nobodys() {
    let world = World::serving(&[local(5)]);
    for flags in [SYN | ACK, RST, RST | ACK, RST | SYN] {
        world.uplink_in(&Packet::from_client(Payload::Tcp(tcp(flags)))).passes(Outcome::NotOurs);
    }
}

fn world() -> World {
    let mut world = World::serving(&[remote(7)]);
    world.claim_hooks();
    world
}

/// From a container that has been given the node's address, and the published port.
fn outgoing(payload: Payload) -> Packet {
    let packet = Packet::from_client(between(payload, PUBLISHED, CLIENT_PORT));
    Forwarding::to_forward(&packet).with(|packet| {
        (packet.source, packet.destination) = (cast::NODE, cast::CLIENT);
    })
}

/// How many conversations of the node are known.
fn noted(world: &World) -> usize {
    world.entries::<FlowKey, u64>("OUTGOING")
}
