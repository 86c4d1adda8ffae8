//! Task → client: at the home node, and at the entry node when it is another one.

use mesh_common::backend::{Backend, flags};
use mesh_common::flow::{Flow, FlowKey};
use mesh_common::net::{Address, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::tcp::state::{ADOPTED, ESTABLISHED, PROVEN, TASK_FINISHED};

use crate::support::cast::{self, CLIENT_PORT, INNER_MTU, PUBLISHED, TARGET};
use crate::support::packet::Packet;
use crate::support::payload::{
    ACK, FIN, Payload, SYN, Tcp, Udp, answer, between, data, linux_options, syn, tcp, udp,
};
use crate::support::run::{Hook, Run};
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, flow_key, local, remote};

#[test]
fn an_answer_goes_to_the_client_as_the_frontends() {
    let world = World::serving(&[local(5)]);
    talk(&world);
    for payload in answers() {
        let packet = Packet::from_task(5, payload);
        world.bridge_in(&packet).leaves_as(Outcome::Replied, &to_client(&packet).bytes());
    }
}

#[test]
fn an_answer_keeps_its_ip_options() {
    let world = World::serving(&[local(5)]);
    talk(&world);
    for words in 1..=10 {
        for payload in answers() {
            let packet = Packet::from_task(5, payload).with(|packet| packet.options = vec![1; 4 * words]);
            world.bridge_in(&packet).leaves_as(Outcome::Replied, &to_client(&packet).bytes());
        }
    }
}

#[test]
fn an_answer_to_a_neighbour_yet_to_be_found_leaves_its_hardware_addresses_to_the_kernel() {
    let world = World::serving(&[local(5)]);
    for client in [[10, 99, 0, 200], [203, 0, 113, 9]] {
        let from = |packet: Packet| packet.with(|packet| packet.source = client);
        let to = |packet: Packet| packet.with(|packet| packet.destination = client);
        let _ = world.uplink_in(&from(Packet::from_client(syn()))).leaves(Outcome::Delivered);
        let packet = to(Packet::from_task(5, answer(SYN | ACK, b"")));
        let expected = packet.as_frontend(cast::NODE, PUBLISHED);
        world.bridge_in(&packet).leaves_as(Outcome::Replied, &expected.bytes());
    }
}

#[test]
fn an_answer_without_a_hop_left_is_dropped() {
    let world = World::serving(&[local(5)]);
    talk(&world);
    for ttl in [0, 1] {
        let packet = Packet::from_task(5, answer(ACK, b"late")).with(|packet| packet.ttl = ttl);
        world.bridge_in(&packet).is_dropped(Outcome::HopLimit);
    }
}

#[test]
fn what_a_task_sends_of_its_own_accord_is_not_ours() {
    let world = World::serving(&[local(5)]);
    talk(&world);
    let packet = Packet::from_task(5, answer(ACK, b"answer"));
    for other in [
        packet.with(|packet| packet.destination = cast::STRANGER),
        packet.with(|packet| packet.source = cast::task(6)),
        packet.with(|packet| packet.payload = packet.payload.with_source(TARGET + 1)),
        packet.with(|packet| packet.payload = packet.payload.with_destination(CLIENT_PORT + 1)),
        Packet::from_task(5, between(syn(), 50_000, 443)),
        Packet::from_task(5, between(Payload::Udp(udp(b"query")), 50_000, 53)),
        Packet::from_task(5, Payload::Other(132, vec![7; 64])),
    ] {
        world.bridge_in(&other).passes(Outcome::NotOurs);
    }
}

#[test]
fn an_answer_that_is_published_itself_is_still_an_answer() {
    let mut world = World::serving(&[local(5)]);
    world.publish(CLIENT_PORT, protocol::TCP, true);
    world.publish(TARGET, protocol::TCP, true);
    talk(&world);
    let packet = Packet::from_task(5, answer(ACK, b"answer"));
    world.bridge_in(&packet).leaves_as(Outcome::Replied, &to_client(&packet).bytes());
}

#[test]
fn the_mss_of_a_task_is_left_alone_when_the_client_talks_to_its_node() {
    let world = World::serving(&[local(5)]);
    talk(&world);
    let packet = Packet::from_task(5, syn_ack(9000));
    world.bridge_in(&packet).leaves_as(Outcome::Replied, &to_client(&packet).bytes());
}

#[test]
fn an_answer_goes_to_the_entry_node_as_the_frontends() {
    let world = World::home_of(&[5]);
    talk_by_tunnel(&world);
    for payload in answers() {
        let packet = Packet::from_task(5, payload).with(|packet| packet.traffic_class = 0x28);
        let sent = packet.as_frontend(cast::OTHER, PUBLISHED);
        let tunnel = Tunnel::to_other(5, &packet).reply();
        world.bridge_in(&packet).enters_tunnel(Outcome::ReplyTunnelled, tunnel, &sent.ip());
    }
}

#[test]
fn the_mss_of_a_task_is_lowered_when_the_client_talks_to_another_node() {
    let world = World::home_of(&[5]);
    talk_by_tunnel(&world);
    for (mss, lowered) in [(1460, INNER_MTU - 40), (u16::MAX, INNER_MTU - 40), (1000, 1000)] {
        let packet = Packet::from_task(5, syn_ack(mss));
        let sent = Packet::from_task(5, syn_ack(lowered)).as_frontend(cast::OTHER, PUBLISHED);
        let tunnel = Tunnel::to_other(5, &packet).reply();
        world.bridge_in(&packet).enters_tunnel(Outcome::ReplyTunnelled, tunnel, &sent.ip());
    }
}

#[test]
fn an_answer_goes_straight_to_the_client_if_the_service_wants_that() {
    let mut world = World::home_of(&[]);
    world.task(5, flags::RETURN_DIRECT);
    talk_by_tunnel(&world);
    for payload in answers() {
        let packet = Packet::from_task(5, payload);
        let sent = packet.as_frontend(cast::OTHER, PUBLISHED).macs(cast::CLIENT_MAC, cast::NODE_MAC);
        world.bridge_in(&packet).leaves_as(Outcome::Replied, &sent.bytes());
    }
}

#[test]
fn the_mss_of_a_task_is_lowered_on_the_straight_way_because_the_clients_packets_are_tunnelled() {
    let mut world = World::home_of(&[]);
    world.task(5, flags::RETURN_DIRECT);
    talk_by_tunnel(&world);
    let packet = Packet::from_task(5, syn_ack(1460));
    let sent = Packet::from_task(5, syn_ack(INNER_MTU - 40))
        .as_frontend(cast::OTHER, PUBLISHED)
        .macs(cast::CLIENT_MAC, cast::NODE_MAC);
    world.bridge_in(&packet).leaves_as(Outcome::Replied, &sent.bytes());
}

#[test]
fn a_straight_answer_may_be_bigger_than_the_tunnel() {
    let packet = Packet::from_task(5, answer(ACK, &[7; 1460])).with(|packet| packet.dont_fragment = true);

    let mut world = World::home_of(&[]);
    world.task(5, flags::RETURN_DIRECT);
    talk_by_tunnel(&world);
    let sent = packet.as_frontend(cast::OTHER, PUBLISHED).macs(cast::CLIENT_MAC, cast::NODE_MAC);
    world.bridge_in(&packet).leaves_as(Outcome::Replied, &sent.bytes());

    let world = World::serving(&[local(5)]);
    talk(&world);
    world.bridge_in(&packet).leaves_as(Outcome::Replied, &to_client(&packet).bytes());
}

#[test]
fn a_backend_may_want_straight_answers_on_its_own_node_too() {
    let world = World::serving(&[Backend { flags: flags::RETURN_DIRECT, ..local(5) }]);
    talk(&world);
    let packet = Packet::from_task(5, answer(ACK, b"answer"));
    world.bridge_in(&packet).leaves_as(Outcome::Replied, &to_client(&packet).bytes());
}

#[test]
fn two_frontends_of_this_node_that_end_at_one_task_are_kept_apart() {
    let mut world = World::serving(&[local(5)]);
    world.frontend(8000, protocol::TCP, &[1]);
    let first = Packet::from_client(data(b"first"));
    let second = first.with(|packet| packet.payload = packet.payload.with_destination(8000));
    world.uplink_in(&first).leaves_as(Outcome::Delivered, &first.delivered(5).bytes());
    let bytes = world.uplink_in(&second).leaves(Outcome::Delivered);
    let port = u16::from_be_bytes([bytes[34], bytes[35]]);
    assert_ne!(port, CLIENT_PORT);
    for (frontend, client_port) in [(PUBLISHED, CLIENT_PORT), (8000, port)] {
        let packet = Packet::from_task(5, answer(ACK, b"answer").with_destination(client_port));
        let sent = packet
            .as_frontend(cast::NODE, frontend)
            .macs(cast::CLIENT_MAC, cast::NODE_MAC)
            .with(|packet| packet.payload = packet.payload.with_destination(CLIENT_PORT));
        world.bridge_in(&packet).leaves_as(Outcome::Replied, &sent.bytes());
    }
}

#[test]
fn an_answer_out_of_the_tunnel_goes_to_the_client() {
    let world = World::serving(&[remote(7)]);
    for payload in answers() {
        let inner = Packet::from_task(7, payload).as_frontend(cast::NODE, PUBLISHED);
        let expected = inner.macs(cast::CLIENT_MAC, cast::NODE_MAC);
        come_back(&world, &inner).leaves_as(Outcome::RepliedFromTunnel, &expected.bytes());
    }
}

#[test]
fn an_answer_out_of_the_tunnel_is_noted_in_its_flow() {
    let world = World::serving(&[remote(7)]);
    let _ = world.uplink_in(&Packet::from_client(data(b"request"))).leaves(Outcome::Tunnelled);
    let inner = Packet::from_task(7, answer(FIN | ACK, b"")).as_frontend(cast::NODE, PUBLISHED);
    let _ = come_back(&world, &inner).leaves(Outcome::RepliedFromTunnel);
    let flow = world.flow(&flow_key(protocol::TCP)).expect("the flow is known");
    assert_eq!(flow.state, ESTABLISHED | TASK_FINISHED | ADOPTED | PROVEN);
}

#[test]
fn an_answer_out_of_the_tunnel_to_a_neighbour_yet_to_be_found_is_sent_by_the_kernel() {
    let world = World::serving(&[remote(7)]);
    for client in [[10, 99, 0, 200], [203, 0, 113, 9]] {
        let inner = Packet::from_task(7, answer(ACK, b"answer"))
            .as_frontend(cast::NODE, PUBLISHED)
            .with(|packet| packet.destination = client);
        let expected = inner.macs(cast::NODE_MAC, cast::OTHER_MAC);
        come_back(&world, &inner).leaves_as(Outcome::RepliedFromTunnel, &expected.bytes());
    }
}

#[test]
fn an_answer_out_of_the_tunnel_to_the_node_itself_is_passed_up() {
    let mut world = World::serving(&[remote(7)]);
    // As when a process has called a task of the other node.
    for (table, protocol) in [("FLOWS", protocol::TCP), ("UDP_FLOWS", protocol::UDP)] {
        let key = FlowKey {
            client: Address::new(cast::NODE),
            frontend: Address::new(cast::OTHER),
            ..flow_key(protocol)
        };
        world.insert(table, key, Flow { backend: 1, generation: 1, ..Flow::default() });
    }
    for payload in answers() {
        let inner = Packet::from_task(7, payload)
            .as_frontend(cast::OTHER, PUBLISHED)
            .with(|packet| packet.destination = cast::NODE);
        let expected = inner.macs(cast::NODE_MAC, cast::OTHER_MAC);
        come_back(&world, &inner).passes_as(Outcome::RepliedToNode, &expected.bytes());
    }
}

#[test]
fn an_answer_out_of_the_tunnel_from_a_foreign_frontend_is_dropped() {
    let world = World::serving(&[remote(7)]);
    let inner = Packet::from_task(7, answer(ACK, b"answer")).as_frontend(cast::STRANGER, PUBLISHED);
    come_back(&world, &inner).is_dropped(Outcome::UnknownFrontend);
}

/// The client has sent task 5 something, on both protocols.
fn talk(world: &World) {
    for payload in [data(b"request"), Payload::Udp(udp(b"request"))] {
        let _ = world.uplink_in(&Packet::from_client(payload)).leaves(Outcome::Delivered);
    }
}

/// The same through the other node.
fn talk_by_tunnel(world: &World) {
    for payload in [data(b"request"), Payload::Udp(udp(b"request"))] {
        let packet = Packet::from_client(payload).with(|packet| packet.destination = cast::OTHER);
        let run = world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&packet.ip()));
        let _ = run.leaves(Outcome::DeliveredFromTunnel);
    }
}

/// The answer comes back through the tunnel.
fn come_back(world: &World, inner: &Packet) -> Run {
    world.run(Hook::UplinkIn, &Tunnel::to_here(7).reply().around(&inner.ip()))
}

fn answers() -> [Payload; 6] {
    let datagram = |data: &[u8]| between(Payload::Udp(udp(data)), TARGET, CLIENT_PORT);
    let unchecked = Payload::Udp(Udp { checked: false, ..udp(b"unchecked") });
    [
        answer(SYN | ACK, b""),
        answer(ACK, b"odd"),
        answer(FIN | ACK, b"even"),
        datagram(b"odd"),
        datagram(b"even"),
        between(unchecked, TARGET, CLIENT_PORT),
    ]
}

fn syn_ack(mss: u16) -> Payload {
    let segment = Tcp { options: linux_options(mss), ..tcp(SYN | ACK) };
    between(Payload::Tcp(segment), TARGET, CLIENT_PORT)
}

/// The answer of task 5 as it leaves by the uplink of this node.
fn to_client(packet: &Packet) -> Packet {
    packet.as_frontend(cast::NODE, PUBLISHED).macs(cast::CLIENT_MAC, cast::NODE_MAC)
}
