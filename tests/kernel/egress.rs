//! The node's own packets on their way out by the uplink.

use mesh_common::backend::{Backend, BackendCounters, state};
use mesh_common::flow::{Flow, FlowKey};
use mesh_common::net::{Address, Port, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::socket::{SocketFlow, SocketKey};
use mesh_common::tcp::state::{CLIENT_FINISHED, ESTABLISHED};

use crate::support::cast::{self, CLIENT_PORT, INNER_MTU, PUBLISHED, TUNNEL_PORT};
use crate::support::cookies;
use crate::support::packet::Packet;
use crate::support::payload::{ACK, FIN, Icmp, Payload, Tcp, answer, data, icmp_error, syn, tcp, udp};
use crate::support::run::{Hook, Run};
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, remote};

#[test]
fn what_no_socket_of_ours_has_sent_passes() {
    let world = World::serving(&[remote(7)]);
    for payload in [
        syn(),
        data(b"data"),
        Payload::Udp(udp(b"datagram")),
        syn().with_destination(443),
        answer(ACK, b"answer"),
        Payload::Udp(udp(b"tunnel")).with_destination(TUNNEL_PORT),
        Payload::Icmp(Icmp { kind: 8, code: 0, word: [0, 1, 0, 1], data: b"ping".to_vec() }),
        icmp_error(3, 3, 0, from_node(data(b"data")).quote()),
        Payload::Other(132, vec![7; 64]),
    ] {
        leave(&world, &from_node(payload)).passes(Outcome::NotOurs);
    }
}

#[test]
fn what_is_in_the_tunnel_already_passes() {
    let world = World::serving(&[remote(7)]);
    let packet = from_node(data(b"data"));
    let bytes = Tunnel::to_other(7, &packet).around(&packet.ip());
    world.run(Hook::UplinkOut, &bytes).passes(Outcome::NotOurs);
}

#[test]
fn a_known_connection_goes_into_the_tunnel() {
    let mut world = World::serving(&[remote(7)]);
    know(&mut world);
    let mut expected = BackendCounters::default();
    for payload in [data(b"odd"), data(b"even"), Payload::Tcp(tcp(FIN | ACK))] {
        let packet = from_node(payload);
        let tunnel = Tunnel::to_other(7, &packet);
        leave(&world, &packet).enters_tunnel(Outcome::TunnelledFromNode, tunnel, &packet.ip());
        expected.packets += 1;
        expected.bytes += packet.ip().len() as u64;
    }
    assert_eq!(world.counters(1), expected);
    let flow = world.flow(&key(protocol::TCP)).expect("the flow is known");
    assert_eq!(flow.state, ESTABLISHED | CLIENT_FINISHED);
}

#[test]
fn a_new_connection_goes_into_the_tunnel_by_its_socket() {
    let mut world = World::serving(&[remote(7)]);
    let packet = from_node(syn());
    let tunnel = Tunnel::to_other(7, &packet);
    let run = leave_own_socket(&mut world, &packet);
    run.enters_tunnel(Outcome::TunnelledFromNode, tunnel.clone(), &packet.ip());
    let flow = world.flow(&key(protocol::TCP)).expect("the flow is remembered");
    assert_eq!((flow.backend, flow.generation, flow.state), (1, 1, 0));

    // Segments of a connection that is closing have no socket any more.
    let packet = from_node(Payload::Tcp(tcp(FIN | ACK)));
    leave(&world, &packet).enters_tunnel(Outcome::TunnelledFromNode, tunnel, &packet.ip());
}

#[test]
fn a_datagram_goes_into_the_tunnel_by_its_socket() {
    let mut world = World::serving(&[remote(7)]);
    let packet = from_node(Payload::Udp(udp(b"datagram")));
    let tunnel = Tunnel::to_other(7, &packet);
    let run = leave_own_socket(&mut world, &packet);
    run.enters_tunnel(Outcome::TunnelledFromNode, tunnel, &packet.ip());
}

#[test]
fn a_connection_whose_backend_is_gone_passes() {
    let gone: [fn(&mut Backend); 2] =
        [|backend| backend.state = state::DOWN, |backend| backend.generation += 1];
    for become_gone in gone {
        let mut world = World::serving(&[remote(7)]);
        know(&mut world);
        world.change_backend(1, become_gone);
        leave(&world, &from_node(data(b"data"))).passes(Outcome::NotOurs);
    }
}

#[test]
fn a_known_connection_goes_where_its_backend_is() {
    let mut world = World::serving(&[remote(7)]);
    know(&mut world);
    world.change_backend(1, |backend| backend.node = Address::new(cast::STRANGER));
    let packet = from_node(data(b"data"));
    let tunnel = Tunnel { destination: cast::STRANGER, ..Tunnel::to_other(7, &packet) };
    leave(&world, &packet).enters_tunnel(Outcome::TunnelledFromNode, tunnel, &packet.ip());
}

#[test]
fn a_known_connection_through_a_draining_backend_goes_on() {
    let mut world = World::serving(&[remote(7)]);
    know(&mut world);
    world.change_backend(1, |backend| backend.state = state::DRAINING);
    let packet = from_node(data(b"data"));
    let tunnel = Tunnel::to_other(7, &packet);
    leave(&world, &packet).enters_tunnel(Outcome::TunnelledFromNode, tunnel, &packet.ip());
}

#[test]
fn a_packet_that_does_not_fit_is_answered_with_what_fits() {
    let mut world = World::serving(&[remote(7)]);
    know(&mut world);
    let segment = Tcp { data: vec![7; usize::from(INNER_MTU) - 39], ..tcp(ACK) };
    let packet = from_node(Payload::Tcp(segment)).with(|packet| packet.dont_fragment = true);
    let expected = Packet {
        destination_mac: packet.source_mac,
        source_mac: packet.destination_mac,
        source: packet.destination,
        destination: packet.source,
        identification: 0,
        dont_fragment: true,
        ..Packet::from_client(icmp_error(3, 4, INNER_MTU, packet.long_quote()))
    };
    leave(&world, &packet).leaves_as(Outcome::TooBig, &expected.bytes());
}

/// From a process on the node to the published port of the other one.
pub(crate) fn from_node(payload: Payload) -> Packet {
    Packet {
        destination_mac: cast::OTHER_MAC,
        source_mac: cast::NODE_MAC,
        source: cast::NODE,
        destination: cast::OTHER,
        ..Packet::from_client(payload)
    }
}

pub(crate) fn leave(world: &World, packet: &Packet) -> Run {
    world.run(Hook::UplinkOut, &packet.bytes())
}

pub(crate) fn key(protocol: u8) -> FlowKey {
    FlowKey {
        client: Address::new(cast::NODE),
        frontend: Address::new(cast::OTHER),
        client_port: Port::new(CLIENT_PORT),
        frontend_port: Port::new(PUBLISHED),
        protocol,
        padding: [0; 3],
    }
}

/// The connection of [`from_node`] has been given backend 1.
fn know(world: &mut World) {
    world.insert("FLOWS", key(protocol::TCP), Flow { backend: 1, generation: 1, ..Flow::default() });
}

/// The packet leaves by a socket that has been given backend 1. The kernel makes a socket for each test packet, and others
/// make sockets at the same time: so it may take more than one try until the packet's is one of the expected.
pub(crate) fn leave_own_socket(world: &mut World, packet: &Packet) -> Run {
    const TRIES: usize = 100;

    let value = SocketFlow {
        backend: 1,
        generation: 1,
        frontend: Address::new(cast::NODE),
        frontend_port: Port::new(PUBLISHED),
        ..SocketFlow::default()
    };
    for _ in 0..TRIES {
        for cookie in cookies::next() {
            let key = SocketKey {
                cookie,
                destination: Address::new(cast::OTHER),
                port: Port::new(PUBLISHED),
                protocol: packet.payload.protocol(),
                padding: 0,
            };
            world.insert("SOCKETS", key, value);
        }
        let run = leave(world, packet);
        if run.outcomes != [(Outcome::NotOurs, 1)] {
            return run;
        }
    }
    panic!("no packet had one of the expected sockets in {TRIES} tries");
}
