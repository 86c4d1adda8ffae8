//! Whole maps, read many entries to a system call.

use std::collections::BTreeMap;

use mesh_agent::dataplane::batch;
use mesh_common::backend::{Backend, LocalTask, TaskKey};
use mesh_common::frontend::{Affinity, AffinityKey};
use mesh_common::net::{Address, Port};

use crate::support::world::{World, local};

fn task(number: u32) -> (TaskKey, LocalTask) {
    let identity = Address::from_wire(number);
    let value = LocalTask { bridge: identity, interface: number, ..LocalTask::default() };
    (TaskKey { identity, port: Port::new(80), protocol: 6, padding: 0 }, value)
}

#[test]
fn every_entry_of_a_hash_is_read_once() {
    for count in [0, 1, 100, 10_000] {
        let mut world = World::new();
        let expected: BTreeMap<TaskKey, LocalTask> = (0..count).map(task).collect();
        for (key, value) in &expected {
            world.insert("TASKS", *key, *value);
        }
        let mut seen = BTreeMap::new();
        let mut entries = 0;
        let read = batch::read(&world.hash("TASKS"), |key: TaskKey, value: LocalTask| {
            entries += 1;
            seen.insert(key, value);
        });
        read.expect("it can be read");
        assert_eq!((entries, &seen), (count, &expected));
    }
}

#[test]
fn every_element_of_an_array_is_read_in_its_place() {
    let mut world = World::new();
    let ids = world.backends(&[local(5), local(6)]);
    world.set_backend(4095, local(7));
    let mut places = Vec::new();
    let mut found = BTreeMap::new();
    let read = batch::read(&world.array("BACKENDS"), |id: u32, backend: Backend| {
        places.push(id);
        if backend != Backend::default() {
            found.insert(id, backend);
        }
    });
    read.expect("it can be read");
    assert_eq!(places, (0..4096).collect::<Vec<_>>());
    assert_eq!(found, BTreeMap::from([(ids[0], local(5)), (ids[1], local(6)), (4095, local(7))]));
}

#[test]
fn tables_that_forget_are_read_too() {
    let mut world = World::new();
    world.insert("AFFINITIES", AffinityKey::default(), Affinity::default());
    let mut entries = 0;
    let read = batch::read(&world.hash("AFFINITIES"), |_: AffinityKey, _: Affinity| entries += 1);
    read.expect("it can be read");
    assert_eq!(entries, 1);
}
