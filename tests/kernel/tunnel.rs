//! At the home node: out of the tunnel, to the task.

use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;

use crate::support::cast::{self, INNER_MTU, PUBLISHED, TARGET};
use crate::support::packet::Packet;
use crate::support::payload::{
    ACK, Icmp, Payload, SYN, Tcp, Udp, answer, data, linux_options, syn, tcp, udp,
};
use crate::support::run::{Hook, Run};
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, task_key};

/// The MSS that fits into the tunnel.
const FITS: u16 = INNER_MTU - 40;

#[test]
fn a_packet_out_of_the_tunnel_reaches_the_task() {
    let world = World::home_of(&[5]);
    for payload in [
        data(b"odd"),
        data(b"even"),
        Payload::Udp(udp(b"odd")),
        Payload::Udp(udp(b"even")),
        Payload::Udp(Udp { checked: false, ..udp(b"unchecked") }),
        Payload::Tcp(tcp(SYN)),
    ] {
        let packet = request(payload);
        arrive(&world, &packet).leaves_as(Outcome::DeliveredFromTunnel, &packet.delivered(5).bytes());
    }
}

#[test]
fn ip_options_are_kept_on_the_way_out_of_the_tunnel() {
    let world = World::home_of(&[5]);
    for words in 1..=10 {
        for payload in [syn_with_mss(FITS), data(b"data"), Payload::Udp(udp(b"datagram"))] {
            let packet = request(payload).with(|packet| packet.options = vec![1; 4 * words]);
            arrive(&world, &packet).leaves_as(Outcome::DeliveredFromTunnel, &packet.delivered(5).bytes());
        }
    }
}

#[test]
fn the_tunnels_udp_checksum_does_not_matter() {
    let world = World::home_of(&[5]);
    let packet = request(data(b"data"));
    let mut bytes = Tunnel::to_here(5).around(&packet.ip());
    bytes[40..42].copy_from_slice(&[0x12, 0x34]);
    let run = world.run(Hook::UplinkIn, &bytes);
    run.leaves_as(Outcome::DeliveredFromTunnel, &packet.delivered(5).bytes());
}

#[test]
fn a_tunnel_packet_from_a_stranger_is_dropped() {
    let world = World::home_of(&[5]);
    for tunnel in [Tunnel::to_here(5), Tunnel::to_here(5).reply()] {
        let tunnel = Tunnel { source: cast::STRANGER, ..tunnel };
        let run = world.run(Hook::UplinkIn, &tunnel.around(&request(syn()).ip()));
        run.is_dropped(Outcome::UnknownPeer);
    }
}

#[test]
fn what_only_looks_like_the_tunnel_is_not_ours() {
    let world = World::home_of(&[5]);
    let inner = request(syn()).ip();
    let good = Tunnel::to_here(5);
    let with = |place: usize, byte: u8| {
        let mut bytes = good.around(&inner);
        bytes[place] = byte;
        bytes
    };
    for (name, bytes) in [
        ("another VNI", Tunnel { vni: cast::VNI ^ 1, ..good.clone() }.around(&inner)),
        ("another VNI, high byte", Tunnel { vni: cast::VNI ^ 0x80_0000, ..good.clone() }.around(&inner)),
        ("another port", Tunnel { port: 4789, ..good.clone() }.around(&inner)),
        ("another node", Tunnel { destination: cast::STRANGER, ..good.clone() }.around(&inner)),
        ("no VNI at all", with(42, 0)),
        ("another destination MAC", with(50, 0x06)),
        ("another destination MAC", with(51, 0x43)),
        ("another source MAC", with(56, 0x00)),
        ("another source MAC", with(57, 0x6c)),
        ("IPv6 inside", with(62, 0x86)),
        ("ARP inside", with(63, 0x06)),
    ] {
        println!("{name}");
        world.run(Hook::UplinkIn, &bytes).passes(Outcome::NotOurs);
    }
}

#[test]
fn a_tunnel_packet_with_ip_options_or_in_fragments_is_left_to_the_kernel() {
    let world = World::home_of(&[5]);
    let outer = |data: Vec<u8>| Packet {
        source: cast::OTHER,
        ..Packet::from_client(Payload::Udp(Udp {
            destination: cast::TUNNEL_PORT,
            checked: false,
            ..udp(&data)
        }))
    };
    let packet = outer(Tunnel::to_here(5).around(&request(data(&[7; 64])).ip())[42..].to_vec());
    let _ = world.uplink_in(&packet).leaves(Outcome::DeliveredFromTunnel);
    world.uplink_in(&packet.with(|packet| packet.options = vec![1; 4])).passes(Outcome::NotOurs);
    let [first, later] = packet.in_two(80);
    world.uplink_in(&first).passes(Outcome::NotOurs);
    world.uplink_in(&later).passes(Outcome::UnknownFragment);
}

#[test]
fn a_tunnel_packet_for_what_is_not_published_here_is_dropped() {
    let mut world = World::home_of(&[5]);
    let packet = request(data(b"data"));
    for tunnel in [
        Tunnel { identity: cast::identity(6), ..Tunnel::to_here(5) },
        Tunnel { target: TARGET + 1, ..Tunnel::to_here(5) },
    ] {
        world.run(Hook::UplinkIn, &tunnel.around(&packet.ip())).is_dropped(Outcome::UnknownTask);
    }
    world.remove::<_, mesh_common::backend::LocalTask>("TASKS", &task_key(5, protocol::UDP));
    arrive(&world, &request(Payload::Udp(udp(b"datagram")))).is_dropped(Outcome::UnknownTask);
    arrive(&world, &request(Payload::Other(132, vec![7; 32]))).is_dropped(Outcome::UnknownTask);
    let _ = arrive(&world, &packet).leaves(Outcome::DeliveredFromTunnel);
}

#[test]
fn a_packet_without_a_hop_left_inside_is_dropped() {
    let world = World::home_of(&[5]);
    for ttl in [0, 1] {
        arrive(&world, &request(syn()).with(|packet| packet.ttl = ttl)).is_dropped(Outcome::HopLimit);
    }
}

#[test]
fn without_a_bridge_nothing_out_of_the_tunnel_is_delivered() {
    let mut world = World::home_of(&[5]);
    world.settings(|settings| settings.bridge = 0);
    arrive(&world, &request(syn())).is_dropped(Outcome::NoBridge);
}

#[test]
fn what_is_no_usable_packet_inside_is_dropped() {
    let world = World::home_of(&[5]);
    let good = request(data(b"data")).ip();
    let with = |place: usize, byte: u8| {
        let mut inner = good.clone();
        inner[place] = byte;
        inner
    };
    for (name, inner) in [
        ("IP version", with(0, 0x65)),
        ("header length 4", with(0, 0x44)),
        ("header length over the end", with(0, 0x4f)),
        ("total length 19", with(3, 19)),
        ("total length 1 more than there is", with(3, good.len() as u8 + 1)),
        ("TCP offset 4", with(32, 0x40)),
        ("TCP offset over the end", with(32, 0xf0)),
        ("half a TCP header", good[..30].to_vec()),
        ("nothing but an IP header", good[..20].to_vec()),
        (
            "an ICMP echo",
            request(Payload::Icmp(Icmp { kind: 8, code: 0, word: [0; 4], data: vec![7; 32] })).ip(),
        ),
    ] {
        println!("{name}");
        let run = world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&inner));
        run.is_dropped(Outcome::MalformedInside);
    }
}

#[test]
fn the_mss_of_a_syn_is_lowered_to_what_fits_wherever_it_stands() {
    let world = World::home_of(&[5]);
    let behind = |before: &[u8], mss: u16| {
        let [high, low] = mss.to_be_bytes();
        let mut options = [before, &[2, 4, high, low]].concat();
        options.resize(options.len().next_multiple_of(4), 0);
        options
    };
    let sack = [4, 2];
    let window = [3, 3, 7];
    let times = [8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    for before in [
        &[][..],
        &[1],
        &[1, 1],
        &[1, 1, 1],
        &[1, 1, 1, 1, 1],
        &sack,
        &window,
        &[&window[..], &[1], &sack].concat(),
        &[&times[..], &[1], &window, &sack, &[1]].concat(),
        &[254, 30].into_iter().chain([9; 28]).collect::<Vec<u8>>(),
    ] {
        for mss in [FITS + 1, 1460, 8960, u16::MAX] {
            let with = |mss| request(Payload::Tcp(Tcp { options: behind(before, mss), ..tcp(SYN) }));
            let expected = with(FITS).delivered(5).bytes();
            arrive(&world, &with(mss)).leaves_as(Outcome::DeliveredFromTunnel, &expected);
        }
    }
}

#[test]
fn an_mss_that_fits_is_left_alone() {
    let world = World::home_of(&[5]);
    for mss in [0, 1, 536, FITS - 1, FITS] {
        let packet = request(syn_with_mss(mss));
        arrive(&world, &packet).leaves_as(Outcome::DeliveredFromTunnel, &packet.delivered(5).bytes());
    }
}

#[test]
fn a_syn_whose_options_hold_no_mss_is_left_alone() {
    let world = World::home_of(&[5]);
    for options in [
        &[][..],
        // An end of the list, and what would be an MSS behind it.
        &[0, 0, 0, 0, 2, 4, 0xff, 0xff],
        &[1, 0, 2, 4, 0xff, 0xff, 0, 0],
        // A length that is none.
        &[3, 0, 2, 4, 0xff, 0xff, 0, 0],
        &[3, 1, 2, 4, 0xff, 0xff, 0, 0],
        // Lengths over the end.
        &[254, 40, 2, 4, 0xff, 0xff, 0, 0],
        &[254, 255, 2, 4, 0xff, 0xff, 0, 0],
        // An MSS cut off by the end.
        &[1, 1, 2, 4],
        // Options that are called MSS and are none.
        &[2, 2, 254, 2, 0xff, 0xff, 0, 0],
        &[2, 6, 0xff, 0xff, 0xff, 0xff, 0, 0],
        &[2, 3, 0xff, 254, 2, 0, 0, 0],
    ] {
        let packet = request(Payload::Tcp(Tcp { options: options.to_vec(), ..tcp(SYN) }));
        println!("{options:02x?}");
        arrive(&world, &packet).leaves_as(Outcome::DeliveredFromTunnel, &packet.delivered(5).bytes());
    }
}

#[test]
fn an_mss_option_in_anything_but_a_syn_is_left_alone() {
    let world = World::home_of(&[5]);
    for flags in [ACK, SYN | ACK] {
        let packet = request(Payload::Tcp(Tcp { options: linux_options(9000), ..tcp(flags) }));
        arrive(&world, &packet).leaves_as(Outcome::DeliveredFromTunnel, &packet.delivered(5).bytes());
    }
}

#[test]
fn answers_follow_a_flow_to_another_entry_node() {
    let mut world = World::home_of(&[5]);
    world.peer(cast::STRANGER, 1);
    let packet = request(data(b"data"));
    let _ = arrive(&world, &packet);
    let moved = Tunnel { source: cast::STRANGER, ..Tunnel::to_here(5) };
    let run = world.run(Hook::UplinkIn, &moved.around(&packet.ip()));
    run.leaves_as(Outcome::DeliveredFromTunnel, &packet.delivered(5).bytes());

    let packet = Packet::from_task(5, answer(ACK, b"answer"));
    let sent = packet.as_frontend(cast::OTHER, PUBLISHED);
    let tunnel = Tunnel {
        destination: cast::STRANGER,
        // The kernel has yet to ask who that is.
        destination_mac: packet.destination_mac,
        source_mac: packet.source_mac,
        ..Tunnel::to_other(5, &packet).reply()
    };
    world.bridge_in(&packet).enters_tunnel(Outcome::ReplyTunnelled, tunnel, &sent.ip());
}

/// From the client to the other node, which has put it into the tunnel.
pub(crate) fn request(payload: Payload) -> Packet {
    Packet::from_client(payload).with(|packet| packet.destination = cast::OTHER)
}

/// The packet comes through the tunnel for task 5.
pub(crate) fn arrive(world: &World, packet: &Packet) -> Run {
    world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&packet.ip()))
}

fn syn_with_mss(mss: u16) -> Payload {
    Payload::Tcp(Tcp { options: linux_options(mss), ..tcp(SYN) })
}
