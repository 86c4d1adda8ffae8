//! ICMP errors about a flow reach its other end, and the packet they quote is the one that this end has sent.

use mesh_common::backend::{Backend, LocalTask, flags, state};
use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;

use crate::support::cast::{self, CLIENT_PORT, PUBLISHED, TARGET};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, Icmp, Payload, Udp, answer, between, data, icmp_error, udp};
use crate::support::run::{Hook, Run};
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, local, remote, task_key};

/// A router between the node and the client.
const ROUTER: cast::Ip = [10, 99, 0, 200];

#[test]
fn an_error_about_an_answer_reaches_the_task_on_this_node() {
    let world = World::serving(&[local(5)]);
    talk(&world, cast::NODE);
    for (kind, code, mtu) in ERRORS {
        for sent in answers() {
            let seen = sent.as_frontend(cast::NODE, PUBLISHED);
            let quote = seen.quote();
            let error = from_router(icmp_error(kind, code, mtu, quote));
            let expected = to_task(&error, icmp_error(kind, code, mtu, as_sent(&seen, 5).quote()));
            world.uplink_in(&error).leaves_as(Outcome::ErrorToTask, &expected.bytes());
        }
    }
}

#[test]
fn an_error_from_the_client_itself_reaches_the_task() {
    let world = World::serving(&[local(5)]);
    talk(&world, cast::NODE);
    let seen = udp_answer().as_frontend(cast::NODE, PUBLISHED);
    let error = Packet::from_client(icmp_error(3, 3, 0, seen.quote()));
    let expected = to_task(&error, icmp_error(3, 3, 0, as_sent(&seen, 5).quote()));
    world.uplink_in(&error).leaves_as(Outcome::ErrorToTask, &expected.bytes());
}

#[test]
fn an_error_about_a_datagram_without_a_checksum_quotes_it_without() {
    let world = World::serving(&[local(5)]);
    talk(&world, cast::NODE);
    let unchecked = Payload::Udp(Udp { checked: false, ..udp(b"answer") });
    let seen =
        Packet::from_task(5, between(unchecked, TARGET, CLIENT_PORT)).as_frontend(cast::NODE, PUBLISHED);
    let error = from_router(icmp_error(11, 0, 0, seen.quote()));
    let expected = to_task(&error, icmp_error(11, 0, 0, as_sent(&seen, 5).quote()));
    world.uplink_in(&error).leaves_as(Outcome::ErrorToTask, &expected.bytes());
}

#[test]
fn errors_with_ip_options_outside_and_inside_reach_the_task() {
    let world = World::serving(&[local(5)]);
    talk(&world, cast::NODE);
    for (outside, inside) in [(0, 10), (10, 0), (1, 1), (10, 10), (5, 7)] {
        for sent in answers() {
            let seen =
                sent.as_frontend(cast::NODE, PUBLISHED).with(|packet| packet.options = vec![1; 4 * inside]);
            let error = from_router(icmp_error(3, 4, 1400, seen.quote()))
                .with(|packet| packet.options = vec![1; 4 * outside]);
            let expected = to_task(&error, icmp_error(3, 4, 1400, as_sent(&seen, 5).quote()));
            world.uplink_in(&error).leaves_as(Outcome::ErrorToTask, &expected.bytes());
        }
    }
}

#[test]
fn an_error_that_quotes_all_of_an_answer_still_does() {
    let world = World::serving(&[local(5)]);
    talk(&world, cast::NODE);
    for sent in answers() {
        let seen = sent.as_frontend(cast::NODE, PUBLISHED);
        let error = from_router(icmp_error(3, 4, 1400, seen.ip()));
        let expected = to_task(&error, icmp_error(3, 4, 1400, as_sent(&seen, 5).ip()));
        world.uplink_in(&error).leaves_as(Outcome::ErrorToTask, &expected.bytes());
    }
}

#[test]
fn an_error_about_an_answer_goes_through_the_tunnel_to_the_task() {
    let world = World::serving(&[remote(7)]);
    for payload in [data(b"request"), Payload::Udp(udp(b"request"))] {
        let _ = world.uplink_in(&Packet::from_client(payload)).leaves(Outcome::Tunnelled);
    }
    for (kind, code, mtu) in ERRORS {
        for sent in answers() {
            let quote = sent.as_frontend(cast::NODE, PUBLISHED).quote();
            let error = from_router(icmp_error(kind, code, mtu, quote));
            let tunnel = Tunnel::to_other(7, &error);
            world.uplink_in(&error).enters_tunnel(Outcome::ErrorToTask, tunnel, &error.ip());
        }
    }
}

#[test]
fn an_error_out_of_the_tunnel_reaches_the_task() {
    let world = World::home_of(&[5]);
    talk(&world, cast::OTHER);
    for (kind, code, mtu) in ERRORS {
        for sent in answers() {
            let seen = sent.as_frontend(cast::OTHER, PUBLISHED);
            let error = from_router(icmp_error(kind, code, mtu, seen.quote()))
                .with(|packet| packet.destination = cast::OTHER);
            let expected = to_task(&error, icmp_error(kind, code, mtu, as_sent(&seen, 5).quote()));
            through_tunnel(&world, &error).leaves_as(Outcome::ErrorToTask, &expected.bytes());
        }
    }
}

#[test]
fn an_error_out_of_the_tunnel_about_what_is_not_published_here_is_dropped() {
    let mut world = World::home_of(&[5]);
    let seen = udp_answer().as_frontend(cast::OTHER, PUBLISHED);
    let error = from_router(icmp_error(3, 3, 0, seen.quote()));
    world.remove::<_, LocalTask>("TASKS", &task_key(5, protocol::UDP));
    through_tunnel(&world, &error).is_dropped(Outcome::UnknownTask);
}

#[test]
fn an_error_without_a_hop_left_is_dropped_before_the_task() {
    let world = World::serving(&[local(5)]);
    talk(&world, cast::NODE);
    let quote = udp_answer().as_frontend(cast::NODE, PUBLISHED).quote();
    let error = from_router(icmp_error(3, 3, 0, quote)).with(|packet| packet.ttl = 1);
    world.uplink_in(&error).is_dropped(Outcome::HopLimit);
}

#[test]
fn an_error_of_a_task_reaches_the_client() {
    let world = World::serving(&[local(5)]);
    talk(&world, cast::NODE);
    for (kind, code, mtu) in ERRORS {
        for sent in requests(cast::NODE) {
            let error = from_task(icmp_error(kind, code, mtu, sent.delivered(5).quote()));
            let expected =
                as_frontend(&error, cast::NODE, icmp_error(kind, code, mtu, as_received(&sent).quote()))
                    .macs(cast::CLIENT_MAC, cast::NODE_MAC);
            world.bridge_in(&error).leaves_as(Outcome::ErrorToClient, &expected.bytes());
        }
    }
}

#[test]
fn an_error_of_a_task_goes_through_the_tunnel_and_on_to_the_client() {
    let world = World::home_of(&[5]);
    talk(&world, cast::OTHER);
    for sent in requests(cast::OTHER) {
        let error = from_task(icmp_error(3, 3, 0, sent.delivered(5).quote()));
        let inner = as_frontend(&error, cast::OTHER, icmp_error(3, 3, 0, as_received(&sent).quote()));
        let tunnel = Tunnel::to_other(5, &error).reply();
        world.bridge_in(&error).enters_tunnel(Outcome::ErrorToClient, tunnel, &inner.ip());
    }

    let entry = World::serving(&[remote(5)]);
    for sent in requests(cast::NODE) {
        let _ = entry.uplink_in(&sent).leaves(Outcome::Tunnelled);
        let error = from_task(icmp_error(3, 3, 0, sent.delivered(5).quote()));
        let inner = as_frontend(&error, cast::NODE, icmp_error(3, 3, 0, as_received(&sent).quote()));
        let run = entry.run(Hook::UplinkIn, &Tunnel::to_here(5).reply().around(&inner.ip()));
        let expected = inner.macs(cast::CLIENT_MAC, cast::NODE_MAC).bytes();
        run.leaves_as(Outcome::RepliedFromTunnel, &expected);
    }
}

#[test]
fn an_error_of_a_task_goes_straight_to_the_client_if_the_service_wants_that() {
    let mut world = World::home_of(&[]);
    world.task(5, flags::RETURN_DIRECT);
    talk(&world, cast::OTHER);
    for sent in requests(cast::OTHER) {
        let error = from_task(icmp_error(3, 3, 0, sent.delivered(5).quote()));
        let expected = as_frontend(&error, cast::OTHER, icmp_error(3, 3, 0, as_received(&sent).quote()))
            .macs(cast::CLIENT_MAC, cast::NODE_MAC);
        world.bridge_in(&error).leaves_as(Outcome::ErrorToClient, &expected.bytes());
    }
}

#[test]
fn errors_about_a_translated_flow_quote_the_port_that_each_side_knows() {
    let world = World::home_of(&[5]);
    talk(&world, cast::OTHER);
    let second = request(cast::OTHER, data(b"second").with_destination(8000));
    let bytes = through_tunnel(&world, &second).leaves(Outcome::DeliveredFromTunnel);
    let port = u16::from_be_bytes([bytes[34], bytes[35]]);
    assert_ne!(port, CLIENT_PORT);

    let seen = Packet::from_task(5, answer(ACK, b"answer")).as_frontend(cast::OTHER, 8000);
    let error =
        from_router(icmp_error(3, 4, 1400, seen.quote())).with(|packet| packet.destination = cast::OTHER);
    let sent = as_sent(&seen, 5).with(|packet| packet.payload = packet.payload.with_destination(port));
    let expected = to_task(&error, icmp_error(3, 4, 1400, sent.quote()));
    through_tunnel(&world, &error).leaves_as(Outcome::ErrorToTask, &expected.bytes());

    let received = second.delivered(5).with(|packet| packet.payload = packet.payload.with_source(port));
    let error = from_task(icmp_error(3, 3, 0, received.quote()));
    let quote = as_received(&second).quote();
    let inner = as_frontend(&error, cast::OTHER, icmp_error(3, 3, 0, quote));
    let tunnel = Tunnel::to_other(5, &error).reply();
    world.bridge_in(&error).enters_tunnel(Outcome::ErrorToClient, tunnel, &inner.ip());
}

#[test]
fn what_is_no_error_is_not_ours() {
    let world = World::serving(&[local(5)]);
    talk(&world, cast::NODE);
    let seen = udp_answer().as_frontend(cast::NODE, PUBLISHED).quote();
    let received = requests(cast::NODE)[1].delivered(5).quote();
    // Echo, echo reply, source quench, redirect, timestamp.
    for kind in [8, 0, 4, 5, 13] {
        let payload =
            |data: &[u8]| Payload::Icmp(Icmp { kind, code: 0, word: [0, 1, 0, 1], data: data.to_vec() });
        world.uplink_in(&from_router(payload(&seen))).passes(Outcome::NotOurs);
        world.uplink_in(&from_router(payload(b"ping"))).passes(Outcome::NotOurs);
        world.bridge_in(&from_task(payload(&received))).passes(Outcome::NotOurs);
        world.bridge_in(&from_task(payload(b"ping"))).passes(Outcome::NotOurs);
    }
}

#[test]
fn errors_about_what_is_no_flow_are_not_ours() {
    let mut world = World::serving(&[local(5)]);
    talk(&world, cast::NODE);
    world.publish(PUBLISHED + 1, protocol::UDP, true);
    let seen = udp_answer().as_frontend(cast::NODE, PUBLISHED);
    for other in [
        seen.with(|packet| packet.payload = packet.payload.with_source(PUBLISHED + 2)),
        seen.with(|packet| packet.payload = packet.payload.with_source(PUBLISHED + 1)),
        seen.with(|packet| packet.payload = packet.payload.with_destination(CLIENT_PORT + 1)),
        seen.with(|packet| packet.source = cast::STRANGER),
        seen.with(|packet| packet.destination = cast::STRANGER),
        seen.with(|packet| packet.payload = Payload::Other(132, vec![0; 32])),
        seen.with(|packet| {
            packet.payload = Payload::Icmp(Icmp { kind: 8, code: 0, word: [0; 4], data: vec![] });
        }),
    ] {
        world.uplink_in(&from_router(icmp_error(3, 4, 1400, other.quote()))).passes(Outcome::NotOurs);
    }
    let received = requests(cast::NODE)[1].delivered(5);
    for other in [
        received.with(|packet| packet.payload = packet.payload.with_source(CLIENT_PORT + 1)),
        received.with(|packet| packet.payload = packet.payload.with_destination(TARGET + 1)),
        received.with(|packet| packet.source = cast::STRANGER),
    ] {
        world.bridge_in(&from_task(icmp_error(3, 3, 0, other.quote()))).passes(Outcome::NotOurs);
    }
}

#[test]
fn errors_about_a_flow_whose_backend_is_gone_are_not_ours() {
    let gone: [fn(&mut Backend); 2] =
        [|backend| backend.state = state::DOWN, |backend| backend.generation += 1];
    for become_gone in gone {
        let mut world = World::serving(&[local(5)]);
        talk(&world, cast::NODE);
        world.change_backend(1, become_gone);
        let quote = udp_answer().as_frontend(cast::NODE, PUBLISHED).quote();
        world.uplink_in(&from_router(icmp_error(3, 3, 0, quote))).passes(Outcome::NotOurs);
    }
}

#[test]
fn a_task_may_not_speak_for_another() {
    let world = World::serving(&[local(5)]);
    talk(&world, cast::NODE);
    let quote = requests(cast::NODE)[1].delivered(5).quote();
    let error = Packet::from_task(6, icmp_error(3, 3, 0, quote));
    world.bridge_in(&error).passes(Outcome::NotOurs);
}

#[test]
fn errors_that_quote_too_little_are_not_ours() {
    let world = World::serving(&[local(5)]);
    talk(&world, cast::NODE);
    let seen = udp_answer().as_frontend(cast::NODE, PUBLISHED).quote();
    let received = requests(cast::NODE)[1].delivered(5).quote();
    for length in 0..28 {
        world.uplink_in(&from_router(icmp_error(3, 3, 0, seen[..length].to_vec()))).passes(Outcome::NotOurs);
        world
            .bridge_in(&from_task(icmp_error(3, 3, 0, received[..length].to_vec())))
            .passes(Outcome::NotOurs);
    }
}

#[test]
fn errors_that_quote_a_later_fragment_are_not_ours() {
    // What stands where its ports would be is the middle of a datagram: here the bytes of ports that are known.
    let world = World::serving(&[local(5)]);
    talk(&world, cast::NODE);
    let ports = |source: u16, destination: u16| {
        [source.to_be_bytes(), destination.to_be_bytes(), [0; 2], [0; 2]].concat()
    };
    let middle = |packet: Packet, bytes: Vec<u8>| {
        let [_, later] = packet
            .with(|packet| packet.payload = Payload::Other(17, [vec![7; 64], bytes].concat()))
            .in_two(64);
        later
    };
    let seen = middle(udp_answer().as_frontend(cast::NODE, PUBLISHED), ports(PUBLISHED, CLIENT_PORT));
    world.uplink_in(&from_router(icmp_error(11, 1, 0, seen.quote()))).passes(Outcome::NotOurs);
    let received = middle(requests(cast::NODE)[1].delivered(5), ports(CLIENT_PORT, TARGET));
    world.bridge_in(&from_task(icmp_error(11, 1, 0, received.quote()))).passes(Outcome::NotOurs);
}

/// Port unreachable, fragmentation needed, time exceeded, parameter problem.
const ERRORS: [(u8, u8, u16); 4] = [(3, 3, 0), (3, 4, 1400), (11, 0, 0), (12, 0, 0)];

/// The client has sent task 5 something, on both protocols: itself, or through the other node.
fn talk(world: &World, frontend: cast::Ip) {
    for packet in requests(frontend) {
        if frontend == cast::NODE {
            let _ = world.uplink_in(&packet).leaves(Outcome::Delivered);
        } else {
            let _ = through_tunnel(world, &packet).leaves(Outcome::DeliveredFromTunnel);
        }
    }
}

fn through_tunnel(world: &World, inner: &Packet) -> Run {
    world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&inner.ip()))
}

fn requests(frontend: cast::Ip) -> [Packet; 2] {
    [data(b"request"), Payload::Udp(udp(b"request"))].map(|payload| request(frontend, payload))
}

fn request(frontend: cast::Ip, payload: Payload) -> Packet {
    Packet::from_client(payload).with(|packet| packet.destination = frontend)
}

fn answers() -> [Packet; 2] {
    [Packet::from_task(5, answer(ACK, b"answer")), udp_answer()]
}

fn udp_answer() -> Packet {
    Packet::from_task(5, between(Payload::Udp(udp(b"answer")), TARGET, CLIENT_PORT))
}

pub(crate) fn from_router(payload: Payload) -> Packet {
    Packet::from_client(payload).with(|packet| packet.source = ROUTER)
}

pub(crate) fn from_task(payload: Payload) -> Packet {
    Packet::from_task(5, payload).with(|packet| packet.traffic_class = 0xc0)
}

/// An answer that was seen on its way to the client, as task `number` sent it; only the hops stay gone.
pub(crate) fn as_sent(seen: &Packet, number: u8) -> Packet {
    seen.with(|packet| {
        packet.source = cast::task(number);
        packet.payload = packet.payload.with_source(TARGET);
    })
}

/// What a task received of what the client has sent, as the client knows it; only the hop stays gone.
pub(crate) fn as_received(sent: &Packet) -> Packet {
    sent.with(|packet| packet.ttl -= 1)
}

/// The error as it reaches task 5.
pub(crate) fn to_task(error: &Packet, payload: Payload) -> Packet {
    Packet { payload, ..error.delivered(5) }
}

/// The error of a task as it leaves.
pub(crate) fn as_frontend(error: &Packet, frontend: cast::Ip, payload: Payload) -> Packet {
    error.with(|packet| {
        packet.source = frontend;
        packet.ttl -= 1;
        packet.payload = payload;
    })
}
