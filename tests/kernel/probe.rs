//! Questions of other nodes' agents whether this dataplane is there: answered without any agent here.

use mesh_common::net::ETHERNET_HEADER;
use mesh_common::outcome::Outcome;
use mesh_common::tunnel::OVERHEAD;

use crate::support::cast::{self, Ip, TUNNEL_PORT};
use crate::support::checks;
use crate::support::packet::Packet;
use crate::support::payload::{Payload, Udp, udp};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::wire::Frame;
use crate::support::world::World;
use crate::support::xdp::Driver;

/// The agent's socket on the other node.
const SOCKET: u16 = 40_000;

/// Of an agent that says nothing of itself: a number, and zeroes.
const OLD: [u8; 20] = [7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Of one that knows answers by their flag.
const NEW: [u8; 20] = [7, 7, 7, 7, 7, 7, 7, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn a_probe_of_an_agent_that_knows_no_other_answer_is_sent_back_as_it_came() {
    each_hook(|answers| {
        for payload in [&OLD[..8], &OLD[..9], &OLD, &[&OLD[..], &[7; 44]].concat()] {
            let question = Tunnel::to_here(0).probe(SOCKET).around(payload);
            answers.as_datagram(&question, &turned(&question));
        }
    });
}

#[test]
fn an_agent_that_knows_the_answers_flag_gets_it() {
    each_hook(|answers| {
        for payload in [&NEW[..10], &NEW, &[&NEW[..], &[7; 44]].concat()] {
            let probe = Tunnel::to_here(0).probe(SOCKET);
            let answer = Tunnel { flags: 4, ..probe.clone() };
            answers.as_datagram(&probe.around(payload), &turned(&answer.around(payload)));
        }
        // What follows the datagram, as padding does, is none of its bytes.
        let mut padded = Tunnel::to_here(0).probe(SOCKET).around(&NEW[..8]);
        padded.extend([1; 8]);
        answers.as_datagram(&padded, &turned(&padded));
    });
}

#[test]
fn an_answers_checksum_is_right_if_the_probe_had_one() {
    each_hook(|answers| {
        for (payload, flags) in [(OLD, 2), (NEW, 4)] {
            let probe = Tunnel::to_here(0).probe(SOCKET);
            let data = |tunnel: &Tunnel| tunnel.around(&payload)[42..].to_vec();
            let checked = |data: Vec<u8>, source: Ip, destination: Ip, from: u16, to: u16| Packet {
                source,
                destination,
                ..Packet::from_client(Payload::Udp(Udp { source: from, destination: to, ..udp(&data) }))
            };
            let question = checked(data(&probe), cast::OTHER, cast::NODE, SOCKET, TUNNEL_PORT);
            let answer = data(&Tunnel { flags, ..probe });
            let answer = checked(answer, cast::NODE, cast::OTHER, TUNNEL_PORT, SOCKET)
                .macs(cast::OTHER_MAC, cast::NODE_MAC);
            answers.as_datagram(&question.bytes(), &answer.bytes());
        }
    });
}

#[test]
fn what_comes_from_a_tunnels_port_is_never_answered() {
    each_hook(|answers| {
        for payload in [OLD, NEW] {
            answers.nothing(&Tunnel::to_here(0).probe(TUNNEL_PORT).around(&payload));
        }
    });
}

#[test]
fn an_answer_is_never_answered() {
    each_hook(|answers| {
        for flags in [4, 4 | 2, 4 | 1, 4 | 2 | 1] {
            for (socket, payload) in [(SOCKET, OLD), (SOCKET, NEW), (TUNNEL_PORT, NEW)] {
                let answer = Tunnel { flags, ..Tunnel::to_here(0).probe(socket) };
                answers.nothing(&answer.around(&payload));
            }
        }
    });
}

#[test]
fn a_large_probe_is_answered_with_as_much() {
    each_hook(|answers| {
        for size in [576, 1_280, 1_500, 3_400] {
            let (question, answer) = large(&OLD, size);
            answers.as_datagram(&question, &answer);
            let (question, answer) = large(&NEW, size);
            answers.as_datagram(&question, &answer);
        }
    });
}

#[test]
fn a_probe_that_is_larger_than_any_path_is_not_answered() {
    let mut world = World::new();
    world.widen_uplink();
    let [uplink, _bridge] = world.attach();
    for size in [9_000, 9_216] {
        uplink.send(&Frame::finished(large(&NEW, 9_217).0));
        let (question, answer) = large(&NEW, size);
        uplink.send(&Frame::finished(question));
        checks::assert_same(&answer, &uplink.receive().finish());
    }
}

/// A probe that is an IP packet of so many bytes, and its answer.
fn large(first: &[u8], size: usize) -> (Vec<u8>, Vec<u8>) {
    let payload = [first, &vec![0; size - OVERHEAD - first.len()]].concat();
    let probe = Tunnel::to_here(0).probe(SOCKET);
    let question = probe.around(&payload);
    assert_eq!(question.len(), ETHERNET_HEADER + size);
    let flags = if first == NEW { 4 } else { 2 };
    let answer = turned(&Tunnel { flags, ..probe }.around(&payload));
    (question, answer)
}

#[test]
fn only_nodes_of_the_swarm_are_answered() {
    let world = World::new();
    let stranger = Tunnel { source: cast::STRANGER, ..Tunnel::to_here(0).probe(SOCKET) };
    world.run(Hook::UplinkIn, &stranger.around(&NEW)).is_dropped(Outcome::UnknownPeer);
    let other_network = Tunnel { vni: cast::VNI ^ 1, ..Tunnel::to_here(0).probe(SOCKET) };
    world.run(Hook::UplinkIn, &other_network.around(&NEW)).passes(Outcome::NotOurs);
    let for_another = Tunnel { destination: cast::STRANGER, ..Tunnel::to_here(0).probe(SOCKET) };
    world.run(Hook::UplinkIn, &for_another.around(&NEW)).passes(Outcome::NotOurs);
}

#[test]
fn a_probe_that_carries_no_number_is_malformed() {
    let world = World::new();
    let short = Tunnel::to_here(0).probe(SOCKET).around(&[7; 7]);
    world.run(Hook::UplinkIn, &short).passes(Outcome::Malformed);
}

/// How a node answers what comes in by its uplink.
enum Answers<'a> {
    Tc(&'a World),
    Xdp(&'a World, &'a Driver),
}

impl Answers<'_> {
    #[track_caller]
    fn as_datagram(&self, question: &[u8], answer: &[u8]) {
        match self {
            Self::Tc(world) => world.run(Hook::UplinkIn, question).leaves_as(Outcome::Probed, answer),
            Self::Xdp(_, driver) => driver.run(question).leaves_as(Outcome::Probed, answer),
        }
    }

    /// XDP may leave it to TC.
    #[track_caller]
    fn nothing(&self, question: &[u8]) {
        if let Self::Xdp(_, driver) = self {
            let run = driver.run(question);
            if !run.is_left() {
                return run.is_dropped(Outcome::ForgedTunnel);
            }
        }
        let (Self::Tc(world) | Self::Xdp(world, _)) = self;
        world.run(Hook::UplinkIn, question).is_dropped(Outcome::ForgedTunnel);
    }
}

fn each_hook(check: impl Fn(&Answers<'_>)) {
    let mut world = World::new();
    check(&Answers::Tc(&world));
    let driver = Driver::of(&mut world);
    check(&Answers::Xdp(&world, &driver));
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
