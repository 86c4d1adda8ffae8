//! What XDP does itself, what it leaves to TC, and that what it leaves is as it came.

use mesh_common::flow::{Flow, FlowKey, Opening};
use mesh_common::net::{Address, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::tcp;

use crate::support::cast::{self, CLIENT_PORT, INNER_MTU, PUBLISHED, TARGET};
use crate::support::checks;
use crate::support::packet::Packet;
use crate::support::payload::{
    ACK, FIN, Icmp, Payload, RST, SYN, Tcp, answer, between, data, icmp_error, syn, tcp, udp,
};
use crate::support::tunnel::Tunnel;
use crate::support::wire::{Frame, Wire};
use crate::support::world::{World, flow_key, local, remote};
use crate::support::xdp::{self, Driver};

/// The agent's socket on the other node.
const SOCKET: u16 = 40_000;

#[test]
fn what_is_not_ours_is_left_without_a_trace() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    for payload in [syn(), data(b"data"), Payload::Udp(udp(b"datagram"))] {
        driver.receives(&Packet::from_client(payload.with_destination(8081))).is_left_to_tc();
    }
    let ping = Icmp { kind: 8, code: 0, word: [0; 4], data: b"ping".to_vec() };
    driver.receives(&Packet::from_client(Payload::Icmp(ping))).is_left_to_tc();
    driver.receives(&Packet::from_client(Payload::Other(47, vec![0, 80, 0, 80, 0, 0, 0, 0]))).is_left_to_tc();
    let elsewhere = Packet::from_client(syn()).with(|packet| packet.destination = cast::STRANGER);
    driver.receives(&elsewhere).is_left_to_tc();
    // A switch floods what it has not learnt yet.
    for mac in [cast::OTHER_MAC, [0xff; 6], [0; 6]] {
        driver.receives(&Packet::from_client(syn()).macs(mac, cast::CLIENT_MAC)).is_left_to_tc();
    }
    assert_eq!(known(&world), 0);
}

#[test]
fn a_new_flow_is_given_a_backend_and_sent_to_its_node() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    let packet = Packet::from_client(syn());
    driver.receives(&packet).enters_tunnel(7, &packet);
    let flow = world.opening(&flow_key(protocol::TCP)).expect("it is known");
    assert_eq!((flow.flow.backend, flow.syn.interface), (1, cast::UPLINK));
    let packet =
        Packet::from_client(Payload::Udp(udp(b"datagram"))).with(|packet| packet.traffic_class = 0xb8);
    driver.receives(&packet).enters_tunnel(7, &packet);
    let counters = world.counters(1);
    assert_eq!((counters.flows, counters.packets), (2, 2));
}

#[test]
fn an_established_flow_goes_on_to_its_node() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    establish(&driver);
    assert!(world.established(&flow_key(protocol::TCP)).is_some());
    assert_eq!(world.connections(1), 1);
    for length in [0, 1, 1000, usize::from(INNER_MTU) - 40] {
        let packet = Packet::from_client(data(&vec![7; length]));
        driver.receives(&packet).enters_tunnel(7, &packet);
    }
}

#[test]
fn an_answer_is_sent_to_its_client() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    let _ = driver.receives(&Packet::from_client(syn()));
    let _ = driver.receives(&Packet::from_client(Payload::Udp(udp(b"datagram"))));
    for payload in [
        answer(SYN | ACK, b""),
        answer(ACK, b"answer"),
        answer(ACK, &[7; 1400]),
        between(Payload::Udp(udp(b"answer")), TARGET, CLIENT_PORT),
    ] {
        let packet = answered(7, payload);
        driver
            .run(&Tunnel::to_here(7).reply().around(&packet.ip()))
            .leaves_as(Outcome::RepliedFromTunnel, &packet.macs(cast::CLIENT_MAC, cast::NODE_MAC).bytes());
    }
    let opening = world.opening(&flow_key(protocol::TCP)).expect("it is known");
    assert_ne!(opening.flow.state & tcp::state::ANSWERED, 0);
}

#[test]
fn a_flow_that_has_ended_is_noted_as_ended() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    establish(&driver);
    let end = answered(7, answer(FIN | ACK, b""));
    let _ = driver.run(&Tunnel::to_here(7).reply().around(&end.ip()));
    let _ = driver.receives(&Packet::from_client(Payload::Tcp(tcp(FIN | ACK))));
    assert!(world.established(&flow_key(protocol::TCP)).is_none());
    assert_eq!(world.connections(1), 0);
}

#[test]
fn answers_in_fragments_are_sent_to_their_client() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    let _ = driver.receives(&Packet::from_client(Payload::Udp(udp(b"datagram"))));
    let whole = answered(7, between(Payload::Udp(udp(&[7; 600])), TARGET, CLIENT_PORT));
    for part in whole.in_two(400) {
        driver
            .run(&Tunnel::to_here(7).reply().around(&part.ip()))
            .leaves_as(Outcome::RepliedFromTunnel, &part.macs(cast::CLIENT_MAC, cast::NODE_MAC).bytes());
    }
}

#[test]
fn what_is_for_this_node_is_left_to_tc() {
    let mut world = World::serving(&[local(5)]);
    world.task(5, 0);
    let driver = Driver::of(&mut world);
    for payload in [syn(), data(b"data"), Payload::Udp(udp(b"datagram"))] {
        let packet = Packet::from_client(payload);
        driver.receives(&packet).is_left_to_tc();
        let request = packet.with(|packet| packet.destination = cast::OTHER);
        driver.run(&Tunnel::to_here(5).around(&request.ip())).is_left_to_tc();
    }
    let backend = world.backends(&[remote(7)])[0];
    let key = FlowKey { client: Address::new(cast::NODE), ..flow_key(protocol::TCP) };
    world.insert("FLOWS", key, Flow { backend, generation: 1, ..Flow::default() });
    let to_process = answered(7, answer(ACK, b"answer")).with(|packet| packet.destination = cast::NODE);
    driver.run(&Tunnel::to_here(7).reply().around(&to_process.ip())).is_left_to_tc();
}

#[test]
fn a_neighbour_that_is_not_resolved_is_left_to_tc() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    establish(&driver);
    xdp::forget_neighbour(cast::OTHER);
    xdp::forget_neighbour(cast::CLIENT);
    driver.receives(&Packet::from_client(data(b"data"))).is_left_to_tc();
    let packet = answered(7, answer(ACK, b"answer"));
    driver.run(&Tunnel::to_here(7).reply().around(&packet.ip())).is_left_to_tc();
}

#[test]
fn a_way_out_of_another_interface_is_left_to_tc() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    establish(&driver);
    xdp::route_elsewhere(cast::OTHER);
    xdp::route_elsewhere(cast::CLIENT);
    driver.receives(&Packet::from_client(data(b"data"))).is_left_to_tc();
    let packet = answered(7, answer(ACK, b"answer"));
    driver.run(&Tunnel::to_here(7).reply().around(&packet.ip())).is_left_to_tc();
}

#[test]
fn another_uplink_that_takes_frames_is_sent_to() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    establish(&driver);
    world.settings(|settings| settings.frame_takers[2] = cast::BRIDGE);
    for address in [cast::OTHER, cast::CLIENT] {
        xdp::route_elsewhere(address);
    }
    let request = Packet::from_client(data(b"request"));
    let run = driver.receives(&request);
    let tunnel = elsewhere(&request).hashed_as(&run.after);
    run.leaves_elsewhere_as(Outcome::Tunnelled, &tunnel.around(&request.ip()));
    let answer = answered(7, answer(ACK, b"answer"));
    let run = driver.run(&Tunnel::to_here(7).reply().around(&answer.ip()));
    let expected = answer.macs(xdp::ELSEWHERE, cast::BRIDGE_MAC);
    run.leaves_elsewhere_as(Outcome::RepliedFromTunnel, &expected.bytes());
}

#[test]
fn what_is_sent_by_another_uplink_arrives_at_its_far_end() {
    let mut world = World::serving(&[remote(7)]);
    world.settings(|settings| settings.frame_takers = [cast::BRIDGE, 0, 0]);
    // Without TC's programs, which would serve what XDP leaves.
    let mut driver = Driver::of(&mut world);
    let [uplink, bridge] = ["uplink", "bridge"].map(Wire::at_far_end_of);
    driver.attach("bridge-far");
    xdp::route_elsewhere(cast::OTHER);
    let packet = Packet::from_client(syn());
    uplink.send(&Frame::finished(packet.bytes()));
    let came = bridge.receive();
    let tunnel = elsewhere(&packet).hashed_as(&came.bytes);
    checks::assert_same(&tunnel.around(&packet.ip()), &came.bytes);
}

#[test]
fn fragments_and_options_are_left_to_tc() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    let datagram = Packet::from_client(Payload::Udp(udp(&[7; 600])));
    for part in datagram.in_two(400) {
        driver.receives(&part).is_left_to_tc();
    }
    driver.receives(&datagram.with(|packet| packet.options = vec![1; 4])).is_left_to_tc();
    let mut tagged = datagram.bytes();
    tagged.splice(12..12, [0x81, 0x00, 0, 5]);
    driver.run(&tagged).is_left_to_tc();
    assert_eq!(known(&world), 0);
}

#[test]
fn a_packet_that_has_to_be_cut_is_left_to_tc() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    driver.receives(&Packet::from_client(Payload::Udp(udp(&[7; 1460])))).is_left_to_tc();
}

#[test]
fn a_client_is_told_what_fits_into_the_tunnel() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    for payload in [data(&[7; 1460]), Payload::Udp(udp(&[7; 1460]))] {
        let packet = Packet::from_client(payload).with(|packet| packet.dont_fragment = true);
        let error = back(&packet, icmp_error(3, 4, INNER_MTU, packet.long_quote()));
        driver.receives(&packet).leaves_as(Outcome::TooBig, &error.bytes());
    }
}

#[test]
fn a_client_without_a_backend_is_refused() {
    let mut world = World::serving(&[]);
    let driver = Driver::of(&mut world);
    for (payload, sequence, acknowledgement, flags) in
        [(syn(), 0, 0x1122_3345, RST | ACK), (data(b"data"), 0x1122_4455, 0, RST)]
    {
        let packet = Packet::from_client(payload);
        let segment = Tcp { sequence, acknowledgement, window: 0, ..tcp(flags) };
        let reset = back(&packet, between(Payload::Tcp(segment), PUBLISHED, CLIENT_PORT));
        driver.receives(&packet).leaves_as(Outcome::RefusedWithReset, &reset.bytes());
    }
    for text in [&b"odd"[..], b"even", &[7; 1000]] {
        let packet = Packet::from_client(Payload::Udp(udp(text)));
        let error = back(&packet, icmp_error(3, 3, 0, packet.quote()));
        driver.receives(&packet).leaves_as(Outcome::RefusedUnreachable, &error.bytes());
    }
}

#[test]
fn what_may_be_a_refusal_is_left_to_tc() {
    let mut world = World::serving(&[remote(7), remote(8)]);
    let driver = Driver::of(&mut world);
    let request = Packet::from_client(syn());
    let _ = driver.receives(&request);
    let reset = Tcp { sequence: 0, acknowledgement: 0x1122_3345, ..tcp(RST | ACK) };
    let reset = answered(7, between(Payload::Tcp(reset), TARGET, CLIENT_PORT));
    let error = answered(7, icmp_error(3, 3, 0, request.quote()));
    for packet in [&reset, &error] {
        driver.run(&Tunnel::to_here(7).reply().around(&packet.ip())).is_left_to_tc();
    }
    let opening = world.opening(&flow_key(protocol::TCP)).expect("it is known");
    assert_eq!((opening.refusals, opening.flow.state), (0, 0));
}

#[test]
fn a_stranger_and_what_belongs_to_nobody_are_dropped() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    let packet = answered(7, answer(ACK, b"answer"));
    let stranger = Tunnel { source: cast::STRANGER, ..Tunnel::to_here(7).reply() };
    driver.run(&stranger.around(&packet.ip())).is_dropped(Outcome::UnknownPeer);
    let foreign = packet.with(|packet| packet.source = cast::STRANGER);
    let tunnel = Tunnel::to_here(7).reply();
    driver.run(&tunnel.around(&foreign.ip())).is_dropped(Outcome::UnknownFrontend);
    driver.run(&tunnel.around(&packet.ip()[..30])).is_dropped(Outcome::MalformedInside);
    let later = &packet.in_two(16)[1];
    driver.run(&tunnel.around(&later.ip())).is_dropped(Outcome::LostFragment);
    let reset = Packet::from_client(Payload::Tcp(tcp(RST)));
    driver.receives(&reset).is_left_to_tc();
}

#[test]
fn what_only_looks_like_the_tunnel_is_left_to_tc() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    let inner = answered(7, answer(ACK, b"answer")).ip();
    let tunnel = Tunnel::to_here(7).reply();
    driver.run(&Tunnel { vni: cast::VNI ^ 1, ..tunnel.clone() }.around(&inner)).is_left_to_tc();
    driver.run(&Tunnel { destination: cast::STRANGER, ..tunnel }.around(&inner)).is_left_to_tc();
}

#[test]
fn a_probe_is_sent_back_as_it_came() {
    let mut world = World::new();
    let driver = Driver::of(&mut world);
    for payload in [&[7_u8; 8][..], &[0; 9], &[0; 64]] {
        let question = Tunnel::to_here(0).probe(SOCKET).around(payload);
        let mut answer = question.clone();
        for (to, from, bytes) in [(0, 6, 6), (6, 0, 6), (26, 30, 4), (30, 26, 4), (34, 36, 2), (36, 34, 2)] {
            answer[to..to + bytes].copy_from_slice(&question[from..from + bytes]);
        }
        driver.run(&question).leaves_as(Outcome::Probed, &answer);
    }
    let stranger = Tunnel { source: cast::STRANGER, ..Tunnel::to_here(0).probe(SOCKET) };
    driver.run(&stranger.around(&[7; 20])).is_dropped(Outcome::UnknownPeer);
}

/// A conversation with the task behind the only backend.
fn establish(driver: &Driver) {
    let _ = driver.receives(&Packet::from_client(syn()));
    let segment = Tcp { sequence: 0x1122_3344, ..tcp(SYN | ACK) };
    let packet = answered(7, between(Payload::Tcp(segment), TARGET, CLIENT_PORT));
    let _ = driver.run(&Tunnel::to_here(7).reply().around(&packet.ip()));
    let _ = driver.receives(&Packet::from_client(Payload::Tcp(tcp(ACK))));
}

/// The tunnel to task 7 by the neighbour that [`xdp::route_elsewhere`] leads to.
fn elsewhere(packet: &Packet) -> Tunnel {
    let (destination_mac, source_mac) = (xdp::ELSEWHERE, cast::BRIDGE_MAC);
    Tunnel { destination_mac, source_mac, ..Tunnel::to_other(7, packet) }
}

/// What task `number` sends, as it is in the tunnel on its way to this node.
fn answered(number: u8, payload: Payload) -> Packet {
    Packet::from_task(number, payload).as_frontend(cast::NODE, PUBLISHED)
}

/// An answer of the node itself to a packet.
fn back(packet: &Packet, payload: Payload) -> Packet {
    Packet {
        source: packet.destination,
        destination: packet.source,
        identification: 0,
        dont_fragment: true,
        traffic_class: 0,
        ..Packet::from_client(payload).macs(packet.source_mac, packet.destination_mac)
    }
}

/// How many flows the node knows.
fn known(world: &World) -> usize {
    world.entries::<FlowKey, Opening>("OPENING")
        + world.entries::<FlowKey, Flow>("FLOWS")
        + world.entries::<FlowKey, Flow>("UDP_FLOWS")
}
