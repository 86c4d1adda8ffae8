//! What nodes know first-hand of their own tasks and containers: the sender's side, which works it out from its containers, and the
//! manager's side, which keeps what each node has told. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::shared_map::{Difference, SharedMap};
use crate::swarm::snapshot::{
    AttachedContainers, Condition, ContainerNames, LocalView, Node, Snapshot, Task,
};

/// What one node tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) ended: BTreeSet<String>,
    pub(super) draining: BTreeSet<String>,
    pub(super) attached: Arc<AttachedContainers>,
}

/// On every node: turns the containers that it sees into what the managers should be told.
#[derive(Debug, Default)]
pub(super) struct Observer {
    /// Tasks with a container at the last look.
    alive: BTreeSet<String>,
    /// Tasks whose containers were seen to go.
    ended: BTreeSet<String>,
}

impl Observer {
    /// `snapshot` tells what the Swarm knows too, which is then forgotten, and which networks are the Swarm's.
    pub(super) fn look(&mut self, local: &LocalView, snapshot: Option<&Snapshot>) -> Told {
        let containers = || local.containers.values().filter(|container| !container.task_id.is_empty());
        let alive: BTreeSet<String> = containers().map(|container| container.task_id.clone()).collect();
        self.ended.extend(self.alive.difference(&alive).cloned());
        if let Some(snapshot) = snapshot {
            self.ended.retain(|task| snapshot.tasks.contains_key(task));
        }
        // Docker starts a stopped container of a task again if somebody does that by hand.
        self.ended.retain(|task| !alive.contains(task));
        self.alive = alive;
        let draining = containers().filter(|container| container.draining);
        Told {
            ended: self.ended.clone(),
            draining: draining.map(|container| container.task_id.clone()).collect(),
            attached: Arc::new(snapshot.map(|snapshot| attached(local, snapshot)).unwrap_or_default()),
        }
    }
}

/// What nobody but this node knows: the names of containers that are no tasks of services.
fn attached(local: &LocalView, snapshot: &Snapshot) -> AttachedContainers {
    let containers = local.containers.iter().filter(|(_, container)| {
        container.task_id.is_empty()
            && container.addresses.keys().any(|network| snapshot.networks.contains_key(network))
    });
    let names = containers.map(|(id, container)| {
        let details = container.details.clone().unwrap_or_default();
        let aliases = details.aliases.into_iter();
        let aliases = aliases.filter(|(network, _)| snapshot.networks.contains_key(network)).collect();
        (id.clone(), ContainerNames { name: container.name.clone(), hostname: details.hostname, aliases })
    });
    names.collect()
}

/// Of how many containers a node is believed, and how much. Docker has no such limits, and no names longer than what can be
/// asked for (RFC 1035) are of use.
const CONTAINERS: usize = 1024;
const ALIASES: usize = 16;
const NAME_BYTES: usize = 253;

/// What a node may tell of its containers.
pub(super) fn within_bounds(containers: AttachedContainers) -> AttachedContainers {
    let fits = |name: &String| name.len() <= NAME_BYTES;
    let mut kept = containers;
    kept.retain(|id, _| fits(id));
    if let Some(first_of_rest) = kept.keys().nth(CONTAINERS).cloned() {
        kept.split_off(&first_of_rest);
    }
    for names in kept.values_mut() {
        for name in [&mut names.name, &mut names.hostname] {
            if !fits(name) {
                name.clear();
            }
        }
        let mut left = ALIASES;
        names.aliases.retain(|network, aliases| {
            aliases.retain(fits);
            aliases.truncate(left);
            left -= aliases.len();
            fits(network) && !aliases.is_empty()
        });
    }
    kept
}

/// On managers: what each node has told, by node id. Copies share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AllTold(SharedMap<String, Told>);

impl AllTold {
    /// Whether that is news.
    pub(super) fn set(&mut self, node_id: &str, told: Told) -> bool {
        if self.0.get(node_id) == Some(&told) {
            return false;
        }
        self.0.insert(node_id.to_owned(), told);
        true
    }

    /// A node that has not been heard for a moment: what is final stays, and so do names, which last as long as the Swarm
    /// has the containers. The rest may have changed.
    pub(super) fn fell_silent(&mut self, node_id: &str) -> bool {
        if self.0.get(node_id).is_none_or(|told| told.draining.is_empty()) {
            return false;
        }
        if let Some(told) = self.0.get_mut(node_id) {
            told.draining.clear();
        }
        true
    }

    /// A node that has not been heard for long, and may never be again.
    pub(super) fn is_lost(&mut self, node_id: &str) -> bool {
        if self.0.get(node_id).is_none_or(|told| told.attached.is_empty()) {
            return false;
        }
        if let Some(told) = self.0.get_mut(node_id) {
            told.attached = Arc::default();
        }
        true
    }

    /// Forgets nodes that are not in the Swarm any more. Whether there were any.
    pub(super) fn keep(&mut self, nodes: &SharedMap<String, Node>) -> bool {
        let gone: Vec<String> = self.0.keys().filter(|id| !nodes.contains_key(*id)).cloned().collect();
        for id in &gone {
            self.0.remove(id);
        }
        !gone.is_empty()
    }

    /// What a node has told of a task.
    pub(super) fn of(&self, node_id: &str, task: &str) -> Option<Condition> {
        let told = self.0.get(node_id)?;
        if told.ended.contains(task) {
            return Some(Condition::Ended);
        }
        told.draining.contains(task).then_some(Condition::Draining)
    }

    /// What the nodes have told of tasks, by task id. A node is believed about its own tasks only.
    pub(super) fn conditions(&self, snapshot: &Snapshot) -> SharedMap<String, Condition> {
        let mut conditions = SharedMap::new();
        for (node_id, told) in &self.0 {
            let draining = told.draining.iter().map(|task| (task, Condition::Draining));
            let ended = told.ended.iter().map(|task| (task, Condition::Ended));
            for (task, condition) in draining.chain(ended) {
                if snapshot.tasks.get(task).is_some_and(|task| task.node_id == *node_id) {
                    conditions.insert(task.clone(), condition);
                }
            }
        }
        conditions
    }

    /// What the nodes of the Swarm have told of containers, by node id. A node is believed about those that the Swarm has as
    /// attached there, and no others.
    pub(super) fn attached(
        &self,
        snapshot: &Snapshot,
        by_hand: &ByHand,
    ) -> SharedMap<String, AttachedContainers> {
        let mut attached = SharedMap::new();
        for (id, told) in &self.0 {
            if told.attached.is_empty() || !snapshot.nodes.contains_key(id) {
                continue;
            }
            let is_there = |container: &String| by_hand.has(id, container);
            if told.attached.keys().all(is_there) {
                attached.insert_shared(id.clone(), told.attached.clone());
                continue;
            }
            let believed: AttachedContainers = told
                .attached
                .iter()
                .filter(|(container, _)| is_there(container))
                .map(|(container, names)| (container.clone(), names.clone()))
                .collect();
            if !believed.is_empty() {
                attached.insert(id.clone(), believed);
            }
        }
        attached
    }
}

/// The containers that were attached to networks by hand, as the Swarm has them: by node and container, how many of its
/// networks the container is on.
#[derive(Debug, Default)]
pub(super) struct ByHand {
    tasks: SharedMap<String, Task>,
    places: BTreeMap<String, BTreeMap<String, usize>>,
}

impl ByHand {
    pub(super) fn follow(&mut self, tasks: &SharedMap<String, Task>) {
        let before = std::mem::replace(&mut self.tasks, tasks.clone());
        for Difference { before, after, .. } in tasks.differences(&before) {
            if let Some((node, container)) = before.and_then(place) {
                self.remove(node, container);
            }
            if let Some((node, container)) = after.and_then(place) {
                let containers = self.places.entry(node.to_owned()).or_default();
                *containers.entry(container.to_owned()).or_default() += 1;
            }
        }
    }

    fn has(&self, node: &str, container: &str) -> bool {
        self.places.get(node).is_some_and(|containers| containers.contains_key(container))
    }

    fn remove(&mut self, node: &str, container: &str) {
        let Some(containers) = self.places.get_mut(node) else { return };
        if let Some(count) = containers.get_mut(container) {
            *count -= 1;
            if *count == 0 {
                containers.remove(container);
            }
        }
        if containers.is_empty() {
            self.places.remove(node);
        }
    }
}

/// Where a task without a service runs: it is a container that somebody attached to a network.
fn place(task: &Task) -> Option<(&str, &str)> {
    let container = task.container_id.as_deref()?;
    task.service_id.is_empty().then_some((task.node_id.as_str(), container))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::snapshot::{ContainerDetails, LocalContainer, Network};

    fn local(tasks: &[(&str, bool)]) -> LocalView {
        let containers = tasks.iter().map(|(task, draining)| {
            let container =
                LocalContainer { task_id: (*task).into(), draining: *draining, ..LocalContainer::default() };
            (format!("container-of-{task}"), container)
        });
        LocalView { containers: containers.collect(), ..LocalView::default() }
    }

    fn swarm(tasks: &[(&str, &str)]) -> Snapshot {
        let tasks = tasks.iter().map(|(id, node)| {
            ((*id).to_owned(), Task { id: (*id).into(), node_id: (*node).into(), ..Task::default() })
        });
        let nodes = [("n1".to_owned(), Node::default()), ("n2".to_owned(), Node::default())];
        Snapshot { tasks: tasks.collect(), nodes: nodes.into(), ..Snapshot::default() }
    }

    fn ids(tasks: &[&str]) -> BTreeSet<String> {
        tasks.iter().map(|task| (*task).to_owned()).collect()
    }

    #[test]
    fn only_a_container_that_was_seen_can_be_seen_to_go() {
        let mut observer = Observer::default();
        let swarm = swarm(&[("t1", "n1"), ("t2", "n1"), ("never-seen", "n1")]);
        let told = observer.look(&local(&[("t1", false), ("t2", true)]), Some(&swarm));
        assert_eq!(told, Told { draining: ids(&["t2"]), ..Told::default() });
        let told = observer.look(&local(&[("t1", false)]), Some(&swarm));
        assert_eq!(told, Told { ended: ids(&["t2"]), ..Told::default() });
        let told = observer.look(&local(&[("t1", false), ("t2", false)]), Some(&swarm));
        assert_eq!(told, Told::default(), "it was started again");
    }

    #[test]
    fn what_the_swarm_has_forgotten_is_told_no_more() {
        let mut observer = Observer::default();
        observer.look(&local(&[("t1", false)]), None);
        assert_eq!(observer.look(&local(&[]), None).ended, ids(&["t1"]));
        assert_eq!(observer.look(&local(&[]), Some(&swarm(&[("t1", "n1")]))).ended, ids(&["t1"]));
        assert_eq!(observer.look(&local(&[]), Some(&swarm(&[]))).ended, ids(&[]));
    }

    #[test]
    fn a_node_is_believed_about_its_own_tasks_only() {
        let mut all = AllTold::default();
        let told = Told { ended: ids(&["t1", "t2", "gone"]), draining: ids(&["t3"]), ..Told::default() };
        assert!(all.set("n1", told.clone()));
        assert!(!all.set("n1", told), "no news");
        let swarm = swarm(&[("t1", "n1"), ("t2", "n2"), ("t3", "n1")]);
        let expected = [("t1".to_owned(), Condition::Ended), ("t3".to_owned(), Condition::Draining)];
        assert_eq!(all.conditions(&swarm), expected.into());
    }

    #[test]
    fn of_a_silent_node_only_what_is_final_stays() {
        let mut all = AllTold::default();
        all.set(
            "n1",
            Told {
                ended: ids(&["t1"]),
                draining: ids(&["t2"]),
                attached: Arc::new([("c1".into(), ContainerNames::default())].into()),
            },
        );
        assert!(all.fell_silent("n1"));
        assert!(!all.fell_silent("n1") && !all.fell_silent("n2"));
        let swarm = swarm(&[("t1", "n1"), ("t2", "n1")]);
        assert_eq!(all.conditions(&swarm), [("t1".to_owned(), Condition::Ended)].into());
    }

    #[test]
    fn names_are_told_of_containers_on_networks_of_the_swarm_that_are_no_tasks() {
        let mut local = local(&[("t1", false)]);
        let details = ContainerDetails {
            hostname: "handy".into(),
            aliases: [("net1".into(), vec!["db".into()]), ("local1".into(), vec!["own".into()])].into(),
            ..ContainerDetails::default()
        };
        for (id, network) in [("c1", "net1"), ("c2", "local1")] {
            let container = LocalContainer {
                name: format!("name-of-{id}"),
                addresses: [(network.into(), [10, 0, 1, 2].into())].into(),
                details: Some(details.clone()),
                ..LocalContainer::default()
            };
            local.containers.insert(id.into(), container);
        }
        let mut swarm = swarm(&[("t1", "n1")]);
        swarm.networks.insert("net1".into(), Network::default());
        let mut observer = Observer::default();
        assert!(observer.look(&local, None).attached.is_empty(), "which networks are the Swarm's is unknown");
        let names = ContainerNames {
            name: "name-of-c1".into(),
            hostname: "handy".into(),
            aliases: [("net1".into(), vec!["db".into()])].into(),
        };
        let told = observer.look(&local, Some(&swarm));
        assert_eq!(*told.attached, [("c1".into(), names)].into());
        local.containers.remove("c1");
        assert!(observer.look(&local, Some(&swarm)).attached.is_empty());
    }

    fn by_hand(node: &str, container: &str) -> Task {
        Task { node_id: node.into(), container_id: Some(container.into()), ..Task::default() }
    }

    fn names(containers: &[&str]) -> AttachedContainers {
        let named =
            |id: &&str| ((*id).to_owned(), ContainerNames { name: (*id).into(), ..Default::default() });
        containers.iter().map(named).collect()
    }

    fn told_of(containers: &[&str]) -> Told {
        Told { attached: Arc::new(names(containers)), ..Told::default() }
    }

    #[test]
    fn a_node_is_believed_about_the_containers_that_the_swarm_has_there() {
        let mut swarm = swarm(&[("t1", "n1")]);
        // On two networks, of which it leaves one.
        for (id, task) in [("a", by_hand("n1", "c1")), ("b", by_hand("n1", "c1")), ("c", by_hand("n2", "c2"))]
        {
            swarm.tasks.insert(id.into(), task);
        }
        swarm.tasks.get_mut("t1").unwrap().service_id = "web".into();
        swarm.tasks.get_mut("t1").unwrap().container_id = Some("t1".into());
        let mut known = ByHand::default();
        known.follow(&swarm.tasks);
        let mut all = AllTold::default();
        all.set("n1", told_of(&["c1"]));
        assert_eq!(all.attached(&swarm, &known), [("n1".into(), names(&["c1"]))].into());
        all.set("n1", told_of(&["c1", "c2", "t1", "unheard-of"]));
        all.set("n2", told_of(&["c1"]));
        all.set("removed", told_of(&["c1"]));
        assert_eq!(all.attached(&swarm, &known), [("n1".into(), names(&["c1"]))].into());

        swarm.tasks.remove("a");
        known.follow(&swarm.tasks);
        assert_eq!(all.attached(&swarm, &known).len(), 1);
        swarm.tasks.remove("b");
        known.follow(&swarm.tasks);
        assert!(all.attached(&swarm, &known).is_empty(), "they go with the container");
    }

    #[test]
    fn names_outlive_a_moments_silence_and_neither_a_long_one_nor_the_node() {
        let mut all = AllTold::default();
        let told = Told { draining: ids(&["t1"]), ended: ids(&["t2"]), ..told_of(&["c1"]) };
        all.set("n1", told.clone());
        all.set("n2", told.clone());
        assert!(all.fell_silent("n1") && !all.fell_silent("n1"));
        assert_eq!(all.0.get("n1"), Some(&Told { draining: ids(&[]), ..told.clone() }));
        assert!(all.is_lost("n1") && !all.is_lost("n1"));
        assert_eq!(all.0.get("n1"), Some(&Told { ended: ids(&["t2"]), ..Told::default() }));
        let nodes: SharedMap<String, Node> = [("n1".to_owned(), Node::default())].into();
        assert!(all.keep(&nodes) && !all.keep(&nodes));
        assert_eq!(all.0.keys().collect::<Vec<_>>(), ["n1"]);
    }

    #[test]
    fn a_node_may_tell_of_so_many_containers_and_no_more() {
        let long = "x".repeat(NAME_BYTES + 1);
        let aliases = |count| vec!["alias".to_owned(); count];
        let named = ContainerNames {
            name: long.clone(),
            hostname: "y".repeat(NAME_BYTES),
            aliases: [
                ("net1".into(), [vec![long.clone()], aliases(10)].concat()),
                ("net2".into(), aliases(10)),
                ("net3".into(), aliases(1)),
                (long.clone(), aliases(1)),
            ]
            .into(),
        };
        let mut many: AttachedContainers =
            (0..3 * CONTAINERS).map(|number| (format!("{number:05}"), named.clone())).collect();
        many.insert(long, ContainerNames::default());
        let kept = within_bounds(many);
        assert_eq!(kept.len(), CONTAINERS);
        let expected = ContainerNames {
            name: String::new(),
            hostname: "y".repeat(NAME_BYTES),
            aliases: [("net1".into(), aliases(10)), ("net2".into(), aliases(6))].into(),
        };
        assert!(kept.values().all(|names| *names == expected), "{:?}", kept.values().next());
        let few = names(&["c1", "c2"]);
        assert_eq!(within_bounds(few.clone()), few);
    }
}
