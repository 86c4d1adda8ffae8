//! The cluster's cookie: sent by this node, and asked of nodes that have one (design §4).

use mesh_common::cookie::{Cookie, Cookies};
use mesh_common::outcome::Outcome;

use crate::support::cast::{self, PUBLISHED};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, Payload, answer, data, syn, udp};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, remote};
use crate::support::xdp::Driver;

const BEFORE: u32 = 0x0101_0101;
const NOW: u32 = 0x1234_5678;
const NEXT: u32 = 0xffff_ffff;
/// Each differs from a right one in one place.
const WRONG: [u32; 5] = [0, 0x0234_5678, 0x1235_5678, 0x1234_5778, 0x1234_5679];

#[test]
fn what_goes_to_a_home_node_has_the_cookie() {
    let mut world = World::serving(&[remote(7)]);
    give_cookies(&mut world);
    let driver = Driver::of(&mut world);
    for payload in [syn(), data(b"segment"), Payload::Udp(udp(b"datagram"))] {
        let packet = Packet::from_client(payload);
        let tunnel = Tunnel { cookie: NOW, ..Tunnel::to_other(7, &packet) };
        world.uplink_in(&packet).enters_tunnel(Outcome::Tunnelled, tunnel.clone(), &packet.ip());
        let run = driver.receives(&packet);
        let tunnel = Tunnel { destination_mac: cast::OTHER_MAC, source_mac: cast::NODE_MAC, ..tunnel };
        run.leaves_as(Outcome::Tunnelled, &tunnel.hashed_as(&run.after).around(&packet.ip()));
    }
}

#[test]
fn an_answer_to_an_entry_node_has_the_cookie() {
    let mut world = World::home_of(&[5]);
    give_cookies(&mut world);
    let _ = world.run(Hook::UplinkIn, &request(5, NOW));
    let packet = Packet::from_task(5, answer(ACK, b"answer"));
    let tunnel = Tunnel { cookie: NOW, ..Tunnel::to_other(5, &packet).reply() };
    let sent = packet.as_frontend(cast::OTHER, PUBLISHED);
    world.bridge_in(&packet).enters_tunnel(Outcome::ReplyTunnelled, tunnel, &sent.ip());
}

#[test]
fn of_a_node_that_has_one_only_what_has_it_is_taken() {
    let mut world = World::home_of(&[5]);
    give_cookies(&mut world);
    world.peer_with_cookie(cast::OTHER);
    for cookie in [BEFORE, NOW, NEXT] {
        let _ = world.run(Hook::UplinkIn, &request(5, cookie)).leaves(Outcome::DeliveredFromTunnel);
    }
    for cookie in WRONG {
        world.run(Hook::UplinkIn, &request(5, cookie)).is_dropped(Outcome::WrongCookie);
    }
}

#[test]
fn its_answers_and_probes_have_to_have_it_too() {
    let mut world = World::serving(&[remote(7)]);
    give_cookies(&mut world);
    world.peer_with_cookie(cast::OTHER);
    let _ = world.uplink_in(&Packet::from_client(data(b"request")));
    let answer = Packet::from_task(7, answer(ACK, b"answer")).as_frontend(cast::NODE, PUBLISHED);
    let with = |cookie| Tunnel { cookie, ..Tunnel::to_here(7).reply() }.around(&answer.ip());
    let probe = |cookie| Tunnel { cookie, ..Tunnel::to_here(0).probe(40_000) }.around(&[7; 20]);
    for cookie in WRONG {
        world.run(Hook::UplinkIn, &with(cookie)).is_dropped(Outcome::WrongCookie);
        world.run(Hook::UplinkIn, &probe(cookie)).is_dropped(Outcome::WrongCookie);
    }
    let _ = world.run(Hook::UplinkIn, &with(NOW)).leaves(Outcome::RepliedFromTunnel);
    let _ = world.run(Hook::UplinkIn, &probe(NOW)).leaves(Outcome::Probed);
    let driver = Driver::of(&mut world);
    for cookie in WRONG {
        driver.run(&with(cookie)).is_dropped(Outcome::WrongCookie);
        driver.run(&probe(cookie)).is_dropped(Outcome::WrongCookie);
    }
    assert!(driver.run(&with(NOW)).is_sent() && driver.run(&probe(NOW)).is_sent());
}

#[test]
fn of_a_node_that_has_none_yet_anything_is_taken() {
    let mut world = World::home_of(&[5]);
    for has_cookies in [false, true] {
        if has_cookies {
            give_cookies(&mut world);
        }
        for cookie in [NOW, NEXT].into_iter().chain(WRONG) {
            let _ = world.run(Hook::UplinkIn, &request(5, cookie)).leaves(Outcome::DeliveredFromTunnel);
        }
    }
}

#[test]
fn where_no_cookie_is_known_none_is_right() {
    let mut world = World::home_of(&[5]);
    world.peer_with_cookie(cast::OTHER);
    for cookie in [NOW, 0] {
        world.run(Hook::UplinkIn, &request(5, cookie)).is_dropped(Outcome::WrongCookie);
    }
}

fn give_cookies(world: &mut World) {
    let cookie = |number| Cookie::new(number).expect("it is not 0");
    let cookies = Cookies { sent: cookie(NOW), taken: [BEFORE, NOW, NEXT].map(cookie) };
    world.settings(|settings| settings.cookies = cookies);
}

/// A client's request that the other node has sent here.
fn request(task: u8, cookie: u32) -> Vec<u8> {
    let packet = Packet::from_client(data(b"request")).with(|packet| packet.destination = cast::OTHER);
    Tunnel { cookie, ..Tunnel::to_here(task) }.around(&packet.ip())
}
