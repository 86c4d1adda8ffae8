//! Packets on an overlay network that are no packets: what is passed as somebody else's is passed as it came.

use mesh_common::outcome::Outcome;

use crate::support::cast::{CLIENT_PORT, PUBLISHED};
use crate::support::checks;
use crate::support::overlay::{CALLER, answer, call, from_vip, given, sctp, turned};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, Icmp, Payload, between, data, icmp_error, syn, tcp, udp};
use crate::support::random::Random;
use crate::support::run::{Hook, Run};
use crate::support::whole;
use crate::support::world::World;

const HOOKS: [Hook; 2] = [Hook::OverlayIn, Hook::OverlayOut];

/// The kernel runs no program on a frame that says it is IP and has no room for the header.
const LEAST: usize = 34;
/// From `linux/pkt_cls.h`.
const DROP: i32 = 2;

#[test]
fn a_packet_cut_short_anywhere_passes_untouched() {
    let world = busy_world();
    for bytes in samples() {
        for length in LEAST..bytes.len() {
            for hook in HOOKS {
                world.run(hook, &bytes[..length]).passes(Outcome::Malformed);
            }
        }
    }
}

#[test]
fn a_packet_whose_lengths_are_cut_short_with_it_is_never_changed_and_left() {
    let world = busy_world();
    for bytes in samples() {
        for length in LEAST..bytes.len() {
            let mut cut = bytes[..length].to_vec();
            cut[16..18].copy_from_slice(&((length - 14) as u16).to_be_bytes());
            for hook in HOOKS {
                assert_untouched(&world.run(hook, &cut));
            }
        }
    }
}

#[test]
fn a_header_with_wrong_lengths_passes_untouched() {
    let world = busy_world();
    let good = call(syn()).bytes();
    for (place, byte) in
        [(14, 0x44), (14, 0x4f), (14, 0x65), (16, 0xff), (17, 0), (17, 39), (46, 0x40), (46, 0xf0)]
    {
        let mut bytes = good.clone();
        bytes[place] = byte;
        world.run(Hook::OverlayIn, &bytes).passes(Outcome::Malformed);
    }
}

#[test]
fn packets_with_random_faults_are_never_changed_and_left() {
    let world = busy_world();
    let samples = samples();
    let mut random = Random::seeded(0x7669_7073);
    for _ in 0..4_000 {
        let mut bytes = samples[random.below(samples.len())].clone();
        for _ in 0..=random.below(3) {
            // The addresses stay, or next to nothing would be ours.
            let place = 14 + random.below(bytes.len() - 14);
            if !(26..34).contains(&place) {
                bytes[place] = random.byte();
            }
        }
        if random.below(4) == 0 {
            bytes.truncate(LEAST + random.below(bytes.len() - LEAST));
        }
        if random.below(2) == 0 {
            bytes = whole::with_checksums(&bytes);
        }
        for hook in HOOKS {
            assert_untouched(&world.run(hook, &bytes));
        }
    }
}

/// A packet that is not ours is as it was.
#[track_caller]
fn assert_untouched(run: &Run) {
    let left =
        matches!(run.outcomes[..], [(Outcome::NotOurs | Outcome::Malformed | Outcome::UnknownFragment, 1)]);
    assert!(
        !left || run.before == run.after,
        "changed, and left to the network\n before: {}\n after:  {}",
        checks::describe(&run.before),
        checks::describe(&run.after)
    );
    if !left && run.verdict != DROP {
        whole::assert_goes_on_whole(&run.before, &run.after);
    }
}

/// A network on which something is known about each of [`samples`], so that every step is reached.
fn busy_world() -> World {
    let world = World::calling(&[1, CALLER]);
    for payload in [syn(), Payload::Udp(udp(b"datagram")), sctp(CLIENT_PORT, PUBLISHED, b"init")] {
        let _ = world.overlay_in(&call(payload.clone()));
        let _ = world.overlay_in(&call(payload));
    }
    world
}

/// One of each kind, whole.
fn samples() -> Vec<Vec<u8>> {
    let with_options = |packet: Packet| packet.with(|packet| packet.options = vec![1; 40]);
    let datagram = || Payload::Udp(udp(b"datagram"));
    let said = answer(1, between(datagram(), PUBLISHED, CLIENT_PORT));
    let ping = Payload::Icmp(Icmp { kind: 8, code: 0, word: [0; 4], data: b"ping".to_vec() });
    [
        call(syn()),
        call(data(b"data")),
        call(datagram()),
        call(sctp(CLIENT_PORT, PUBLISHED, b"init")),
        call(ping),
        call(icmp_error(3, 3, 0, from_vip(&said).ip())),
        call(icmp_error(3, 3, 0, turned(&call(datagram())).ip())),
        with_options(call(syn())),
        with_options(call(datagram())),
        said,
        answer(1, between(Payload::Tcp(tcp(ACK)), PUBLISHED, CLIENT_PORT)),
        answer(1, icmp_error(3, 3, 0, given(&call(datagram()), 1).ip())),
        with_options(answer(1, icmp_error(3, 3, 0, given(&call(data(b"data")), 1).ip()))),
    ]
    .iter()
    .map(Packet::bytes)
    .collect()
}
