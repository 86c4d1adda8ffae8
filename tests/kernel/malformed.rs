//! Packets that are no packets: whatever is passed to the kernel is passed as it came.

use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;

use crate::support::cast::{self, CLIENT_PORT, PUBLISHED, TARGET};
use crate::support::checks;
use crate::support::packet::Packet;
use crate::support::payload::{ACK, Icmp, Payload, answer, between, data, icmp_error, syn, udp};
use crate::support::random::Random;
use crate::support::run::{self, Hook};
use crate::support::tunnel::Tunnel;
use crate::support::whole;
use crate::support::world::{World, local, remote};

/// The kernel runs no program on a frame that says it is IP and has no room for the header.
const LEAST: usize = 34;
const LEAST_IPV6: usize = 54;
/// From `linux/pkt_cls.h`.
const PASS: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

#[test]
fn a_packet_cut_short_anywhere_passes_untouched() {
    let world = busy_world();
    for bytes in samples() {
        for length in LEAST..bytes.len() {
            for hook in Hook::ALL {
                world.run(hook, &bytes[..length]).passes(Outcome::Malformed);
            }
        }
    }
}

#[test]
fn a_packet_whose_lengths_are_cut_short_with_it_is_never_changed_and_passed() {
    let world = busy_world();
    for bytes in samples() {
        for length in LEAST..bytes.len() {
            for hook in Hook::ALL {
                let run = world.run(hook, &with_length(&bytes[..length], length - 14));
                assert_untouched(hook, run.verdict, &run.before, &run.after);
            }
        }
    }
}

#[test]
fn a_packet_cut_short_in_the_tunnel_is_dropped() {
    let world = busy_world();
    for tunnel in [Tunnel::to_here(5), Tunnel::to_here(5).reply()] {
        let inner = inside(data(b"data"), tunnel.flags != 0);
        for length in 20..inner.len() {
            let run = world.run(Hook::UplinkIn, &tunnel.around(&inner[..length]));
            run.is_dropped(Outcome::MalformedInside);
        }
        for length in 0..20 {
            let run = world.run(Hook::UplinkIn, &tunnel.around(&inner[..length]));
            run.passes(Outcome::Malformed);
        }
    }
}

#[test]
fn an_ip_header_with_wrong_lengths_passes_untouched() {
    let world = busy_world();
    let good = Packet::from_client(syn()).bytes();
    let with = |changes: &[(usize, u8)]| {
        let mut bytes = good.clone();
        for (place, byte) in changes {
            bytes[*place] = *byte;
        }
        bytes
    };
    let mut cases = Vec::new();
    for version in (0..16).filter(|version| *version != 4) {
        cases.push(with(&[(14, version << 4 | 5)]));
    }
    for length in 0..5 {
        cases.push(with(&[(14, 0x40 | length)]));
    }
    // Shorter than its own header, and longer than the frame.
    for total in [0, 1, 19, 20, 39, good.len() - 13, 0xffff] {
        let [high, low] = (total as u16).to_be_bytes();
        cases.push(with(&[(16, high), (17, low)]));
    }
    // A header with options that leaves no room for TCP's.
    cases.push(with(&[(14, 0x4f)]));
    for bytes in cases {
        for hook in Hook::ALL {
            world.run(hook, &bytes).passes(Outcome::Malformed);
        }
    }
}

#[test]
fn a_tcp_header_with_a_wrong_length_passes_untouched() {
    let world = busy_world();
    for offset in (0..5).chain(6..16) {
        let mut bytes = Packet::from_client(data(b"")).bytes();
        bytes[46] = offset << 4;
        for hook in Hook::ALL.into_iter().filter(|hook| *hook != Hook::BridgeIn) {
            world.run(hook, &bytes).passes(Outcome::Malformed);
        }
        // At the bridge it is looked at where a task has answered.
        world.run(Hook::BridgeIn, &bytes).passes(Outcome::NotOurs);
        bytes[34..36].copy_from_slice(&TARGET.to_be_bytes());
        world.run(Hook::BridgeIn, &bytes).passes(Outcome::Malformed);
    }
}

#[test]
fn a_frame_of_something_else_passes_untouched() {
    let world = busy_world();
    for kind in [0x0806_u16, 0x86dd, 0x8100, 0x88a8, 0x0000, 0x05dc, 0xffff] {
        for mut bytes in samples() {
            bytes[12..14].copy_from_slice(&kind.to_be_bytes());
            bytes.resize(bytes.len().max(LEAST_IPV6), 0);
            for hook in Hook::ALL {
                world.run(hook, &bytes).passes(Outcome::NotOurs);
            }
        }
    }
}

#[test]
fn random_bytes_are_never_changed_and_passed() {
    let world = busy_world();
    let mut random = Random::seeded(0x6d65_7368);
    for _ in 0..20_000 {
        let length = LEAST + random.below(200);
        let mut bytes = random.bytes(length);
        // Most of them would be found out by the first bytes that are looked at.
        bytes[12..14].copy_from_slice(&[0x08, 0x00]);
        if random.below(8) != 0 {
            bytes[14] = 0x40 | (bytes[14] & 0x0f);
        }
        if random.below(4) != 0 {
            bytes = with_length(&bytes, length - 14);
        }
        run_everywhere(&world, &bytes);
    }
}

#[test]
fn packets_with_random_faults_are_never_changed_and_passed_and_sent_on_whole() {
    let world = busy_world();
    let samples = samples();
    let mut random = Random::seeded(0x6661_756c);
    for _ in 0..20_000 {
        let mut bytes = samples[random.below(samples.len())].clone();
        for _ in 0..=random.below(4) {
            let place = 14 + random.below(bytes.len() - 14);
            bytes[place] = random.byte();
        }
        if random.below(4) == 0 {
            bytes.truncate(LEAST + random.below(bytes.len() - LEAST));
        }
        // Half of them are whole packets that say something odd.
        if random.below(2) == 0 {
            bytes = whole::with_checksums(&bytes);
        }
        run_everywhere(&world, &bytes);
    }
}

fn run_everywhere(world: &World, bytes: &[u8]) {
    for hook in Hook::ALL {
        let (verdict, after) = run::run(world.program(hook), hook, bytes);
        assert_untouched(hook, verdict, bytes, &after);
    }
}

/// A packet that is passed is as it was, except for one to the node itself: out of the tunnel, or an answer of a task.
#[track_caller]
fn assert_untouched(hook: Hook, verdict: i32, before: &[u8], after: &[u8]) {
    assert!(
        [PASS, DROP, REDIRECT].contains(&verdict),
        "{hook:?}: verdict {verdict} for {}",
        checks::describe(before)
    );
    let taken_out = || {
        hook == Hook::UplinkIn
            && before.len() == after.len() + 50
            && before[..14] == after[..14]
            && before[64..] == after[14..]
    };
    let answers_node = || hook == Hook::BridgeIn && after.get(30..34) == Some(&cast::NODE);
    assert!(
        verdict != PASS || before == after || taken_out() || answers_node(),
        "{hook:?} changed a packet and passed it\n before: {}\n after:  {}",
        checks::describe(before),
        checks::describe(after)
    );
    if verdict == REDIRECT {
        whole::assert_sent_whole(before, after);
    }
}

/// A node on which something is known about each of [`samples`], so that every step is reached.
fn busy_world() -> World {
    let mut world = World::serving(&[local(5), remote(7)]);
    world.task(5, 0);
    world.frontend(81, protocol::TCP, &[]);
    world.frontend(81, protocol::UDP, &[]);
    for payload in [data(b"data"), Payload::Udp(udp(b"datagram"))] {
        let _ = world.uplink_in(&Packet::from_client(payload.clone()));
        let _ = world.uplink_in(&Packet::from_client(payload.with_source(CLIENT_PORT + 1)));
    }
    world
}

/// One of each kind, whole.
fn samples() -> Vec<Vec<u8>> {
    let seen = Packet::from_task(5, answer(ACK, b"answer")).as_frontend(cast::NODE, PUBLISHED).quote();
    let received = Packet::from_client(Payload::Udp(udp(b"datagram"))).delivered(5).quote();
    let with_options =
        |payload: Payload| Packet::from_client(payload).with(|packet| packet.options = vec![1; 40]);
    let mut samples = Vec::new();
    for packet in [
        Packet::from_client(syn()),
        Packet::from_client(data(b"some data of a client")),
        Packet::from_client(syn().with_destination(81)),
        Packet::from_client(Payload::Udp(udp(b"datagram"))),
        Packet::from_client(Payload::Udp(udp(b"datagram")).with_destination(81)),
        with_options(syn()),
        with_options(Payload::Udp(udp(b"datagram"))),
        Packet::from_client(icmp_error(3, 4, 1400, seen.clone())),
        with_options(icmp_error(11, 0, 0, seen)),
        Packet::from_client(Payload::Icmp(Icmp { kind: 8, code: 0, word: [0; 4], data: b"ping".to_vec() })),
        Packet::from_task(5, answer(ACK, b"answer")),
        Packet::from_task(5, between(Payload::Udp(udp(b"answer")), TARGET, CLIENT_PORT)),
        Packet::from_task(5, icmp_error(3, 3, 0, received)),
    ] {
        samples.push(packet.bytes());
    }
    let tunnel = Tunnel::to_here(5);
    for payload in [syn(), Payload::Udp(udp(b"datagram"))] {
        samples.push(tunnel.around(&inside(payload.clone(), false)));
        samples.push(tunnel.clone().reply().around(&inside(payload, true)));
    }
    samples
}

/// An IP packet as it stands in the tunnel: the client's, or an answer to it.
fn inside(payload: Payload, reply: bool) -> Vec<u8> {
    if reply {
        Packet::from_task(5, payload).as_frontend(cast::NODE, PUBLISHED).ip()
    } else {
        Packet::from_client(payload).with(|packet| packet.destination = cast::OTHER).ip()
    }
}

/// The frame with `length` as the length of its IP packet.
fn with_length(frame: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    bytes[16..18].copy_from_slice(&(length as u16).to_be_bytes());
    bytes
}
