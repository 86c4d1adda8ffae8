//! Which backend a flow gets, and how long it keeps it (design §3).

use std::collections::BTreeMap;

use mesh_common::backend::{Backend, state};
use mesh_common::flow::{Flow, FlowKey};
use mesh_common::net::{Port, protocol};
use mesh_common::outcome::Outcome;

use crate::support::cast::PUBLISHED;
use crate::support::packet::Packet;
use crate::support::payload::{ACK, FIN, Payload, RST, SYN, Tcp, answer, between, data, syn, tcp, udp};
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, flow_key, local, remote};

#[test]
fn new_connections_go_round_all_backends_in_turn() {
    let world = World::serving(&[local(1), local(2), local(3), local(4), local(5)]);
    let given: Vec<u8> = (1000..1020).map(|port| given(&world, port, syn())).collect();
    assert_eq!(given, [1, 2, 3, 4, 5].repeat(4));
}

#[test]
fn new_udp_flows_go_round_all_backends_in_turn() {
    let world = World::serving(&[local(1), local(2), local(3), local(4), local(5)]);
    let given: Vec<u8> = (1000..1020).map(|port| given(&world, port, datagram())).collect();
    assert_eq!(given, [1, 2, 3, 4, 5].repeat(4));
}

#[test]
fn local_and_remote_backends_take_turns_alike() {
    let world = World::serving(&[local(1), remote(2), local(3), remote(4), remote(5)]);
    let given: Vec<u8> = (1000..1010).map(|port| given(&world, port, syn())).collect();
    assert_eq!(given, [1, 2, 3, 4, 5].repeat(2));
}

#[test]
fn only_new_flows_take_a_turn() {
    let world = World::serving(&[local(1), local(2), local(3)]);
    let mut seen = Vec::new();
    for port in 1000..1006 {
        seen.push(given(&world, port, syn()));
        for payload in [syn(), data(b"request"), data(b"more"), Payload::Tcp(tcp(FIN | ACK))] {
            assert_eq!(given(&world, port, payload), seen[seen.len() - 1]);
        }
    }
    assert_eq!(seen, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn frontends_have_turns_of_their_own() {
    let mut world = World::serving(&[local(1), local(2)]);
    world.frontend(8000, protocol::TCP, &[1, 2]);
    let mut seen = Vec::new();
    for port in 1000..1003 {
        seen.push(given(&world, port, syn()));
        seen.push(given(&world, port + 100, syn().with_destination(8000)));
        seen.push(given(&world, port, datagram()));
    }
    assert_eq!(seen, [1, 1, 1, 2, 2, 2, 1, 1, 1]);
}

#[test]
fn a_new_set_of_backends_goes_on_with_the_turn() {
    let mut world = World::serving(&[local(1), local(2), local(3)]);
    assert_eq!(given(&world, 1000, syn()), 1);
    world.frontend(PUBLISHED, protocol::TCP, &[1, 2]);
    let seen: Vec<u8> = (1001..1005).map(|port| given(&world, port, syn())).collect();
    assert_eq!(seen, [2, 1, 2, 1]);
}

#[test]
fn a_retransmitted_syn_keeps_its_choice() {
    let world = World::serving(&[local(1), remote(2), local(3)]);
    for port in 1000..1006 {
        let first = given(&world, port, syn());
        assert_eq!([given(&world, port, syn()), given(&world, port, syn())], [first; 2]);
    }
}

#[test]
fn established_connections_stick_when_the_set_changes() {
    let mut world = World::serving(&[local(1), remote(2), local(3)]);
    let before: Vec<u8> = (1000..1030).map(|port| given(&world, port, syn())).collect();
    let more = world.backends(&[local(4), remote(5)]);
    world.frontend(PUBLISHED, protocol::TCP, &[3, more[0], more[1], 2, 1]);
    let after: Vec<u8> = (1000..1030).map(|port| given(&world, port, data(b"more"))).collect();
    assert_eq!(before, after);
}

#[test]
fn a_syn_after_the_client_has_finished_or_reset_stays_with_its_backend() {
    for last in [FIN | ACK, RST, RST | ACK] {
        let world = World::serving(&[local(1), local(2)]);
        assert_eq!(given(&world, 1000, syn()), 1);
        assert_eq!(given(&world, 1000, data(b"request")), 1);
        assert_eq!(given(&world, 1000, Payload::Tcp(tcp(last))), 1);
        // Whether it is another conversation, the task decides: an end may have been forged.
        assert_eq!(given(&world, 1000, syn()), 1, "after {last:02x}");
        assert_eq!(given(&world, 1000, data(b"request")), 1);
        assert_eq!(given(&world, 2000, syn()), 2);
    }
}

#[test]
fn a_syn_after_the_task_has_finished_or_reset_stays_with_its_backend() {
    for last in [FIN | ACK, RST, RST | ACK] {
        let world = World::serving(&[local(1), local(2)]);
        let packet = Packet::from_client(syn());
        world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(1).bytes());
        let _ = world.bridge_in(&Packet::from_task(1, answer(last, b""))).leaves(Outcome::Replied);
        world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(1).bytes());
    }
}

#[test]
fn a_syn_after_a_remote_task_has_finished_or_reset_stays_with_its_backend() {
    for last in [FIN | ACK, RST, RST | ACK] {
        let world = World::serving(&[remote(1), remote(2)]);
        let packet = Packet::from_client(syn());
        let through = |number| Tunnel::to_other(number, &packet);
        world.uplink_in(&packet).enters_tunnel(Outcome::Tunnelled, through(1), &packet.ip());
        let goodbye = Packet::from_task(1, answer(last, b"")).as_frontend(packet.destination, PUBLISHED);
        let bytes = Tunnel::to_here(1).reply().around(&goodbye.ip());
        let run = world.run(crate::support::run::Hook::UplinkIn, &bytes);
        let _ = run.leaves(Outcome::RepliedFromTunnel);
        world.uplink_in(&packet).enters_tunnel(Outcome::Tunnelled, through(1), &packet.ip());
    }
}

#[test]
fn a_syn_on_ports_that_have_been_free_for_a_minute_takes_its_turn() {
    let mut world = World::serving(&[local(1), local(2)]);
    let key = FlowKey { client_port: Port::new(1000), ..flow_key(protocol::TCP) };
    for payload in [syn(), Payload::Tcp(tcp(RST))] {
        assert_eq!(given(&world, 1000, payload), 1);
    }
    for (seconds, expected) in [(59, 1), (61, 2)] {
        let _ = given(&world, 1000, Payload::Tcp(tcp(RST)));
        let mut opening = world.opening(&key).expect("it is known");
        opening.flow.last_seen = opening.flow.last_seen.wrapping_sub(seconds * 1_000_000_000);
        world.insert("OPENING", key, opening);
        assert_eq!(given(&world, 1000, syn()), expected, "after {seconds} s");
    }
}

#[test]
fn what_comes_after_a_fin_still_goes_to_the_same_backend() {
    let world = World::serving(&[local(1), local(2)]);
    assert_eq!(given(&world, 1000, syn()), 1);
    for flags in [FIN | ACK, ACK, RST, ACK] {
        assert_eq!(given(&world, 1000, Payload::Tcp(tcp(flags))), 1);
    }
}

#[test]
fn a_segment_without_a_flow_goes_to_the_same_backend_on_every_node() {
    let backends = [local(1), local(2), local(3), local(4), local(5)];
    let worlds = [World::serving(&backends), World::serving(&backends)];
    // The second node has been given flows of its own before.
    for port in 9000..9003 {
        let _ = given(&worlds[1], port, syn());
    }
    let seen = worlds
        .each_ref()
        .map(|world| (1000..1100).map(|port| given(world, port, data(b"moved"))).collect::<Vec<u8>>());
    assert_eq!(seen[0], seen[1]);
    let mut spread: BTreeMap<u8, u32> = BTreeMap::new();
    for number in &seen[0] {
        *spread.entry(*number).or_default() += 1;
    }
    assert!(spread.len() == 5 && spread.values().all(|count| *count >= 8), "{spread:?}");
}

#[test]
fn a_segment_without_a_flow_takes_no_turn_and_then_has_a_flow() {
    let mut world = World::serving(&[local(1), local(2), local(3)]);
    let adopted = given(&world, 1000, data(b"moved"));
    assert_eq!(given(&world, 2000, syn()), 1);
    let more = world.backends(&[local(4)]);
    world.frontend(PUBLISHED, protocol::TCP, &more);
    assert_eq!(given(&world, 1000, data(b"more")), adopted);
}

#[test]
fn a_draining_backend_keeps_its_connections_and_gets_no_others() {
    let mut world = World::serving(&[local(1), local(2)]);
    assert_eq!([given(&world, 1000, syn()), given(&world, 1001, syn())], [1, 2]);
    assert_eq!(given(&world, 1001, data(b"request")), 2);
    drain(&mut world, 2, &[1]);
    let seen: Vec<u8> = (2000..2006).map(|port| given(&world, port, syn())).collect();
    assert_eq!(seen, [1; 6]);
    for payload in [data(b"more"), Payload::Tcp(tcp(FIN | ACK))] {
        assert_eq!(given(&world, 1001, payload), 2);
    }
}

#[test]
fn a_retransmitted_syn_leaves_a_draining_backend() {
    let mut world = World::serving(&[local(1), local(2)]);
    assert_eq!([given(&world, 1000, syn()), given(&world, 1001, syn())], [1, 2]);
    drain(&mut world, 2, &[1]);
    assert_eq!(given(&world, 1001, syn()), 1);
    assert_eq!(given(&world, 1001, data(b"request")), 1);
}

#[test]
fn udp_leaves_a_draining_backend_at_once() {
    let mut world = World::serving(&[local(1), remote(2)]);
    assert_eq!([given(&world, 1000, datagram()), given(&world, 1001, datagram())], [1, 2]);
    drain(&mut world, 2, &[1]);
    assert_eq!([given(&world, 1001, datagram()), given(&world, 1000, datagram())], [1, 1]);
}

#[test]
fn udp_keeps_its_backend_until_it_has_been_idle() {
    let mut world = World::serving(&[local(1), local(2)]);
    let packet = Packet::from_client(datagram());
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(1).bytes());
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(1).bytes());
    let key = flow_key(protocol::UDP);
    let flow = world.flow(&key).expect("the flow is known");
    assert_eq!((flow.backend, flow.generation), (1, 1));
    // Another processor has just seen it, after this packet has looked at the clock.
    world.insert("UDP_FLOWS", key, Flow { last_seen: flow.last_seen + 1_000_000_000, ..flow });
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(1).bytes());
    // Before the machine was started, perhaps: the difference still is what it says.
    let last_seen = flow.last_seen.wrapping_sub(181_000_000_000);
    world.insert("UDP_FLOWS", key, Flow { last_seen, ..flow });
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(2).bytes());
}

#[test]
fn a_syn_does_not_go_to_what_became_of_its_backend() {
    for (what, become_gone) in GONE {
        let mut world = World::serving(&[local(1), local(2), local(3)]);
        assert_eq!(given(&world, 1000, syn()), 1);
        world.change_backend(1, become_gone);
        world.frontend(PUBLISHED, protocol::TCP, &[2, 3]);
        let other = given(&world, 1000, syn());
        assert!([2, 3].contains(&other), "{what}: {other}");
        assert_eq!(given(&world, 1000, data(b"request")), other, "{what}");
    }
}

#[test]
fn udp_does_not_go_to_what_became_of_its_backend() {
    for (what, become_gone) in GONE {
        let mut world = World::serving(&[local(1), local(2), local(3)]);
        assert_eq!(given(&world, 1000, datagram()), 1);
        world.change_backend(1, become_gone);
        world.frontend(PUBLISHED, protocol::UDP, &[2, 3]);
        let other = given(&world, 1000, datagram());
        assert!([2, 3].contains(&other), "{what}: {other}");
    }
}

#[test]
fn a_flow_remembers_what_the_client_has_sent() {
    use mesh_common::tcp::state::{CLIENT_FINISHED, ESTABLISHED, RESET};
    let world = World::serving(&[local(1)]);
    let mut seen = Vec::new();
    for flags in [SYN, ACK, FIN | ACK, RST] {
        let packet = Packet::from_client(Payload::Tcp(tcp(flags)));
        let _ = world.uplink_in(&packet).leaves(Outcome::Delivered);
        seen.push(world.flow(&flow_key(protocol::TCP)).expect("the flow is known").state);
    }
    let finished = ESTABLISHED | CLIENT_FINISHED;
    assert_eq!(seen, [0, ESTABLISHED, finished, finished | RESET]);
}

#[test]
fn a_syn_with_data_starts_a_flow_and_a_syn_ack_does_not() {
    let world = World::serving(&[local(1), local(2), local(3)]);
    let fast_open = Payload::Tcp(Tcp { data: b"hello".to_vec(), ..tcp(SYN) });
    assert_eq!([given(&world, 1000, fast_open.clone()), given(&world, 1001, fast_open)], [1, 2]);
    world.uplink_in(&Packet::from_client(Payload::Tcp(tcp(SYN | ACK)))).passes(Outcome::NotOurs);
    assert_eq!(given(&world, 1003, syn()), 3);
}

type Change = fn(&mut Backend);

/// Ways for a flow's backend to be gone.
const GONE: [(&str, Change); 2] = [
    ("the task is gone", |backend| backend.state = state::DOWN),
    ("the id belongs to another task", |backend| *backend = Backend { generation: 2, ..local(9) }),
];

fn datagram() -> Payload {
    Payload::Udp(udp(b"datagram"))
}

/// The task that the packet from the client's `port` is given to.
#[track_caller]
fn given(world: &World, port: u16, payload: Payload) -> u8 {
    let destination = match &payload {
        Payload::Tcp(tcp) => tcp.destination,
        Payload::Udp(_) | Payload::Icmp(_) | Payload::Other(..) => PUBLISHED,
    };
    let packet = Packet::from_client(between(payload, port, destination));
    let run = world.uplink_in(&packet);
    let number = if run.outcomes == [(Outcome::Tunnelled, 1)] { run.after[55] } else { run.after[33] };
    if run.outcomes == [(Outcome::Tunnelled, 1)] {
        run.enters_tunnel(Outcome::Tunnelled, Tunnel::to_other(number, &packet), &packet.ip());
    } else {
        run.leaves_as(Outcome::Delivered, &packet.delivered(number).bytes());
    }
    number
}

/// As the agent does it: the state first, then a set without the backend.
fn drain(world: &mut World, id: u32, rest: &[u32]) {
    world.change_backend(id, |backend| backend.state = state::DRAINING);
    world.frontend(PUBLISHED, protocol::TCP, rest);
    world.frontend(PUBLISHED, protocol::UDP, rest);
}
