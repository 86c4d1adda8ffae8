//! Snapshots to test with.

use std::sync::Arc;

use proptest::collection::btree_map;
use proptest::prelude::*;

use crate::swarm::snapshot::{Condition, ContainerNames, Network, Node, Service, Snapshot, Task, TaskState};

/// Small ones with few ids, so that two of them share objects, equal and changed.
pub(crate) fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let id = || "[a-d]";
    let service =
        (id(), 0..3_u64).prop_map(|(name, version)| Service { version, name, ..Service::default() });
    let state = prop_oneof![Just(TaskState::Running), Just(TaskState::Starting)];
    let task = (state, 0..3_u64).prop_map(|(state, slot)| Task { slot, state, ..Task::default() });
    let node = any::<bool>()
        .prop_map(|is_here| Node { address: is_here.then(|| [10, 0, 0, 1].into()), ..Node::default() });
    let network = any::<bool>().prop_map(|internal| Network { internal, ..Network::default() });
    let condition = prop_oneof![Just(Condition::Draining), Just(Condition::Ended)];
    let container = id().prop_map(|name| ContainerNames { name, ..ContainerNames::default() });
    (
        btree_map(id(), service, 0..4),
        btree_map(id(), task, 0..4),
        btree_map(id(), node, 0..4),
        btree_map(id(), network, 0..4),
        btree_map(id(), condition, 0..4),
        btree_map(id(), btree_map(id(), container, 0..2), 0..4),
    )
        .prop_map(|(services, tasks, nodes, networks, conditions, attached)| Snapshot {
            services: services.into(),
            tasks: tasks.into(),
            nodes: nodes.into(),
            networks: networks.into(),
            conditions: conditions.into(),
            attached: attached.into(),
        })
}

/// Snapshots that differ in one service. The nodes that the tests' certificates name are in them.
pub(crate) fn numbered(number: u64) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::default();
    let service = Service { id: "web".into(), name: "web".into(), version: number, ..Service::default() };
    snapshot.services.insert("web".into(), service);
    for id in ["manager-1", "manager-2", "worker-1"] {
        snapshot.nodes.insert(id.into(), Node { id: id.into(), ..Node::default() });
    }
    Arc::new(snapshot)
}

pub(crate) fn with_many_tasks(count: usize) -> Arc<Snapshot> {
    let mut snapshot = Arc::unwrap_or_clone(numbered(1));
    for slot in 0..count {
        let id = format!("task{slot:06}");
        snapshot.tasks.insert(id.clone(), Task { id, slot: slot as u64, ..Task::default() });
    }
    Arc::new(snapshot)
}
