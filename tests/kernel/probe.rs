//! Questions of other nodes' agents whether this dataplane is there: answered without any agent here.

use mesh_common::outcome::Outcome;

use crate::support::cast::{self, Ip};
use crate::support::packet::{Packet, Payload, Tunnel, Udp, udp};
use crate::support::run::Hook;
use crate::support::world::World;

/// The agent's socket on the other node.
const SOCKET: u16 = 40_000;

#[test]
fn a_probe_of_another_node_is_sent_back_as_it_came() {
    let world = World::new();
    for payload in [&[7_u8; 8][..], &[7; 9], &[7; 20], &[7; 64]] {
        let question = Tunnel::to_here(0).probe(SOCKET).around(payload);
        let answer = turned(&question);
        world.run(Hook::UplinkIn, &question).leaves_as(Outcome::Probed, &answer);
    }
}

#[test]
fn a_probe_with_a_checksum_keeps_it() {
    let world = World::new();
    let data = Tunnel::to_here(0).probe(SOCKET).around(&[7; 20])[42..].to_vec();
    let checked = |source: Ip, destination: Ip, from: u16, to: u16| Packet {
        source,
        destination,
        ..Packet::from_client(Payload::Udp(Udp { source: from, destination: to, ..udp(&data) }))
    };
    let question = checked(cast::OTHER, cast::NODE, SOCKET, cast::TUNNEL_PORT);
    let answer = checked(cast::NODE, cast::OTHER, cast::TUNNEL_PORT, SOCKET)
        .macs(question.source_mac, question.destination_mac);
    world.uplink_in(&question).leaves_as(Outcome::Probed, &answer.bytes());
}

#[test]
fn only_nodes_of_the_swarm_are_answered() {
    let world = World::new();
    let stranger = Tunnel { source: cast::STRANGER, ..Tunnel::to_here(0).probe(SOCKET) };
    world.run(Hook::UplinkIn, &stranger.around(&[7; 20])).is_dropped(Outcome::UnknownPeer);
    let other_network = Tunnel { vni: cast::VNI ^ 1, ..Tunnel::to_here(0).probe(SOCKET) };
    world.run(Hook::UplinkIn, &other_network.around(&[7; 20])).passes(Outcome::NotOurs);
    let for_another = Tunnel { destination: cast::STRANGER, ..Tunnel::to_here(0).probe(SOCKET) };
    world.run(Hook::UplinkIn, &for_another.around(&[7; 20])).passes(Outcome::NotOurs);
}

#[test]
fn a_probe_that_carries_no_number_is_malformed() {
    let world = World::new();
    let short = Tunnel::to_here(0).probe(SOCKET).around(&[7; 7]);
    world.run(Hook::UplinkIn, &short).passes(Outcome::Malformed);
}

/// The datagram with its ends swapped.
fn turned(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[..6].copy_from_slice(&question[6..12]);
    answer[6..12].copy_from_slice(&question[..6]);
    answer[26..30].copy_from_slice(&question[30..34]);
    answer[30..34].copy_from_slice(&question[26..30]);
    answer[34..36].copy_from_slice(&question[36..38]);
    answer[36..38].copy_from_slice(&question[34..36]);
    answer
}
