//! Packets that are no packets, at XDP: what is passed on is passed as it came.

use mesh_common::net::protocol;

use crate::support::cast::{self, PUBLISHED};
use crate::support::checks;
use crate::support::packet::Packet;
use crate::support::payload::{ACK, Payload, answer, data, syn, udp};
use crate::support::random::Random;
use crate::support::tunnel::Tunnel;
use crate::support::whole;
use crate::support::world::{World, local, remote};
use crate::support::xdp::Driver;

/// From `linux/bpf.h`.
const PASS: u32 = 2;
const DROP: u32 = 1;
const SENT: u32 = 3;
/// Less is no frame.
const LEAST: usize = 14;

#[test]
fn a_packet_cut_short_anywhere_is_left_to_tc() {
    let (_world, driver) = busy();
    for bytes in samples() {
        for length in LEAST..bytes.len() {
            driver.run(&bytes[..length]).is_left_to_tc();
        }
    }
}

#[test]
fn packets_with_random_faults_are_never_changed_and_left() {
    let (_world, driver) = busy();
    let samples = samples();
    let mut random = Random::seeded(0x7864_7066);
    for _ in 0..20_000 {
        let mut bytes = samples[random.below(samples.len())].clone();
        for _ in 0..=random.below(4) {
            let place = LEAST + random.below(bytes.len() - LEAST);
            bytes[place] = random.byte();
        }
        if random.below(4) == 0 {
            bytes.truncate(LEAST + random.below(bytes.len() - LEAST));
        }
        if random.below(2) == 0 {
            bytes = whole::with_checksums(&bytes);
        }
        is_not_changed_and_left(&driver, &bytes);
    }
}

#[test]
fn random_bytes_are_never_changed_and_left() {
    let (_world, driver) = busy();
    let mut random = Random::seeded(0x7864_7072);
    for _ in 0..20_000 {
        let length = LEAST + random.below(200);
        let mut bytes = random.bytes(length);
        // Most of them would be found out by the first bytes that are looked at.
        for (place, byte) in [(12, 0x08), (13, 0), (14, 0x45), (20, 0x40), (21, 0), (36, 0), (37, 80)] {
            if let Some(there) = bytes.get_mut(place).filter(|_| random.below(16) != 0) {
                *there = byte;
            }
        }
        is_not_changed_and_left(&driver, &bytes);
    }
}

#[track_caller]
fn is_not_changed_and_left(driver: &Driver, bytes: &[u8]) {
    let (verdict, after) = driver.run_uncounted(bytes);
    if verdict == SENT {
        whole::assert_sent_whole(bytes, &after);
    }
    assert!(
        [DROP, SENT].contains(&verdict) || verdict == PASS && after == bytes,
        "verdict {verdict}\n before: {}\n after:  {}",
        checks::describe(bytes),
        checks::describe(&after)
    );
}

/// A node on which something is known about each of [`samples`].
fn busy() -> (World, Driver) {
    let mut world = World::serving(&[remote(7), local(5)]);
    world.frontend(81, protocol::TCP, &[]);
    world.frontend(81, protocol::UDP, &[]);
    let driver = Driver::of(&mut world);
    for bytes in samples() {
        let _ = driver.run(&bytes);
    }
    (world, driver)
}

fn samples() -> Vec<Vec<u8>> {
    let mut samples: Vec<_> = [
        syn(),
        data(b"some data of a client"),
        syn().with_destination(81),
        Payload::Udp(udp(b"datagram")),
        Payload::Udp(udp(b"datagram")).with_destination(81),
    ]
    .map(|payload| Packet::from_client(payload).bytes())
    .into();
    let inner = Packet::from_task(7, answer(ACK, b"answer")).as_frontend(cast::NODE, PUBLISHED).ip();
    samples.push(Tunnel::to_here(7).reply().around(&inner));
    samples.push(Tunnel::to_here(7).probe(50_000).around(&[7; 20]));
    samples
}
