//! Client → service, at the entry node: what is ours, and what becomes of it.

use std::collections::BTreeSet;

use mesh_common::backend::BackendCounters;
use mesh_common::net::{Address, protocol};
use mesh_common::outcome::Outcome;

use crate::support::cast::{self, CLIENT_PORT, INNER_MTU, PUBLISHED};
use crate::support::packet::Packet;
use crate::support::payload::{
    Payload, SYN, Tcp, Udp, between, data, icmp_error, linux_options, syn, tcp, udp,
};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::wire::Frame;
use crate::support::world::{World, flow_key, local, remote};

#[test]
fn a_frame_for_another_machine_is_not_ours() {
    let mut world = World::serving(&[local(5)]);
    let packet = Packet::from_client(syn());
    let tunnelled = Tunnel::to_here(5);
    for destination in [cast::OTHER_MAC, [0xff; 6], [0x01, 0x00, 0x5e, 0, 0, 1]] {
        world.uplink_in(&packet.macs(destination, cast::CLIENT_MAC)).passes(Outcome::NotOurs);
        let other = Tunnel { destination_mac: destination, ..tunnelled.clone() }.around(&packet.ip());
        world.run(Hook::UplinkIn, &other).passes(Outcome::NotOurs);
    }
    // The switch floods what it has not learnt yet.
    let [uplink, bridge] = world.attach();
    uplink.send(&Frame::finished(packet.macs(cast::OTHER_MAC, cast::CLIENT_MAC).bytes()));
    uplink.send(&Frame::finished(packet.bytes()));
    bridge.carries(&packet.delivered(5).bytes());
    assert_eq!(world.count(Outcome::Delivered), 1);
}

#[test]
fn a_published_port_on_a_foreign_address_is_not_ours() {
    let world = World::serving(&[local(5)]);
    for payload in payloads() {
        let packet = Packet::from_client(payload).with(|packet| packet.destination = cast::STRANGER);
        world.uplink_in(&packet).passes(Outcome::NotOurs);
    }
}

#[test]
fn a_port_that_nobody_published_is_not_ours() {
    let world = World::serving(&[local(5)]);
    for payload in payloads() {
        world
            .uplink_in(&Packet::from_client(payload.with_destination(PUBLISHED + 1)))
            .passes(Outcome::NotOurs);
    }
}

#[test]
fn a_port_published_for_one_protocol_is_not_ours_for_another() {
    let mut world = World::new();
    let ids = world.backends(&[local(5)]);
    world.frontend(PUBLISHED, protocol::TCP, &ids);
    world.uplink_in(&Packet::from_client(Payload::Udp(udp(b"hello")))).passes(Outcome::NotOurs);
    world.uplink_in(&Packet::from_client(Payload::Other(132, syn_bytes()))).passes(Outcome::NotOurs);
    assert_eq!(world.counters(ids[0]), BackendCounters::default());
}

#[test]
fn a_port_whose_bit_is_set_but_that_has_no_frontend_is_not_ours() {
    let mut world = World::new();
    world.publish(PUBLISHED, protocol::TCP, true);
    world.uplink_in(&Packet::from_client(syn())).passes(Outcome::NotOurs);
}

#[test]
fn every_local_address_answers() {
    let mut world = World::serving(&[local(5)]);
    world.local_address(cast::STRANGER);
    let packet = Packet::from_client(syn()).with(|packet| packet.destination = cast::STRANGER);
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(5).bytes());
}

#[test]
fn a_task_on_this_node_gets_the_packet_at_its_bridge_address() {
    let world = World::serving(&[local(5)]);
    for payload in payloads() {
        let packet = Packet::from_client(payload);
        world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(5).bytes());
    }
}

#[test]
fn a_task_elsewhere_gets_the_packet_through_the_tunnel_untouched() {
    let world = World::serving(&[remote(7)]);
    for payload in payloads() {
        let packet = Packet::from_client(payload).with(|packet| packet.traffic_class = 0xb9);
        world.uplink_in(&packet).enters_tunnel(
            Outcome::Tunnelled,
            Tunnel::to_other(7, &packet),
            &packet.ip(),
        );
    }
}

#[test]
fn the_tunnels_source_port_is_the_same_for_a_flow_and_spreads_flows() {
    let world = World::serving(&[remote(7)]);
    let source_port = |port, payload: Payload| {
        let packet = Packet::from_client(payload.with_source(port));
        world.uplink_in(&packet).enters_tunnel(Outcome::Tunnelled, Tunnel::to_other(7, &packet), &packet.ip())
    };
    let ports: Vec<u16> = (1024..1088).map(|port| source_port(port, syn())).collect();
    for (place, port) in (1024..1088).enumerate() {
        assert_eq!(source_port(port, data(b"later")), ports[place], "the flow from port {port}");
    }
    let different: BTreeSet<u16> = ports.iter().copied().collect();
    assert!(different.len() >= 60, "64 flows share {} source ports", different.len());
}

#[test]
fn ip_options_are_kept_on_the_way_to_a_task_on_this_node() {
    let world = World::serving(&[local(5)]);
    for words in 1..=10 {
        for payload in payloads() {
            let packet = Packet::from_client(payload).with(|packet| packet.options = vec![1; 4 * words]);
            world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(5).bytes());
        }
    }
}

#[test]
fn ip_options_are_kept_in_the_tunnel() {
    let world = World::serving(&[remote(7)]);
    for words in 1..=10 {
        for payload in payloads() {
            let packet = Packet::from_client(payload).with(|packet| packet.options = vec![1; 4 * words]);
            world.uplink_in(&packet).enters_tunnel(
                Outcome::Tunnelled,
                Tunnel::to_other(7, &packet),
                &packet.ip(),
            );
        }
    }
}

#[test]
fn a_udp_datagram_without_a_checksum_stays_without() {
    let world = World::serving(&[local(5)]);
    let packet = Packet::from_client(Payload::Udp(Udp { checked: false, ..udp(b"unchecked") }));
    let bytes = packet.delivered(5).bytes();
    assert_eq!(bytes[40..42], [0, 0]);
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &bytes);
}

#[test]
fn a_udp_checksum_that_comes_out_as_0_is_sent_as_ffff() {
    let world = World::serving(&[local(5)]);
    let sent = (0..=u16::MAX)
        .map(|word| Packet::from_client(Payload::Udp(udp(&word.to_be_bytes()))))
        .find(|packet| packet.delivered(5).bytes()[40..42] == [0xff, 0xff])
        .expect("one of all 16-bit words makes the sum come out as 0");
    world.uplink_in(&sent).leaves_as(Outcome::Delivered, &sent.delivered(5).bytes());
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let world = World::serving(&[local(5)]);
    for payload in [data(b"payload"), Payload::Udp(udp(b"payload"))] {
        let packet = Packet::from_client(payload);
        let last = packet.bytes().len() - 1;
        let flipped = |packet: &Packet| {
            let mut bytes = packet.bytes();
            bytes[last] ^= 0x10;
            bytes
        };
        let run = world.run(Hook::UplinkIn, &flipped(&packet));
        assert_eq!(run.outcomes, [(Outcome::Delivered, 1)]);
        crate::support::checks::assert_same(&flipped(&packet.delivered(5)), &run.after);
    }
}

#[test]
fn a_packet_with_a_vlan_tag_is_not_ours() {
    let world = World::serving(&[local(5)]);
    for tag in [[0x81, 0x00, 0x00, 0x07], [0x88, 0xa8, 0x00, 0x07]] {
        let mut bytes = Packet::from_client(syn()).bytes();
        bytes.splice(12..12, tag);
        world.run(Hook::UplinkIn, &bytes).passes(Outcome::NotOurs);
    }
}

#[test]
fn the_sender_of_a_packet_without_a_hop_left_is_told_so_by_whichever_node_it_asks() {
    for backend in [local(5), remote(5)] {
        let world = World::serving(&[backend]);
        for ttl in [0, 1] {
            for payload in payloads() {
                let packet = Packet::from_client(payload).with(|packet| packet.ttl = ttl);
                let told = Packet {
                    source: cast::NODE,
                    destination: cast::CLIENT,
                    identification: 0,
                    dont_fragment: true,
                    ..Packet::from_client(icmp_error(11, 0, 0, packet.long_quote()))
                        .macs(packet.source_mac, packet.destination_mac)
                };
                world.uplink_in(&packet).leaves_as(Outcome::HopLimit, &told.bytes());
            }
        }
        assert!(world.flow(&flow_key(protocol::TCP)).is_none(), "nobody owes it an answer");
    }
    let world = World::serving(&[local(5)]);
    let packet = Packet::from_client(syn()).with(|packet| packet.ttl = 2);
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(5).bytes());
}

#[test]
fn without_a_bridge_a_local_task_cannot_be_reached() {
    let mut world = World::serving(&[local(5)]);
    world.settings(|settings| settings.bridge = 0);
    world.uplink_in(&Packet::from_client(syn())).is_dropped(Outcome::NoBridge);
}

#[test]
fn padding_behind_a_short_packet_is_no_part_of_it() {
    let short = Payload::Tcp(tcp(SYN));
    let padded = |mut bytes: Vec<u8>| {
        bytes.extend([0; 6]);
        bytes
    };

    let packet = Packet::from_client(short);
    let world = World::serving(&[local(5)]);
    let run = world.run(Hook::UplinkIn, &padded(packet.bytes()));
    run.leaves_as(Outcome::Delivered, &padded(packet.delivered(5).bytes()));

    let world = World::serving(&[remote(7)]);
    let run = world.run(Hook::UplinkIn, &padded(packet.bytes()));
    let tunnel = Tunnel::to_other(7, &packet).hashed_as(&run.after);
    run.leaves_as(Outcome::Tunnelled, &padded(tunnel.around(&packet.ip())));
}

#[test]
fn the_mss_is_not_the_entry_nodes_business() {
    let packet = Packet::from_client(Payload::Tcp(Tcp { options: linux_options(9000), ..tcp(SYN) }));
    World::serving(&[local(5)])
        .uplink_in(&packet)
        .leaves_as(Outcome::Delivered, &packet.delivered(5).bytes());
    World::serving(&[remote(7)]).uplink_in(&packet).enters_tunnel(
        Outcome::Tunnelled,
        Tunnel::to_other(7, &packet),
        &packet.ip(),
    );
}

#[test]
fn a_packet_that_just_fits_goes_into_the_tunnel() {
    let world = World::serving(&[remote(7)]);
    for payload in [
        data(&vec![7; usize::from(INNER_MTU) - 40]),
        Payload::Udp(udp(&vec![7; usize::from(INNER_MTU) - 28])),
    ] {
        let packet = Packet::from_client(payload).with(|packet| packet.dont_fragment = true);
        assert_eq!(packet.ip().len(), usize::from(INNER_MTU));
        world.uplink_in(&packet).enters_tunnel(
            Outcome::Tunnelled,
            Tunnel::to_other(7, &packet),
            &packet.ip(),
        );
    }
}

#[test]
fn a_packet_bigger_than_the_tunnel_is_delivered_on_this_node() {
    let world = World::serving(&[local(5)]);
    let packet =
        Packet::from_client(Payload::Udp(udp(&[7; 1472]))).with(|packet| packet.dont_fragment = true);
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(5).bytes());
}

#[test]
fn a_backend_counts_its_flows_packets_and_bytes() {
    let world = World::serving(&[local(5), remote(7)]);
    let mut expected = [BackendCounters::default(); 2];
    for (place, port) in (0..6).zip(CLIENT_PORT..) {
        let counters = &mut expected[place % 2];
        counters.flows += 1;
        for payload in [syn(), data(b"one"), data(b"another one")] {
            let packet = Packet::from_client(between(payload, port, PUBLISHED));
            counters.packets += 1;
            counters.bytes += packet.ip().len() as u64;
            let outcome = [Outcome::Delivered, Outcome::Tunnelled][place % 2];
            let _ = world.uplink_in(&packet).leaves(outcome);
        }
    }
    assert_eq!([world.counters(1), world.counters(2)], expected);
}

#[test]
fn the_address_that_the_swarm_knows_the_node_by_is_its_own_at_any_time() {
    let mut world = World::serving(&[local(5)]);
    let packet = Packet::from_client(syn());
    world.remove::<Address, u32>("LOCAL_ADDRESSES", &Address::new(cast::NODE));
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(5).bytes());
    world.settings(|settings| settings.node = Address::new(cast::OTHER));
    world.uplink_in(&packet).passes(Outcome::NotOurs);
}

/// One of each kind, with an even and an odd number of bytes to sum up.
fn payloads() -> [Payload; 5] {
    [syn(), data(b"odd"), data(b"even"), Payload::Udp(udp(b"odd")), Payload::Udp(udp(b"even"))]
}

fn syn_bytes() -> Vec<u8> {
    syn().bytes(cast::CLIENT, cast::NODE)
}
