//! ICMP errors about a flow through a virtual address: both ends see errors about what they have sent.

use mesh_common::backend::{Backend, state};
use mesh_common::outcome::Outcome;

use crate::support::cast::{CLIENT_PORT, PUBLISHED};
use crate::support::overlay::{
    CALLER, NEIGHBOUR, VIP, address, answer, call, from_vip, given, member, sctp, straight,
};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, Payload, Udp, between, data, icmp_error, tcp, udp};
use crate::support::world::World;

/// Port unreachable, fragmentation needed, time exceeded, parameter problem.
const ERRORS: [(u8, u8, u16); 4] = [(3, 3, 0), (3, 4, 1400), (11, 0, 0), (12, 0, 0)];

/// The 8 bytes that are always there, and all of the packet.
const QUOTES: [fn(&Packet) -> Vec<u8>; 2] = [Packet::quote, Packet::ip];

#[test]
fn an_error_of_a_task_comes_from_the_virtual_address_and_quotes_it() {
    let world = World::calling(&[1]);
    for sent in calls(&world) {
        for (kind, code, mtu) in ERRORS {
            for quote in QUOTES {
                let error = answer(1, icmp_error(kind, code, mtu, quote(&given(&sent, 1))));
                let expected = from_vip(&error)
                    .with(|packet| packet.payload = icmp_error(kind, code, mtu, quote(&sent)));
                world.overlay_out(&error).passes_as(Outcome::VipError, &expected.bytes());
            }
        }
    }
}

#[test]
fn an_error_of_somebody_on_the_way_keeps_its_source() {
    let world = World::calling(&[1]);
    for sent in calls(&world) {
        let error = answer(NEIGHBOUR, icmp_error(3, 4, 1400, given(&sent, 1).quote()));
        let expected = error.with(|packet| packet.payload = icmp_error(3, 4, 1400, sent.quote()));
        world.overlay_out(&error).passes_as(Outcome::VipError, &expected.bytes());
    }
}

#[test]
fn errors_with_ip_options_outside_and_inside_are_understood() {
    let world = World::calling(&[1]);
    for (outside, inside) in [(0, 10), (10, 0), (1, 1), (10, 10), (5, 7)] {
        for sent in calls(&world) {
            for quote in QUOTES {
                let sent = sent.with(|packet| packet.options = vec![1; 4 * inside]);
                let error = answer(1, icmp_error(3, 3, 0, quote(&given(&sent, 1))))
                    .with(|packet| packet.options = vec![1; 4 * outside]);
                let expected =
                    from_vip(&error).with(|packet| packet.payload = icmp_error(3, 3, 0, quote(&sent)));
                world.overlay_out(&error).passes_as(Outcome::VipError, &expected.bytes());
            }
        }
    }
}

#[test]
fn a_quoted_segment_is_right_however_much_of_it_is_quoted() {
    let world = World::calling(&[1]);
    let sent = call(data(b"some data"));
    world.overlay_in(&sent).passes_as(Outcome::VipToTask, &given(&sent, 1).bytes());
    for length in 28..sent.ip().len() {
        let cut = |packet: &Packet| packet.ip()[..length].to_vec();
        let error = answer(1, icmp_error(3, 3, 0, cut(&given(&sent, 1))));
        let mut quote = cut(&sent);
        // Half a checksum cannot be brought in step.
        if let Some(half) = quote.get_mut(36..)
            && half.len() == 1
        {
            half.copy_from_slice(&given(&sent, 1).ip()[36..37]);
        }
        let expected = from_vip(&error).with(|packet| packet.payload = icmp_error(3, 3, 0, quote));
        world.overlay_out(&error).passes_as(Outcome::VipError, &expected.bytes());
    }
}

#[test]
fn padding_behind_an_error_is_no_quoted_checksum() {
    let world = World::calling(&[1]);
    let sent = call(data(b"data"));
    let _ = world.overlay_in(&sent);
    let error = answer(1, icmp_error(3, 3, 0, given(&sent, 1).quote()));
    let expected = from_vip(&error).with(|packet| packet.payload = icmp_error(3, 3, 0, sent.quote()));
    let padded = |packet: &Packet| [packet.bytes(), vec![0x5a; 20]].concat();
    let run = world.run(crate::support::run::Hook::OverlayOut, &padded(&error));
    run.passes_as(Outcome::VipError, &padded(&expected));
}

#[test]
fn an_error_of_the_caller_reaches_the_task_and_quotes_what_it_has_sent() {
    let world = World::calling(&[1]);
    for _ in calls(&world) {}
    for sent in answers() {
        for (kind, code, mtu) in ERRORS {
            for quote in QUOTES {
                let error = call(icmp_error(kind, code, mtu, quote(&from_vip(&sent))));
                let expected = given(&error, 1)
                    .with(|packet| packet.payload = icmp_error(kind, code, mtu, quote(&sent)));
                world.overlay_in(&error).passes_as(Outcome::VipError, &expected.bytes());
            }
        }
    }
}

#[test]
fn errors_about_something_else_pass() {
    let mut world = World::calling(&[1]);
    for _ in calls(&world) {}
    let datagram = Payload::Udp(udp(b"datagram"));
    let sent = given(&call(datagram.clone()), 1);
    for other in [
        straight(2, datagram.clone()),
        sent.with(|packet| packet.source = address(NEIGHBOUR)),
        given(&call(datagram.with_destination(PUBLISHED + 1)), 1),
        given(&call(datagram.with_source(CLIENT_PORT + 1)), 1),
        sent.with(|packet| packet.payload = Payload::Other(47, vec![0; 32])),
    ] {
        world.overlay_out(&answer(1, icmp_error(3, 3, 0, other.quote()))).passes(Outcome::NotOurs);
    }
    let said = answers().remove(1);
    for other in [
        // Not the virtual address's, not to the caller, of no flow.
        said.clone(),
        from_vip(&said).with(|packet| packet.destination = address(NEIGHBOUR)),
        from_vip(&said).with(|packet| packet.payload = packet.payload.with_source(PUBLISHED + 1)),
    ] {
        world.overlay_in(&call(icmp_error(3, 3, 0, other.quote()))).passes(Outcome::NotOurs);
    }
    let about = call(icmp_error(3, 3, 0, from_vip(&said).quote()));
    world.overlay_in(&about.with(|packet| packet.destination = address(1))).passes(Outcome::NotOurs);
    let gone: [fn(&mut Backend); 2] =
        [|backend| backend.state = state::DOWN, |backend| *backend = Backend { generation: 2, ..member(9) }];
    for become_gone in gone {
        world.change_backend(1, become_gone);
        world.overlay_in(&about).passes(Outcome::NotOurs);
    }
}

/// The caller's packets of flows that task 1 has been given.
fn calls(world: &World) -> Vec<Packet> {
    let calls = [
        data(b"odd"),
        Payload::Udp(udp(b"odd")),
        Payload::Udp(Udp { checked: false, ..udp(b"none") }),
        sctp(CLIENT_PORT, PUBLISHED, b"chunk"),
    ]
    .map(call);
    for call in &calls {
        world.overlay_in(call).passes_as(Outcome::VipToTask, &given(call, 1).bytes());
    }
    calls.to_vec()
}

/// Task 1's answers in these flows.
fn answers() -> Vec<Packet> {
    assert_ne!(address(CALLER), VIP);
    vec![
        answer(1, between(Payload::Tcp(tcp(ACK)), PUBLISHED, CLIENT_PORT)),
        answer(1, between(Payload::Udp(udp(b"answer")), PUBLISHED, CLIENT_PORT)),
        answer(1, between(Payload::Udp(Udp { checked: false, ..udp(b"") }), PUBLISHED, CLIENT_PORT)),
        answer(1, sctp(PUBLISHED, CLIENT_PORT, b"chunk")),
    ]
}
