//! Uplinks that are bridges where the node's rules get their frames first (`br_netfilter`), as on hosts of virtual machines that run
//! Docker. The rules here drop what is published; Docker's own would send it to its mesh.

use std::fs;
use std::sync::Arc;

use mesh_agent::dataplane::attachments::{Attachments, Hooked};
use mesh_agent::dataplane::kernel;
use mesh_agent::dataplane::object::program;
use mesh_agent::dataplane::pins::Pins;
use mesh_agent::dataplane::tc::TcMode;
use mesh_agent::dataplane::unread_ports::UnreadPorts;
use mesh_agent::node::{self, Interface};
use mesh_common::maps::Sizes;
use mesh_common::outcome::Outcome;
use mesh_common::unread::UnreadPort;

use crate::icmp::{as_sent, from_router, to_task};
use crate::support::bpffs::BpfFs;
use crate::support::cast::{self, CLIENT_PORT, PUBLISHED};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, Payload, SYN, answer, between, data, icmp_error, syn, udp};
use crate::support::tunnel::Tunnel;
use crate::support::wire::{Frame, Wire};
use crate::support::world::{World, local};
use crate::wire::{clamped, talk_by_tunnel, to_client};

/// A virtual machine at the bridge, or behind it.
const GUEST: cast::Ip = [10, 99, 0, 50];

/// All that may be served, as far as it is for this node.
const RULES: &str = "
table ip first {
    chain pre {
        type filter hook prerouting priority raw; policy accept;
        ip daddr 10.99.0.1 meta l4proto { tcp, udp } th dport { 80, 4799 } drop
        ip daddr 10.99.0.1 ip frag-off & 0x1fff != 0 drop
        ip daddr 10.99.0.1 icmp type destination-unreachable drop
    }
}
";

fn bridged(mut world: World) -> (World, [Wire; 3]) {
    let wires = world.attach_bridged();
    world.nft(RULES);
    (world, wires)
}

fn frame(packet: &Packet) -> Frame {
    Frame::finished(packet.bytes())
}

/// So that the bridge knows where the client is.
fn hello(wire: &Wire) {
    const OF_NO_MEANING: [u8; 2] = [0x88, 0xb5];

    let mut bytes = [&[0xff; 6][..], &cast::CLIENT_MAC, &OF_NO_MEANING].concat();
    bytes.resize(60, 0);
    wire.send(&Frame::finished(bytes));
}

#[test]
fn clients_at_either_port_are_served_before_the_nodes_rules() {
    let (world, [cable, guest, bridge]) = bridged(World::serving(&[local(5)]));
    for (wire, port) in [(&cable, CLIENT_PORT), (&guest, CLIENT_PORT + 1)] {
        hello(wire);
        for payload in [syn(), data(b"GET /"), Payload::Udp(udp(b"question"))] {
            let request = Packet::from_client(between(payload, port, PUBLISHED));
            wire.send(&frame(&request));
            bridge.carries(&request.delivered(5).bytes());
        }
        let answer = Packet::from_task(5, between(answer(SYN | ACK, b""), cast::TARGET, port));
        bridge.send(&frame(&answer));
        wire.carries(&to_client(&answer, cast::NODE).bytes());
    }
    assert_eq!((world.count(Outcome::Delivered), world.count(Outcome::Replied)), (6, 2));
}

#[test]
fn the_nodes_rules_get_what_comes_in_by_a_port_that_is_not_known() {
    let (mut world, [cable, _guest, bridge]) = bridged(World::serving(&[local(5)]));
    world.remove::<u32, u32>("UPLINK_PORTS", &cast::UPLINK_PORT);
    cable.send(&frame(&Packet::from_client(syn())));
    world.insert("UPLINK_PORTS", cast::UPLINK_PORT, cast::UPLINK);
    let second = Packet::from_client(between(syn(), CLIENT_PORT + 1, PUBLISHED));
    cable.send(&frame(&second));
    bridge.carries(&second.delivered(5).bytes());
}

#[test]
fn what_comes_out_of_the_tunnel_is_delivered() {
    let world = World::home_of(&[5]);
    talk_by_tunnel(&world);
    let (_world, [cable, _guest, bridge]) = bridged(world);
    let request = Packet::from_client(syn()).with(|packet| packet.destination = cast::OTHER);
    cable.send(&Frame::finished(Tunnel::to_here(5).around(&request.ip())));
    bridge.carries(&clamped(&request.delivered(5)).bytes());
}

#[test]
fn fragments_and_errors_reach_the_task() {
    let (_world, [cable, _guest, bridge]) = bridged(World::serving(&[local(5)]));
    hello(&cable);
    let datagram = Packet::from_client(Payload::Udp(udp(&[7; 256])));
    for (fragment, delivered) in datagram.in_two(128).iter().zip(datagram.delivered(5).in_two(128)) {
        cable.send(&frame(fragment));
        bridge.carries(&delivered.bytes());
    }
    let answer = Packet::from_task(5, between(Payload::Udp(udp(b"answer")), cast::TARGET, CLIENT_PORT));
    bridge.send(&frame(&answer));
    let seen = to_client(&answer, cast::NODE);
    cable.carries(&seen.bytes());
    let error = from_router(icmp_error(3, 1, 0, seen.quote()));
    cable.send(&frame(&error));
    bridge.carries(&to_task(&error, icmp_error(3, 1, 0, as_sent(&seen, 5).quote())).bytes());
}

#[test]
fn what_is_not_for_this_node_is_the_bridges() {
    let (world, [cable, guest, _bridge]) = bridged(World::serving(&[local(5)]));
    // For somebody behind the node, it is taken in by the bridge, which learns from it where the client is.
    let to_guest = Packet::from_client(syn()).with(|packet| packet.destination = GUEST);
    cable.send(&frame(&to_guest));
    assert!(world.is_learned(cast::CLIENT_MAC), "it has gone around the bridge");
    // And whatever is another machine's frame, also if its address is this node's: fragments may be served, and no rule here is
    // about the first one.
    let [fragment, _] = Packet::from_client(Payload::Udp(udp(&[7; 64]))).in_two(32);
    let to_this = fragment.with(|packet| packet.payload = between(packet.payload.clone(), CLIENT_PORT, 9));
    for packet in [to_guest, to_this] {
        let switched = packet.with(|packet| packet.destination_mac = [0x02, 0, 0, 0, 0, 0x50]);
        cable.send(&frame(&switched));
        guest.carries(&switched.bytes());
    }
}

#[test]
fn an_agent_puts_the_program_on_the_ports_of_such_uplinks_alone() {
    let mut world = World::new();
    world.make_bridged();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    let look = || runtime.block_on(node::look()).expect("the kernel tells");
    let names = |ports: &[Interface]| ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();

    for mode in [TcMode::Auto, TcMode::Clsact] {
        let bpffs = BpfFs::new();
        let pins = Pins::under(&bpffs.path(""));
        let (_, ebpf, _) =
            kernel::load(&pins, Sizes { flows: 1024, backends: 256 }).expect("an agent starts");
        let unread = Arc::new(UnreadPorts::open(&pins).expect("the table is pinned"));
        let mut attachments = Attachments::new(ebpf, pins, mode, unread.clone());

        fs::write(CALL_IPTABLES, "1").expect("br_netfilter is loaded");
        let view = look();
        let uplinks = self::uplinks(&view);
        let ports = node::uplink_ports(&view, &uplinks);
        assert_eq!(names(&ports), ["cable", "guest"]);
        let hooked = Hooked { uplinks: &uplinks, ..Hooked::default() };
        assert!(attachments.sync(hooked).is_empty());
        unread.forget(&unread.all());
        let errors = attachments.sync(Hooked { uplink_ports: &ports, ..hooked });
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(attachments.interfaces()[&cast::UPLINK_PORT].programs, [program::UPLINK_PORT_IN]);
        let bridge = UnreadPort { network: 0, interface: cast::UPLINK };
        assert_eq!(Vec::from_iter(unread.all()), [bridge], "Docker may carry what came in by them");

        fs::write(CALL_IPTABLES, "0").expect("it can be switched off");
        let view = look();
        assert_eq!(names(&node::uplink_ports(&view, &self::uplinks(&view))), [""; 0]);
        let errors = attachments.sync(Hooked::default());
        assert!(errors.is_empty() && attachments.interfaces().is_empty(), "{errors:?}");
    }
}

const CALL_IPTABLES: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

fn uplinks(view: &node::NodeView) -> Vec<Interface> {
    vec![view.by_name("uplink").expect("it is there").clone()]
}
