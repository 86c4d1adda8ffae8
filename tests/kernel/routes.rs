//! Ways that are remembered: followed for a moment, each for what it was asked for, at both hooks.

use std::collections::{BTreeMap, BTreeSet};

use mesh_agent::node::{self, Interface, NodeView, Told};
use mesh_agent::reach::{Path, Paths};
use mesh_common::maps;
use mesh_common::net::{Address, Mac};
use mesh_common::outcome::Outcome;
use mesh_common::route::{self, LASTS_NANOSECONDS, RememberedRoute};

use crate::support::cast::{self, Ip, PUBLISHED};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, answer, data};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::wire::Frame;
use crate::support::world::{World, local, remote};
use crate::support::xdp::Driver;

/// A neighbour that the kernel does not know.
const ELSEWHERE: Mac = [0x02, 0, 0, 0, 0, 0x77];
/// So often a test is tried whose way gets old while it is looked at.
const ATTEMPTS: usize = 50;

#[test]
fn a_way_that_is_remembered_is_followed_until_it_is_old() {
    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    let packet = Packet::from_client(data(b"data"));
    let sent_to = |world: &mut World, way, age| {
        remember(world, way, age);
        let run = driver.receives(&packet);
        assert!(run.is_sent(), "{run:?}");
        Mac::try_from(&run.after[..6]).expect("it has a header")
    };
    let way = way(cast::UPLINK, cast::NODE, cast::OTHER);
    assert!((0..ATTEMPTS).any(|_| sent_to(&mut world, way, 0) == ELSEWHERE));
    assert_eq!(sent_to(&mut world, way, LASTS_NANOSECONDS), cast::OTHER_MAC);
    assert_eq!(remembered(&world, cast::OTHER).len(), 1, "it is known anew, by the processor that had asked");
    for other in [
        RememberedRoute { incoming: cast::BRIDGE, ..way },
        RememberedRoute { source: Address::new(cast::CLIENT), ..way },
        RememberedRoute { destination: Address::new(cast::CLIENT), ..way },
    ] {
        // In the place of the one that is asked for.
        put(&mut world, cast::OTHER, RememberedRoute { asked: now(), ..other });
        let after = driver.receives(&packet).after;
        assert_eq!(after[..6], cast::OTHER_MAC);
    }
}

#[test]
fn tc_follows_what_it_remembers_too() {
    let mut world = World::serving(&[local(5)]);
    let _ = world.uplink_in(&Packet::from_client(data(b"request"))).leaves(Outcome::Delivered);
    let packet = Packet::from_task(5, answer(ACK, b"answer"));
    let expected = packet.as_frontend(cast::NODE, PUBLISHED).macs(ELSEWHERE, cast::NODE_MAC).bytes();
    let followed = (0..ATTEMPTS).any(|_| {
        remember(&mut world, way(cast::BRIDGE, cast::NODE, cast::CLIENT), 0);
        world.bridge_in(&packet).leaves(Outcome::Replied) == expected
    });
    assert!(followed);
    remember(&mut world, way(cast::BRIDGE, cast::NODE, cast::CLIENT), LASTS_NANOSECONDS);
    let expected = packet.as_frontend(cast::NODE, PUBLISHED).macs(cast::CLIENT_MAC, cast::NODE_MAC).bytes();
    world.bridge_in(&packet).leaves_as(Outcome::Replied, &expected);
}

#[test]
fn tc_follows_what_it_remembers_into_the_tunnel_too() {
    let mut world = World::serving(&[remote(7)]);
    let packet = Packet::from_client(data(b"request"));
    let sent_to = |world: &World| {
        let after = world.uplink_in(&packet).leaves(Outcome::Tunnelled);
        Mac::try_from(&after[..6]).expect("it has a header")
    };
    let way = way(cast::UPLINK, cast::NODE, cast::OTHER);
    let followed = (0..ATTEMPTS).any(|_| {
        remember(&mut world, way, 0);
        sent_to(&world) == ELSEWHERE
    });
    assert!(followed);
    remember(&mut world, way, LASTS_NANOSECONDS);
    assert_eq!(sent_to(&world), cast::OTHER_MAC);
}

#[test]
fn once_a_second_the_kernel_itself_sends_to_a_neighbour_that_is_remembered() {
    let mut world = World::serving(&[local(5)]);
    let request = Packet::from_client(data(b"request"));
    let _ = world.uplink_in(&request).leaves(Outcome::Delivered);
    let packet = Packet::from_task(5, answer(ACK, b"answer"));
    let way = way(cast::BRIDGE, cast::NODE, cast::CLIENT);
    let way = RememberedRoute { confirmed: way.confirmed.wrapping_sub(1_000), ..way };
    remember(&mut world, way, 0);
    let _ = world.bridge_in(&packet).leaves(Outcome::Replied);
    let ways = world.routes(route::place(Address::new(cast::CLIENT), maps::ROUTE_BITS));
    assert_eq!(ways.iter().filter(|known| known.confirmed != way.confirmed).count(), 1, "by this processor");

    let mut world = World::serving(&[remote(7)]);
    let driver = Driver::of(&mut world);
    let way = self::way(cast::UPLINK, cast::NODE, cast::OTHER);
    remember(&mut world, RememberedRoute { confirmed: way.confirmed.wrapping_sub(1_000), ..way }, 0);
    for _ in 0..2 {
        driver.receives(&request).is_left_to_tc();
    }
}

#[test]
fn a_neighbour_that_may_have_moved_is_asked_for() {
    let mut world = World::serving(&[local(5)]);
    let [uplink, bridge] = world.attach();
    uplink.send(&Frame::finished(Packet::from_client(data(b"request")).bytes()));
    let _ = bridge.receive();
    world.client_was_at("02:aa:aa:aa:aa:aa");
    let packet = Packet::from_task(5, answer(ACK, b"answer"));
    for (age, expected) in [(0, "STALE"), (1_000, "DELAY")] {
        let ways = world.routes(route::place(Address::new(cast::CLIENT), maps::ROUTE_BITS));
        let known = ways.into_iter().find(|way| way.asked != 0);
        if let Some(known) = known {
            put(&mut world, cast::CLIENT, RememberedRoute { confirmed: known.confirmed - age, ..known });
        }
        bridge.send(&Frame::finished(packet.bytes()));
        let came = uplink.receive().finish();
        assert_eq!(came[..6], [0x02, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa]);
        assert!(world.neighbour_state().contains(expected), "{}", world.neighbour_state());
    }
}

#[test]
fn the_tunnel_takes_what_the_route_to_each_node_takes() {
    let world = World::serving(&[remote(7)]);
    let uplink = Interface {
        index: cast::UPLINK,
        name: "uplink".into(),
        mtu: 1500,
        addresses: vec![cast::NODE.into()],
        ..Interface::default()
    };
    let view = NodeView { interfaces: BTreeMap::from([(uplink.index, uplink.clone())]) };
    let told = Told {
        address: cast::NODE.into(),
        netns_cookie: 0,
        tunnel_port: cast::TUNNEL_PORT,
        vni: cast::VNI,
        resolver_port: None,
        frame_takers: [0; 3],
        flood: 0,
        mtu: None,
    };
    let peers = BTreeSet::from([cast::OTHER.into(), cast::STRANGER.into()]);
    let other = Address::new(cast::OTHER);
    let inner = |narrow| {
        let uplinks = std::slice::from_ref(&uplink);
        let path = Path { narrow, ..Path::default() };
        let paths = Paths::from([(cast::OTHER.into(), path)]);
        let facts = node::facts(&view, uplinks, None, told, &peers, &paths, BTreeMap::new());
        assert_eq!(facts.settings.uplink_mtu, 1500);
        assert_eq!(facts.peers[&Address::new(cast::STRANGER)].inner_mtu, 1450);
        (facts.settings.inner_mtu, facts.peers[&other].inner_mtu, facts.mtus[&cast::OTHER.into()])
    };
    assert_eq!(inner(None), (1450, 1450, 1500));
    assert_eq!(inner(Some(1420)), (1370, 1370, 1500), "the smallest of all is everybody's, too");
    world.narrow_route("10.99.0.2", 1300);
    assert_eq!(inner(None), (1250, 1250, 1300));
    assert_eq!(inner(Some(1420)), (1250, 1250, 1300));
}

#[test]
fn the_way_of_an_answer_is_the_bridges_by_whichever_port_it_is_heard() {
    let mut world = World::serving(&[local(5)]);
    let _ = world.uplink_in(&Packet::from_client(data(b"request"))).leaves(Outcome::Delivered);
    assert_eq!(incoming_of_an_answer(&mut world, cast::CLIENT), [cast::BRIDGE]);

    let mut world = World::home_of(&[5]);
    let packet = Packet::from_client(data(b"request"));
    let run = world.run(Hook::UplinkIn, &Tunnel::to_here(5).around(&packet.ip()));
    let _ = run.leaves(Outcome::DeliveredFromTunnel);
    assert_eq!(incoming_of_an_answer(&mut world, cast::OTHER), [cast::BRIDGE], "into the tunnel");
}

/// The interfaces that a task's answer is remembered to have come in by, which is heard at the task's port and sent to an
/// address.
fn incoming_of_an_answer(world: &mut World, destination: Ip) -> Vec<u32> {
    let [uplink, _bridge] = world.attach();
    let (_namespace, task) = world.attach_port();
    let packet = Packet::from_task(5, answer(ACK, b"answer"));
    task.send(&Frame::finished(packet.bytes()));
    let _ = uplink.receive();
    remembered(world, destination).iter().map(|way| way.incoming).collect()
}

#[test]
fn a_way_without_a_hardware_address_is_asked_for_each_time() {
    let world = World::serving(&[local(5)]);
    let stranger = [10, 99, 0, 200];
    let from_stranger = Packet::from_client(data(b"request")).with(|packet| packet.source = stranger);
    let _ = world.uplink_in(&from_stranger).leaves(Outcome::Delivered);
    let packet = Packet::from_task(5, answer(ACK, b"answer")).with(|packet| packet.destination = stranger);
    let expected = packet.as_frontend(cast::NODE, PUBLISHED);
    world.bridge_in(&packet).leaves_as(Outcome::Replied, &expected.bytes());
    assert_eq!(remembered(&world, stranger), []);
}

/// To where nobody is.
fn way(incoming: u32, source: Ip, destination: Ip) -> RememberedRoute {
    let macs = [ELSEWHERE, cast::NODE_MAC].concat();
    RememberedRoute {
        incoming,
        source: Address::new(source),
        destination: Address::new(destination),
        interface: cast::UPLINK,
        macs: [0, 4, 8].map(|at| u32::from_ne_bytes(macs[at..at + 4].try_into().expect("it is long enough"))),
        confirmed: route::ticks(now()),
        ..RememberedRoute::default()
    }
}

/// As if the kernel had been asked so many nanoseconds ago.
fn remember(world: &mut World, way: RememberedRoute, age: u64) {
    put(world, way.destination.octets(), RememberedRoute { asked: now() - age, ..way });
}

/// Into the place of an address, on every processor.
fn put(world: &mut World, destination: Ip, way: RememberedRoute) {
    world.set_route(route::place(Address::new(destination), maps::ROUTE_BITS), way);
}

/// The ways to an address that the kernel has named.
fn remembered(world: &World, destination: Ip) -> Vec<RememberedRoute> {
    let ways = world.routes(route::place(Address::new(destination), maps::ROUTE_BITS));
    let is_the_kernels =
        |way: &RememberedRoute| way.asked != 0 && way.macs != self::way(0, destination, destination).macs;
    ways.into_iter().filter(is_the_kernels).collect()
}

/// The programs' clock.
fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a valid `timespec`.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    assert_eq!(result, 0);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
