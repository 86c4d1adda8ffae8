//! At a home node: client ports that two flows to one task have, and the port that one of them is given.

use std::hint;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use mesh_common::net::{Port, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::reply::ReplyKey;

use crate::support::cast::{self, CLIENT_PORT, PUBLISHED, TARGET};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, FIN, Payload, SYN, Tcp, Udp, answer, data, syn, tcp, udp};
use crate::support::run::{self, Hook, Run};
use crate::support::tunnel::Tunnel;
use crate::support::world::{self, World};
use crate::tunnel::{arrive, request};

#[test]
fn two_flows_of_one_client_port_to_the_same_task_are_kept_apart() {
    for make in [tcp_payload, udp_payload] {
        let world = World::home_of(&[5]);
        let first = request(make());
        let second = first.with(|packet| packet.payload = packet.payload.with_destination(8000));
        let third = first.with(|packet| packet.destination = cast::STRANGER);
        let mut ports = vec![CLIENT_PORT];
        for _ in 0..2 {
            arrive(&world, &first).leaves_as(Outcome::DeliveredFromTunnel, &first.delivered(5).bytes());
        }
        for other in [&second, &third] {
            let port = translated_port(&arrive(&world, other));
            assert!(!ports.contains(&port), "{port} is taken: {ports:?}");
            ports.push(port);
            let expected =
                other.delivered(5).with(|packet| packet.payload = packet.payload.with_source(port));
            for _ in 0..2 {
                arrive(&world, other).leaves_as(Outcome::DeliveredFromTunnel, &expected.bytes());
            }
        }
        arrive(&world, &first).leaves_as(Outcome::DeliveredFromTunnel, &first.delivered(5).bytes());

        // Each answer is put back to the frontend and to the client's own port.
        let frontends = [(cast::OTHER, PUBLISHED), (cast::OTHER, 8000), (cast::STRANGER, PUBLISHED)];
        for ((address, port), client_port) in frontends.into_iter().zip(ports) {
            let packet = Packet::from_task(5, make().with_source(TARGET).with_destination(client_port));
            let sent = packet
                .as_frontend(address, port)
                .with(|packet| packet.payload = packet.payload.with_destination(CLIENT_PORT));
            let tunnel = Tunnel::to_other(5, &packet).reply();
            world.bridge_in(&packet).enters_tunnel(Outcome::ReplyTunnelled, tunnel, &sent.ip());
        }
    }
}

#[test]
fn two_flows_of_one_client_port_are_kept_apart_when_they_begin_at_the_same_moment() {
    const ROUNDS: u16 = 5_000;

    let world = World::home_of(&[5]);
    let waiting = AtomicU32::new(0);
    let begins = |frontend: [u8; 4]| {
        // The thread is in the node's namespace from here on.
        let _ = arrive(&world, &request(data(b"data")));
        let mut seen = Vec::new();
        for round in 0..ROUNDS {
            let payload = Payload::Udp(Udp { source: 20_000 + round, ..udp(b"datagram") });
            let packet = request(payload).with(|packet| packet.destination = frontend);
            let bytes = Tunnel::to_here(5).around(&packet.ip());
            waiting.fetch_add(1, Ordering::SeqCst);
            while waiting.load(Ordering::SeqCst) < 2 * (u32::from(round) + 1) {
                hint::spin_loop();
            }
            let (_, after) = run::run(world.program(Hook::UplinkIn), Hook::UplinkIn, &bytes);
            seen.push(u16::from_be_bytes([after[34], after[35]]));
        }
        seen
    };
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| begins(cast::OTHER));
        let other = begins(cast::STRANGER);
        (one.join().expect("it does not panic"), other)
    });
    let shared = one.iter().zip(&other).filter(|(one, other)| one == other).count();
    assert_eq!(shared, 0, "of {ROUNDS} pairs");
}

#[test]
fn a_translated_flow_keeps_its_port_when_the_other_flow_is_forgotten() {
    let mut world = World::home_of(&[5]);
    let first = request(data(b"first"));
    let second = first.with(|packet| packet.payload = packet.payload.with_destination(8000));
    let _ = arrive(&world, &first);
    let port = translated_port(&arrive(&world, &second));
    world.remove::<_, mesh_common::reply::Reply>("OPENING_REPLIES", &reply_key(CLIENT_PORT));
    assert_eq!(translated_port(&arrive(&world, &second)), port);
    arrive(&world, &first).leaves_as(Outcome::DeliveredFromTunnel, &first.delivered(5).bytes());
}

#[test]
fn a_translated_flow_whose_answers_are_forgotten_is_remembered_again() {
    let mut world = World::home_of(&[5]);
    let _ = arrive(&world, &request(data(b"first")));
    let second =
        request(data(b"second")).with(|packet| packet.payload = packet.payload.with_destination(8000));
    let port = translated_port(&arrive(&world, &second));
    world.remove::<_, mesh_common::reply::Reply>("OPENING_REPLIES", &reply_key(port));
    assert_eq!(translated_port(&arrive(&world, &second)), port);
    assert!(world.reply(&reply_key(port)).is_some());
}

#[test]
fn a_client_port_is_free_again_a_minute_after_its_conversation_has_ended() {
    const MINUTE: u64 = 60_000_000_000;

    for (idle, is_free) in [(0, false), (MINUTE / 2, false), (2 * MINUTE, true)] {
        let mut world = World::home_of(&[5]);
        for flags in [SYN, ACK, FIN | ACK] {
            let _ = arrive(&world, &request(Payload::Tcp(tcp(flags))));
        }
        for flags in [SYN | ACK, FIN | ACK] {
            let _ = world.bridge_in(&Packet::from_task(5, answer(flags, b"")));
        }
        let key = reply_key(CLIENT_PORT);
        let mut ended = world.reply(&key).expect("it is remembered for a while");
        ended.last_seen = ended.last_seen.wrapping_sub(idle);
        world.insert("OPENING_REPLIES", key, ended);
        let port = translated_port(&arrive(&world, &request(syn().with_destination(8000))));
        assert_eq!(port == CLIENT_PORT, is_free, "after {idle} ns it is {port}");
    }
}

#[test]
fn a_client_port_that_another_processor_has_just_taken_is_not_free() {
    let mut world = World::home_of(&[5]);
    let first = request(udp_payload());
    let _ = arrive(&world, &first);
    let key = ReplyKey { protocol: protocol::UDP, ..reply_key(CLIENT_PORT) };
    let mut taken = world.reply(&key).expect("it is known");
    // Written after this packet has looked at the clock.
    taken.last_seen += 1_000_000_000;
    world.insert("UDP_REPLIES", key, taken);
    let second = first.with(|packet| packet.payload = packet.payload.with_destination(8000));
    assert_ne!(translated_port(&arrive(&world, &second)), CLIENT_PORT);
}

#[test]
fn an_established_flow_whose_translation_is_forgotten_keeps_its_port() {
    let mut world = World::home_of(&[5]);
    let _ = arrive(&world, &request(data(b"first")));
    let second = |payload: Payload| request(payload.with_destination(8000));
    let port = translated_port(&arrive(&world, &second(syn())));
    let _ = world.bridge_in(&Packet::from_task(5, answer(SYN | ACK, b"").with_destination(port)));
    let third = Tcp { acknowledgement: 0x1122_3345, ..tcp(ACK) };
    let _ = arrive(&world, &second(Payload::Tcp(third)));
    assert!(world.established_reply(&reply_key(port)).is_some());
    world.forget(["TRANSLATIONS"]);
    assert_eq!(translated_port(&arrive(&world, &second(data(b"second")))), port);
}

#[test]
fn a_client_port_that_a_translated_flow_took_is_translated_itself() {
    let world = World::home_of(&[5]);
    let _ = arrive(&world, &request(data(b"first")));
    let second =
        request(data(b"second")).with(|packet| packet.payload = packet.payload.with_destination(8000));
    let taken = translated_port(&arrive(&world, &second));
    let unlucky = request(data(b"third").with_source(taken));
    let port = translated_port(&arrive(&world, &unlucky));
    assert!(port != taken && port != CLIENT_PORT, "{port}");
}

fn tcp_payload() -> Payload {
    data(b"data")
}

fn udp_payload() -> Payload {
    Payload::Udp(udp(b"datagram"))
}

/// The client's port as the task sees it.
#[track_caller]
fn translated_port(run: &Run) -> u16 {
    assert_eq!(run.outcomes, [(Outcome::DeliveredFromTunnel, 1)]);
    crate::support::checks::assert_checksums(&run.after);
    u16::from_be_bytes([run.after[34], run.after[35]])
}

fn reply_key(client_port: u16) -> ReplyKey {
    ReplyKey { client_port: Port::new(client_port), ..world::reply_key(5, protocol::TCP) }
}
