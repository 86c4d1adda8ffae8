//! Which task a call of a virtual address is given to, how long it keeps it, and how it is refused.

use mesh_common::backend::{Backend, BackendCounters, state};
use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;
use mesh_common::tcp::state::{CLIENT_FINISHED, ESTABLISHED, TASK_FINISHED};

use crate::support::cast::{CLIENT_PORT, PUBLISHED};
use crate::support::overlay::{
    NETWORK, OTHER_NETWORK, OTHER_VIP, VIP, answer, call, flow_key, from_vip, given, member, reply_key, sctp,
    straight, turned,
};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, FIN, Payload, RST, SYN, Tcp, between, data, icmp_error, syn, tcp, udp};
use crate::support::run::Hook;
use crate::support::world::World;

#[test]
fn new_flows_go_round_all_tasks_in_turn() {
    for payload in [syn(), datagram(), sctp(0, PUBLISHED, b"init")] {
        let world = World::calling(&[1, 2, 3, 4, 6]);
        let seen: Vec<u8> = (1000..1020).map(|port| task_of(&world, port, &payload)).collect();
        assert_eq!(seen, [1, 2, 3, 4, 6].repeat(4));
    }
}

#[test]
fn ports_and_protocols_share_the_turn() {
    let world = World::calling(&[1, 2, 3]);
    let seen = [
        task_of(&world, 1000, &syn()),
        task_of(&world, 1000, &syn().with_destination(8080)),
        task_of(&world, 1000, &datagram()),
        task_of(&world, 1000, &sctp(0, PUBLISHED, b"init")),
    ];
    assert_eq!(seen, [1, 2, 3, 1]);
}

#[test]
fn virtual_addresses_and_networks_have_turns_of_their_own() {
    let mut world = World::calling(&[1, 2]);
    world.vip(OTHER_NETWORK, VIP, &[1, 2]);
    world.vip(NETWORK, OTHER_VIP, &[1, 2]);
    let mut seen = Vec::new();
    for port in 1000..1003 {
        seen.push(task_of(&world, port, &syn()));
        let call = call(between(syn(), port, PUBLISHED));
        let run = world.run_on_other_network(Hook::OverlayIn, &call.bytes());
        seen.push(run.after[33]);
        seen.push(world.overlay_in(&call.with(|packet| packet.destination = OTHER_VIP)).after[33]);
    }
    assert_eq!(seen, [1, 1, 1, 2, 2, 2, 1, 1, 1]);
}

#[test]
fn only_new_flows_take_a_turn() {
    let world = World::calling(&[1, 2, 3]);
    let mut seen = Vec::new();
    for port in 1000..1006 {
        seen.push(task_of(&world, port, &syn()));
        for payload in [syn(), data(b"request"), data(b"more"), Payload::Tcp(tcp(FIN | ACK))] {
            assert_eq!(task_of(&world, port, &payload), seen[seen.len() - 1]);
        }
    }
    assert_eq!(seen, [1, 2, 3, 1, 2, 3]);
    let counted = world.counters(1);
    assert_eq!((counted.flows, counted.packets), (2, 10));
}

#[test]
fn a_segment_without_a_flow_takes_no_turn_and_then_has_a_flow() {
    let mut world = World::calling(&[1, 2, 3]);
    let adopted = task_of(&world, 1000, &data(b"moved"));
    assert_eq!(task_of(&world, 2000, &syn()), 1);
    let more = world.backends(&[member(4)]);
    world.vip(NETWORK, VIP, &more);
    assert_eq!(task_of(&world, 1000, &data(b"more")), adopted);
}

#[test]
fn established_connections_stick_when_the_set_changes() {
    let mut world = World::calling(&[1, 2, 3]);
    let before: Vec<u8> = (1000..1030).map(|port| task_of(&world, port, &syn())).collect();
    let more = world.backends(&[member(4), member(6)]);
    world.vip(NETWORK, VIP, &[3, more[0], more[1], 2, 1]);
    let after: Vec<u8> = (1000..1030).map(|port| task_of(&world, port, &data(b"more"))).collect();
    assert_eq!(before, after);
}

#[test]
fn a_syn_after_the_caller_has_finished_or_reset_stays_with_its_task() {
    for last in [FIN | ACK, RST, RST | ACK] {
        let world = World::calling(&[1, 2]);
        assert_eq!(task_of(&world, 1000, &syn()), 1);
        assert_eq!(task_of(&world, 1000, &data(b"request")), 1);
        assert_eq!(task_of(&world, 1000, &Payload::Tcp(tcp(last))), 1);
        assert_eq!(task_of(&world, 1000, &syn()), 1, "after {last:02x}");
        assert_eq!(task_of(&world, 1000, &data(b"request")), 1);
    }
}

#[test]
fn a_syn_after_the_task_has_finished_or_reset_stays_with_it() {
    for last in [FIN | ACK, RST, RST | ACK] {
        let world = World::calling(&[1, 2]);
        assert_eq!(task_of(&world, CLIENT_PORT, &syn()), 1);
        let goodbye = answer(1, between(Payload::Tcp(tcp(last)), PUBLISHED, CLIENT_PORT));
        world.overlay_out(&goodbye).passes_as(Outcome::VipReplied, &from_vip(&goodbye).bytes());
        assert_eq!(task_of(&world, CLIENT_PORT, &syn()), 1, "after {last:02x}");
    }
}

#[test]
fn a_flow_remembers_what_both_ends_have_sent() {
    let world = World::calling(&[1]);
    let state = || world.vip_flow(&flow_key(protocol::TCP)).expect("the flow is known").state;
    let mut seen = Vec::new();
    for flags in [SYN, ACK] {
        let _ = task_of(&world, CLIENT_PORT, &Payload::Tcp(tcp(flags)));
        seen.push(state());
    }
    let goodbye = answer(1, between(Payload::Tcp(tcp(FIN | ACK)), PUBLISHED, CLIENT_PORT));
    world.overlay_out(&goodbye).passes_as(Outcome::VipReplied, &from_vip(&goodbye).bytes());
    seen.push(state());
    let _ = task_of(&world, CLIENT_PORT, &Payload::Tcp(tcp(FIN | ACK)));
    seen.push(state());
    let finished = ESTABLISHED | TASK_FINISHED;
    assert_eq!(seen, [0, ESTABLISHED, finished, finished | CLIENT_FINISHED]);
}

#[test]
fn a_draining_task_keeps_its_connections_and_gets_no_others() {
    let mut world = World::calling(&[1, 2]);
    assert_eq!([task_of(&world, 1000, &syn()), task_of(&world, 1001, &syn())], [1, 2]);
    assert_eq!([task_of(&world, 1000, &datagram()), task_of(&world, 1001, &datagram())], [1, 2]);
    assert_eq!(task_of(&world, 1001, &data(b"request")), 2);
    world.change_backend(2, |backend| backend.state = state::DRAINING);
    world.vip(NETWORK, VIP, &[1]);
    let seen: Vec<u8> = (2000..2006).map(|port| task_of(&world, port, &syn())).collect();
    assert_eq!(seen, [1; 6]);
    for payload in [data(b"more"), Payload::Tcp(tcp(FIN | ACK))] {
        assert_eq!(task_of(&world, 1001, &payload), 2);
    }
    assert_eq!(task_of(&world, 1001, &datagram()), 1);
}

#[test]
fn udp_keeps_its_task_until_it_has_been_idle() {
    let mut world = World::calling(&[1, 2]);
    let seen: Vec<u8> = (0..3).map(|_| task_of(&world, CLIENT_PORT, &datagram())).collect();
    assert_eq!(seen, [1, 1, 1]);
    world.silence_vip_flow(flow_key(protocol::UDP));
    assert_eq!(task_of(&world, CLIENT_PORT, &datagram()), 2);
}

#[test]
fn a_connection_whose_task_is_gone_is_reset_and_its_next_one_is_not() {
    for (what, become_gone) in GONE {
        let mut world = World::calling(&[1, 2, 3]);
        assert_eq!(task_of(&world, CLIENT_PORT, &syn()), 1);
        assert_eq!(task_of(&world, CLIENT_PORT, &datagram()), 2);
        for id in [1, 2] {
            world.change_backend(id, become_gone);
        }
        world.vip(NETWORK, VIP, &[3]);
        let segment = call(data(b"request"));
        let expected = reset(&segment, 0x1122_4455, 0, RST);
        world.overlay_in(&segment).leaves_as(Outcome::RefusedWithReset, &expected.bytes());
        world.overlay_in(&call(Payload::Tcp(tcp(RST)))).is_dropped(Outcome::UnknownReset);
        assert_eq!(task_of(&world, CLIENT_PORT, &syn()), 3, "{what}");
        assert_eq!(task_of(&world, CLIENT_PORT, &datagram()), 3, "{what}");
    }
}

#[test]
fn a_virtual_address_without_tasks_refuses_at_the_callers_port() {
    let mut down = World::calling(&[1]);
    down.change_backend(1, |backend| backend.state = state::DOWN);
    for world in [World::calling(&[]), down] {
        let segment = call(syn());
        let expected = reset(&segment, 0, 0x1122_3345, RST | ACK);
        world.overlay_in(&segment).leaves_as(Outcome::RefusedWithReset, &expected.bytes());
        for payload in [datagram(), sctp(CLIENT_PORT, PUBLISHED, b"init")] {
            let mut quote = call(payload.clone()).ip();
            quote.truncate(if payload.protocol() == protocol::SCTP { 32 } else { 28 });
            let expected = refusal(&call(payload.clone()), icmp_error(3, 3, 0, quote));
            world.overlay_in(&call(payload)).leaves_as(Outcome::RefusedUnreachable, &expected.bytes());
        }
        world.overlay_in(&call(Payload::Tcp(tcp(RST)))).is_dropped(Outcome::UnknownReset);
        assert_eq!(world.vip_flow(&flow_key(protocol::TCP)), None);
        assert_eq!(world.counters(1), BackendCounters::default());
    }
}

#[test]
fn later_fragments_to_a_virtual_address_without_tasks_are_dropped() {
    let world = World::calling(&[]);
    let datagram = call(Payload::Udp(udp(&[7; 64])));
    let [first, later] = datagram.in_two(32);
    let expected = refusal(&datagram, icmp_error(3, 3, 0, first.quote()));
    world.overlay_in(&first).leaves_as(Outcome::RefusedUnreachable, &expected.bytes());
    world.overlay_in(&later).is_dropped(Outcome::RefusedFragment);
}

#[test]
fn answers_to_who_talks_straight_to_a_task_are_the_tasks_once_its_call_is_over() {
    for last in [&[FIN | ACK, FIN | ACK][..], &[RST]] {
        let world = World::calling(&[1]);
        assert_eq!(task_of(&world, CLIENT_PORT, &syn()), 1);
        let _ = task_of(&world, CLIENT_PORT, &Payload::Tcp(tcp(last[0])));
        for flags in &last[1..] {
            let goodbye = answer(1, between(Payload::Tcp(tcp(*flags)), PUBLISHED, CLIENT_PORT));
            world.overlay_out(&goodbye).passes_as(Outcome::VipReplied, &from_vip(&goodbye).bytes());
        }
        world.overlay_in(&straight(1, data(b"late"))).passes(Outcome::NotOurs);
        assert!(world.vip_reply(&reply_key(1, protocol::TCP)).is_some());
        world.overlay_in(&straight(1, syn())).passes(Outcome::NotOurs);
        assert_eq!(world.vip_reply(&reply_key(1, protocol::TCP)), None);
        let greeting = answer(1, between(Payload::Tcp(tcp(SYN | ACK)), PUBLISHED, CLIENT_PORT));
        world.overlay_out(&greeting).passes(Outcome::NotOurs);

        // And the virtual address's again when that is called.
        assert_eq!(task_of(&world, CLIENT_PORT, &syn()), 1);
        world.overlay_out(&greeting).passes_as(Outcome::VipReplied, &from_vip(&greeting).bytes());
    }
}

#[test]
fn a_call_that_is_not_over_keeps_its_answers_whoever_is_talked_to() {
    let mut world = World::calling(&[1]);
    for payload in [syn(), datagram()] {
        assert_eq!(task_of(&world, CLIENT_PORT, &payload), 1);
        world.overlay_in(&straight(1, payload.clone())).passes(Outcome::NotOurs);
        world.overlay_in(&straight(2, payload.clone())).passes(Outcome::NotOurs);
        assert!(world.vip_reply(&reply_key(1, payload.protocol())).is_some());
    }
    // One FIN is only half an end.
    let _ = task_of(&world, CLIENT_PORT, &Payload::Tcp(tcp(FIN | ACK)));
    world.overlay_in(&straight(1, syn())).passes(Outcome::NotOurs);
    assert!(world.vip_reply(&reply_key(1, protocol::TCP)).is_some());
    // A datagram's conversation ends by silence.
    world.silence_vip_flow(flow_key(protocol::UDP));
    world.overlay_in(&straight(1, datagram())).passes(Outcome::NotOurs);
    assert_eq!(world.vip_reply(&reply_key(1, protocol::UDP)), None);
}

#[test]
fn answers_of_a_task_that_the_flow_has_left_are_its_own_when_it_is_talked_to() {
    let mut world = World::calling(&[1, 2]);
    assert_eq!(task_of(&world, CLIENT_PORT, &syn()), 1);
    world.change_backend(1, |backend| backend.state = state::DRAINING);
    assert_eq!(task_of(&world, CLIENT_PORT, &syn()), 2);
    world.overlay_in(&straight(1, syn())).passes(Outcome::NotOurs);
    assert_eq!(world.vip_reply(&reply_key(1, protocol::TCP)), None);
    assert!(world.vip_reply(&reply_key(2, protocol::TCP)).is_some());
}

type Change = fn(&mut Backend);

/// Ways for a flow's task to be gone.
const GONE: [(&str, Change); 2] = [
    ("the task is gone", |backend| backend.state = state::DOWN),
    ("the id belongs to another task", |backend| *backend = Backend { generation: 2, ..member(9) }),
];

fn datagram() -> Payload {
    Payload::Udp(udp(b"datagram"))
}

/// The task that the caller's packet from `port` is given to.
#[track_caller]
fn task_of(world: &World, port: u16, payload: &Payload) -> u8 {
    let payload = match payload {
        Payload::Other(_, bytes) => sctp(port, PUBLISHED, &bytes[12..]),
        Payload::Tcp(_) | Payload::Udp(_) | Payload::Icmp(_) => payload.with_source(port),
    };
    let call = call(payload);
    let run = world.overlay_in(&call);
    let number = run.after[33];
    run.passes_as(Outcome::VipToTask, &given(&call, number).bytes());
    number
}

/// What the caller is told instead, as the node makes it.
fn refusal(call: &Packet, payload: Payload) -> Packet {
    turned(call).with(|packet| {
        packet.identification = 0;
        packet.dont_fragment = true;
        packet.payload = payload;
    })
}

fn reset(call: &Packet, sequence: u32, acknowledgement: u32, flags: u8) -> Packet {
    let segment = Tcp { sequence, acknowledgement, window: 0, ..tcp(flags) };
    refusal(call, between(Payload::Tcp(segment), PUBLISHED, CLIENT_PORT))
}
