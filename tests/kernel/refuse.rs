//! Clients that cannot be served are told so at once.

use mesh_common::backend::state;
use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;
use mesh_common::pressure::{ERRORS, Pressure, RESETS};

use crate::support::cast::{self, CLIENT_PORT, INNER_MTU, PUBLISHED};
use crate::support::packet::Packet;
use crate::support::payload::{
    ACK, FIN, PSH, Payload, RST, SYN, Tcp, Udp, answer, data, icmp_error, syn, tcp, udp,
};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, local, remote};

#[test]
fn a_syn_to_a_frontend_without_backends_is_reset() {
    let world = World::serving(&[]);
    let packet = Packet::from_client(syn());
    let expected = reset(&packet, 0, 0x1122_3345, RST | ACK);
    world.uplink_in(&packet).leaves_as(Outcome::RefusedWithReset, &expected.bytes());
}

#[test]
fn a_reset_answers_a_segment_as_the_rfc_says() {
    // RFC 9293 §3.10.7.1: with ACK, the sequence is what was acknowledged; without, 0, and all of it is acknowledged.
    let world = World::serving(&[]);
    let cases: [(&str, u8, usize, u32, u32, u8); 9] = [
        ("SYN", SYN, 0, 0, 0x1122_3345, RST | ACK),
        ("SYN with data", SYN, 5, 0, 0x1122_334a, RST | ACK),
        ("SYN and FIN", SYN | FIN, 0, 0, 0x1122_3346, RST | ACK),
        ("FIN without ACK", FIN, 0, 0, 0x1122_3345, RST | ACK),
        ("data without ACK", PSH, 3, 0, 0x1122_3347, RST | ACK),
        ("nothing at all", 0, 0, 0, 0x1122_3344, RST | ACK),
        ("ACK", ACK, 0, 0x1122_4455, 0, RST),
        ("data with ACK", PSH | ACK, 100, 0x1122_4455, 0, RST),
        ("FIN and ACK", FIN | ACK, 0, 0x1122_4455, 0, RST),
    ];
    for (name, flags, length, sequence, acknowledgement, answer) in cases {
        for options in [vec![], crate::support::payload::linux_options(1460)] {
            let segment = Tcp { data: vec![0xa5; length], options, ..tcp(flags) };
            let packet = Packet::from_client(Payload::Tcp(segment));
            println!("{name}");
            let expected = reset(&packet, sequence, acknowledgement, answer);
            world.uplink_in(&packet).leaves_as(Outcome::RefusedWithReset, &expected.bytes());
        }
    }
}

#[test]
fn the_acknowledged_sequence_number_wraps_around() {
    let world = World::serving(&[]);
    let segment = Tcp { sequence: u32::MAX, data: b"wraps".to_vec(), ..tcp(SYN) };
    let packet = Packet::from_client(Payload::Tcp(segment));
    let expected = reset(&packet, 0, 5, RST | ACK);
    world.uplink_in(&packet).leaves_as(Outcome::RefusedWithReset, &expected.bytes());
}

#[test]
fn a_segment_with_ip_options_is_reset_without_them() {
    let world = World::serving(&[]);
    for words in 1..=10 {
        let packet = Packet::from_client(syn()).with(|packet| packet.options = vec![1; 4 * words]);
        let expected = reset(&packet, 0, 0x1122_3345, RST | ACK);
        world.uplink_in(&packet).leaves_as(Outcome::RefusedWithReset, &expected.bytes());
    }
}

#[test]
fn padding_is_no_data_that_a_reset_acknowledges() {
    let world = World::serving(&[]);
    let packet = Packet::from_client(Payload::Tcp(tcp(SYN)));
    let mut bytes = packet.bytes();
    bytes.extend([0; 6]);
    let expected = reset(&packet, 0, 0x1122_3345, RST | ACK);
    world.run(Hook::UplinkIn, &bytes).leaves_as(Outcome::RefusedWithReset, &expected.bytes());
}

#[test]
fn a_connection_whose_backend_is_gone_is_reset() {
    for backend in [local(1), remote(1)] {
        for gone in [state::DOWN, state::ACTIVE] {
            let mut world = World::serving(&[backend, local(2)]);
            let _ = world.uplink_in(&Packet::from_client(syn()));
            world.change_backend(1, |backend| {
                backend.state = gone;
                backend.generation += u32::from(gone == state::ACTIVE);
            });
            let packet = Packet::from_client(data(b"request"));
            let expected = reset(&packet, 0x1122_4455, 0, RST);
            world.uplink_in(&packet).leaves_as(Outcome::RefusedWithReset, &expected.bytes());
        }
    }
}

#[test]
fn a_segment_on_the_ports_of_an_ended_connection_is_no_part_of_it() {
    // The client's next connection from these ports began at another node, and has come here with the address.
    for (backends, outcome) in
        [([local(1), local(2)], Outcome::Delivered), ([remote(1), remote(2)], Outcome::Tunnelled)]
    {
        let mut world = World::serving(&backends);
        let _ = world.uplink_in(&Packet::from_client(syn()));
        let _ = world.uplink_in(&Packet::from_client(Payload::Tcp(tcp(RST))));
        for id in [1, 2] {
            world.change_backend(id, |backend| backend.generation += 1);
        }
        let _ = world.uplink_in(&Packet::from_client(data(b"request"))).leaves(outcome);
    }
}

#[test]
fn a_set_whose_backend_is_down_refuses() {
    let mut world = World::serving(&[local(1)]);
    world.change_backend(1, |backend| backend.state = state::DOWN);
    let packet = Packet::from_client(syn());
    let expected = reset(&packet, 0, 0x1122_3345, RST | ACK);
    world.uplink_in(&packet).leaves_as(Outcome::RefusedWithReset, &expected.bytes());
    assert_eq!(world.counters(1).flows, 0);
}

#[test]
fn a_reset_is_never_answered() {
    for world in [World::serving(&[]), World::serving(&[local(1)])] {
        for flags in [RST, RST | ACK, RST | SYN] {
            let packet = Packet::from_client(Payload::Tcp(tcp(flags)));
            world.uplink_in(&packet).passes(Outcome::NotOurs);
        }
    }
}

#[test]
fn what_no_host_can_have_sent_is_left_to_the_kernel_which_drops_it() {
    for world in [World::serving(&[]), World::serving(&[local(1)])] {
        let spoofed = Packet::from_client(Payload::Udp(udp(b"datagram")));
        let spoofed = spoofed.with(|packet| packet.source = cast::NODE);
        world.uplink_in(&spoofed).passes(Outcome::NotOurs);
        for source in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [239, 1, 2, 3], [255; 4]] {
            for payload in [syn(), data(b"data"), Payload::Udp(udp(b"datagram"))] {
                let packet = Packet::from_client(payload).with(|packet| packet.source = source);
                world.uplink_in(&packet).passes(Outcome::NotOurs);
            }
        }
    }
}

#[test]
fn more_senders_than_a_node_should_serve_in_anothers_name_are_told_nothing() {
    let mut world = World::serving(&[]);
    for (payload, outcome) in
        [(syn(), Outcome::RefusedWithReset), (Payload::Udp(udp(b"datagram")), Outcome::RefusedUnreachable)]
    {
        let packet = Packet::from_client(payload);
        let _ = world.uplink_in(&packet).leaves(outcome);
        let told = world.pressure();
        // A little ahead of the clock: this second lasts.
        let told_since = told.told_since + 100_000_000;
        world.set_pressure(Pressure { told_since, resets: RESETS, errors: ERRORS, ..told });
        world.uplink_in(&packet).is_dropped(Outcome::RejectionLimited);
        world.set_pressure(Pressure { told_since: 0, resets: RESETS, errors: ERRORS, ..told });
        let _ = world.uplink_in(&packet).leaves(outcome);
    }
}

#[test]
fn a_reset_of_a_connection_whose_backend_is_gone_is_dropped() {
    let mut world = World::serving(&[local(1)]);
    let _ = world.uplink_in(&Packet::from_client(syn()));
    world.change_backend(1, |backend| backend.state = state::DOWN);
    world.uplink_in(&Packet::from_client(Payload::Tcp(tcp(RST)))).is_dropped(Outcome::UnknownReset);
}

#[test]
fn a_datagram_to_a_frontend_without_backends_finds_the_port_unreachable() {
    let world = World::serving(&[]);
    for text in [&b""[..], b"odd", b"even", &[0x5a; 1400]] {
        for checked in [true, false] {
            let packet = Packet::from_client(Payload::Udp(Udp { checked, ..udp(text) }));
            let expected = error(&packet, 3, 0);
            world.uplink_in(&packet).leaves_as(Outcome::RefusedUnreachable, &expected.bytes());
        }
    }
}

#[test]
fn an_unreachable_port_quotes_ip_options() {
    let world = World::serving(&[]);
    for words in 1..=10 {
        let packet = Packet::from_client(Payload::Udp(udp(b"datagram")))
            .with(|packet| packet.options = vec![1; 4 * words]);
        let expected = error(&packet, 3, 0);
        world.uplink_in(&packet).leaves_as(Outcome::RefusedUnreachable, &expected.bytes());
    }
}

#[test]
fn a_packet_that_does_not_fit_into_the_tunnel_is_answered_with_what_fits() {
    let world = World::serving(&[remote(7)]);
    let over = usize::from(INNER_MTU) + 1;
    for payload in [data(&vec![7; over - 40]), Payload::Udp(udp(&vec![7; over - 28])), data(&[7; 1460])] {
        let packet = Packet::from_client(payload).with(|packet| packet.dont_fragment = true);
        let expected = error(&packet, 4, INNER_MTU);
        world.uplink_in(&packet).leaves_as(Outcome::TooBig, &expected.bytes());
    }
    assert_eq!(world.counters(1).packets, 0);
}

#[test]
fn what_is_dropped_on_its_way_is_not_counted_for_the_backend() {
    let world = World::serving(&[local(5)]);
    let packet = Packet::from_client(syn()).with(|packet| packet.ttl = 1);
    let _ = world.uplink_in(&packet).leaves(Outcome::HopLimit);
    assert_eq!(world.counters(1).packets, 0);
}

#[test]
fn an_answer_that_does_not_fit_into_the_tunnel_is_answered_with_what_fits() {
    let world = World::home_of(&[5]);
    let request = Packet::from_client(data(b"request")).with(|packet| packet.destination = cast::OTHER);
    let _ = world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&request.ip()));
    let packet =
        Packet::from_task(5, answer(PSH | ACK, &[7; 1460])).with(|packet| packet.dont_fragment = true);
    world.bridge_in(&packet).leaves_as(Outcome::TooBig, &error(&packet, 4, INNER_MTU).bytes());
}

#[test]
fn later_fragments_to_a_frontend_without_backends_are_dropped() {
    let world = World::serving(&[]);
    let datagram = Packet::from_client(Payload::Udp(udp(&[7; 64])));
    let [first, later] = datagram.in_two(32);
    let quote = first.quote();
    let expected = answer_to(&datagram, icmp_error(3, 3, 0, quote));
    world.uplink_in(&first).leaves_as(Outcome::RefusedUnreachable, &expected.bytes());
    world.uplink_in(&later).is_dropped(Outcome::RefusedFragment);

    let segment = Packet::from_client(data(&[7; 64])).with(|packet| packet.identification = 0x7777);
    let [first, later] = segment.in_two(48);
    let expected = reset(&segment, 0x1122_4455, 0, RST);
    world.uplink_in(&first).leaves_as(Outcome::RefusedWithReset, &expected.bytes());
    world.uplink_in(&later).is_dropped(Outcome::RefusedFragment);
}

#[test]
fn refusing_gives_nobody_a_flow() {
    let world = World::serving(&[]);
    let _ = world.uplink_in(&Packet::from_client(syn()));
    let _ = world.uplink_in(&Packet::from_client(Payload::Udp(udp(b"datagram"))));
    for protocol in [protocol::TCP, protocol::UDP] {
        assert_eq!(world.flow(&crate::support::world::flow_key(protocol)), None);
    }
}

/// A packet back to the sender of `packet`, as the node makes it.
fn answer_to(packet: &Packet, payload: Payload) -> Packet {
    Packet {
        destination_mac: packet.source_mac,
        source_mac: packet.destination_mac,
        source: packet.destination,
        destination: packet.source,
        identification: 0,
        dont_fragment: true,
        ..Packet::from_client(payload)
    }
}

fn reset(packet: &Packet, sequence: u32, acknowledgement: u32, flags: u8) -> Packet {
    let segment = Tcp {
        source: PUBLISHED,
        destination: CLIENT_PORT,
        sequence,
        acknowledgement,
        window: 0,
        ..tcp(flags)
    };
    answer_to(packet, Payload::Tcp(segment))
}

/// "Destination unreachable" about `packet`.
fn error(packet: &Packet, code: u8, mtu: u16) -> Packet {
    answer_to(packet, icmp_error(3, code, mtu, packet.long_quote()))
}
