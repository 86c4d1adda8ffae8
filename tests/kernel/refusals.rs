//! Tasks that refuse a connection: the client's SYN goes to another one.

use mesh_common::backend::{Backend, LocalTask, flags};
use mesh_common::net::{Address, protocol};
use mesh_common::outcome::Outcome;

use crate::support::cast::{self, PUBLISHED, TARGET};
use crate::support::overlay::{self, VIP, call, given, turned};
use crate::support::packet::Packet;
use crate::support::payload::{
    ACK, Payload, RST, SYN, Tcp, answer, between, icmp_error, linux_options, syn, tcp,
};
use crate::support::run::{Hook, Run};
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, flow_key, local, remote, task_key};

pub(crate) const SEQUENCE: u32 = 0x1122_3344;
/// Congestion-experienced and accurate ECN set-up: all flags that a SYN may carry (RFC 3168, RFC 9768).
const ECN_SYN: u8 = SYN | 0x40 | 0x80;

#[test]
fn a_refused_syn_comes_in_again_as_it_was_and_goes_to_another_task() {
    let plain = Tcp { options: Vec::new(), ..tcp(SYN) };
    for segment in [
        plain.clone(),
        Tcp { options: linux_options(1460), ..plain.clone() },
        Tcp { options: linux_options(9000), flags: ECN_SYN, window: 1, ..plain.clone() },
        Tcp { options: vec![1; 40], ..plain.clone() },
        Tcp { options: vec![2, 4, 5, 180], sequence: u32::MAX, ..plain },
    ] {
        let world = World::serving(&[local(1), local(2)]);
        let packet = Packet::from_client(Payload::Tcp(segment.clone())).with(|packet| {
            packet.ttl = 57;
            packet.traffic_class = 0x28;
            packet.dont_fragment = true;
        });
        world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(1).bytes());
        refuse(&world, 1, segment.sequence).leaves_as(Outcome::RefusalReplayed, &packet.bytes());
        world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(2).bytes());
        // A retransmission stays with the second.
        world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(2).bytes());
    }
}

#[test]
fn a_task_elsewhere_that_refuses_is_replaced_as_well() {
    let world = World::serving(&[remote(1), remote(2)]);
    let packet = Packet::from_client(syn());
    world.uplink_in(&packet).enters_tunnel(Outcome::Tunnelled, Tunnel::to_other(1, &packet), &packet.ip());
    refuse_elsewhere(&world, 1).leaves_as(Outcome::RefusalReplayed, &packet.bytes());
    world.uplink_in(&packet).enters_tunnel(Outcome::Tunnelled, Tunnel::to_other(2, &packet), &packet.ip());
}

#[test]
fn an_icmp_error_refuses_as_a_reset_does() {
    for code in [0, 1, 2, 3, 9, 10, 13] {
        let world = World::serving(&[local(1), local(2)]);
        let packet = Packet::from_client(syn());
        let delivered = packet.delivered(1);
        world.uplink_in(&packet).leaves_as(Outcome::Delivered, &delivered.bytes());
        let error = Packet::from_task(1, icmp_error(3, code, 0, delivered.quote()));
        world.bridge_in(&error).leaves_as(Outcome::RefusalReplayed, &packet.bytes());
        world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(2).bytes());
    }
    let world = World::serving(&[remote(1), remote(2)]);
    let packet = Packet::from_client(syn());
    let _ = world.uplink_in(&packet).leaves(Outcome::Tunnelled);
    let error =
        Packet { source: cast::NODE, ..Packet::from_task(1, icmp_error(3, 3, 0, packet.long_quote())) };
    let run = world.run(Hook::UplinkIn, &Tunnel::to_here(1).reply().around(&error.ip()));
    run.leaves_as(Outcome::RefusalReplayed, &packet.bytes());
}

#[test]
fn other_icmp_errors_and_those_about_other_segments_reach_the_client() {
    let world = World::serving(&[local(1), local(2)]);
    let packet = Packet::from_client(syn());
    let delivered = packet.delivered(1);
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &delivered.bytes());
    let another = delivered
        .with(|packet| packet.payload = Payload::Tcp(Tcp { sequence: 7, destination: TARGET, ..tcp(SYN) }));
    for (kind, code, quote) in
        [(3, 4, delivered.quote()), (11, 0, delivered.quote()), (3, 3, another.quote())]
    {
        let error = Packet::from_task(1, icmp_error(kind, code, 0, quote));
        let _ = world.bridge_in(&error).leaves(Outcome::ErrorToClient);
    }
}

#[test]
fn when_all_have_refused_the_client_is_told() {
    for count in [1_u8, 2, 3, 8, 12] {
        let backends: Vec<Backend> = (1..=count).map(local).collect();
        let world = World::serving(&backends);
        let packet = Packet::from_client(syn());
        let offers = count.min(8);
        for number in 1..=offers {
            world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(number).bytes());
            let run = refuse(&world, number, SEQUENCE);
            if number < offers {
                run.leaves_as(Outcome::RefusalReplayed, &packet.bytes());
            } else {
                let reset = reset(number, SEQUENCE).as_frontend(cast::NODE, PUBLISHED);
                let reset = reset.macs(cast::CLIENT_MAC, cast::NODE_MAC);
                run.leaves_as(Outcome::Replied, &reset.bytes());
            }
        }
        // The client's next attempt is a new one.
        let again = Packet::from_client(Payload::Tcp(Tcp { sequence: 9, ..tcp(SYN) }));
        let _ = world.uplink_in(&again).leaves(Outcome::Delivered);
        assert_eq!(world.opening(&flow_key(protocol::TCP)).expect("it is known").refusals, 0);
    }
}

#[test]
fn a_refusal_of_a_syn_that_cannot_be_made_again_is_swallowed() {
    let world = World::serving(&[local(1), local(2)]);
    let packet = Packet::from_client(syn()).with(|packet| packet.options = vec![1; 4]);
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(1).bytes());
    refuse(&world, 1, SEQUENCE).is_dropped(Outcome::RefusalSwallowed);
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(2).bytes());
}

#[test]
fn a_reset_that_does_not_answer_the_syn_is_the_clients() {
    for (flags, acknowledgement) in [(RST | ACK, SEQUENCE), (RST | ACK, SEQUENCE + 2), (RST, 0)] {
        let world = World::serving(&[local(1), local(2)]);
        let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
        let segment = Tcp { acknowledgement, ..tcp(flags) };
        let packet = Packet::from_task(1, between(Payload::Tcp(segment), TARGET, cast::CLIENT_PORT));
        let _ = world.bridge_in(&packet).leaves(Outcome::Replied);
        assert_eq!(world.suspected_until(1), 0);
    }
}

#[test]
fn a_reset_after_the_syn_ack_is_the_clients() {
    let world = World::serving(&[local(1), local(2)]);
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
    let _ = world.bridge_in(&Packet::from_task(1, answer(SYN | ACK, b""))).leaves(Outcome::Replied);
    let _ = refuse(&world, 1, SEQUENCE).leaves(Outcome::Replied);
}

#[test]
fn the_same_refusal_once_more_is_swallowed() {
    let world = World::serving(&[local(1), local(2)]);
    let packet = Packet::from_client(syn());
    let _ = world.uplink_in(&packet).leaves(Outcome::Delivered);
    let _ = refuse(&world, 1, SEQUENCE).leaves(Outcome::RefusalReplayed);
    refuse(&world, 1, SEQUENCE).is_dropped(Outcome::RefusalSwallowed);
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(2).bytes());
    refuse(&world, 1, SEQUENCE).is_dropped(Outcome::RefusalSwallowed);
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(2).bytes());
}

#[test]
fn a_suspect_gets_no_new_flows_until_it_is_forgiven() {
    let mut world = World::serving(&[local(1), local(2), local(3)]);
    world.set_suspect(2, u64::MAX);
    let seen: Vec<u8> = (1000..1006).map(|port| task_of(&world, port)).collect();
    assert!(!seen.contains(&2), "{seen:?}");
    assert!(seen.contains(&1) && seen.contains(&3), "{seen:?}");
    world.set_suspect(1, u64::MAX);
    let seen: Vec<u8> = (1100..1104).map(|port| task_of(&world, port)).collect();
    assert_eq!(seen, [3; 4]);
    // One of them is better than none.
    world.set_suspect(3, u64::MAX);
    let _ = task_of(&world, 1200);
    // Time heals.
    for id in 1..=3 {
        world.set_suspect(id, 1);
    }
    let mut seen: Vec<u8> = (1300..1303).map(|port| task_of(&world, port)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3]);
}

#[test]
fn a_syn_that_is_taken_and_a_completed_handshake_clear_the_suspicion() {
    let mut world = World::serving(&[local(1)]);
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
    world.set_suspect(1, u64::MAX);
    let _ = world.bridge_in(&Packet::from_task(1, answer(SYN | ACK, b""))).leaves(Outcome::Replied);
    assert_eq!(world.suspected_until(1), 0);
    world.set_suspect(1, u64::MAX);
    let segment = Tcp { acknowledgement: SEQUENCE + 1, ..tcp(ACK) };
    let _ = world.uplink_in(&Packet::from_client(Payload::Tcp(segment))).leaves(Outcome::Delivered);
    assert_eq!(world.suspected_until(1), 0);
}

#[test]
fn a_home_node_sends_a_refusal_to_the_entry_node_though_answers_go_straight() {
    let mut world = World::home_of(&[]);
    let task = LocalTask {
        bridge: Address::new(cast::task(5)),
        mac: cast::task_mac(5),
        flags: flags::RETURN_DIRECT,
        ..LocalTask::default()
    };
    world.insert("TASKS", task_key(5, protocol::TCP), task);
    let inner = Packet::from_client(syn()).with(|packet| packet.destination = cast::OTHER);
    let arrive = || world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&inner.ip()));
    let delivered = arrive().leaves(Outcome::DeliveredFromTunnel);
    let packet = reset(5, SEQUENCE);
    let sent = packet.as_frontend(cast::OTHER, PUBLISHED);
    let tunnel = || Tunnel::to_other(5, &packet).reply();
    world.bridge_in(&packet).enters_tunnel(Outcome::ReplyTunnelled, tunnel(), &sent.ip());
    let _ = arrive().leaves(Outcome::DeliveredFromTunnel);
    let error = Packet::from_task(5, icmp_error(3, 3, 0, delivered[14..42].to_vec()));
    let left = world.bridge_in(&error).leaves(Outcome::ErrorToClient);
    assert_eq!(left[30..34], cast::OTHER, "through the tunnel");
    // Once it has answered, its reset is the client's alone.
    let _ = arrive().leaves(Outcome::DeliveredFromTunnel);
    let _ = world.bridge_in(&Packet::from_task(5, answer(SYN | ACK, b""))).leaves(Outcome::Replied);
    let _ = world.bridge_in(&packet).leaves(Outcome::Replied);
}

#[test]
fn a_refused_call_of_a_virtual_address_comes_in_again() {
    let world = World::calling(&[1, 2]);
    let packet = call(syn());
    world.overlay_in(&packet).passes_as(Outcome::VipToTask, &given(&packet, 1).bytes());
    refuse_call(&world, 1).leaves_as(Outcome::RefusalReplayed, &packet.bytes());
    world.overlay_in(&packet).passes_as(Outcome::VipToTask, &given(&packet, 2).bytes());
    // The last one's is the caller's.
    let refused = overlay::answer(2, call_reset());
    world.overlay_out(&refused).passes_as(Outcome::VipReplied, &overlay::from_vip(&refused).bytes());

    let world = World::calling(&[1, 2]);
    let _ = world.overlay_in(&packet);
    let error = overlay::answer(1, icmp_error(3, 3, 0, given(&packet, 1).quote()));
    world.overlay_out(&error).leaves_as(Outcome::RefusalReplayed, &packet.bytes());
}

#[test]
fn a_task_that_refuses_itself_is_replaced_unless_it_is_the_only_one() {
    let refused = Packet {
        destination: VIP,
        destination_mac: overlay::VIP_MAC,
        ..overlay::answer(overlay::CALLER, call_reset())
    }
    .macs(overlay::VIP_MAC, overlay::mac(overlay::CALLER));
    let packet = call(syn());
    let world = World::calling(&[overlay::CALLER, 2]);
    world.overlay_in(&packet).leaves_as(Outcome::VipToSelf, &turned(&packet).bytes());
    world.overlay_in(&refused).leaves_as(Outcome::RefusalReplayed, &packet.bytes());
    world.overlay_in(&packet).passes_as(Outcome::VipToTask, &given(&packet, 2).bytes());

    let world = World::calling(&[overlay::CALLER]);
    world.overlay_in(&packet).leaves_as(Outcome::VipToSelf, &turned(&packet).bytes());
    world.overlay_in(&refused).leaves_as(Outcome::VipToSelf, &turned(&refused).bytes());
}

pub(crate) fn reset(number: u8, sequence: u32) -> Packet {
    let segment = Tcp { sequence: 0, acknowledgement: sequence.wrapping_add(1), window: 0, ..tcp(RST | ACK) };
    Packet::from_task(number, between(Payload::Tcp(segment), TARGET, cast::CLIENT_PORT))
}

fn refuse(world: &World, number: u8, sequence: u32) -> Run {
    world.bridge_in(&reset(number, sequence))
}

fn refuse_elsewhere(world: &World, number: u8) -> Run {
    let inner = reset(number, SEQUENCE).as_frontend(cast::NODE, PUBLISHED);
    world.run(Hook::UplinkIn, &Tunnel::to_here(number).reply().around(&inner.ip()))
}

fn call_reset() -> Payload {
    let segment = Tcp { sequence: 0, acknowledgement: SEQUENCE + 1, window: 0, ..tcp(RST | ACK) };
    between(Payload::Tcp(segment), PUBLISHED, cast::CLIENT_PORT)
}

fn refuse_call(world: &World, number: u8) -> Run {
    world.overlay_out(&overlay::answer(number, call_reset()))
}

/// The local task that a new connection from this port is given to.
fn task_of(world: &World, port: u16) -> u8 {
    world.uplink_in(&Packet::from_client(syn().with_source(port))).leaves(Outcome::Delivered)[33]
}
