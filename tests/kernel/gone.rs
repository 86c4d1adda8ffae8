//! A task that says no to a SYN and is gone by then: another one has it, and if there is none, the client is told.

use mesh_common::backend::state;
use mesh_common::outcome::Outcome;

use crate::support::cast::{self, CLIENT_PORT, PUBLISHED, TARGET};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, Payload, RST, Tcp, answer, between, syn, tcp};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::wire::Frame;
use crate::support::world::{World, local, remote};
use crate::wire::carries_tunnel;

#[test]
fn a_client_is_told_when_nobody_is_left_for_a_syn_that_has_been_refused_through_the_tunnel() {
    let mut world = World::serving(&[remote(1), local(2)]);
    let [uplink, _bridge] = world.attach();
    let packet = Packet::from_client(syn());
    uplink.send(&Frame::finished(packet.bytes()));
    carries_tunnel(&uplink, &Tunnel::to_other(1, &packet), &packet);
    for id in [1, 2] {
        world.change_backend(id, |backend| backend.state = state::DOWN);
    }
    // It becomes the SYN again, which comes in by the uplink, and is refused by the node itself.
    uplink.send(&Frame::finished(Tunnel::to_here(1).reply().around(&refusal(&packet).ip())));
    let told = Tcp { sequence: 0, acknowledgement: 0x1122_3345, window: 0, ..tcp(RST | ACK) };
    let told = Packet {
        source: cast::NODE,
        destination: cast::CLIENT,
        identification: 0,
        dont_fragment: true,
        ..Packet::from_client(between(Payload::Tcp(told), PUBLISHED, CLIENT_PORT))
            .macs(cast::CLIENT_MAC, cast::NODE_MAC)
    };
    uplink.carries(&told.bytes());
    assert_eq!(world.count(Outcome::NotChangeable), 0);
}

#[test]
fn the_entry_node_gives_it_to_another_one_whether_it_has_heard_or_not() {
    for has_heard in [false, true] {
        let mut world = World::serving(&[remote(1), local(2), local(3)]);
        let packet = Packet::from_client(syn());
        let _ = world.uplink_in(&packet).leaves(Outcome::Tunnelled);
        if has_heard {
            world.change_backend(1, |backend| backend.generation += 1);
        }
        let refusal = refusal(&packet);
        let bytes = Tunnel::to_here(1).reply().around(&refusal.ip());
        world.run(Hook::UplinkIn, &bytes).leaves_as(Outcome::RefusalReplayed, &packet.bytes());
        world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(2).bytes());
        // Whoever has the number of the one that is gone has refused nobody.
        assert_eq!(world.suspected_until(1) != 0, !has_heard);
    }
}

#[test]
fn of_a_task_that_is_gone_only_its_no_to_the_syn_counts() {
    let mut world = World::serving(&[remote(1), local(2)]);
    let packet = Packet::from_client(syn());
    let _ = world.uplink_in(&packet).leaves(Outcome::Tunnelled);
    world.change_backend(1, |backend| backend.generation += 1);
    let other = Packet::from_task(1, between(answer(RST | ACK, b""), TARGET, CLIENT_PORT));
    let other = other.as_frontend(cast::NODE, PUBLISHED);
    let bytes = Tunnel::to_here(1).reply().around(&other.ip());
    let _ = world.run(Hook::UplinkIn, &bytes).leaves(Outcome::RepliedFromTunnel);
}

/// What a task would say that has no such port, in the packet that has asked.
fn refusal(packet: &Packet) -> Packet {
    let Payload::Tcp(syn) = &packet.payload else { panic!("no TCP") };
    let segment = Tcp {
        source: syn.destination,
        destination: syn.source,
        sequence: 0,
        acknowledgement: syn.sequence + 1 + syn.data.len() as u32,
        flags: RST | ACK,
        window: 0,
        ..syn.clone()
    };
    packet.with(|packet| {
        (packet.source, packet.destination) = (packet.destination, packet.source);
        packet.payload = Payload::Tcp(segment);
    })
}
