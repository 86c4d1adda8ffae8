//! Fragments follow their first fragment, which alone has the ports.

use mesh_common::outcome::Outcome;

use crate::support::cast::{self, PUBLISHED, TARGET};
use crate::support::packet::{Packet, Part};
use crate::support::payload::{Payload, answer, between, data, udp};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, local, remote};

#[test]
fn all_fragments_reach_the_same_task_on_this_node() {
    let world = World::serving(&[local(1), local(2), local(3)]);
    for (port, number) in (1000..1006).zip([1, 2, 3].repeat(2)) {
        let packet = datagram(port);
        for (fragment, delivered) in in_four(&packet).iter().zip(in_four(&packet.delivered(number))) {
            world.uplink_in(fragment).leaves_as(Outcome::Delivered, &delivered.bytes());
        }
    }
}

#[test]
fn all_fragments_go_through_the_tunnel_to_the_same_node() {
    let world = World::serving(&[remote(1), remote(2), remote(3)]);
    for (port, number) in (1000..1006).zip([1, 2, 3].repeat(2)) {
        for fragment in in_four(&datagram(port)) {
            let tunnel = Tunnel::to_other(number, &fragment);
            world.uplink_in(&fragment).enters_tunnel(Outcome::Tunnelled, tunnel, &fragment.ip());
        }
    }
}

#[test]
fn fragments_of_a_segment_reach_the_same_task() {
    let world = World::serving(&[local(1), local(2), local(3)]);
    let packet = Packet::from_client(data(&[7; 100]));
    let run = world.uplink_in(&packet);
    let number = run.after[33];
    for (fragment, delivered) in in_four(&packet).iter().zip(in_four(&packet.delivered(number))) {
        world.uplink_in(fragment).leaves_as(Outcome::Delivered, &delivered.bytes());
    }
}

#[test]
fn fragments_with_ip_options_reach_the_same_task() {
    let world = World::serving(&[local(1), local(2), local(3)]);
    let packet = datagram(1000).with(|packet| packet.options = vec![1; 40]);
    for (fragment, delivered) in in_four(&packet).iter().zip(in_four(&packet.delivered(1))) {
        world.uplink_in(fragment).leaves_as(Outcome::Delivered, &delivered.bytes());
    }
}

#[test]
fn datagrams_whose_fragments_mix_are_kept_apart() {
    let world = World::serving(&[local(1), local(2)]);
    let one = datagram(1000);
    let other = datagram(1001).with(|packet| packet.identification += 1);
    let [one_first, one_later] = one.in_two(64);
    let [other_first, other_later] = other.in_two(64);
    let [to_one_first, to_one_later] = one.delivered(1).in_two(64);
    let [to_other_first, to_other_later] = other.delivered(2).in_two(64);
    for (fragment, expected) in [
        (one_first, to_one_first),
        (other_first, to_other_first),
        (one_later, to_one_later),
        (other_later, to_other_later),
    ] {
        world.uplink_in(&fragment).leaves_as(Outcome::Delivered, &expected.bytes());
    }
}

#[test]
fn a_later_fragment_whose_first_has_not_passed_is_left_to_the_kernel() {
    let world = World::serving(&[local(1)]);
    let [first, later] = datagram(1000).in_two(64);
    for hook in Hook::ALL {
        world.run(hook, &later.bytes()).passes(Outcome::UnknownFragment);
    }
    let _ = world.uplink_in(&first).leaves(Outcome::Delivered);
    let _ = world.uplink_in(&later).leaves(Outcome::Delivered);
    for differs in [
        later.with(|packet| packet.identification ^= 1),
        later.with(|packet| packet.source = cast::STRANGER),
        later.with(|packet| packet.payload = Payload::Other(6, vec![7; 208])),
    ] {
        world.uplink_in(&differs).passes(Outcome::UnknownFragment);
    }
}

#[test]
fn fragments_to_a_port_that_nobody_published_are_not_ours() {
    let world = World::serving(&[local(1)]);
    let [first, later] =
        datagram(1000).with(|packet| packet.payload = packet.payload.with_destination(81)).in_two(64);
    world.uplink_in(&first).passes(Outcome::NotOurs);
    world.uplink_in(&later).passes(Outcome::UnknownFragment);
}

#[test]
fn fragments_out_of_the_tunnel_reach_the_task() {
    let world = World::home_of(&[5]);
    let packet = datagram(1000).with(|packet| packet.destination = cast::OTHER);
    for (fragment, delivered) in in_four(&packet).iter().zip(in_four(&packet.delivered(5))) {
        let bytes = Tunnel::to_here(5).around(&fragment.ip());
        let expected = delivered.bytes();
        world.run(Hook::UplinkIn, &bytes).leaves_as(Outcome::DeliveredFromTunnel, &expected);
    }
}

#[test]
fn a_later_fragment_out_of_the_tunnel_whose_first_has_not_passed_is_dropped() {
    let world = World::home_of(&[5]);
    let [_, later] = datagram(1000).with(|packet| packet.destination = cast::OTHER).in_two(64);
    for tunnel in [Tunnel::to_here(5), Tunnel::to_here(5).reply()] {
        world.run(Hook::UplinkIn, &tunnel.around(&later.ip())).is_dropped(Outcome::LostFragment);
    }
}

#[test]
fn fragments_of_an_answer_go_to_the_client() {
    let world = World::serving(&[local(5)]);
    let _ = world.uplink_in(&datagram(1000)).leaves(Outcome::Delivered);
    let packet = Packet::from_task(5, between(Payload::Udp(udp(&[9; 200])), TARGET, 1000));
    let sent = packet.as_frontend(cast::NODE, PUBLISHED).macs(cast::CLIENT_MAC, cast::NODE_MAC);
    for (fragment, expected) in in_four(&packet).iter().zip(in_four(&sent)) {
        world.bridge_in(fragment).leaves_as(Outcome::Replied, &expected.bytes());
    }
}

#[test]
fn fragments_of_an_answer_go_through_the_tunnel_and_on_to_the_client() {
    let home = World::home_of(&[5]);
    let request = datagram(1000).with(|packet| packet.destination = cast::OTHER);
    let _ = home.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&request.ip()));
    let packet = Packet::from_task(5, between(Payload::Udp(udp(&[9; 200])), TARGET, 1000));
    let sent = packet.as_frontend(cast::OTHER, PUBLISHED);
    for (fragment, expected) in in_four(&packet).iter().zip(in_four(&sent)) {
        let tunnel = Tunnel::to_other(5, fragment).reply();
        home.bridge_in(fragment).enters_tunnel(Outcome::ReplyTunnelled, tunnel, &expected.ip());
    }

    let mut entry = World::serving(&[remote(5)]);
    entry.local_address(cast::STRANGER);
    let arrived = sent.with(|packet| packet.source = cast::STRANGER);
    for fragment in in_four(&arrived) {
        let run = entry.run(Hook::UplinkIn, &Tunnel::to_here(5).reply().around(&fragment.ip()));
        let expected = fragment.macs(cast::CLIENT_MAC, cast::NODE_MAC).bytes();
        run.leaves_as(Outcome::RepliedFromTunnel, &expected);
    }
}

#[test]
fn later_fragments_of_what_is_no_answer_are_left_to_the_kernel() {
    let world = World::serving(&[local(5)]);
    let [first, later] = Packet::from_task(5, answer(0, &[7; 200])).in_two(64);
    world.bridge_in(&first).passes(Outcome::NotOurs);
    world.bridge_in(&later).passes(Outcome::UnknownFragment);
}

fn datagram(port: u16) -> Packet {
    Packet::from_client(between(Payload::Udp(udp(&[7; 200])), port, PUBLISHED))
}

/// Fragments of 64, 64, 8 bytes and the rest.
fn in_four(packet: &Packet) -> Vec<Packet> {
    let all = packet.payload.bytes(packet.source, packet.destination).len();
    let cuts = [0, 64, 88, 96, all];
    cuts.windows(2)
        .map(|cut| {
            packet.with(|packet| packet.part = Some(Part { from: cut[0], to: cut[1], more: cut[1] < all }))
        })
        .collect()
}
