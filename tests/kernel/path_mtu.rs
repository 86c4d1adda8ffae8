//! How large packets get to each node: the entry and the home node keep to what the way to the other one takes.

use mesh_common::outcome::Outcome;

use crate::support::cast::{self, CLIENT_PORT, PUBLISHED, TARGET};
use crate::support::packet::Packet;
use crate::support::payload::{
    ACK, PSH, Payload, SYN, Tcp, answer, between, data, icmp_error, linux_options, syn, tcp, udp,
};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::wire::Frame;
use crate::support::world::{World, local, remote};
use crate::support::xdp::Driver;
use crate::wire::{back, carries_tunnel};

/// What the narrowest way takes; there is another node behind it.
const NARROWEST: u16 = 1_250;
const WIDE: u16 = 1_450;
/// Between the two.
const NARROW: u16 = 1_350;

#[test]
fn a_packet_goes_to_whom_it_fits_though_others_take_less() {
    let mut world = entry(WIDE);
    let packet = full(WIDE);
    world.uplink_in(&packet).enters_tunnel(Outcome::Tunnelled, Tunnel::to_other(7, &packet), &packet.ip());
    let driver = Driver::of(&mut world);
    driver.receives(&packet).enters_tunnel(7, &packet);
}

#[test]
fn who_sends_more_than_fits_is_told_what_does() {
    for (said, takes) in [(NARROW, NARROW), (NARROWEST, NARROWEST), (0, NARROWEST)] {
        let mut world = entry(said);
        let packet = full(takes + 1).with(|packet| packet.dont_fragment = true);
        let expected = back(&packet, icmp_error(3, 4, takes, packet.long_quote()));
        world.uplink_in(&packet).leaves_as(Outcome::TooBig, &expected.bytes());
        let fits = full(takes);
        let driver = Driver::of(&mut world);
        driver.receives(&packet).leaves_as(Outcome::TooBig, &expected.bytes());
        driver.receives(&fits).enters_tunnel(7, &fits);
    }
}

#[test]
fn a_datagram_is_cut_to_what_fits() {
    let mut world = entry(NARROW);
    let [uplink, _bridge] = world.attach();
    let packet = Packet::from_client(Payload::Udp(udp(&[7; 1_472])));
    uplink.send(&Frame::finished(packet.bytes()));
    for part in packet.in_two(usize::from(NARROW - 20) / 8 * 8) {
        carries_tunnel(&uplink, &Tunnel::to_other(7, &part), &part);
    }
}

#[test]
fn an_answer_keeps_to_what_the_way_to_its_entry_node_takes() {
    for takes in [WIDE, NARROW, NARROWEST] {
        let world = home(takes);
        let sized = |bytes: u16| {
            let payload = answer(PSH | ACK, &vec![7; usize::from(bytes) - 40]);
            Packet::from_task(5, payload).with(|packet| packet.dont_fragment = true)
        };
        let fits = sized(takes);
        let sent = fits.as_frontend(cast::OTHER, PUBLISHED);
        let tunnel = Tunnel::to_other(5, &fits).reply();
        world.bridge_in(&fits).enters_tunnel(Outcome::ReplyTunnelled, tunnel, &sent.ip());
        let over = sized(takes + 1);
        let expected = back(&over, icmp_error(3, 4, takes, over.long_quote()));
        world.bridge_in(&over).leaves_as(Outcome::TooBig, &expected.bytes());
    }
}

#[test]
fn the_mss_of_both_ends_is_what_the_way_between_their_nodes_takes() {
    for takes in [WIDE, NARROW, NARROWEST] {
        let world = home(takes);
        let lowered = takes - 40;
        let with = |mss| {
            let syn = Payload::Tcp(Tcp { options: linux_options(mss), ..tcp(SYN) });
            Packet::from_client(syn).with(|packet| packet.destination = cast::OTHER)
        };
        world
            .run(Hook::UplinkIn, &Tunnel::to_here(5).around(&with(1_460).ip()))
            .leaves_as(Outcome::DeliveredFromTunnel, &with(lowered).delivered(5).bytes());
        let answers = |mss| {
            let syn_ack = Payload::Tcp(Tcp { options: linux_options(mss), ..tcp(SYN | ACK) });
            Packet::from_task(5, between(syn_ack, TARGET, CLIENT_PORT))
        };
        let sent = answers(lowered).as_frontend(cast::OTHER, PUBLISHED);
        let tunnel = Tunnel::to_other(5, &answers(1_460)).reply();
        world.bridge_in(&answers(1_460)).enters_tunnel(Outcome::ReplyTunnelled, tunnel, &sent.ip());
    }
}

#[test]
fn on_a_node_of_its_own_nothing_narrows_a_task() {
    let mut world = World::serving(&[local(5)]);
    world.settings(|settings| settings.inner_mtu = NARROWEST);
    let packet = full(1_500);
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
    world.uplink_in(&packet).leaves_as(Outcome::Delivered, &packet.delivered(5).bytes());
}

/// An entry node whose task is on the other one.
fn entry(takes: u16) -> World {
    let mut world = World::serving(&[remote(7)]);
    world.settings(|settings| settings.inner_mtu = NARROWEST);
    world.peer_takes(cast::OTHER, takes);
    world
}

/// A home node that the other one has sent a request.
fn home(takes: u16) -> World {
    let mut world = World::home_of(&[5]);
    world.settings(|settings| settings.inner_mtu = NARROWEST);
    world.peer_takes(cast::OTHER, takes);
    let request = Packet::from_client(data(b"request")).with(|packet| packet.destination = cast::OTHER);
    let _ = world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&request.ip()));
    world
}

/// A client's packet of so many bytes.
fn full(bytes: u16) -> Packet {
    Packet::from_client(data(&vec![7; usize::from(bytes) - 40]))
}
