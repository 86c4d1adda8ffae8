//! Virtual addresses on an overlay network: they are found, answer pings, become a task on the way there, and are
//! themselves again on the way back (design §2.2).

use mesh_common::outcome::Outcome;

use crate::support::cast::{CLIENT_PORT, PUBLISHED};
use crate::support::overlay::{
    CALLER, NEIGHBOUR, OTHER_NETWORK, VIP, VIP_MAC, address, answer, arp, call, from_vip, given, mac, member,
    sctp, straight,
};
use crate::support::packet::{Packet, Part};
use crate::support::payload::{
    ACK, FIN, Icmp, Payload, RST, SYN, Tcp, Udp, between, data, linux_options, syn, tcp, udp,
};
use crate::support::run::Hook;
use crate::support::world::World;

/// A hardware address for "whoever".
const NOBODY: [u8; 6] = [0; 6];
const BROADCAST: [u8; 6] = [0xff; 6];

#[test]
fn who_asks_for_a_virtual_address_is_answered() {
    let world = World::calling(&[1]);
    for (asker, padding) in [(address(CALLER), 0), (address(CALLER), 18), ([0; 4], 0)] {
        // To everybody, or to the one who is thought to have the address.
        for destination in [BROADCAST, VIP_MAC] {
            let mut request = arp(1, destination, (mac(CALLER), asker), (NOBODY, VIP));
            request.extend(vec![0; padding]);
            let mut expected = arp(2, mac(CALLER), (VIP_MAC, VIP), (mac(CALLER), asker));
            expected.extend(vec![0; padding]);
            world.run(Hook::OverlayIn, &request).leaves_as_frame(Outcome::VipResolved, &expected);
        }
    }
}

#[test]
fn a_virtual_address_without_tasks_is_found_too() {
    let world = World::calling(&[]);
    let request = arp(1, BROADCAST, (mac(CALLER), address(CALLER)), (NOBODY, VIP));
    let expected = arp(2, mac(CALLER), (VIP_MAC, VIP), (mac(CALLER), address(CALLER)));
    world.run(Hook::OverlayIn, &request).leaves_as_frame(Outcome::VipResolved, &expected);
}

#[test]
fn who_asks_for_another_address_is_left_to_the_network() {
    let mut world = World::calling(&[1]);
    world.vip(OTHER_NETWORK, address(NEIGHBOUR), &[1]);
    for asked in [address(1), address(NEIGHBOUR), address(CALLER), [0; 4]] {
        let request = arp(1, BROADCAST, (mac(CALLER), address(CALLER)), (NOBODY, asked));
        world.run(Hook::OverlayIn, &request).passes(Outcome::NotOurs);
    }
}

#[test]
fn arp_that_is_no_question_passes() {
    let world = World::calling(&[1]);
    let request = arp(1, BROADCAST, (mac(CALLER), address(CALLER)), (NOBODY, VIP));
    // Answers, RARP, and other kinds of network.
    for (place, byte) in [(21, 2), (21, 3), (21, 4), (20, 1), (15, 6), (17, 1), (18, 8), (19, 16)] {
        let mut other = request.clone();
        other[place] = byte;
        world.run(Hook::OverlayIn, &other).passes(Outcome::NotOurs);
    }
    for length in 14..request.len() {
        world.run(Hook::OverlayIn, &request[..length]).passes(Outcome::NotOurs);
    }
    // Nobody is asked by what is on its way to the caller.
    world.run(Hook::OverlayOut, &request).passes(Outcome::NotOurs);
}

#[test]
fn a_ping_of_a_virtual_address_is_answered() {
    for world in [World::calling(&[1]), World::calling(&[])] {
        for text in [&b""[..], b"odd", b"even", &[0xa5; 1400]] {
            for options in [0, 1, 10] {
                let ping = call(echo(8, text)).with(|packet| packet.options = vec![1; 4 * options]);
                let expected = ping_answer(&ping, echo(0, text));
                world.overlay_in(&ping).leaves_as(Outcome::VipPinged, &expected.bytes());
            }
        }
    }
}

#[test]
fn a_ping_in_fragments_is_answered_in_fragments() {
    let world = World::calling(&[1]);
    let ping = call(echo(8, &[0xa5; 2992]));
    let expected = ping_answer(&ping, echo(0, &[0xa5; 2992]));
    for (from, to, more) in [(0, 1480, true), (1480, 2960, true), (2960, 3000, false)] {
        let part = |packet: &Packet| packet.with(|packet| packet.part = Some(Part { from, to, more }));
        world.overlay_in(&part(&ping)).leaves_as(Outcome::VipPinged, &part(&expected).bytes());
    }
    let stray = ping.with(|packet| packet.identification += 1).in_two(1480);
    world.overlay_in(&stray[1]).passes(Outcome::UnknownFragment);
}

#[test]
fn other_pings_and_what_is_no_ping_pass() {
    let world = World::calling(&[1]);
    for number in [1, NEIGHBOUR] {
        world.overlay_in(&straight(number, echo(8, b"ping"))).passes(Outcome::NotOurs);
        world.overlay_in(&straight(number, echo(0, b"ping"))).passes(Outcome::NotOurs);
        world.overlay_out(&answer(number, echo(8, b"ping"))).passes(Outcome::NotOurs);
        world.overlay_out(&answer(number, echo(0, b"ping"))).passes(Outcome::NotOurs);
    }
    // Echo reply, source quench, redirect, timestamp.
    for kind in [0, 4, 5, 13] {
        world.overlay_in(&call(echo(kind, &[0; 40]))).passes(Outcome::NotOurs);
    }
}

#[test]
fn a_call_reaches_the_task_on_whatever_port_it_is_for() {
    let world = World::calling(&[1]);
    for port in [1, 53, PUBLISHED, 4799, 8080, 65_535] {
        for payload in calls() {
            let call = call(between(payload, CLIENT_PORT, port));
            world.overlay_in(&call).passes_as(Outcome::VipToTask, &given(&call, 1).bytes());
        }
    }
}

#[test]
fn a_call_keeps_everything_but_its_destination() {
    let world = World::calling(&[1]);
    for ttl in [1, 2, 64, 255] {
        for payload in calls() {
            let call = call(payload).with(|packet| {
                packet.ttl = ttl;
                packet.traffic_class = 0xb9;
                packet.dont_fragment = ttl == 2;
                packet.options = vec![1; usize::from(ttl % 11) * 4];
            });
            world.overlay_in(&call).passes_as(Outcome::VipToTask, &given(&call, 1).bytes());
        }
    }
}

#[test]
fn an_answer_comes_from_the_virtual_address() {
    let world = World::calling(&[1]);
    for (payload, replies) in exchanges() {
        let call = call(payload);
        world.overlay_in(&call).passes_as(Outcome::VipToTask, &given(&call, 1).bytes());
        for reply in replies {
            for ttl in [1, 64] {
                let answer =
                    answer(1, between(reply.clone(), PUBLISHED, CLIENT_PORT)).with(|packet| packet.ttl = ttl);
                world.overlay_out(&answer).passes_as(Outcome::VipReplied, &from_vip(&answer).bytes());
            }
        }
    }
}

#[test]
fn sctp_gets_other_addresses_and_nothing_else() {
    let world = World::calling(&[1]);
    for (source, destination) in [(CLIENT_PORT, 3868), (3868, 3868)] {
        let call = call(sctp(source, destination, b"chunk"));
        world.overlay_in(&call).passes_as(Outcome::VipToTask, &given(&call, 1).bytes());
        let answer = answer(1, sctp(destination, source, b"chunks"));
        world.overlay_out(&answer).passes_as(Outcome::VipReplied, &from_vip(&answer).bytes());
    }
}

#[test]
fn what_is_no_answer_passes() {
    let world = World::calling(&[1]);
    let _ = world.overlay_in(&call(data(b"request")));
    let reply = |source, destination| between(Payload::Tcp(tcp(ACK)), source, destination);
    for packet in [
        answer(2, reply(PUBLISHED, CLIENT_PORT)),
        answer(1, reply(PUBLISHED + 1, CLIENT_PORT)),
        answer(1, reply(PUBLISHED, CLIENT_PORT + 1)),
        answer(1, between(Payload::Udp(udp(b"answer")), PUBLISHED, CLIENT_PORT)),
        answer(1, reply(PUBLISHED, CLIENT_PORT)).with(|packet| packet.destination = address(NEIGHBOUR)),
        // A task may call the caller, too.
        answer(1, reply(CLIENT_PORT, PUBLISHED)),
    ] {
        world.overlay_out(&packet).passes(Outcome::NotOurs);
    }
}

#[test]
fn what_is_for_no_virtual_address_passes() {
    let mut world = World::calling(&[1]);
    world.vip(OTHER_NETWORK, address(NEIGHBOUR), &[1]);
    for number in [1, CALLER, NEIGHBOUR] {
        for payload in calls() {
            world.overlay_in(&straight(number, payload.clone())).passes(Outcome::NotOurs);
            world.overlay_out(&answer(number, payload)).passes(Outcome::NotOurs);
        }
    }
}

#[test]
fn fragments_of_a_call_follow_the_first_one() {
    let world = World::calling(&[1, 2]);
    let datagram = between(Payload::Udp(udp(&[7; 200])), 1000, PUBLISHED);
    let segment = between(data(&[7; 200]), 1000, PUBLISHED);
    for (number, payload) in [(1, datagram), (2, sctp(1000, PUBLISHED, &[7; 200]))] {
        for (call, given) in
            in_four(&call(payload.clone())).iter().zip(in_four(&given(&call(payload), number)))
        {
            world.overlay_in(call).passes_as(Outcome::VipToTask, &given.bytes());
        }
    }
    let _ = world.overlay_in(&call(between(syn(), 1000, PUBLISHED)));
    for (call, given) in in_four(&call(segment.clone())).iter().zip(in_four(&given(&call(segment), 1))) {
        world.overlay_in(call).passes_as(Outcome::VipToTask, &given.bytes());
    }
}

#[test]
fn fragments_of_an_answer_come_from_the_virtual_address() {
    let world = World::calling(&[1]);
    let _ = world.overlay_in(&call(Payload::Udp(udp(b"request"))));
    let answer = answer(1, between(Payload::Udp(udp(&[7; 200])), PUBLISHED, CLIENT_PORT));
    for (fragment, expected) in in_four(&answer).iter().zip(in_four(&from_vip(&answer))) {
        world.overlay_out(fragment).passes_as(Outcome::VipReplied, &expected.bytes());
    }
}

#[test]
fn a_later_fragment_whose_first_has_not_passed_is_left_to_the_network() {
    let world = World::calling(&[1]);
    let [_, later] = call(Payload::Udp(udp(&[7; 200]))).in_two(64);
    world.overlay_in(&later).passes(Outcome::UnknownFragment);
    let [first, later] = straight(NEIGHBOUR, Payload::Udp(udp(&[7; 200]))).in_two(64);
    world.overlay_in(&first).passes(Outcome::NotOurs);
    world.overlay_in(&later).passes(Outcome::UnknownFragment);
}

#[test]
fn two_networks_with_the_same_addresses_do_not_mix() {
    let mut world = World::calling(&[1]);
    let other = world.backends(&[member(2)]);
    let payload = || Payload::Udp(udp(&[7; 200]));
    let call = call(payload());

    // The address is not yet one of the other network's.
    let request = arp(1, BROADCAST, (mac(CALLER), address(CALLER)), (NOBODY, VIP));
    world.run_on_other_network(Hook::OverlayIn, &request).passes(Outcome::NotOurs);
    world.run_on_other_network(Hook::OverlayIn, &call.bytes()).passes(Outcome::NotOurs);

    world.vip(OTHER_NETWORK, VIP, &other);
    world.overlay_in(&call).passes_as(Outcome::VipToTask, &given(&call, 1).bytes());
    let answers = [
        answer(1, between(payload(), PUBLISHED, CLIENT_PORT)),
        answer(2, between(payload(), PUBLISHED, CLIENT_PORT)),
    ];
    world.run_on_other_network(Hook::OverlayOut, &answers[0].bytes()).passes(Outcome::NotOurs);
    let run = world.run_on_other_network(Hook::OverlayIn, &call.bytes());
    run.passes_as(Outcome::VipToTask, &given(&call, 2).bytes());
    world.overlay_out(&answers[0]).passes_as(Outcome::VipReplied, &from_vip(&answers[0]).bytes());
    world.overlay_out(&answers[1]).passes(Outcome::NotOurs);
    let run = world.run_on_other_network(Hook::OverlayOut, &answers[1].bytes());
    run.passes_as(Outcome::VipReplied, &from_vip(&answers[1]).bytes());
}

#[test]
fn fragments_of_two_networks_with_the_same_addresses_do_not_mix() {
    let mut world = World::calling(&[1]);
    let other = world.backends(&[member(2)]);
    world.vip(OTHER_NETWORK, VIP, &other);
    let datagram = |port| call(between(Payload::Udp(udp(&[7; 200])), port, PUBLISHED)).in_two(64);
    let to = |number, port| {
        given(&call(between(Payload::Udp(udp(&[7; 200])), port, PUBLISHED)), number).in_two(64)
    };
    let ([one_first, one_later], [other_first, other_later]) = (datagram(1000), datagram(2000));
    world.overlay_in(&one_first).passes_as(Outcome::VipToTask, &to(1, 1000)[0].bytes());
    world.run_on_other_network(Hook::OverlayIn, &one_later.bytes()).passes(Outcome::UnknownFragment);
    let run = world.run_on_other_network(Hook::OverlayIn, &other_first.bytes());
    run.passes_as(Outcome::VipToTask, &to(2, 2000)[0].bytes());
    world.overlay_in(&one_later).passes_as(Outcome::VipToTask, &to(1, 1000)[1].bytes());
    let run = world.run_on_other_network(Hook::OverlayIn, &other_later.bytes());
    run.passes_as(Outcome::VipToTask, &to(2, 2000)[1].bytes());
    // Each flow has been given its backend once.
    assert_eq!([world.counters(1).flows, world.counters(2).flows], [1, 1]);
}

fn echo(kind: u8, text: &[u8]) -> Payload {
    Payload::Icmp(Icmp { kind, code: 0, word: [0x12, 0x34, 0, 7], data: text.to_vec() })
}

fn ping_answer(ping: &Packet, payload: Payload) -> Packet {
    ping.with(|packet| {
        packet.destination_mac = mac(CALLER);
        packet.source_mac = VIP_MAC;
        packet.source = VIP;
        packet.destination = address(CALLER);
        packet.payload = payload;
    })
}

fn calls() -> Vec<Payload> {
    exchanges().into_iter().map(|(call, _)| call).collect()
}

/// What the caller may send, and what may be said to that.
fn exchanges() -> Vec<(Payload, Vec<Payload>)> {
    let segment = |flags| Payload::Tcp(tcp(flags));
    let greeting = Payload::Tcp(Tcp { options: linux_options(1400), ..tcp(SYN | ACK) });
    let unchecked = |text: &[u8]| Payload::Udp(Udp { checked: false, ..udp(text) });
    vec![
        (syn(), vec![greeting, segment(RST | ACK)]),
        (data(b"odd"), vec![data(b"odd"), data(b"even"), segment(FIN | ACK)]),
        (data(b"even"), vec![segment(ACK)]),
        (Payload::Udp(udp(b"")), vec![Payload::Udp(udp(b""))]),
        (Payload::Udp(udp(b"odd")), vec![Payload::Udp(udp(b"odd")), unchecked(b"odd")]),
        (unchecked(b"none"), vec![Payload::Udp(udp(&[7; 1400])), unchecked(b"")]),
    ]
}

/// Fragments of 64, 24, 8 bytes and the rest.
fn in_four(packet: &Packet) -> Vec<Packet> {
    let all = packet.payload.bytes(packet.source, packet.destination).len();
    let cuts = [0, 64, 88, 96, all];
    cuts.windows(2)
        .map(|cut| {
            packet.with(|packet| packet.part = Some(Part { from: cut[0], to: cut[1], more: cut[1] < all }))
        })
        .collect()
}
