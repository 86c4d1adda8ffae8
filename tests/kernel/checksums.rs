//! Random packets through every place that changes one, against packets built from scratch.

use mesh_common::outcome::Outcome;

use crate::support::cast::{self, Ip, PUBLISHED, TARGET};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, PSH, Payload, SYN, Tcp, Udp, between, icmp_error, linux_options};
use crate::support::random::Random;
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, local};

const ROUNDS: usize = 1500;

#[test]
fn random_requests_and_their_answers_are_as_if_built_from_scratch() {
    let world = World::serving(&[local(5)]);
    let mut random = Random::seeded(1);
    for _ in 0..ROUNDS {
        let request = request(&mut random, cast::NODE);
        world.uplink_in(&request).leaves_as(Outcome::Delivered, &request.delivered(5).bytes());

        let answer = answer(&mut random, &request);
        let sent = answer.as_frontend(cast::NODE, PUBLISHED);
        world.bridge_in(&answer).leaves_as(Outcome::Replied, &sent.bytes());
    }
}

#[test]
fn random_packets_of_the_tunnel_are_as_if_built_from_scratch() {
    let world = World::home_of(&[5]);
    let mut random = Random::seeded(2);
    for _ in 0..ROUNDS {
        let frontend = address(&mut random);
        let request = request(&mut random, frontend);
        let run = world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&request.ip()));
        let expected = clamped(&request.delivered(5)).bytes();
        run.leaves_as(Outcome::DeliveredFromTunnel, &expected);

        let answer = answer(&mut random, &request);
        let sent = clamped(&answer.as_frontend(request.destination, PUBLISHED));
        let tunnel = Tunnel::to_other(5, &answer).reply();
        world.bridge_in(&answer).enters_tunnel(Outcome::ReplyTunnelled, tunnel, &sent.ip());
    }
}

#[test]
fn random_refusals_are_as_if_built_from_scratch() {
    let world = World::serving(&[]);
    let mut random = Random::seeded(3);
    for _ in 0..ROUNDS {
        // The checks work every checksum out again.
        let request = request(&mut random, cast::NODE);
        let outcome = match request.payload {
            Payload::Tcp(_) => Outcome::RefusedWithReset,
            Payload::Udp(_) | Payload::Icmp(_) | Payload::Other(..) => Outcome::RefusedUnreachable,
        };
        let _ = world.uplink_in(&request).leaves(outcome);
    }
}

#[test]
fn random_errors_are_as_if_built_from_scratch() {
    let world = World::home_of(&[5]);
    let mut random = Random::seeded(4);
    for _ in 0..ROUNDS {
        let request = request(&mut random, cast::OTHER);
        let _ = world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&request.ip()));
        let answer = answer(&mut random, &request);

        let seen = answer.as_frontend(cast::OTHER, PUBLISHED);
        let sent = answer.with(|packet| packet.ttl -= 1);
        let mtu = random.word();
        let error = Packet::from_client(icmp_error(3, 4, mtu, seen.quote()));
        let expected = Packet { payload: icmp_error(3, 4, mtu, sent.quote()), ..error.delivered(5) };
        let run = world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&error.ip()));
        run.leaves_as(Outcome::ErrorToTask, &expected.bytes());

        let error = Packet::from_task(5, icmp_error(3, 3, 0, request.delivered(5).quote()))
            .with(|packet| packet.destination = request.source);
        let quote = request.with(|packet| packet.ttl -= 1).quote();
        let inner = error.with(|packet| {
            packet.source = cast::OTHER;
            packet.ttl -= 1;
            packet.payload = icmp_error(3, 3, 0, quote);
        });
        let tunnel = Tunnel::to_other(5, &error).reply();
        world.bridge_in(&error).enters_tunnel(Outcome::ErrorToClient, tunnel, &inner.ip());
    }
}

/// From anywhere, to the published port: no neighbour is known for the sender, so the kernel fills in the hardware
/// addresses of the answers.
fn request(random: &mut Random, frontend: Ip) -> Packet {
    let ports = (random.word() | 1, PUBLISHED);
    packet(random, ports, SYN).with(|packet| packet.destination = frontend)
}

fn answer(random: &mut Random, request: &Packet) -> Packet {
    let port = match &request.payload {
        Payload::Tcp(tcp) => tcp.source,
        Payload::Udp(udp) => udp.source,
        Payload::Icmp(_) | Payload::Other(..) => 0,
    };
    let answer = loop {
        let packet = packet(random, (TARGET, port), SYN | ACK);
        if packet.payload.protocol() == request.payload.protocol() {
            break packet;
        }
    };
    Packet {
        destination_mac: cast::BRIDGE_MAC,
        source_mac: cast::task_mac(5),
        source: cast::task(5),
        destination: request.source,
        ..answer
    }
}

/// TCP or UDP; `opening` are the flags of a segment that opens.
fn packet(random: &mut Random, (source, destination): (u16, u16), opening: u8) -> Packet {
    let length = random.below(300);
    let data = random.bytes(length);
    let payload = match random.below(4) {
        0 => {
            let options = linux_options(random.word());
            Payload::Tcp(Tcp { options, ..segment(random, opening, Vec::new()) })
        }
        1 => Payload::Tcp(segment(random, PSH | ACK, data)),
        _ => Payload::Udp(Udp { source, destination, checked: random.below(8) != 0, data }),
    };
    Packet {
        source: address(random),
        ttl: 2 + random.byte() % 250,
        traffic_class: random.byte(),
        identification: random.word(),
        dont_fragment: random.below(2) == 0,
        options: vec![1; 4 * random.below(11)],
        ..Packet::from_client(between(payload, source, destination))
    }
}

fn segment(random: &mut Random, flags: u8, data: Vec<u8>) -> Tcp {
    Tcp {
        source: 0,
        destination: 0,
        sequence: random.next() as u32,
        acknowledgement: random.next() as u32,
        flags,
        window: random.word(),
        options: Vec::new(),
        data,
    }
}

/// With the MSS of a SYN or SYN-ACK as the tunnel wants it.
fn clamped(packet: &Packet) -> Packet {
    packet.with(|packet| {
        if let Payload::Tcp(tcp) = &mut packet.payload
            && tcp.flags & SYN != 0
        {
            let mss = u16::from_be_bytes([tcp.options[2], tcp.options[3]]);
            tcp.options = linux_options(mss.min(cast::INNER_MTU - 40));
        }
    })
}

/// One that is neither the node's nor its network's.
fn address(random: &mut Random) -> Ip {
    [198, random.byte(), random.byte(), random.byte()]
}
