//! Uplinks without Ethernet, as those of a VPN: the same steps as at others. What has no Ethernet header cannot be in a test run, so
//! packets come in and go out at the far end of a tun.

use std::net::UdpSocket;
use std::sync::Arc;

use mesh_agent::dataplane::attachments::{Attachments, Hooked};
use mesh_agent::dataplane::kernel;
use mesh_agent::dataplane::object::program;
use mesh_agent::dataplane::pins::Pins;
use mesh_agent::dataplane::tc::TcMode;
use mesh_agent::dataplane::unread_ports::UnreadPorts;
use mesh_agent::dataplane::xdp::{XdpMode, XdpState};
use mesh_agent::node::{self, Uplinks};
use mesh_common::backend::Backend;
use mesh_common::maps::Sizes;
use mesh_common::net::Address;
use mesh_common::outcome::Outcome;

use crate::support::bpffs::BpfFs;
use crate::support::cast::{self, CLIENT_PORT, INNER_MTU, Ip, PUBLISHED};
use crate::support::namespace::Namespace;
use crate::support::packet::Packet;
use crate::support::payload::{
    ACK, PSH, Payload, RST, SYN, Tcp, answer, between, data, icmp_error, syn, tcp, udp,
};
use crate::support::tun::Tun;
use crate::support::tunnel::Tunnel;
use crate::support::wire::Frame;
use crate::support::world::{World, local, remote};
use crate::wire::{aggregate, as_aggregate, back, clamped, cut, talk, talk_by_tunnel, to_client};

/// A node beyond the tun of a node that has an Ethernet uplink too.
const BEYOND: Ip = [10, 97, 0, 2];
const TUN: u32 = 20;

fn requests() -> [Payload; 3] {
    [syn(), data(b"GET /"), Payload::Udp(udp(b"question"))]
}

fn answers() -> [Payload; 3] {
    [
        answer(SYN | ACK, b""),
        answer(ACK, b"200 OK"),
        between(Payload::Udp(udp(b"answer")), cast::TARGET, CLIENT_PORT),
    ]
}

fn frame(packet: &Packet) -> Frame {
    Frame::finished(packet.bytes())
}

#[test]
fn requests_reach_a_task_here_and_its_answers_the_client() {
    let mut world = World::serving(&[local(5)]);
    let (uplink, bridge) = world.attach_l3();
    for (request, payload) in requests().into_iter().zip(answers()) {
        let request = Packet::from_client(request);
        uplink.send(&frame(&request));
        bridge.carries(&request.delivered(5).bytes());
        let answer = Packet::from_task(5, payload);
        bridge.send(&frame(&answer));
        uplink.carries(&to_client(&answer, cast::NODE).bytes());
    }
    assert_eq!((world.count(Outcome::Delivered), world.count(Outcome::Replied)), (3, 3));
}

#[test]
fn a_task_behind_its_port_gets_a_frame_with_its_hardware_address() {
    let mut world = World::serving(&[Backend { interface: cast::TASK_PORT, ..local(5) }]);
    let (uplink, _bridge) = world.attach_l3();
    let (_task, port) = world.attach_port();
    for request in requests() {
        let request = Packet::from_client(request);
        uplink.send(&frame(&request));
        port.carries(&request.delivered(5).bytes());
    }
}

#[test]
fn requests_enter_the_tunnel_and_answers_come_out_of_it() {
    let mut world = World::serving(&[remote(7)]);
    let (uplink, _bridge) = world.attach_l3();
    for (request, payload) in requests().into_iter().zip(answers()) {
        let request = Packet::from_client(request);
        uplink.send(&frame(&request));
        carries_tunnel(&uplink, &Tunnel::to_other(7, &request), &request);
        let answer = to_client(&Packet::from_task(7, payload), cast::NODE);
        uplink.send(&Frame::finished(Tunnel::to_here(7).reply().around(&answer.ip())));
        uplink.carries(&answer.bytes());
    }
}

#[test]
fn requests_come_out_of_the_tunnel_and_answers_go_back_into_it() {
    let mut world = World::home_of(&[5]);
    talk_by_tunnel(&world);
    let (uplink, bridge) = world.attach_l3();
    for (request, payload) in requests().into_iter().zip(answers()) {
        let request = Packet::from_client(request).with(|packet| packet.destination = cast::OTHER);
        uplink.send(&Frame::finished(Tunnel::to_here(5).around(&request.ip())));
        bridge.carries(&clamped(&request.delivered(5)).bytes());
        let answer = Packet::from_task(5, payload);
        bridge.send(&frame(&answer));
        carries_tunnel(&uplink, &Tunnel::to_other(5, &answer).reply(), &to_client(&answer, cast::OTHER));
    }
}

#[test]
fn an_aggregate_of_a_task_is_cut_for_the_client_and_for_the_tunnel() {
    let sent = aggregate(&Packet::from_task(5, answer(PSH | ACK, b"")));
    let mut world = World::serving(&[local(5)]);
    talk(&world);
    let (uplink, bridge) = world.attach_l3();
    bridge.send(&as_aggregate(&sent));
    for segment in cut(&sent) {
        uplink.carries(&to_client(&segment, cast::NODE).bytes());
    }

    let mut world = World::home_of(&[5]);
    talk_by_tunnel(&world);
    let (uplink, bridge) = world.attach_l3();
    bridge.send(&as_aggregate(&sent));
    for segment in cut(&sent) {
        let tunnel = Tunnel::to_other(5, &segment).reply();
        carries_tunnel(&uplink, &tunnel, &to_client(&segment, cast::OTHER));
    }
}

#[test]
fn clients_and_nodes_may_be_behind_uplinks_of_both_kinds() {
    let there = Backend { node: Address::new(BEYOND), interface: TUN, ..remote(7) };
    let mut world = World::serving(&[there]);
    world.peer(BEYOND, TUN);
    let [uplink, _bridge] = world.attach();
    let tun = world.make_l3("tun", TUN, "10.97.0.1/24");
    for (request, payload) in requests().into_iter().zip(answers()) {
        let request = Packet::from_client(request);
        uplink.send(&frame(&request));
        carries_tunnel(&tun, &Tunnel { destination: BEYOND, ..Tunnel::to_other(7, &request) }, &request);
        let answer = to_client(&Packet::from_task(7, payload), cast::NODE);
        tun.send(&Frame::finished(
            Tunnel { source: BEYOND, ..Tunnel::to_here(7).reply() }.around(&answer.ip()),
        ));
        uplink.carries(&answer.bytes());
    }
    assert_eq!((world.count(Outcome::Tunnelled), world.count(Outcome::RepliedFromTunnel)), (3, 3));
}

#[test]
fn senders_are_told_no_by_the_uplink_that_they_came_by() {
    let mut world = World::serving(&[]);
    let (uplink, _bridge) = world.attach_l3();
    let packet = Packet::from_client(syn());
    uplink.send(&frame(&packet));
    let reset = Tcp { sequence: 0, acknowledgement: 0x1122_3345, window: 0, ..tcp(RST | ACK) };
    uplink.carries(&back(&packet, between(Payload::Tcp(reset), PUBLISHED, CLIENT_PORT)).bytes());

    let packet = Packet::from_client(Payload::Udp(udp(b"question")));
    uplink.send(&frame(&packet));
    uplink.carries(&back(&packet, icmp_error(3, 3, 0, packet.quote())).bytes());
}

#[test]
fn senders_are_told_what_fits_into_the_tunnel_and_datagrams_that_may_be_cut_are() {
    let mut world = World::serving(&[remote(7)]);
    let (uplink, _bridge) = world.attach_l3();
    let packet = Packet::from_client(data(&[7; 1460])).with(|packet| packet.dont_fragment = true);
    uplink.send(&frame(&packet));
    uplink.carries(&back(&packet, icmp_error(3, 4, INNER_MTU, packet.long_quote())).bytes());

    let packet = Packet::from_client(Payload::Udp(udp(&[7; 1460])));
    uplink.send(&frame(&packet));
    let mut parts = [uplink.receive(), uplink.receive()];
    // Behind the tunnel's headers, by where they begin in the datagram.
    parts.sort_by_key(|part| part[64 + 6] & 0x1f | u8::from(part[64 + 7] != 0));
    let inside = |part: &[u8]| part[64..].to_vec();
    let [first, rest] = packet.in_two(usize::from(INNER_MTU - 20) / 8 * 8);
    assert_eq!(inside(&parts[0]), first.ip());
    assert_eq!(inside(&parts[1]), rest.ip());
}

#[test]
fn a_refusal_by_a_task_here_or_elsewhere_is_the_clients_syn_again() {
    let mut world = World::serving(&[remote(1), local(2)]);
    let (uplink, bridge) = world.attach_l3();
    let packet = Packet::from_client(syn());
    uplink.send(&frame(&packet));
    carries_tunnel(&uplink, &Tunnel::to_other(1, &packet), &packet);
    let refusal = to_client(&Packet::from_task(1, refusal()), cast::NODE);
    uplink.send(&Frame::finished(Tunnel::to_here(1).reply().around(&refusal.ip())));
    bridge.carries(&packet.delivered(2).bytes());

    let mut world = World::serving(&[local(1), local(2)]);
    let (uplink, bridge) = world.attach_l3();
    uplink.send(&frame(&packet));
    bridge.carries(&packet.delivered(1).bytes());
    bridge.send(&frame(&Packet::from_task(1, self::refusal())));
    bridge.carries(&packet.delivered(2).bytes());
}

#[test]
fn a_refusal_out_of_a_tunnel_without_ethernet_is_the_syn_of_a_client_that_has_it() {
    let there = Backend { node: Address::new(BEYOND), interface: TUN, ..remote(1) };
    let mut world = World::serving(&[there, local(2)]);
    world.peer(BEYOND, TUN);
    let [uplink, bridge] = world.attach();
    let tun = world.make_l3("tun", TUN, "10.97.0.1/24");
    let packet = Packet::from_client(syn());
    uplink.send(&frame(&packet));
    carries_tunnel(&tun, &Tunnel { destination: BEYOND, ..Tunnel::to_other(1, &packet) }, &packet);
    let refusal = to_client(&Packet::from_task(1, refusal()), cast::NODE);
    tun.send(&Frame::finished(Tunnel { source: BEYOND, ..Tunnel::to_here(1).reply() }.around(&refusal.ip())));
    bridge.carries(&packet.delivered(2).bytes());
}

#[test]
fn a_probe_is_answered_and_what_nobody_may_send_is_not() {
    let mut world = World::serving(&[remote(7)]);
    let (uplink, _bridge) = world.attach_l3();
    let probe = Tunnel::to_here(0).probe(40_000);
    let known = [7, 7, 7, 7, 7, 7, 7, 7, 1, 0];
    uplink.send(&Frame::finished(Tunnel { source: cast::STRANGER, ..probe.clone() }.around(&known)));
    uplink.send(&Frame::finished(probe.around(&known)));
    let answer = uplink.receive();
    assert_eq!(answer[26..34], [cast::NODE, cast::OTHER].concat(), "it is the node's");
    assert_eq!(answer[60..62], [0, 4], "and an answer");
    assert_eq!((world.count(Outcome::UnknownPeer), world.count(Outcome::Probed)), (1, 1));
}

#[test]
fn a_process_of_the_node_calls_a_task_elsewhere() {
    let mut world = World::serving(&[remote(7)]);
    let (uplink, _bridge) = world.attach_l3();
    let socket = UdpSocket::bind("10.99.0.1:0").expect("the node has the address");
    socket.connect("10.99.0.2:80").expect("there is a route");
    world.gave_task_elsewhere(&socket);
    socket.send(b"question").expect("it is sent");
    let packet = uplink.receive();
    assert_eq!(packet[36..38], cast::TUNNEL_PORT.to_be_bytes(), "it is in the tunnel");
    assert_eq!(packet[80..84], cast::OTHER, "as it was sent");
    assert_eq!(world.count(Outcome::TunnelledFromNode), 1);
}

#[test]
fn an_agent_puts_programs_that_expect_no_ethernet_on_what_has_the_swarms_address_or_a_default_route() {
    let namespace = Namespace::new();
    let _tuns = [("wg0", TUN), ("wg1", TUN + 1), ("wg2", TUN + 2)].map(|(name, index)| {
        let tun = Tun::new(name, index);
        namespace.ip(&format!("addr add 10.97.{index}.1/24 dev {name}\nlink set {name} up\n"));
        tun
    });
    namespace.ip("route add default dev wg1\n");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    let view = runtime.block_on(node::look()).expect("the kernel tells");
    let auto = Uplinks { auto: true, named: Vec::new() };
    let (uplinks, _) = node::uplinks(&view, &auto, "bridge", Some([10, 97, TUN as u8, 1].into()));
    assert_eq!(uplinks.iter().map(|uplink| uplink.name.as_str()).collect::<Vec<_>>(), ["wg0", "wg1"]);
    assert_eq!(node::left_out(&view, &uplinks, "bridge"), ["wg2"]);

    for mode in [TcMode::Auto, TcMode::Clsact] {
        let bpffs = BpfFs::new();
        let pins = Pins::under(&bpffs.path(""));
        let sizes = Sizes { flows: 1024, backends: 256 };
        let (_, ebpf, _) = kernel::load(&pins, sizes).expect("an agent starts");
        let unread = Arc::new(UnreadPorts::open(&pins).expect("the table is pinned"));
        let mut attachments = Attachments::new(ebpf, pins, mode, unread).with_xdp(XdpMode::Native, sizes);
        let errors = attachments.sync(Hooked { uplinks: &uplinks, ..Hooked::default() });
        assert!(errors.is_empty(), "{errors:?}");
        for uplink in &uplinks {
            let attached = &attachments.interfaces()[&uplink.index];
            assert_eq!(attached.programs, program::TC_L3);
            assert!(matches!(&attached.xdp, XdpState::TcAlone(why) if why.contains("Ethernet")));
        }
        let errors = attachments.sync(Hooked::default());
        assert!(errors.is_empty() && attachments.interfaces().is_empty(), "{errors:?}");
    }
}

/// What a task's kernel says to a SYN that nobody listens for.
fn refusal() -> Payload {
    let reset = Tcp { sequence: 0, acknowledgement: 0x1122_3345, window: 0, ..tcp(RST | ACK) };
    between(Payload::Tcp(reset), cast::TARGET, CLIENT_PORT)
}

/// The next packet is `inner` on its way to another node.
#[track_caller]
fn carries_tunnel(uplink: &Tun, tunnel: &Tunnel, inner: &Packet) {
    let bytes = uplink.receive();
    let tunnel = tunnel.clone().hashed_as(&bytes);
    crate::support::checks::assert_same(&[&bytes[..14], &tunnel.around(&inner.ip())[14..]].concat(), &bytes);
    crate::support::checks::assert_checksums(&bytes);
}
