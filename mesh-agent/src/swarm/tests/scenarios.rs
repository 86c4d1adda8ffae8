//! A recorded Swarm, played again: lists, pushed changes and the containers' own events in every order that can happen
//! → store → desired → the dataplane's tables, with writes that fail.
//!
//! In the recording a service gets four tasks, is updated start-first to another target port, loses a container, is
//! scaled to six and to two, sees a node drained and reactivated, and is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use mesh_common::backend::state;
use mesh_common::frontend::SlotKey;
use tokio::time::Instant;

use super::recording::{Record, pushed, seeded};
use crate::dataplane::memory::Memory;
use crate::desired::{Desired, FrontendId, Surroundings};
use crate::reconcile::plan::NodeFacts;
use crate::reconcile::reconciler::Reconciler;
use crate::swarm::api;
use crate::swarm::control_api::{change, task_change};
use crate::swarm::snapshot::{
    BridgeEndpoint, LocalContainer, LocalView, Protocol, Snapshot, Task, TaskState, ThisNode,
};
use crate::swarm::store::{Change, Pushed, Store};

#[test]
fn what_is_pushed_is_what_is_listed() {
    let mut store = Store::default();
    let start = Instant::now();
    let mut compared = 0;
    for (at, input) in inputs(Order::AsRecorded) {
        match input {
            Input::Pushed(changes) => {
                for change in changes {
                    store.push(change, at_time(start, at));
                }
            }
            Input::Listed(list, begun) => {
                if let Some(view) = store.view() {
                    compared += compare(view, &list);
                }
                store.list(*list, at_time(start, begun));
            }
        }
    }
    assert!(compared > 50, "only {compared} objects were there both ways at the same version");
}

/// Objects of the same version must be the same whichever way they came.
fn compare(view: &Snapshot, list: &Snapshot) -> usize {
    let mut compared = 0;
    for (id, listed) in &list.tasks {
        let Some(known) = view.tasks.get(id).filter(|known| known.version == listed.version) else {
            continue;
        };
        assert_eq!(Task { ports: None, ..known.clone() }, *listed);
        compared += 1;
    }
    for (id, listed) in &list.services {
        let Some(known) = view.services.get(id).filter(|known| known.version == listed.version) else {
            continue;
        };
        assert_eq!(known, listed);
        compared += 1;
    }
    for (id, listed) in &list.nodes {
        let Some(known) = view.nodes.get(id).filter(|known| known.version == listed.version) else {
            continue;
        };
        assert_eq!(known, listed);
        compared += 1;
    }
    for (id, listed) in &list.networks {
        let Some(known) = view.networks.get(id) else { continue };
        assert_eq!(known, listed);
        compared += 1;
    }
    compared
}

#[test]
fn the_tables_follow_the_swarm_in_every_order_of_its_news() {
    for order in [Order::AsRecorded, Order::ListsLate, Order::PushesLate, Order::OnlyLists] {
        for (containers, failing) in [(-200, 10), (0, 0), (200, 10)] {
            Replay::new(order, containers, failing).run();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    AsRecorded,
    /// Each list is there 900 ms later than it was.
    ListsLate,
    /// Each change is there 700 ms later than it was.
    PushesLate,
    OnlyLists,
}

enum Input {
    Pushed(Vec<Change>),
    /// Asked for at a time.
    Listed(Box<Snapshot>, u64),
}

/// With the time of their arrival, milliseconds.
fn inputs(order: Order) -> Vec<(u64, Input)> {
    let mut inputs = Vec::new();
    let mut list_is_there = 0;
    for line in include_str!("../testdata/recording.jsonl").lines() {
        match serde_json::from_str(line).unwrap() {
            Record::Seeded { at, hex } => {
                let changes = seeded(&hex).tasks.into_iter().map(task_change).collect();
                inputs.push((at, Input::Pushed(changes)));
            }
            Record::Pushed { at, hex } => {
                let late = if order == Order::PushesLate { 700 } else { 0 };
                let changes = pushed(&hex).events.into_iter().filter_map(change).collect();
                inputs.push((at + late, Input::Pushed(changes)));
            }
            Record::Listed { begun, at, services, tasks, nodes, networks } => {
                // One is asked for at a time.
                if begun < list_is_there {
                    continue;
                }
                let at = if order == Order::ListsLate { at + 900 } else { at };
                list_is_there = at;
                let bytes = |value: serde_json::Value| value.to_string().into_bytes();
                let list = Snapshot {
                    services: api::services(&bytes(services)).unwrap().objects.into(),
                    tasks: api::tasks(&bytes(tasks)).unwrap().objects.into(),
                    nodes: api::nodes(&bytes(nodes)).unwrap().objects.into(),
                    networks: api::networks(&bytes(networks)).unwrap().objects.into(),
                    ..Snapshot::default()
                };
                inputs.push((at, Input::Listed(Box::new(list), begun)));
            }
        }
    }
    if order == Order::OnlyLists {
        inputs.retain(|(_, input)| matches!(input, Input::Listed(..)));
    }
    inputs.sort_by_key(|(at, _)| *at);
    inputs
}

fn at_time(start: Instant, milliseconds: u64) -> Instant {
    start + Duration::from_millis(milliseconds)
}

/// When which task's container started and ended, by its home node, as the pushed changes tell.
fn containers() -> Vec<(u64, Task, bool)> {
    let mut running: BTreeMap<String, Task> = BTreeMap::new();
    let mut events = Vec::new();
    for (at, input) in inputs(Order::AsRecorded) {
        let Input::Pushed(changes) = input else { continue };
        for change in changes {
            match change {
                Change::Set { object: Pushed::Task(task), .. } if task.state == TaskState::Running => {
                    if running.insert(task.id.clone(), task.clone()).is_none() {
                        events.push((at, task, true));
                    }
                }
                Change::Removed { id, .. } => {
                    if let Some(task) = running.remove(&id) {
                        events.push((at, task, false));
                    }
                }
                Change::Set { .. } => {}
            }
        }
    }
    events
}

const FRONTEND: FrontendId = FrontendId::Published { port: 18080, protocol: Protocol::Tcp };

/// What one node's agent makes of it, for each node.
struct Replay {
    order: Order,
    /// How much later a node hears of its own containers than the managers do, milliseconds.
    containers_late: i64,
    start: Instant,
    store: Store,
    nodes: BTreeMap<String, (LocalView, Reconciler<Memory>)>,
    /// Which sets of target ports were served at the same time.
    served: BTreeSet<BTreeSet<u16>>,
    most: usize,
}

impl Replay {
    fn new(order: Order, containers_late: i64, failing: usize) -> Self {
        let ids: Vec<String> = inputs(Order::OnlyLists)
            .into_iter()
            .find_map(|(_, input)| match input {
                Input::Listed(list, _) => Some(list.nodes.keys().cloned().collect()),
                Input::Pushed(_) => None,
            })
            .unwrap();
        let nodes = ids.into_iter().map(|id| {
            let node = ThisNode { id: id.clone(), ..ThisNode::default() };
            let memory = Memory { failing, ..Memory::default() };
            (
                id,
                (
                    LocalView { node, ..LocalView::default() },
                    Reconciler::new(memory, mesh_common::maps::BACKENDS).unwrap(),
                ),
            )
        });
        let (start, store) = (Instant::now(), Store::default());
        let (served, most) = (BTreeSet::new(), 0);
        Self { order, containers_late, start, nodes: nodes.collect(), store, served, most }
    }

    fn run(mut self) {
        let mut containers = containers();
        containers.reverse();
        let mut truth = Snapshot::default();
        let all = inputs(self.order);
        let end = all.last().unwrap().0 + 2000;
        for (at, input) in all {
            while let Some((_, task, starts)) =
                containers.pop_if(|(happened, ..)| happened.saturating_add_signed(self.containers_late) <= at)
            {
                self.container(&task, starts);
                self.round();
            }
            match input {
                Input::Pushed(changes) => {
                    let now = at_time(self.start, at);
                    for change in changes {
                        self.store.push(change, now);
                    }
                }
                Input::Listed(list, begun) => {
                    truth = (*list).clone();
                    self.store.list(*list, at_time(self.start, begun));
                }
            }
            self.round();
        }
        for (_, task, starts) in containers.into_iter().rev() {
            self.container(&task, starts);
        }
        // The safety net, when nothing changes any more.
        self.store.list(truth.clone(), at_time(self.start, end));
        self.round();
        // A round ends with the first write that fails, and gets a little further each time.
        for _ in 0..1000 {
            if self.nodes.values().all(|(_, reconciler)| reconciler.problems().is_empty()) {
                break;
            }
            self.round();
        }
        self.check_the_end(&truth);
    }

    fn check_the_end(&self, truth: &Snapshot) {
        let view = self.store.view().unwrap();
        let what = format!("{:?}, containers {} ms late", self.order, self.containers_late);
        assert_eq!(view.tasks.keys().collect::<Vec<_>>(), truth.tasks.keys().collect::<Vec<_>>(), "{what}");
        for (local, reconciler) in self.nodes.values() {
            let desired = Desired::from(view, local, &Surroundings::default());
            assert!(reconciler.problems().is_empty(), "{what}: {:?}", reconciler.problems());
            let differences = reconciler.differences(&desired, &NodeFacts::default()).unwrap();
            assert_eq!(differences, Vec::<String>::new(), "{what}");
            assert!(
                !reconciler.tables().frontends.contains_key(&FRONTEND),
                "{what}: the service was removed"
            );
        }
        assert!(self.most >= 6, "{what}: all six tasks served at once, not {}", self.most);
        let both = BTreeSet::from([8080, 8081]);
        let is_told = self.order != Order::OnlyLists;
        assert_eq!(self.served.contains(&both), is_told, "{what}: both generations: {:?}", self.served);
    }

    fn container(&mut self, task: &Task, starts: bool) {
        let Some((local, _)) = self.nodes.get_mut(&task.node_id) else { return };
        if !starts {
            local.containers.remove(&task.id);
            return;
        }
        let address = Ipv4Addr::new(172, 18, 0, u8::try_from(local.containers.len() + 2).unwrap());
        let container = LocalContainer {
            task_id: task.id.clone(),
            service_id: task.service_id.clone(),
            bridge: Some(BridgeEndpoint { address, mac: [2; 6] }),
            ..LocalContainer::default()
        };
        local.containers.insert(task.id.clone(), container);
    }

    /// What every agent does whenever something has changed; packets may come at any time.
    fn round(&mut self) {
        let Some(view) = self.store.view() else { return };
        for (local, reconciler) in self.nodes.values_mut() {
            let desired = Desired::from(view, local, &Surroundings::default());
            let rest = reconciler.begin(&desired, &NodeFacts::default(), std::time::Instant::now());
            reconciler.finish(&rest);
            let tables = reconciler.tables();
            for frontend in tables.frontends.values() {
                for slot in 0..frontend.count {
                    let id = tables.slots[&SlotKey { set: frontend.set, slot }];
                    assert_eq!(tables.backends[&id].state, state::ACTIVE);
                }
            }
            let Some(frontend) = desired.frontends.get(&FRONTEND) else { continue };
            self.served.insert(frontend.backends.values().map(|backend| backend.port).collect());
            self.most = self.most.max(frontend.backends.len());
            for (id, backend) in &frontend.backends {
                let own = view.tasks[id].ports.as_ref().map(|ports| ports[0].target);
                assert!(own.is_none_or(|own| own == backend.port), "a task got another one's port");
            }
        }
    }
}
