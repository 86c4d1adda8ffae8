//! A task that calls its own service and is given to itself: it is called by the virtual address, and so is its answer.

use mesh_common::outcome::Outcome;

use crate::support::cast::{CLIENT_PORT, PUBLISHED};
use crate::support::overlay::{CALLER, call, given, sctp, turned};
use crate::support::packet::{Packet, Part};
use crate::support::payload::{
    ACK, FIN, Payload, RST, SYN, Tcp, Udp, between, data, icmp_error, linux_options, syn, tcp, udp,
};
use crate::support::world::World;

/// Another port than the caller's own, and the same one.
const PORTS: [(u16, u16); 2] = [(CLIENT_PORT, PUBLISHED), (PUBLISHED, PUBLISHED)];

#[test]
fn a_task_that_is_given_to_itself_is_called_by_the_virtual_address_and_answered_by_it() {
    let world = World::calling(&[CALLER]);
    let greeting = Payload::Tcp(Tcp { options: linux_options(1400), ..tcp(SYN | ACK) });
    let unchecked = |text: &[u8]| Payload::Udp(Udp { checked: false, ..udp(text) });
    for (own, called) in PORTS {
        for (asked, said) in [
            (syn(), greeting.clone()),
            (data(b"odd"), data(b"even")),
            (Payload::Tcp(tcp(FIN | ACK)), Payload::Tcp(tcp(FIN | ACK))),
            (Payload::Udp(udp(b"odd")), Payload::Udp(udp(b"even"))),
            (unchecked(b"none"), unchecked(b"")),
        ] {
            comes_back(&world, &call(between(asked, own, called)));
            comes_back(&world, &call(between(said, called, own)));
        }
        comes_back(&world, &call(sctp(own, called, b"init")));
        comes_back(&world, &call(sctp(called, own, b"init ack")));
    }
    // Every one of them was a call or the answer to one; only the calls were counted.
    assert_eq!(world.counters(1).flows, 3 * 2);
}

#[test]
fn what_has_come_back_passes_to_the_task() {
    let world = World::calling(&[CALLER]);
    for payload in [syn(), Payload::Udp(udp(b"datagram"))] {
        let call = call(payload);
        comes_back(&world, &call);
        world.overlay_out(&turned(&call)).passes(Outcome::NotOurs);
    }
}

#[test]
fn fragments_come_back_too() {
    let world = World::calling(&[CALLER]);
    for (source, destination) in [(CLIENT_PORT, PUBLISHED), (PUBLISHED, CLIENT_PORT)] {
        let call = call(between(Payload::Udp(udp(&[7; 200])), source, destination));
        for (from, to, more) in [(0, 64, true), (64, 128, true), (128, 208, false)] {
            comes_back(&world, &call.with(|packet| packet.part = Some(Part { from, to, more })));
        }
    }
    assert_eq!(world.counters(1).flows, 1);
}

#[test]
fn a_task_takes_its_turn_among_the_others() {
    let world = World::calling(&[1, CALLER, 2]);
    let mut seen = Vec::new();
    for port in 1000..1006 {
        let call = call(between(syn(), port, PUBLISHED));
        let run = world.overlay_in(&call);
        if run.outcomes == [(Outcome::VipToSelf, 1)] {
            run.leaves_as(Outcome::VipToSelf, &turned(&call).bytes());
            seen.push(CALLER);
        } else {
            let number = run.after[33];
            run.passes_as(Outcome::VipToTask, &given(&call, number).bytes());
            seen.push(number);
        }
    }
    assert_eq!(seen, [1, CALLER, 2, 1, CALLER, 2]);
}

#[test]
fn a_syn_after_either_end_has_closed_stays_with_its_task() {
    for (own, called) in PORTS {
        for last in [FIN | ACK, RST, RST | ACK] {
            for by_task in [false, true] {
                let world = World::calling(&[CALLER, 1]);
                let ask = |payload| call(between(payload, own, called));
                comes_back(&world, &ask(syn()));
                let goodbye = Payload::Tcp(tcp(last));
                let (source, destination) = if by_task { (called, own) } else { (own, called) };
                comes_back(&world, &call(between(goodbye, source, destination)));
                for payload in [syn(), data(b"request")] {
                    comes_back(&world, &ask(payload));
                }
            }
        }
    }
}

#[test]
fn a_syn_from_the_port_that_once_answered_is_a_call() {
    let world = World::calling(&[CALLER, 1]);
    comes_back(&world, &call(syn()));
    let other = call(between(syn(), PUBLISHED, CLIENT_PORT));
    world.overlay_in(&other).passes_as(Outcome::VipToTask, &given(&other, 1).bytes());
}

#[test]
fn an_unreachable_port_of_its_own_is_told_by_the_virtual_address() {
    let world = World::calling(&[CALLER]);
    for (own, called) in PORTS {
        for payload in [Payload::Udp(udp(b"datagram")), data(b"data"), sctp(own, called, b"init")] {
            let sent = call(if payload.protocol() == 132 { payload } else { between(payload, own, called) });
            comes_back(&world, &sent);
            for quote in [Packet::quote, Packet::ip] {
                // The task quotes what has reached it, and gets to see what it has sent.
                let error = call(icmp_error(3, 3, 0, quote(&turned(&sent))));
                let expected =
                    turned(&error).with(|packet| packet.payload = icmp_error(3, 3, 0, quote(&sent)));
                world.overlay_in(&error).leaves_as(Outcome::VipToSelf, &expected.bytes());
            }
        }
    }
}

#[test]
fn an_error_of_its_own_about_an_answer_is_told_too() {
    let world = World::calling(&[CALLER]);
    comes_back(&world, &call(Payload::Udp(udp(b"request"))));
    let answer = call(between(Payload::Udp(udp(b"answer")), PUBLISHED, CLIENT_PORT));
    comes_back(&world, &answer);
    let error = call(icmp_error(3, 3, 0, turned(&answer).quote()));
    let expected = turned(&error).with(|packet| packet.payload = icmp_error(3, 3, 0, answer.quote()));
    world.overlay_in(&error).leaves_as(Outcome::VipToSelf, &expected.bytes());
    assert_eq!(world.counters(1).flows, 1);
}

#[track_caller]
fn comes_back(world: &World, call: &Packet) {
    world.overlay_in(call).leaves_as(Outcome::VipToSelf, &turned(call).bytes());
}
