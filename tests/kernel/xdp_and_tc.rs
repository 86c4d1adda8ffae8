//! XDP before TC comes to what TC alone comes to.

use mesh_common::flow::{Flow, FlowKey};
use mesh_common::frontend::policy;
use mesh_common::net::{Address, Port, protocol};
use mesh_common::outcome::Outcome;

use crate::support::cast::{self, CLIENT_PORT, PUBLISHED, TARGET};
use crate::support::checks;
use crate::support::packet::Packet;
use crate::support::payload::{
    ACK, FIN, Icmp, PSH, Payload, RST, SYN, Tcp, between, icmp_error, linux_options, tcp, udp,
};
use crate::support::random::Random;
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, local, remote};
use crate::support::xdp::Driver;

/// From `linux/pkt_cls.h`.
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
/// Client ports from the usual one on.
const CLIENTS: u16 = 12;

#[test]
fn round_robin_stays_exact() {
    let mut world = World::serving(&[local(5), remote(7), local(6), remote(8)]);
    let driver = Driver::of(&mut world);
    for port in 0..400 {
        for payload in [Payload::Tcp(tcp(SYN)), Payload::Udp(udp(b"datagram"))] {
            // A SYN is sent again.
            for _ in 0..2 {
                arrives(&world, &driver, &Packet::from_client(payload.with_source(10_000 + port)).bytes());
            }
        }
    }
    for id in 1..=4 {
        assert_eq!((id, world.counters(id).flows, world.counters(id).packets), (id, 200, 400));
    }
}

#[test]
fn a_flow_that_xdp_has_given_to_a_suspect_is_not_given_once_more() {
    let mut world = World::serving(&[local(5), local(6)]);
    world.set_suspect(1, u64::MAX);
    world.set_suspect(2, u64::MAX);
    let driver = Driver::of(&mut world);
    for port in 0..20 {
        let syn = Packet::from_client(Payload::Tcp(Tcp { source: 10_000 + port, ..tcp(SYN) }));
        arrives(&world, &driver, &syn.bytes());
    }
    assert_eq!(world.counters(1).flows + world.counters(2).flows, 20);
}

#[test]
fn random_conversations_go_the_same_ways() {
    for seed in 0..3 {
        let mut random = Random::seeded(0x6365_6c61 + seed);
        let packets: Vec<Vec<u8>> = (0..1000).map(|_| packet(&mut random)).collect();
        // Both at the same time: what becomes of a packet depends on how long ago others came.
        let (alone, mut world) = (world(), world());
        let driver = Driver::of(&mut world);
        let mut sent = 0;
        for bytes in &packets {
            let expected = by_tc(&alone, bytes);
            let run = driver.run(bytes);
            sent += u32::from(run.is_sent());
            let seen = if run.is_left() {
                run.is_left_to_tc();
                by_tc(&world, bytes)
            } else if run.is_sent() {
                checks::assert_checksums(&run.after);
                Seen::Sent(run.outcomes, run.after)
            } else {
                Seen::Dropped(run.outcomes)
            };
            assert!(
                expected.is_like(&seen),
                "TC alone: {expected:?}\nafter XDP: {seen:?}\n{}",
                checks::describe(bytes)
            );
        }
        assert_eq!(flows(&world), flows(&alone), "other flows are known");
        assert!(sent > 200, "XDP has sent {sent} of them");
    }
}

/// What became of a packet.
#[derive(Debug)]
enum Seen {
    Passed(Vec<(Outcome, u64)>, Vec<u8>),
    Sent(Vec<(Outcome, u64)>, Vec<u8>),
    Dropped(Vec<(Outcome, u64)>),
}

impl Seen {
    /// TC leaves the hardware addresses to the kernel, XDP writes them.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Passed(one, before), Self::Passed(two, after)) => one == two && before == after,
            (Self::Sent(one, before), Self::Sent(two, after)) => one == two && before[12..] == after[12..],
            (Self::Dropped(one), Self::Dropped(two)) => one == two,
            _ => false,
        }
    }
}

fn by_tc(world: &World, bytes: &[u8]) -> Seen {
    let run = world.run(Hook::UplinkIn, bytes);
    match run.verdict {
        SHOT => Seen::Dropped(run.outcomes),
        REDIRECT => Seen::Sent(run.outcomes, run.after),
        _ => Seen::Passed(run.outcomes, run.after),
    }
}

fn arrives(world: &World, driver: &Driver, bytes: &[u8]) {
    if driver.run(bytes).is_left() {
        let _ = world.run(Hook::UplinkIn, bytes);
    }
}

/// Ports with backends here and elsewhere, with some only here, without any, and with another policy.
fn world() -> World {
    let mut world = World::serving(&[local(5), remote(7), remote(8)]);
    world.task(5, 0);
    for protocol in [protocol::TCP, protocol::UDP] {
        world.frontend(81, protocol, &[]);
        world.frontend(82, protocol, &[1]);
        world.frontend(83, protocol, &[2, 3]);
        world.change_frontend(83, protocol, |frontend| frontend.policy = policy::MAGLEV);
    }
    world
}

/// The clients' flows.
fn flows(world: &World) -> Vec<Option<(u32, u8)>> {
    let key = |client: u16, port: u16, protocol: u8| FlowKey {
        client: Address::new(cast::CLIENT),
        frontend: Address::new(cast::NODE),
        client_port: Port::new(CLIENT_PORT + client),
        frontend_port: Port::new(port),
        protocol,
        padding: [0; 3],
    };
    let told = |flow: Flow| (flow.backend, flow.state);
    let mut flows = Vec::new();
    for protocol in [protocol::TCP, protocol::UDP] {
        for port in PUBLISHED..PUBLISHED + 4 {
            flows.extend((0..CLIENTS).map(|client| world.flow(&key(client, port, protocol)).map(told)));
        }
    }
    flows
}

/// Something that may come in by the uplink.
fn packet(random: &mut Random) -> Vec<u8> {
    let client = CLIENT_PORT + random.below(usize::from(CLIENTS)) as u16;
    let port = PUBLISHED + random.below(5) as u16;
    let length = [0, 1, 8, 100, 1400, 1460][random.below(6)];
    let (flags, is_reply) = (random.below(12), random.below(3) == 0);
    let segment = match flags {
        0..=2 => Tcp { options: linux_options(1460), ..tcp(SYN) },
        3 => tcp(RST),
        4 => tcp(RST | ACK),
        5 => tcp(FIN | ACK),
        6 => tcp(SYN | ACK),
        7 => tcp(ACK),
        _ => Tcp { data: vec![7; length], ..tcp(PSH | ACK) },
    };
    let payload = match random.below(3) {
        0 => Payload::Udp(udp(&vec![7; length])),
        _ => Payload::Tcp(segment),
    };
    let request = Packet::from_client(between(payload.clone(), client, port)).with(|packet| {
        packet.dont_fragment = random.below(2) == 0;
        packet.traffic_class = random.byte();
        if random.below(12) == 0 {
            packet.options = vec![1; 4 * random.below(11)];
        }
        if random.below(12) == 0 {
            packet.ttl = random.below(3) as u8;
        }
        if random.below(12) == 0 {
            packet.destination = cast::STRANGER;
        }
    });
    match random.below(8) {
        0 => {
            let parts = Packet::from_client(between(Payload::Udp(udp(&[7; 600])), client, port)).in_two(400);
            parts[random.below(2)].bytes()
        }
        1 => {
            let ping = Icmp { kind: 8, code: 0, word: [0; 4], data: b"ping".to_vec() };
            Packet::from_client(Payload::Icmp(ping)).bytes()
        }
        2 => Tunnel::to_here(0).probe(client).around(&[7; 20]),
        3..=5 => in_tunnel(random, payload, &request, client, port, is_reply),
        _ => request.bytes(),
    }
}

/// A packet of the other node, or of a stranger.
fn in_tunnel(
    random: &mut Random,
    payload: Payload,
    request: &Packet,
    client: u16,
    port: u16,
    is_reply: bool,
) -> Vec<u8> {
    let number = [5, 7, 8][random.below(3)];
    let mut tunnel = Tunnel::to_here(number);
    if random.below(12) == 0 {
        tunnel.source = cast::STRANGER;
    }
    if !is_reply {
        let request = request.with(|packet| packet.destination = cast::OTHER);
        return tunnel.around(&request.ip());
    }
    let payload = match random.below(8) {
        0 => icmp_error(3, 3, 0, request.quote()),
        _ => between(payload, TARGET, client),
    };
    let answer = Packet::from_task(number, payload).as_frontend(cast::NODE, port);
    tunnel.reply().around(&answer.ip())
}
