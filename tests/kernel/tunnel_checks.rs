//! What a node takes out of the tunnel: from whom, by which uplink, for which flow. At both hooks.

use mesh_common::flow::{Flow, FlowKey};
use mesh_common::net::{Address, protocol};
use mesh_common::outcome::Outcome;

use crate::support::cast::{self, CLIENT_PORT, Ip, PUBLISHED, TARGET, TUNNEL_PORT};
use crate::support::packet::Packet;
use crate::support::payload::{
    ACK, Icmp, Payload, RST, SYN, Tcp, answer, between, data, icmp_error, syn, tcp, udp,
};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, flow_key, remote};
use crate::support::xdp::Driver;

/// Another interface of the node.
const ELSEWHERE: u32 = cast::BRIDGE;
/// A second node of the Swarm, and an address of this node that others do not send to.
const THIRD: Ip = [10, 99, 0, 3];
const SECOND_ADDRESS: Ip = [10, 99, 0, 9];

#[test]
fn a_packet_that_comes_by_another_uplink_than_leads_to_its_node_is_dropped() {
    for (uplink, taken) in [(cast::UPLINK, true), (ELSEWHERE, false), (0, true), (1, true)] {
        let mut node = Node::of(World::serving(&[remote(7)]));
        node.world.task(5, 0);
        node.world.peer(cast::OTHER, uplink);
        node.begin();
        let request = Packet::from_client(syn()).with(|packet| packet.destination = cast::OTHER);
        for (name, bytes, outcome) in [
            ("request", Tunnel::to_here(5).around(&request.ip()), Outcome::DeliveredFromTunnel),
            ("answer", node.answer(answer(ACK, b"answer")), Outcome::RepliedFromTunnel),
            ("probe", Tunnel::to_here(0).probe(40_000).around(&[0; 20]), Outcome::Probed),
        ] {
            println!("{name} by {uplink}");
            node.ends(&bytes, if taken { outcome } else { Outcome::WrongUplink });
        }
    }
}

#[test]
fn a_packet_for_another_address_of_the_node_is_not_ours() {
    let mut node = Node::of(World::serving(&[remote(7)]));
    node.world.task(5, 0);
    node.world.local_address(SECOND_ADDRESS);
    node.begin();
    let elsewhere = |tunnel: Tunnel| Tunnel { destination: SECOND_ADDRESS, ..tunnel };
    let request = Packet::from_client(syn()).ip();
    for bytes in [
        elsewhere(Tunnel::to_here(5)).around(&request),
        elsewhere(Tunnel::to_here(7).reply()).around(&answered(answer(ACK, b"answer")).ip()),
        elsewhere(Tunnel::to_here(0).probe(40_000)).around(&[0; 20]),
    ] {
        node.driver.run(&bytes).is_left_to_tc();
        node.world.run(Hook::UplinkIn, &bytes).passes(Outcome::NotOurs);
    }
}

#[test]
fn an_answer_in_a_known_flow_is_taken_from_its_backend_only() {
    let mut node = Node::of(World::serving(&[remote(7)]));
    node.world.peer(THIRD, cast::UPLINK);
    node.begin();
    for payload in answers() {
        let inner = answered(payload).ip();
        let good = Tunnel::to_here(7).reply();
        for tunnel in [
            Tunnel { source: THIRD, ..good.clone() },
            Tunnel { identity: cast::identity(8), ..good.clone() },
            Tunnel { target: TARGET + 1, ..good.clone() },
        ] {
            node.ends(&tunnel.around(&inner), Outcome::WrongSender);
        }
        node.ends(&good.around(&inner), Outcome::RepliedFromTunnel);
    }
}

#[test]
fn a_backend_that_is_down_still_ends_its_conversations() {
    let mut node = Node::of(World::serving(&[remote(7)]));
    node.begin();
    node.world.change_backend(1, |backend| backend.state = mesh_common::backend::state::DOWN);
    for payload in answers() {
        node.ends(&node.answer(payload), Outcome::RepliedFromTunnel);
    }
}

#[test]
fn a_refusal_by_another_than_the_backend_refuses_nothing() {
    let mut node = Node::of(World::serving(&[remote(7), remote(8)]));
    node.world.peer(THIRD, cast::UPLINK);
    node.begin();
    let reset = Tcp { sequence: 0, acknowledgement: 0x1122_3345, ..tcp(RST | ACK) };
    let reset = answered(between(Payload::Tcp(reset), TARGET, CLIENT_PORT)).ip();
    node.ends(&Tunnel { source: THIRD, ..Tunnel::to_here(7).reply() }.around(&reset), Outcome::WrongSender);
    node.ends(&Tunnel::to_here(8).reply().around(&reset), Outcome::WrongSender);
    assert_eq!([1, 2].map(|id| node.world.suspected_until(id)), [0, 0]);
    node.ends(&Tunnel::to_here(7).reply().around(&reset), Outcome::RefusalReplayed);
}

#[test]
fn an_answer_whose_flow_was_forgotten_goes_to_the_client_of_a_published_port() {
    let mut node = Node::of(World::serving(&[remote(7)]));
    for payload in answers() {
        node.ends(&node.answer(payload), Outcome::RepliedFromTunnel);
    }
    // The flow is known, but whose it was is not any more.
    node.begin();
    node.world.change_backend(1, |backend| backend.generation += 1);
    for payload in answers() {
        node.ends(&node.answer(payload), Outcome::RepliedFromTunnel);
    }
}

#[test]
fn an_answer_that_nobody_asked_for_is_dropped() {
    let node = Node::of(World::serving(&[remote(7)]));
    let tunnel = || Tunnel::to_here(7).reply();
    for payload in answers() {
        // From a port that is not published; to the node itself; to an address that is not behind an uplink.
        let inner = answered(payload.clone());
        let unpublished = inner.with(|packet| packet.payload = packet.payload.with_source(PUBLISHED + 1));
        let own = inner.with(|packet| packet.destination = cast::NODE);
        let container = inner.with(|packet| packet.destination = [172, 18, 0, 5]);
        for packet in [unpublished, own, container] {
            node.ends(&tunnel().around(&packet.ip()), Outcome::UnknownAnswer);
        }
        let foreign = inner.with(|packet| packet.source = cast::STRANGER);
        node.ends(&tunnel().around(&foreign.ip()), Outcome::UnknownFrontend);
    }
    // The tunnel's own port has its bit among the published ones.
    let nested = answered(Payload::Udp(udp(b"nested")).with_source(TUNNEL_PORT))
        .with(|packet| packet.payload = packet.payload.with_source(TUNNEL_PORT));
    node.ends(&tunnel().around(&nested.ip()), Outcome::UnknownAnswer);
}

#[test]
fn an_answer_to_a_process_of_the_node_is_for_a_known_flow() {
    let mut node = Node::of(World::serving(&[remote(7)]));
    let flow = Flow { last_seen: 1, backend: 1, generation: 1, ..Flow::default() };
    let of_process = |protocol| FlowKey { client: Address::new(cast::NODE), ..flow_key(protocol) };
    node.world.insert("FLOWS", of_process(protocol::TCP), flow);
    node.world.insert("UDP_FLOWS", of_process(protocol::UDP), flow);
    for payload in answers() {
        let inner = answered(payload).with(|packet| packet.destination = cast::NODE);
        node.ends(&Tunnel::to_here(7).reply().around(&inner.ip()), Outcome::RepliedToNode);
    }
}

#[test]
fn what_the_programs_behind_know_is_not_unknown() {
    let mut node = Node::of(World::serving(&[remote(7)]));
    node.world.taking_over(true);
    let inner = answered(answer(ACK, b"answer"));
    let own = inner.with(|packet| packet.destination = cast::NODE);
    node.ends(&Tunnel::to_here(7).reply().around(&own.ip()), Outcome::RepliedToNode);
    node.ends(&Tunnel::to_here(7).reply().around(&inner.ip()), Outcome::RepliedFromTunnel);
    node.world.claim_hooks();
    node.ends(&Tunnel::to_here(7).reply().around(&own.ip()), Outcome::UnknownAnswer);
}

#[test]
fn an_icmp_error_is_about_a_known_flow_of_its_sender() {
    let mut node = Node::of(World::serving(&[remote(7)]));
    node.world.peer(THIRD, cast::UPLINK);
    let quoted = [data(b"data"), Payload::Udp(udp(b"datagram"))].map(Packet::from_client);
    let error = |quoted: &Packet| {
        Packet::from_task(7, icmp_error(3, 4, 1400, quoted.quote())).with(|packet| packet.source = cast::NODE)
    };
    let good = Tunnel::to_here(7).reply();
    for packet in &quoted {
        node.ends(&good.around(&error(packet).ip()), Outcome::UnknownAnswer);
    }
    node.begin();
    for packet in &quoted {
        let inner = error(packet);
        node.ends(&good.around(&inner.ip()), Outcome::RepliedFromTunnel);
        for tunnel in [
            Tunnel { source: THIRD, ..good.clone() },
            Tunnel { identity: cast::identity(8), ..good.clone() },
            Tunnel { target: TARGET + 1, ..good.clone() },
        ] {
            node.ends(&tunnel.around(&inner.ip()), Outcome::WrongSender);
        }
        // Its ends are those of the flow.
        for (source, destination) in [(SECOND_ADDRESS, cast::CLIENT), (cast::NODE, cast::STRANGER)] {
            let inner = inner.with(|packet| (packet.source, packet.destination) = (source, destination));
            node.ends(&good.around(&inner.ip()), Outcome::UnknownAnswer);
        }
    }
}

#[test]
fn no_other_icmp_comes_out_of_the_tunnel_as_an_answer() {
    let mut node = Node::of(World::serving(&[remote(7)]));
    node.begin();
    for (kind, destination) in [(0, cast::CLIENT), (8, cast::CLIENT), (8, cast::NODE), (5, cast::NODE)] {
        let payload = Payload::Icmp(Icmp { kind, code: 0, word: [0; 4], data: vec![7; 32] });
        let inner = Packet::from_task(7, payload)
            .with(|packet| (packet.source, packet.destination) = (cast::NODE, destination));
        node.ends(&Tunnel::to_here(7).reply().around(&inner.ip()), Outcome::UnknownAnswer);
    }
}

/// The node, and what its uplink's driver runs.
struct Node {
    world: World,
    driver: Driver,
}

impl Node {
    fn of(mut world: World) -> Self {
        let driver = Driver::of(&mut world);
        Self { world, driver }
    }

    /// The client calls the task, with both protocols.
    fn begin(&mut self) {
        for payload in [syn(), Payload::Udp(udp(b"datagram"))] {
            let _ = self.world.uplink_in(&Packet::from_client(payload)).leaves(Outcome::Tunnelled);
        }
    }

    /// The task's answer to the client, as it comes through the tunnel.
    #[expect(clippy::unused_self, reason = "it reads better")]
    fn answer(&self, payload: Payload) -> Vec<u8> {
        Tunnel::to_here(7).reply().around(&answered(payload).ip())
    }

    /// Both hooks agree: what the driver's does not leave to TC's ends in the same way.
    #[track_caller]
    fn ends(&self, bytes: &[u8], outcome: Outcome) {
        let by_driver = self.driver.run(bytes);
        if !by_driver.is_left() {
            assert_eq!(by_driver.outcomes, [(outcome, 1)], "at XDP");
        }
        let run = self.world.run(Hook::UplinkIn, bytes);
        assert_eq!(run.outcomes, [(outcome, 1)], "at TC");
    }
}

/// A task's answer as the client shall see it.
fn answered(payload: Payload) -> Packet {
    Packet::from_task(7, payload).as_frontend(cast::NODE, PUBLISHED)
}

fn answers() -> [Payload; 3] {
    [
        answer(SYN | ACK, b""),
        answer(ACK, b"answer"),
        between(Payload::Udp(udp(b"answer")), TARGET, CLIENT_PORT),
    ]
}

#[test]
fn the_other_protocol_is_another_flow() {
    let mut node = Node::of(World::serving(&[remote(7)]));
    node.begin();
    node.world.frontend(PUBLISHED, protocol::UDP, &[]);
    let unknown = answered(between(Payload::Udp(udp(b"answer")), TARGET, CLIENT_PORT + 1));
    let own = unknown.with(|packet| packet.destination = cast::NODE);
    node.ends(&Tunnel::to_here(7).reply().around(&own.ip()), Outcome::UnknownAnswer);
}
