//! One view of the Swarm from two sources: full lists, and changes that are pushed. Pure: the clock is an argument.
//!
//! A list takes its time, so that it may be older than a change that was pushed meanwhile; the changes may have gaps. So:
//! a change counts at once and is protected from lists that were begun before it, or so soon after it that another
//! manager may have answered them from a state before the change. Any later list is the truth.

mod pushes;

use tokio::time::Instant;

use self::pushes::Pushes;
use super::snapshot::{Network, Node, Service, Snapshot, Task};

/// What a manager pushes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Set { version: u64, object: Pushed },
    Removed { kind: Kind, id: String, version: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Network(Network),
    Node(Node),
    Service(Service),
    Task(Task),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Network,
    Node,
    Service,
    Task,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    view: Snapshot,
    /// Whether there was a list.
    is_complete: bool,
    networks: Pushes,
    nodes: Pushes,
    services: Pushes,
    tasks: Pushes,
}

impl Store {
    /// Everything that is known; `None` before the first list.
    pub(super) fn view(&self) -> Option<&Snapshot> {
        self.is_complete.then_some(&self.view)
    }

    /// Takes note of a change.
    pub(super) fn push(&mut self, change: Change, now: Instant) {
        let view = &mut self.view;
        match change {
            Change::Set { version, object: Pushed::Network(network) } => {
                self.networks.set(&mut view.networks, network.id.clone(), network, version, now);
            }
            Change::Set { version, object: Pushed::Node(node) } => {
                self.nodes.set(&mut view.nodes, node.id.clone(), node, version, now);
            }
            Change::Set { version, object: Pushed::Service(service) } => {
                self.services.set(&mut view.services, service.id.clone(), service, version, now);
            }
            Change::Set { version, object: Pushed::Task(task) } => {
                self.tasks.set(&mut view.tasks, task.id.clone(), task, version, now);
            }
            Change::Removed { kind, id, version } => match kind {
                Kind::Network => self.networks.remove(&mut view.networks, id, version, now),
                Kind::Node => self.nodes.remove(&mut view.nodes, id, version, now),
                Kind::Service => self.services.remove(&mut view.services, id, version, now),
                Kind::Task => self.tasks.remove(&mut view.tasks, id, version, now),
            },
        }
    }

    /// Takes over a full list that was asked for at `begun`.
    pub(super) fn list(&mut self, list: Snapshot, begun: Instant) {
        let view = &mut self.view;
        self.networks.list(&mut view.networks, list.networks, begun);
        self.nodes.list(&mut view.nodes, list.nodes, begun);
        self.services.list(&mut view.services, list.services, begun);
        self.tasks.list(&mut view.tasks, list.tasks, begun);
        self.is_complete = true;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::shared_map::SharedMap;
    use crate::swarm::snapshot::{Port, Protocol, PublishMode, Role};

    /// In milliseconds since the test began.
    fn at(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    fn task(version: u64) -> Task {
        Task { id: "t".into(), version, ..Task::default() }
    }

    fn list(tasks: &[Task]) -> Snapshot {
        let tasks = tasks.iter().map(|task| (task.id.clone(), task.clone())).collect();
        Snapshot { tasks, ..Snapshot::default() }
    }

    fn set(task: Task) -> Change {
        Change::Set { version: task.version, object: Pushed::Task(task) }
    }

    fn removed(version: u64) -> Change {
        Change::Removed { kind: Kind::Task, id: "t".into(), version }
    }

    /// The version of the task, if it is there.
    fn version(store: &Store) -> Option<u64> {
        store.view().expect("a list was seen").tasks.get("t").map(|task| task.version)
    }

    #[test]
    fn nothing_is_known_before_the_first_list_and_what_was_pushed_before_it_counts() {
        let start = Instant::now();
        let mut store = Store::default();
        store.push(set(task(5)), start);
        assert_eq!(store.view(), None, "one change is not the Swarm");
        store.list(list(&[task(4)]), start);
        assert_eq!(version(&store), Some(5));
    }

    /// (before, change, what a list says, when it was begun, what counts); the change comes at 1000.
    type Case = (Option<u64>, Change, Option<u64>, u64, Option<u64>);

    #[test]
    fn whichever_of_a_change_and_a_list_comes_first_the_newer_state_counts() {
        let start = Instant::now();
        let late = 2001;
        let cases: &[Case] = &[
            (Some(3), set(task(5)), Some(3), 900, Some(5)),
            (Some(3), set(task(5)), Some(3), 1500, Some(5)),
            (Some(3), set(task(5)), Some(6), 900, Some(6)),
            (Some(3), set(task(5)), Some(6), 1500, Some(6)),
            (None, set(task(5)), None, 900, Some(5)),
            (None, set(task(5)), None, late, None),
            (Some(3), set(task(5)), None, 900, Some(5)),
            (Some(3), set(task(5)), None, late, None),
            (Some(3), removed(3), Some(3), 900, None),
            (Some(3), removed(3), Some(3), 1500, None),
            (Some(3), removed(3), None, 900, None),
            // A Swarm that was restored from a backup counts from an earlier version.
            (Some(3), set(task(5)), Some(2), late, Some(2)),
            (Some(3), removed(3), Some(2), late, Some(2)),
        ];
        for (before, change, listed, begun, expected) in cases {
            let tasks = |version: &Option<u64>| version.iter().map(|v| task(*v)).collect::<Vec<_>>();
            let mut store = Store::default();
            store.list(list(&tasks(before)), start);
            store.push(change.clone(), at(start, 1000));
            store.list(list(&tasks(listed)), at(start, *begun));
            assert_eq!(version(&store), *expected, "{before:?}, {change:?}, {listed:?} begun at {begun}");
        }
    }

    #[test]
    fn an_older_change_undoes_nothing_and_a_task_that_is_gone_never_comes_back() {
        let start = Instant::now();
        let mut store = Store::default();
        store.list(list(&[task(7)]), start);
        store.push(set(task(6)), start);
        assert_eq!(version(&store), Some(7));
        store.push(removed(7), start);
        store.push(set(task(6)), start);
        store.push(set(task(9)), start);
        assert_eq!(version(&store), None);
    }

    #[test]
    fn a_change_that_comes_after_the_list_that_no_longer_has_the_task_does_not_bring_it_back() {
        let start = Instant::now();
        let mut store = Store::default();
        store.list(list(&[task(3)]), start);
        store.list(list(&[]), at(start, 2000));
        store.push(set(task(4)), at(start, 2010));
        assert_eq!(version(&store), None);
        store.list(list(&[task(5)]), at(start, 4000));
        assert_eq!(version(&store), Some(5), "the list is the truth");
    }

    #[test]
    fn a_list_does_not_erase_the_tasks_own_ports() {
        let start = Instant::now();
        let port = Port {
            name: String::new(),
            protocol: Protocol::Tcp,
            target: 80,
            published: 8080,
            mode: PublishMode::Ingress,
        };
        let own = Some(vec![port]);
        let mut store = Store::default();
        store.push(set(Task { ports: own.clone(), ..task(1) }), start);
        store.list(list(&[task(2)]), at(start, 5000));
        assert_eq!(store.view().expect("listed").tasks["t"].ports, own);
        store.push(set(task(3)), at(start, 6000));
        assert_eq!(store.view().expect("listed").tasks["t"].ports, own, "nor a change that tells none");
    }

    #[test]
    fn a_managers_address_is_taken_from_lists_and_a_workers_from_both() {
        let start = Instant::now();
        let node = |role, last: Option<u8>, version| Node {
            id: "n".into(),
            version,
            role,
            address: last.map(|last| [10, 99, 0, last].into()),
            ..Node::default()
        };
        for (role, listed, pushed, expected) in [
            (Role::Manager, Some(1), None, Some(1)),
            (Role::Manager, Some(1), Some(9), Some(1)),
            (Role::Worker, Some(1), Some(9), Some(9)),
            (Role::Worker, Some(1), None, Some(1)),
            (Role::Manager, None, Some(9), Some(9)),
        ] {
            let mut store = Store::default();
            let nodes = [("n".to_owned(), node(role, listed, 1))].into();
            store.list(Snapshot { nodes, ..Snapshot::default() }, start);
            store.push(Change::Set { version: 2, object: Pushed::Node(node(role, pushed, 2)) }, start);
            let known = &store.view().expect("listed").nodes["n"];
            assert_eq!(known.address, node(role, expected, 2).address, "{role:?} {listed:?} {pushed:?}");
        }
    }

    #[test]
    fn a_network_has_no_version_in_lists_and_is_protected_all_the_same() {
        let start = Instant::now();
        let network = |name: &str| Network { id: "net".into(), name: name.into(), ..Network::default() };
        let mut store = Store::default();
        store.list(Snapshot::default(), start);
        store.push(Change::Set { version: 4, object: Pushed::Network(network("new")) }, at(start, 1000));
        store.list(Snapshot::default(), at(start, 900));
        assert_eq!(store.view().expect("listed").networks["net"], network("new"));
        let networks = [("net".to_owned(), network("true"))].into();
        store.list(Snapshot { networks, ..Snapshot::default() }, at(start, 2001));
        assert_eq!(store.view().expect("listed").networks["net"], network("true"));
    }

    /// What happens to one of three tasks.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Update(usize),
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<(Step, u64, u64, bool)>> {
        let task = 0..3_usize;
        let step = prop_oneof![
            4 => task.clone().prop_map(Step::Update),
            1 => task.prop_map(Step::Remove),
        ];
        // Each after a pause, with a list begun then that takes its time; some changes are not pushed.
        proptest::collection::vec((step, 0..700_u64, 0..2500_u64, any::<bool>()), 1..30)
    }

    proptest! {
        #[test]
        fn nothing_ever_goes_back_and_in_the_end_the_list_is_the_truth(steps in steps()) {
            let start = Instant::now();
            let mut clock = 10_000;
            let of_id = |id: &str| (id.to_owned(), Task { id: id.into(), ..task(1) });
            let mut truth = SharedMap::from(["a", "b", "c"].map(of_id));
            let mut store = Store::default();
            store.list(Snapshot { tasks: truth.clone(), ..Snapshot::default() }, start);
            let mut lists: BTreeMap<u64, (u64, SharedMap<String, Task>)> = BTreeMap::new();
            let mut newest = store.view().expect("listed").tasks.clone();
            let check = |store: &Store, newest: &mut SharedMap<String, Task>| {
                let tasks = &store.view().expect("listed").tasks;
                for (id, task) in tasks {
                    prop_assert!(newest.get(id).is_some_and(|known| known.version <= task.version), "{id}");
                }
                newest.clone_from(tasks);
                Ok(())
            };
            for (number, (step, pause, duration, is_pushed)) in (2..).zip(steps) {
                clock += pause;
                let due = lists.split_off(&clock);
                for (begun, tasks) in std::mem::replace(&mut lists, due).into_values() {
                    store.list(Snapshot { tasks, ..Snapshot::default() }, at(start, begun));
                    check(&store, &mut newest)?;
                }
                // One is asked for at a time.
                if lists.is_empty() {
                    lists.insert(clock + duration, (clock, truth.clone()));
                }
                let (Step::Update(which) | Step::Remove(which)) = step;
                let id = ["a", "b", "c"][which].to_owned();
                let Some(object) = truth.get_mut(&id) else { continue };
                let change = match step {
                    Step::Update(_) => {
                        object.version = number;
                        set(object.clone())
                    }
                    Step::Remove(_) => {
                        let version = object.version;
                        truth.remove(&id);
                        Change::Removed { kind: Kind::Task, id, version }
                    }
                };
                if is_pushed {
                    store.push(change, at(start, clock));
                    check(&store, &mut newest)?;
                }
            }
            let last = clock + 1000;
            store.list(Snapshot { tasks: truth.clone(), ..Snapshot::default() }, at(start, last));
            prop_assert_eq!(&store.view().expect("listed").tasks, &truth);
        }
    }
}
