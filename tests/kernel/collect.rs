//! The agent's sweep of the real tables.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_agent::dataplane::flows::{Flows, IDLE, IdleLimits};
use mesh_common::flow::{Flow, FlowKey};
use mesh_common::net::{Port, protocol};
use mesh_common::reply::{Reply, ReplyKey};
use mesh_common::tcp::state::{CLIENT_FINISHED, ESTABLISHED};

use crate::support::packet::Packet;
use crate::support::payload::{Payload, syn, udp};
use crate::support::world::{World, flow_key, local};

const NOW: u64 = 100 * 24 * 3_600 * 1_000_000_000;
const HOUR: u64 = 3_600 * 1_000_000_000;

#[test]
fn silent_flows_and_those_of_tasks_that_are_gone_are_removed_and_all_are_counted() {
    let mut world = World::serving(&[local(1), local(2)]);
    let (_files, pins) = world.pinned();
    let mut flows = Flows::open(&pins).expect("the maps are pinned");
    let silent = |hours: u64, backend, generation| Flow {
        last_seen: NOW - hours * HOUR,
        backend,
        generation,
        ..Flow::default()
    };
    for (port, flow) in [
        (1, silent(0, 1, 1)),
        (2, silent(23, 1, 1)),
        (3, silent(25, 1, 1)),
        (4, silent(1, 1, 9)),
        (5, silent(2, 2, 1)),
        (6, silent(0, 2, 1)),
    ] {
        world.insert("FLOWS", key(port), flow);
    }
    let old = Reply { last_seen: NOW - 25 * HOUR, ..Reply::default() };
    world.insert("REPLIES", ReplyKey::default(), old);
    let _ = world.uplink_in(&Packet::from_client(syn()));
    let _ = world.uplink_in(&Packet::from_client(Payload::Udp(udp(b"query"))));

    let limits = IdleLimits { by_backend: BTreeMap::from([(2, Duration::from_hours(1))]) };
    let found = flows.collect(NOW, &limits);
    assert_eq!(found.removed, 4);
    let left: Vec<bool> = (1..=6).map(|port| world.established(&key(port)).is_some()).collect();
    assert_eq!(left, [true, true, false, false, false, true]);
    let entries: BTreeMap<&str, u64> =
        found.tables.iter().map(|table| (table.table, table.entries)).collect();
    let expected = [
        ("FLOWS", 3),
        ("OPENING", 1),
        ("UDP_FLOWS", 1),
        ("REPLIES", 0),
        ("OPENING_REPLIES", 1),
        ("UDP_REPLIES", 1),
    ];
    for (table, count) in expected {
        assert_eq!(entries[table], count, "{table}");
    }
    assert_eq!(found.tables.len(), 11);
    assert!(found.tables.iter().all(|table| table.bytes > 0 && table.capacity > 0), "{:?}", found.tables);
    assert_eq!(flows.collect(NOW, &limits).removed, 0);
    assert_eq!(flows.collect(NOW + 2 * IDLE.as_nanos() as u64, &limits).removed, 3);
}

#[test]
fn half_closed_flows_make_room_when_three_quarters_are_taken() {
    const ROOM: u32 = 512;

    let mut world = World::with_flows(ROOM).serves(&[local(1)]);
    let (_files, pins) = world.pinned();
    let mut flows = Flows::open(&pins).expect("the maps are pinned");
    let minute = NOW - 60 * 1_000_000_000;
    for port in 0..=ROOM as u16 * 3 / 4 {
        let state = if port % 2 == 0 { ESTABLISHED } else { ESTABLISHED | CLIENT_FINISHED };
        let flow = Flow { last_seen: minute, backend: 1, generation: 1, state, ..Flow::default() };
        world.insert("FLOWS", key(port), flow);
    }
    let limits = IdleLimits::default();
    let found = flows.collect(NOW, &limits);
    assert!(found.removed == 0 && found.is_crowded());
    let found = flows.collect(NOW, &limits);
    assert_eq!(found.removed, u64::from(ROOM) * 3 / 8, "those that one end has closed");
    assert!(!found.is_crowded() && world.established(&key(0)).is_some());
}

fn key(port: u16) -> FlowKey {
    FlowKey { client_port: Port::new(port), ..flow_key(protocol::TCP) }
}

#[test]
fn the_count_of_each_backends_flows_is_put_right_every_time() {
    let mut world = World::serving(&[local(1), local(2)]);
    let (_files, pins) = world.pinned();
    let mut flows = Flows::open(&pins).expect("the maps are pinned");
    let limits = IdleLimits::default();
    world.insert("FLOWS", key(1), Flow { last_seen: NOW, backend: 1, generation: 1, ..Flow::default() });
    for id in [1, 2, 7] {
        world.set_connections(id, 9);
    }
    let _ = flows.collect(NOW, &limits);
    assert_eq!(
        [1, 2, 7].map(|id| world.connections(id)),
        [1, 0, 0],
        "an agent that starts looks at all of them"
    );

    world.set_connections(1, 5);
    let _ = flows.collect(NOW, &limits);
    assert_eq!(world.connections(1), 1);
    world.insert("FLOWS", key(2), Flow { last_seen: NOW, backend: 2, generation: 1, ..Flow::default() });
    let _ = flows.collect(NOW, &limits);
    assert_eq!([1, 2].map(|id| world.connections(id)), [1, 1]);
    let _ = flows.collect(NOW + 2 * IDLE.as_nanos() as u64, &limits);
    assert_eq!([1, 2].map(|id| world.connections(id)), [0, 0], "their flows are gone");
}
