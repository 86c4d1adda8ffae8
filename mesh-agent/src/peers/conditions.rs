//! What nodes know first-hand of their own tasks and containers: the sender's side, which works it out from its containers, and the
//! manager's side, which keeps what each node has told. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::shared_map::SharedMap;
use crate::swarm::snapshot::{AttachedContainers, Condition, ContainerNames, LocalView, Snapshot};

/// What one node tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) ended: BTreeSet<String>,
    pub(super) draining: BTreeSet<String>,
    pub(super) attached: AttachedContainers,
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
            attached: snapshot.map(|snapshot| attached(local, snapshot)).unwrap_or_default(),
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

/// On managers: what each node has told, by node id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AllTold(BTreeMap<String, Told>);

impl AllTold {
    /// Whether that is news.
    pub(super) fn set(&mut self, node_id: &str, told: Told) -> bool {
        if self.0.get(node_id) == Some(&told) {
            return false;
        }
        self.0.insert(node_id.to_owned(), told);
        true
    }

    /// A node that has not been heard for a while: what is final stays, and so do names, which last as long as the Swarm
    /// has the containers. The rest may have changed.
    pub(super) fn fell_silent(&mut self, node_id: &str) -> bool {
        let Some(told) = self.0.get_mut(node_id) else { return false };
        let is_news = !told.draining.is_empty();
        told.draining.clear();
        is_news
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

    /// What the nodes of the Swarm have told of containers, by node id.
    pub(super) fn attached(&self, snapshot: &Snapshot) -> SharedMap<String, AttachedContainers> {
        let nodes = self.0.iter();
        let nodes = nodes.filter(|(id, told)| !told.attached.is_empty() && snapshot.nodes.contains_key(*id));
        nodes.map(|(id, told)| (id.clone(), told.attached.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::snapshot::{ContainerDetails, LocalContainer, Network, Node, Task};

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
                attached: AttachedContainers::from([("c1".into(), ContainerNames::default())]),
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
        assert_eq!(told.attached, [("c1".into(), names)].into());

        let mut all = AllTold::default();
        all.set("n1", told.clone());
        all.set("removed", told.clone());
        assert_eq!(all.attached(&swarm), [("n1".into(), told.attached.clone())].into());
        all.fell_silent("n1");
        assert_eq!(all.attached(&swarm), [("n1".into(), told.attached)].into(), "they go with the container");
        local.containers.remove("c1");
        all.set("n1", observer.look(&local, Some(&swarm)));
        assert!(all.attached(&swarm).is_empty());
    }
}
