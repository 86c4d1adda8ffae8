//! What keeps the way back of a call of a virtual address, and for how long.

use mesh_agent::dataplane::flows::{Flows, IdleLimits};
use mesh_common::net::{Address, Port, protocol};
use mesh_common::overlay::{VipReply, VipReplyKey};

use crate::support::cast::{CLIENT_PORT, PUBLISHED};
use crate::support::overlay::{NETWORK, OTHER_VIP, VIP, answer, call, flow_key, from_vip, reply_key};
use crate::support::packet::Packet;
use crate::support::payload::{self, ACK, FIN, Payload, RST, SYN, Tcp, between, syn, tcp, udp};
use crate::support::world::World;

/// The sequence number of both ends' first segments.
const SEQUENCE: u32 = 0x1122_3344;
/// So many places have the tables that forget. The kernel forgets by batches of 128 for each CPU.
const FLOWS: u32 = 512;
/// Far more flows than they have places for: which of them the kernel forgets is not exact, and it was seen to keep one for so many.
const MANY: u16 = 10 * FLOWS as u16;

#[test]
fn a_connection_outlives_any_number_of_other_calls_though_the_server_speaks_first() {
    let connect: fn(&World, u16) = shake_hands;
    // What is looked up only once makes way for what is looked up more often.
    let ask: fn(&World, u16) = |world, port| {
        for _ in 0..3 {
            let _ = world.overlay_in(&call(between(Payload::Udp(udp(b"query")), port, PUBLISHED)));
        }
    };
    for other in [connect, ask] {
        let world = World::with_flows(FLOWS).calls(&[1]);
        shake_hands(&world, CLIENT_PORT);
        let mut ports = 1000..CLIENT_PORT;
        ports.by_ref().take(MANY.into()).for_each(|port| other(&world, port));
        while world.vip_reply(&key()).is_some() {
            other(&world, ports.next().expect("the table that forgets forgets"));
        }
        let news = from_task(CLIENT_PORT, ACK, b"news");
        let run = world.overlay_out(&news);
        assert!(run.after == from_vip(&news).bytes(), "the way back is forgotten");
    }
}

#[test]
fn the_way_back_is_protected_while_the_call_is_established_and_known_for_a_while_after_it() {
    type End = fn(&World);
    let ends: [End; 4] = [
        |world| {
            from_caller(world, CLIENT_PORT, FIN | ACK);
            to_caller(world, CLIENT_PORT, FIN | ACK);
        },
        |world| {
            to_caller(world, CLIENT_PORT, FIN | ACK);
            from_caller(world, CLIENT_PORT, FIN | ACK);
        },
        |world| from_caller(world, CLIENT_PORT, RST),
        |world| to_caller(world, CLIENT_PORT, RST | ACK),
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let world = World::calling(&[1]);
        let _ = world.overlay_in(&call(syn()));
        to_caller(&world, CLIENT_PORT, SYN | ACK);
        assert_eq!(world.protected_reply(&key()), None, "nothing is proven");
        from_caller(&world, CLIENT_PORT, ACK);
        assert_eq!(world.protected_reply(&key()).map(|reply| reply.vip), Some(Address::new(VIP)));
        end(&world);
        assert_eq!(world.protected_reply(&key()), None, "end {number}");
        let late = from_task(CLIENT_PORT, ACK, b"late");
        assert!(world.overlay_out(&late).after == from_vip(&late).bytes(), "end {number}");
    }
}

#[test]
fn a_way_back_that_a_version_before_has_left_is_protected_by_the_next_packet_of_either_end() {
    type Next = fn(&World);
    let next: [Next; 2] =
        [|world| from_caller(world, CLIENT_PORT, ACK), |world| to_caller(world, CLIENT_PORT, ACK)];
    for next in next {
        let mut world = World::calling(&[1]);
        shake_hands(&world, CLIENT_PORT);
        world.remove::<VipReplyKey, VipReply>("VIP_ESTABLISHED", &key());
        next(&world);
        assert!(world.protected_reply(&key()).is_some());
    }
}

#[test]
fn a_task_that_is_given_for_another_virtual_address_answers_from_that() {
    let mut world = World::calling(&[1]);
    world.vip(NETWORK, OTHER_VIP, &[1]);
    shake_hands(&world, CLIENT_PORT);
    let other = call(syn()).with(|packet| packet.destination = OTHER_VIP);
    let _ = world.overlay_in(&other);
    assert_eq!(world.protected_reply(&key()), None);
    let greeting = from_task(CLIENT_PORT, SYN | ACK, b"");
    let expected = greeting.with(|packet| packet.source = OTHER_VIP);
    assert_eq!(world.overlay_out(&greeting).after, expected.bytes());
}

#[test]
fn ways_back_without_a_call_are_swept_when_there_are_many_of_them() {
    /// More than are let be.
    const STRAYS: u16 = 300;

    let mut world = World::calling(&[1]);
    let (_files, pins) = world.pinned();
    let mut flows = Flows::open(&pins).expect("the maps are pinned");
    shake_hands(&world, CLIENT_PORT);
    let now = world.established_call(&flow_key(protocol::TCP)).expect("it is established").last_seen;
    for port in 0..STRAYS {
        let stray = VipReplyKey { caller_port: Port::new(port), ..key() };
        world.insert(
            "VIP_ESTABLISHED",
            stray,
            VipReply { last_seen: now, vip: Address::new(VIP), padding: 0 },
        );
    }
    let found = flows.collect(now, &IdleLimits::default());
    assert_eq!(found.removed, u64::from(STRAYS));
    assert!(world.protected_reply(&key()).is_some());
}

fn key() -> VipReplyKey {
    reply_key(1, protocol::TCP)
}

fn shake_hands(world: &World, port: u16) {
    let _ = world.overlay_in(&call(between(syn(), port, PUBLISHED)));
    to_caller(world, port, SYN | ACK);
    from_caller(world, port, ACK);
}

fn from_caller(world: &World, port: u16, flags: u8) {
    let segment = Tcp { sequence: SEQUENCE + 1, acknowledgement: SEQUENCE + 1, ..tcp(flags) };
    let _ = world.overlay_in(&call(between(Payload::Tcp(segment), port, PUBLISHED)));
}

fn to_caller(world: &World, port: u16, flags: u8) {
    let segment = from_task(port, flags, b"");
    assert_eq!(world.overlay_out(&segment).after, from_vip(&segment).bytes());
}

fn from_task(port: u16, flags: u8, text: &[u8]) -> Packet {
    answer(1, between(payload::answer(flags, text), PUBLISHED, port))
}
