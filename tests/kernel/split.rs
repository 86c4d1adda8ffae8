//! Packets that do not fit into the tunnel and may be fragmented arrive in parts.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use mesh_common::backend::BackendCounters;

use crate::support::cast::{self, CLIENT_PORT, INNER_MTU, PUBLISHED, TARGET};
use crate::support::checks;
use crate::support::packet::{Packet, Part};
use crate::support::payload::{Payload, between, data, udp};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::wire::{Frame, Wire};
use crate::support::world::{World, local, remote};

/// Payload of the largest fragment that fits into the tunnel.
const FITS: usize = (INNER_MTU as usize - 20) / 8 * 8;
/// Payload of a packet that fills an uplink.
const FULL: usize = 1480;

/// Complete checksums, and checksums left to the device.
const WAYS: [fn(Vec<u8>) -> Frame; 2] = [Frame::finished, Frame::unfinished];

#[test]
fn a_request_goes_through_the_tunnel_in_parts() {
    for way in WAYS {
        let mut world = World::serving(&[remote(7)]);
        let [uplink, _bridge] = world.attach();
        for payload in [Payload::Udp(udp(&[7; FULL - 8])), data(&[7; FULL - 20])] {
            let packet = Packet::from_client(payload);
            uplink.send(&way(packet.bytes()));
            for part in packet.in_two(FITS) {
                carries_tunnel(&uplink, &Tunnel::to_other(7, &part), &part);
            }
        }
        // As the client has sent them.
        let expected = BackendCounters { flows: 2, packets: 2, bytes: 2 * (20 + FULL as u64) };
        assert_eq!(world.counters(1), expected);
    }
}

#[test]
fn fragments_of_a_request_go_through_the_tunnel_in_parts() {
    let mut world = World::serving(&[remote(7)]);
    let [uplink, _bridge] = world.attach();
    let packet = Packet::from_client(Payload::Udp(udp(&[7; 3 * FULL])));
    for (fragment, parts) in fragments(&packet) {
        uplink.send(&Frame::finished(fragment.bytes()));
        for part in parts {
            carries_tunnel(&uplink, &Tunnel::to_other(7, &part), &part);
        }
    }
}

#[test]
fn an_answer_goes_through_the_tunnel_in_parts() {
    for way in WAYS {
        let mut world = World::home_of(&[5]);
        talk_by_tunnel(&world);
        let [uplink, bridge] = world.attach();
        let packet = answer(FULL - 8);
        bridge.send(&way(packet.bytes()));
        for part in packet.as_frontend(cast::OTHER, PUBLISHED).in_two(FITS) {
            carries_tunnel(&uplink, &Tunnel::to_other(5, &part).reply(), &part);
        }
    }
}

#[test]
fn fragments_of_an_answer_go_through_the_tunnel_in_parts() {
    let mut world = World::home_of(&[5]);
    talk_by_tunnel(&world);
    let [uplink, bridge] = world.attach();
    let packet = answer(3 * FULL);
    let sent = packet.as_frontend(cast::OTHER, PUBLISHED);
    for ((fragment, _), (_, parts)) in fragments(&packet).into_iter().zip(fragments(&sent)) {
        bridge.send(&Frame::finished(fragment.bytes()));
        for part in parts {
            carries_tunnel(&uplink, &Tunnel::to_other(5, &part).reply(), &part);
        }
    }
}

#[test]
fn an_answer_that_netfilter_has_put_together_reaches_the_client_in_parts() {
    let mut world = World::serving(&[local(5)]);
    let _ = world.uplink_in(&Packet::from_client(Payload::Udp(udp(b"request"))));
    let [uplink, bridge] = world.attach();
    world.widen_bridge();
    let packet = answer(3 * FULL);
    bridge.send(&Frame::finished(packet.bytes()));
    let sent = packet.as_frontend(cast::NODE, PUBLISHED).macs(cast::CLIENT_MAC, cast::NODE_MAC);
    for part in cut(&sent, FULL) {
        uplink.carries(&part.bytes());
    }
}

#[test]
fn a_datagram_of_a_process_of_the_node_goes_through_the_tunnel_in_parts() {
    let mut world = World::serving(&[remote(7)]);
    let [uplink, _bridge] = world.attach();
    let socket = UdpSocket::bind("10.99.0.1:0").expect("the node has the address");
    socket.connect("10.99.0.2:80").expect("there is a route");
    let mode = libc::IP_PMTUDISC_DONT;
    // SAFETY: the option is an int, and the size says so.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const mode).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
    world.gave_task_elsewhere(&socket);
    socket.send(&[7; FULL - 8]).expect("it fits the uplink");

    let port = socket.local_addr().expect("it is bound").port();
    let parts = [(); 2].map(|()| uplink.receive().finish());
    // They may come in either order; the datagram's identification is the kernel's choice.
    let packet = Packet {
        source: cast::NODE,
        destination: cast::OTHER,
        identification: u16::from_be_bytes([parts[0][68], parts[0][69]]),
        ..Packet::from_client(between(Payload::Udp(udp(&[7; FULL - 8])), port, PUBLISHED))
    };
    for part in packet.in_two(FITS) {
        let offset = part.ip()[6..8].to_vec();
        let bytes = parts.iter().find(|bytes| bytes[70..72] == offset).expect("both parts come");
        is_tunnel(bytes, &Tunnel::to_other(7, &part), &part);
    }
}

fn answer(length: usize) -> Packet {
    let bytes: Vec<u8> = (0..length).map(|place| (place % 251) as u8).collect();
    Packet::from_task(5, between(Payload::Udp(udp(&bytes)), TARGET, CLIENT_PORT))
}

fn talk_by_tunnel(world: &World) {
    let packet =
        Packet::from_client(Payload::Udp(udp(b"request"))).with(|packet| packet.destination = cast::OTHER);
    let _ = world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&packet.ip()));
}

/// The packet in fragments that fill an uplink, and each of them in parts that fit into the tunnel.
fn fragments(packet: &Packet) -> Vec<(Packet, Vec<Packet>)> {
    cut(packet, FULL).into_iter().map(|fragment| (fragment.clone(), cut(&fragment, FITS))).collect()
}

/// The packet, which may be a fragment, in parts of at most `size`.
fn cut(packet: &Packet, size: usize) -> Vec<Packet> {
    let all = packet.payload.bytes(packet.source, packet.destination).len();
    let whole = packet.part.clone().unwrap_or(Part { from: 0, to: all, more: false });
    (whole.from..whole.to)
        .step_by(size)
        .map(|from| {
            let to = whole.to.min(from + size);
            packet.with(|packet| packet.part = Some(Part { from, to, more: to < whole.to || whole.more }))
        })
        .collect()
}

#[track_caller]
fn carries_tunnel(wire: &Wire, tunnel: &Tunnel, inner: &Packet) {
    is_tunnel(&wire.receive().finish(), tunnel, inner);
}

/// The frame is `inner` on its way to the other node.
#[track_caller]
fn is_tunnel(bytes: &[u8], tunnel: &Tunnel, inner: &Packet) {
    let tunnel = Tunnel { destination_mac: cast::OTHER_MAC, source_mac: cast::NODE_MAC, ..tunnel.clone() };
    checks::assert_same(&tunnel.hashed_as(bytes).around(&inner.ip()), bytes);
    checks::assert_checksums(bytes);
}
