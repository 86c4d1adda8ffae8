//! Marks of congestion (RFC 3168) that a tunnel packet gets on its way, on what was in it (RFC 6040).

use mesh_common::outcome::Outcome;

use crate::support::cast::{self, PUBLISHED};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, Payload, SYN, answer, data, syn, udp};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, remote};
use crate::support::xdp::Driver;

/// The sender understands marks.
const CAPABLE: u8 = 2;
const CONGESTED: u8 = 3;
/// What the class says beside.
const CLASS: u8 = 0xb8;

#[test]
fn a_request_tells_its_task_that_it_has_met_congestion() {
    for payload in [data(b"request"), Payload::Udp(udp(b"request"))] {
        let world = World::home_of(&[5]);
        let packet = Packet::from_client(payload).with(|packet| packet.traffic_class = CLASS | CAPABLE);
        let marked = packet.with(|packet| packet.traffic_class = CLASS | CONGESTED);
        world
            .run(Hook::UplinkIn, &congested(5).around(&packet.ip()))
            .leaves_as(Outcome::DeliveredFromTunnel, &marked.delivered(5).bytes());
    }
}

#[test]
fn an_answer_tells_its_client_that_it_has_met_congestion() {
    let mut world = World::serving(&[remote(5)]);
    let driver = Driver::of(&mut world);
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Tunnelled);
    let answer = Packet::from_task(5, answer(SYN | ACK, b"")).as_frontend(cast::NODE, PUBLISHED);
    let answer = answer.with(|packet| packet.traffic_class = CLASS | CAPABLE);
    let bytes = congested(5).reply().around(&answer.ip());
    // What XDP leaves to TC is as it came.
    driver.run(&bytes).is_left_to_tc();
    let after = world.run(Hook::UplinkIn, &bytes).leaves(Outcome::RepliedFromTunnel);
    let marked = answer.with(|packet| packet.traffic_class = CLASS | CONGESTED);
    assert_eq!(after[14..], marked.ip());
}

#[test]
fn a_sender_that_understands_no_marks_is_told_by_a_loss() {
    let world = World::home_of(&[5]);
    let packet = Packet::from_client(data(b"request")).with(|packet| packet.traffic_class = CLASS);
    world.run(Hook::UplinkIn, &congested(5).around(&packet.ip())).is_dropped(Outcome::Congested);
}

/// The tunnel to task `number` of this node, by a router that was congested.
fn congested(number: u8) -> Tunnel {
    Tunnel { traffic_class: CLASS | CONGESTED, ..Tunnel::to_here(number) }
}
