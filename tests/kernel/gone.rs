//! A SYN for a task that is gone, of which not every node has heard: another task has it at once.

use mesh_common::backend::state;
use mesh_common::outcome::Outcome;
use mesh_common::pressure::{ERRORS, Pressure, RESETS};

use crate::support::cast::{self, CLIENT_PORT, PUBLISHED, TARGET};
use crate::support::packet::Packet;
use crate::support::payload::{
    ACK, Payload, RST, SYN, Tcp, answer, between, data, linux_options, syn, tcp, udp,
};
use crate::support::run::{Hook, Run};
use crate::support::tunnel::Tunnel;
use crate::support::wire::Frame;
use crate::support::world::{World, local, remote};
use crate::wire::carries_tunnel;

#[test]
fn the_home_node_refuses_a_syn_for_a_task_that_it_does_not_have() {
    let world = World::home_of(&[5]);
    for (options, text) in [(Vec::new(), ""), (linux_options(1410), ""), (linux_options(1410), "fast open")] {
        for (number, target) in [(6, TARGET), (5, TARGET + 1)] {
            let segment = Tcp { options: options.clone(), data: text.into(), ..tcp(SYN) };
            let packet = Packet::from_client(Payload::Tcp(segment))
                .with(|packet| (packet.destination, packet.traffic_class) = (cast::OTHER, 0xb8));
            let tunnel = Tunnel { target, ..Tunnel::to_here(number) };
            let refusal = refusal(&packet);
            let back = Tunnel { target, ..Tunnel::to_other(number, &refusal) }.reply();
            world.run(Hook::UplinkIn, &tunnel.around(&packet.ip())).enters_tunnel(
                Outcome::RefusedToEntry,
                back,
                &refusal.ip(),
            );
        }
    }
}

#[test]
fn the_kernel_sends_a_refusal_of_what_has_just_come_out_of_the_tunnel() {
    let mut world = World::home_of(&[5]);
    let [uplink, _bridge] = world.attach();
    let packet = Packet::from_client(syn()).with(|packet| packet.destination = cast::OTHER);
    uplink.send(&Frame::finished(Tunnel::to_here(6).around(&packet.ip())));
    carries_tunnel(&uplink, &Tunnel::to_other(6, &packet).reply(), &refusal(&packet));
    assert_eq!(world.count(Outcome::RefusedToEntry), 1);
}

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
fn nothing_else_is_refused_and_not_too_many() {
    let mut world = World::home_of(&[5]);
    let arrive = |world: &World, packet: &Packet| -> Run {
        let packet = packet.with(|packet| packet.destination = cast::OTHER);
        world.run(Hook::UplinkIn, &Tunnel::to_here(6).around(&packet.ip()))
    };
    for payload in [data(b"more"), Payload::Tcp(tcp(RST)), Payload::Udp(udp(b"question"))] {
        arrive(&world, &Packet::from_client(payload)).is_dropped(Outcome::UnknownTask);
    }
    let packet = Packet::from_client(syn());
    let _ = arrive(&world, &packet).leaves(Outcome::RefusedToEntry);
    let told = world.pressure();
    let told_since = told.told_since + 100_000_000;
    world.set_pressure(Pressure { told_since, resets: RESETS, errors: ERRORS, ..told });
    arrive(&world, &packet).is_dropped(Outcome::UnknownTask);
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
