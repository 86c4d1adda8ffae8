//! What a test run cannot show: by which interface packets leave, checksums that are left to a device, and aggregates.
//! The programs are attached, and frames come in and go out at the far ends of the node's interfaces.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use mesh_common::outcome::Outcome;

use crate::support::cast::{self, CLIENT_PORT, INNER_MTU, PUBLISHED, TARGET};
use crate::support::checks;
use crate::support::packet::Packet;
use crate::support::payload::{
    ACK, PSH, Payload, RST, SYN, Tcp, answer, between, data, icmp_error, linux_options, syn, tcp, udp,
};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::wire::{Frame, Wire};
use crate::support::world::{World, local, remote};

/// Complete checksums, and checksums left to the device.
const WAYS: [fn(Vec<u8>) -> Frame; 2] = [Frame::finished, Frame::unfinished];

#[test]
fn a_request_leaves_by_the_bridge() {
    for way in WAYS {
        let mut world = World::serving(&[local(5)]);
        let [uplink, bridge] = world.attach();
        for payload in requests() {
            let packet = Packet::from_client(payload);
            uplink.send(&way(packet.bytes()));
            bridge.carries(&packet.delivered(5).bytes());
        }
    }
}

#[test]
fn a_request_leaves_by_the_uplink_to_the_other_node() {
    for way in WAYS {
        let mut world = World::serving(&[remote(7)]);
        let [uplink, _bridge] = world.attach();
        for payload in requests() {
            let packet = Packet::from_client(payload);
            uplink.send(&way(packet.bytes()));
            carries_tunnel(&uplink, &Tunnel::to_other(7, &packet), &packet);
        }
    }
}

#[test]
fn an_answer_leaves_by_the_uplink() {
    for way in WAYS {
        let mut world = World::serving(&[local(5)]);
        talk(&world);
        let [uplink, bridge] = world.attach();
        for payload in answers() {
            let packet = Packet::from_task(5, payload);
            bridge.send(&way(packet.bytes()));
            uplink.carries(&to_client(&packet, cast::NODE).bytes());
        }
    }
}

#[test]
fn an_answer_leaves_by_the_uplink_to_the_entry_node() {
    for way in WAYS {
        let mut world = World::home_of(&[5]);
        talk_by_tunnel(&world);
        let [uplink, bridge] = world.attach();
        for payload in answers() {
            let packet = Packet::from_task(5, payload);
            bridge.send(&way(packet.bytes()));
            carries_tunnel(&uplink, &Tunnel::to_other(5, &packet).reply(), &to_client(&packet, cast::OTHER));
        }
    }
}

#[test]
fn a_packet_out_of_the_tunnel_leaves_by_the_bridge() {
    for unfinished in [false, true] {
        let mut world = World::home_of(&[5]);
        let [uplink, bridge] = world.attach();
        for payload in requests() {
            let packet = Packet::from_client(payload).with(|packet| packet.destination = cast::OTHER);
            let bytes = Tunnel::to_here(5).around(&packet.ip());
            uplink.send(&if unfinished { Frame::unfinished_at(bytes, 64) } else { Frame::finished(bytes) });
            bridge.carries(&clamped(&packet.delivered(5)).bytes());
        }
    }
}

#[test]
fn an_answer_out_of_the_tunnel_leaves_by_the_uplink() {
    for unfinished in [false, true] {
        let mut world = World::serving(&[remote(7)]);
        let [uplink, _bridge] = world.attach();
        for payload in answers() {
            let packet = to_client(&Packet::from_task(7, payload), cast::NODE);
            let bytes = Tunnel::to_here(7).reply().around(&packet.ip());
            uplink.send(&if unfinished { Frame::unfinished_at(bytes, 64) } else { Frame::finished(bytes) });
            uplink.carries(&packet.bytes());
        }
    }
}

#[test]
fn a_reset_goes_back_by_the_interface_that_the_segment_came_by() {
    for way in WAYS {
        let mut world = World::serving(&[]);
        let [uplink, _bridge] = world.attach();
        for (payload, sequence, acknowledgement, flags) in
            [(syn(), 0, 0x1122_3345, RST | ACK), (data(b"data"), 0x1122_4455, 0, RST)]
        {
            let packet = Packet::from_client(payload);
            uplink.send(&way(packet.bytes()));
            let segment = Tcp { sequence, acknowledgement, window: 0, ..tcp(flags) };
            let payload = between(Payload::Tcp(segment), PUBLISHED, CLIENT_PORT);
            uplink.carries(&back(&packet, payload).bytes());
        }
    }
}

#[test]
fn an_unreachable_port_is_told_by_the_interface_that_the_datagram_came_by() {
    for way in WAYS {
        let mut world = World::serving(&[]);
        let [uplink, _bridge] = world.attach();
        for text in [&b"odd"[..], b"even", &[7; 1000]] {
            let packet = Packet::from_client(Payload::Udp(udp(text)));
            uplink.send(&way(packet.bytes()));
            carries_error(&uplink.receive(), &back(&packet, icmp_error(3, 3, 0, packet.quote())), 6);
        }
    }
}

#[test]
fn a_client_is_told_what_fits_into_the_tunnel() {
    for way in WAYS {
        let mut world = World::serving(&[remote(7)]);
        let [uplink, _bridge] = world.attach();
        for (payload, place) in [(data(&[7; 1460]), 16), (Payload::Udp(udp(&[7; 1460])), 6)] {
            let packet = Packet::from_client(payload).with(|packet| packet.dont_fragment = true);
            uplink.send(&way(packet.bytes()));
            let error = back(&packet, icmp_error(3, 4, INNER_MTU, packet.long_quote()));
            carries_error(&uplink.receive(), &error, place);
        }
    }
}

#[test]
fn a_task_is_told_what_fits_into_the_tunnel() {
    for way in WAYS {
        let mut world = World::home_of(&[5]);
        talk_by_tunnel(&world);
        let [_uplink, bridge] = world.attach();
        let datagram = between(Payload::Udp(udp(&[7; 1460])), TARGET, CLIENT_PORT);
        for (payload, place) in [(answer(ACK, &[7; 1460]), 16), (datagram, 6)] {
            let packet = Packet::from_task(5, payload).with(|packet| packet.dont_fragment = true);
            bridge.send(&way(packet.bytes()));
            let error = back(&packet, icmp_error(3, 4, INNER_MTU, packet.long_quote()));
            carries_error(&bridge.receive(), &error, place);
        }
    }
}

#[test]
fn a_process_of_the_node_is_told_what_fits_into_the_tunnel() {
    let mut world = World::serving(&[remote(7)]);
    let [_uplink, _bridge] = world.attach();
    let socket = UdpSocket::bind("10.99.0.1:0").expect("the node has the address");
    socket.connect("10.99.0.2:80").expect("there is a route");
    let mode = libc::IP_PMTUDISC_DO;
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

    socket.send(&[7; 1460]).expect("it fits the uplink");
    // Only so that an error that never comes fails the test.
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("it is not zero");
    let error = socket.recv(&mut [0; 16]).expect_err("nobody answers");
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{error}");
    assert_eq!(world.count(Outcome::TooBig), 1);
}

#[test]
fn a_packet_of_a_vlan_is_not_ours() {
    let mut world = World::serving(&[local(5)]);
    let [uplink, bridge] = world.attach();
    let packet = Packet::from_client(syn());
    let mut tagged = packet.bytes();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    uplink.send(&Frame::finished(tagged));
    // The next packet shows that the first one has been dealt with.
    uplink.send(&Frame::finished(packet.bytes()));
    bridge.carries(&packet.delivered(5).bytes());
    assert_eq!(world.count(Outcome::Delivered), 1);
}

#[test]
fn a_tag_that_only_says_a_priority_does_not_make_a_packet_a_vlans() {
    for (backend, is_local) in [(local(5), true), (remote(5), false)] {
        let mut world = World::serving(&[backend]);
        let [uplink, bridge] = world.attach();
        let packet = Packet::from_client(syn());
        let mut tagged = packet.bytes();
        tagged.splice(12..12, [0x81, 0x00, 0xe0, 0x00]);
        uplink.send(&Frame::finished(tagged));
        if is_local {
            bridge.carries(&packet.delivered(5).bytes());
        } else {
            carries_tunnel(&uplink, &Tunnel::to_other(5, &packet), &packet);
        }
    }
}

#[test]
fn an_aggregate_is_cut_into_packets_for_the_task() {
    let mut world = World::serving(&[local(5)]);
    let [uplink, bridge] = world.attach();
    world.cut_aggregates();
    let packet = aggregate(&Packet::from_client(data(&[])));
    uplink.send(&as_aggregate(&packet));
    for segment in cut(&packet) {
        bridge.carries(&segment.delivered(5).bytes());
    }
}

#[test]
fn an_aggregate_is_cut_into_packets_of_the_tunnel() {
    let mut world = World::serving(&[remote(7)]);
    let [uplink, _bridge] = world.attach();
    world.cut_aggregates();
    let packet = aggregate(&Packet::from_client(data(&[])));
    uplink.send(&as_aggregate(&packet));
    for segment in cut(&packet) {
        carries_tunnel(&uplink, &Tunnel::to_other(7, &segment), &segment);
    }
}

#[test]
fn an_aggregate_of_segments_that_do_not_fit_into_the_tunnel_is_too_big() {
    for dont_fragment in [true, false] {
        let mut world = World::serving(&[remote(7)]);
        let [uplink, _bridge] = world.attach();
        world.cut_aggregates();
        let came = Packet::from_client(data(&[])).with(|packet| packet.dont_fragment = dont_fragment);
        let packet = aggregate(&came);
        let frame = as_aggregate(&packet);
        uplink.send(&Frame { segment: Some(SEGMENT as u16 + 1), ..frame.clone() });
        let expected = back(&packet, icmp_error(3, 4, INNER_MTU, packet.long_quote()));
        carries_error(&uplink.receive(), &expected, 16);
        assert_eq!(world.count(Outcome::TooBig), 1);
        // Its segments are.
        uplink.send(&frame);
        carries_tunnel(&uplink, &Tunnel::to_other(7, &cut(&packet)[0]), &cut(&packet)[0]);
    }
}

#[test]
fn an_aggregate_of_a_task_is_cut_into_packets_for_the_client() {
    let mut world = World::serving(&[local(5)]);
    talk(&world);
    let [uplink, bridge] = world.attach();
    world.cut_aggregates();
    let packet = aggregate(&Packet::from_task(5, answer(PSH | ACK, b"")));
    bridge.send(&as_aggregate(&packet));
    for segment in cut(&packet) {
        uplink.carries(&to_client(&segment, cast::NODE).bytes());
    }
}

#[test]
fn an_aggregate_of_a_task_is_cut_into_packets_of_the_tunnel() {
    let mut world = World::home_of(&[5]);
    talk_by_tunnel(&world);
    let [uplink, bridge] = world.attach();
    world.cut_aggregates();
    let packet = aggregate(&Packet::from_task(5, answer(PSH | ACK, b"")));
    bridge.send(&as_aggregate(&packet));
    for segment in cut(&packet) {
        carries_tunnel(&uplink, &Tunnel::to_other(5, &segment).reply(), &to_client(&segment, cast::OTHER));
    }
}

#[test]
fn an_aggregate_whose_backend_is_gone_is_answered_with_one_reset() {
    let mut world = World::serving(&[]);
    let [uplink, _bridge] = world.attach();
    let packet = aggregate(&Packet::from_client(data(&[])));
    uplink.send(&as_aggregate(&packet));
    let segment = Tcp { sequence: 0x1122_4455, acknowledgement: 0, window: 0, ..tcp(RST) };
    uplink.carries(&back(&packet, between(Payload::Tcp(segment), PUBLISHED, CLIENT_PORT)).bytes());
}

/// The payload of each packet of an aggregate; what it and the tunnel add is 1450 bytes.
const SEGMENT: usize = INNER_MTU as usize - 40;

fn requests() -> [Payload; 4] {
    [syn(), data(b"odd"), data(b"even"), Payload::Udp(udp(b"odd"))]
}

fn answers() -> [Payload; 3] {
    let datagram = between(Payload::Udp(udp(b"odd")), TARGET, CLIENT_PORT);
    let segment = Tcp { options: linux_options(1400), ..tcp(SYN | ACK) };
    [between(Payload::Tcp(segment), TARGET, CLIENT_PORT), answer(ACK, b"odd"), datagram]
}

/// The client has sent task 5 something, on both protocols.
pub(crate) fn talk(world: &World) {
    for payload in requests() {
        let _ = world.uplink_in(&Packet::from_client(payload)).leaves(Outcome::Delivered);
    }
}

/// The same through the other node.
pub(crate) fn talk_by_tunnel(world: &World) {
    for payload in requests() {
        let packet = Packet::from_client(payload).with(|packet| packet.destination = cast::OTHER);
        let run = world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&packet.ip()));
        let _ = run.leaves(Outcome::DeliveredFromTunnel);
    }
}

/// The answer of a task as it reaches the client.
pub(crate) fn to_client(packet: &Packet, frontend: cast::Ip) -> Packet {
    packet.as_frontend(frontend, PUBLISHED).macs(cast::CLIENT_MAC, cast::NODE_MAC)
}

/// With the MSS as the tunnel wants it.
pub(crate) fn clamped(packet: &Packet) -> Packet {
    packet.with(|packet| {
        if let Payload::Tcp(tcp) = &mut packet.payload
            && tcp.flags & SYN != 0
        {
            tcp.options = linux_options(INNER_MTU - 40);
        }
    })
}

/// The next frame is `inner` on its way to the other node.
#[track_caller]
pub(crate) fn carries_tunnel(wire: &Wire, tunnel: &Tunnel, inner: &Packet) {
    let frame = wire.receive();
    assert_eq!(frame.segment, None, "an aggregate");
    let bytes = frame.finish();
    let tunnel = Tunnel { destination_mac: cast::OTHER_MAC, source_mac: cast::NODE_MAC, ..tunnel.clone() };
    checks::assert_same(&tunnel.hashed_as(&bytes).around(&inner.ip()), &bytes);
    checks::assert_checksums(&bytes);
}

/// A packet back to the sender of `packet`, as the node makes it.
pub(crate) fn back(packet: &Packet, payload: Payload) -> Packet {
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

/// The frame is an error as expected. The quoted transport checksum, `place` bytes behind the quoted IP header, may be
/// another one, because a device completes it for the quote alone: what counts is that the error's own is right.
#[track_caller]
fn carries_error(frame: &Frame, expected: &Packet, place: usize) {
    let bytes = frame.clone().finish();
    checks::assert_checksums(&bytes);
    let without = |mut bytes: Vec<u8>| {
        for field in [36, 62 + place] {
            if let Some(field) = bytes.get_mut(field..field + 2) {
                field.fill(0);
            }
        }
        bytes
    };
    checks::assert_same(&without(expected.bytes()), &without(bytes));
}

/// The packet with four packets' worth of data, and some more.
pub(crate) fn aggregate(packet: &Packet) -> Packet {
    let bytes: Vec<u8> = (0..4 * SEGMENT + 333).map(|place| (place % 251) as u8).collect();
    packet.with(|packet| {
        if let Payload::Tcp(tcp) = &mut packet.payload {
            tcp.data = bytes;
        }
    })
}

pub(crate) fn as_aggregate(packet: &Packet) -> Frame {
    Frame { segment: Some(SEGMENT as u16), ..Frame::unfinished(packet.bytes()) }
}

/// The packets that an aggregate stands for.
pub(crate) fn cut(packet: &Packet) -> Vec<Packet> {
    let Payload::Tcp(tcp) = &packet.payload else { return Vec::new() };
    let count = tcp.data.len().div_ceil(SEGMENT);
    tcp.data
        .chunks(SEGMENT)
        .enumerate()
        .map(|(place, data)| Packet {
            identification: packet.identification + place as u16,
            payload: Payload::Tcp(Tcp {
                sequence: tcp.sequence + (place * SEGMENT) as u32,
                flags: if place + 1 == count { tcp.flags } else { tcp.flags & !PSH },
                data: data.to_vec(),
                ..tcp.clone()
            }),
            ..packet.clone()
        })
        .collect()
}
