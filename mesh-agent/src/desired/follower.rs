//! What is desired and which names there are, kept in step with what is known: only what a change concerns is worked out
//! anew, so that a change costs the same in a large Swarm as in a small one. Pure.

use std::sync::Arc;

use super::index::{Index, Inputs, Members, Touched};
use super::names::Names;
use super::{Desired, Surroundings};
use crate::swarm::snapshot::{LocalView, Snapshot};

/// Remembers what it has seen last.
#[derive(Debug, Default)]
pub struct Follower {
    /// `None` before the first look.
    seen: Option<Inputs>,
    members: Members,
    desired: Desired,
    names: Names,
}

impl Follower {
    /// The same as [`Desired::from`] and [`Names::from`] give.
    pub fn follow(
        &mut self,
        snapshot: &Arc<Snapshot>,
        local: &Arc<LocalView>,
        surroundings: &Surroundings,
    ) -> (&Desired, &Names) {
        let now =
            Inputs { snapshot: snapshot.clone(), local: local.clone(), surroundings: surroundings.clone() };
        let touched = if let Some(before) = &self.seen {
            Touched::between(before, &now, &mut self.members)
        } else {
            self.members = Members::of(snapshot);
            Touched::EVERYTHING
        };
        let index = Index::of(snapshot, local, surroundings, &self.members);
        self.desired.update(&index, &touched);
        self.names.update(&index, &touched);
        self.seen = Some(now);
        (&self.desired, &self.names)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::desired::Reach;
    use crate::desired::names::tests::swarm;
    use crate::swarm::snapshot::{
        Condition, ContainerNames, NodeState, Port, Protocol, PublishMode, Service, TaskState,
    };

    /// A Swarm and what this node knows, on their way through changes.
    struct World {
        first: (Snapshot, LocalView),
        snapshot: Snapshot,
        local: LocalView,
        surroundings: Surroundings,
    }

    impl World {
        fn new() -> Self {
            let (mut snapshot, local) = swarm();
            for (number, id) in (7..).zip(["net1", "net2"]) {
                snapshot.networks.get_mut(id).unwrap().vni = number;
            }
            for (last, id) in (1..).zip(["n1", "n2"]) {
                snapshot.nodes.get_mut(id).unwrap().address = Some([10, 99, 0, last].into());
            }
            let overlays = ["net1".to_owned()].into();
            let surroundings = Surroundings { overlays, ..Surroundings::default() };
            Self { first: (snapshot.clone(), local.clone()), snapshot, local, surroundings }
        }

        /// One of the things that happen, to one of the objects.
        fn change(&mut self, what: u8, which: usize) {
            let (first, first_local) = &self.first;
            let task = first.tasks.keys().nth(which % first.tasks.len()).unwrap().clone();
            let service = first.services.keys().nth(which % first.services.len()).unwrap().clone();
            let container =
                first_local.containers.keys().nth(which % first_local.containers.len()).unwrap().clone();
            let node = if which.is_multiple_of(2) { "n1" } else { "n2" };
            let network = if which.is_multiple_of(2) { "net1" } else { "net2" };
            let tasks = &mut self.snapshot.tasks;
            let services = &mut self.snapshot.services;
            match what {
                0 => drop(tasks.remove(&task)),
                1 => tasks.insert(task.clone(), first.tasks[&task].clone()),
                2 => {
                    if let Some(task) = tasks.get_mut(&task) {
                        task.desired_state = TaskState::Shutdown;
                    }
                }
                3 => tasks.get_mut(&task).into_iter().for_each(|task| task.version += 1),
                4 => drop(services.remove(&service)),
                5 => services.insert(service.clone(), first.services[&service].clone()),
                6 => services.get_mut(&service).into_iter().for_each(publish),
                7 => services.get_mut(&service).into_iter().for_each(|service| {
                    service.labels.insert("mesh.enable".into(), "false".into());
                }),
                8 => self.snapshot.conditions.insert(task, Condition::Draining),
                9 => drop(self.snapshot.conditions.remove(&task)),
                10 => self.snapshot.nodes.get_mut(node).unwrap().state = NodeState::Down,
                11 => self.snapshot.nodes.get_mut(node).unwrap().state = NodeState::Ready,
                12 => drop(self.local.containers.remove(&container)),
                13 => drop(
                    self.local
                        .containers
                        .insert(container.clone(), first_local.containers[&container].clone()),
                ),
                14 => self
                    .local
                    .containers
                    .get_mut(&container)
                    .into_iter()
                    .for_each(|known| known.draining ^= true),
                15 => drop(self.snapshot.networks.remove(network)),
                16 => self.snapshot.networks.insert(network.into(), first.networks[network].clone()),
                17 => drop(self.surroundings.overlays.insert(network.into())),
                18 => drop(self.surroundings.overlays.remove(network)),
                19 => self.surroundings.reach = silent(which),
                20 => drop(self.surroundings.drained.insert(task)),
                21 => self.surroundings.drained.clear(),
                22 => {
                    let names = ContainerNames { name: format!("told{which}"), ..ContainerNames::default() };
                    self.snapshot.attached.insert(node.into(), [("999999999999aaaa".into(), names)].into());
                }
                23 => self.snapshot.attached.clear(),
                26 => self.surroundings.serving.labelled_only ^= true,
                27 => self.surroundings.serving.leaves_published ^= true,
                24 => drop(self.surroundings.ports.insert(which as u16 % 3, 7)),
                25 => drop(self.surroundings.ports.remove(&(which as u16 % 3))),
                _ => self.local.containers.get_mut(&container).into_iter().for_each(|known| {
                    let details = known.details.get_or_insert_default();
                    details.namespace = Some(which as u16 % 3);
                }),
            }
        }
    }

    /// A port that several want.
    fn publish(service: &mut Service) {
        service.ports.push(Port {
            name: String::new(),
            protocol: Protocol::Tcp,
            target: 80,
            published: 9100,
            mode: PublishMode::Ingress,
        });
        service.ports.dedup();
    }

    fn silent(which: usize) -> Reach {
        let node = Ipv4Addr::new(10, 99, 0, 2);
        let mut reach = Reach::default();
        match which % 3 {
            0 => drop(reach.silent.insert(node)),
            1 => drop(reach.without_mesh.insert(node)),
            _ => {}
        }
        reach
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn step_by_step_comes_to_the_same_as_at_once(
            steps in prop::collection::vec(prop::collection::vec((0..29_u8, 0..16_usize), 1..4), 1..12)
        ) {
            let mut world = World::new();
            let mut follower = Follower::default();
            for step in steps {
                for (what, which) in step {
                    world.change(what, which);
                }
                let (snapshot, local) = (Arc::new(world.snapshot.clone()), Arc::new(world.local.clone()));
                let (desired, names) = follower.follow(&snapshot, &local, &world.surroundings);
                prop_assert_eq!(desired, &Desired::from(&snapshot, &local, &world.surroundings));
                prop_assert_eq!(names, &Names::from(&snapshot, &local));
            }
        }
    }
}
