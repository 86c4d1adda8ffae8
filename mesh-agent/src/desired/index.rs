//! The same objects, the ways they are looked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Surroundings;
use crate::shared_map::Difference;
use crate::swarm::snapshot::{LocalContainer, LocalView, Service, Snapshot, Task};

/// Everything that decides what is desired.
pub(super) struct Index<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) local: &'a LocalView,
    pub(super) surroundings: &'a Surroundings,
    /// The id of the ingress network; there may be none.
    pub(super) ingress: Option<&'a str>,
    pub(super) containers_by_task: BTreeMap<&'a str, &'a LocalContainer>,
    members: &'a Members,
}

impl<'a> Index<'a> {
    /// `members` are those of the snapshot.
    pub(super) fn of(
        snapshot: &'a Snapshot,
        local: &'a LocalView,
        surroundings: &'a Surroundings,
        members: &'a Members,
    ) -> Self {
        let ingress = snapshot.networks.values().find(|network| network.ingress);
        let containers = local.containers.values();
        Self {
            snapshot,
            local,
            surroundings,
            ingress: ingress.map(|network| network.id.as_str()),
            containers_by_task: containers.map(|container| (container.task_id.as_str(), container)).collect(),
            members,
        }
    }

    /// The tasks of a service, by their ids.
    pub(super) fn tasks(&self, service: &Service) -> impl Iterator<Item = &'a Task> + use<'a> {
        self.members.of_service(&service.id)
    }

    /// Containers that were attached to networks by hand, as the Swarm knows them.
    pub(super) fn attached(&self) -> impl Iterator<Item = &'a Task> + use<'a> {
        self.members.of_service("")
    }
}

/// Which tasks each service has.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    /// In the order of their ids.
    by_service: HashMap<String, Vec<Arc<Task>>>,
}

impl Members {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut members = Self::default();
        members.follow(&Snapshot::default(), snapshot);
        members
    }

    /// Keeps step with the snapshots. Returns the tasks that are other ones than before.
    pub(super) fn follow<'a>(
        &mut self,
        before: &'a Snapshot,
        now: &'a Snapshot,
    ) -> Vec<Difference<'a, String, Task>> {
        let differences = now.tasks.differences(&before.tasks);
        for Difference { key: id, before, after } in &differences {
            if let Some(before) = before {
                self.remove(before, id);
            }
            if after.is_some()
                && let Some(task) = now.tasks.get_shared(*id)
            {
                self.insert(id, task);
            }
        }
        differences
    }

    /// Services with tasks that are somewhere.
    pub(super) fn services_with(&self, is_meant: impl Fn(&Task) -> bool) -> impl Iterator<Item = &String> {
        let with = self.by_service.iter().filter(move |(_, tasks)| tasks.iter().any(|task| is_meant(task)));
        with.map(|(service, _)| service)
    }

    fn of_service<'a>(&'a self, service_id: &str) -> impl Iterator<Item = &'a Task> + use<'a> {
        self.by_service.get(service_id).into_iter().flatten().map(|task| &**task)
    }

    fn insert(&mut self, id: &str, task: &Arc<Task>) {
        let tasks = self.by_service.entry(task.service_id.clone()).or_default();
        match tasks.binary_search_by(|known| known.id.as_str().cmp(id)) {
            Ok(place) => tasks[place] = task.clone(),
            Err(place) => tasks.insert(place, task.clone()),
        }
    }

    fn remove(&mut self, task: &Task, id: &str) {
        let Some(tasks) = self.by_service.get_mut(&task.service_id) else { return };
        if let Ok(place) = tasks.binary_search_by(|known| known.id.as_str().cmp(id)) {
            tasks.remove(place);
        }
        if tasks.is_empty() {
            self.by_service.remove(&task.service_id);
        }
    }
}

/// What a change concerns.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// There is no telling.
    pub(super) everything: bool,
    /// Ids of services, also of some that are gone.
    pub(super) services: BTreeSet<String>,
    /// Ids of tasks without a service.
    pub(super) attached: BTreeSet<String>,
    /// Ids of this node's containers.
    pub(super) containers: BTreeSet<String>,
    pub(super) networks: BTreeSet<String>,
}

/// What is desired follows from these.
#[derive(Clone, Debug, Default)]
pub(super) struct Inputs {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) local: Arc<LocalView>,
    pub(super) surroundings: Surroundings,
}

impl Touched {
    pub(super) const EVERYTHING: Self = Self {
        everything: true,
        services: BTreeSet::new(),
        attached: BTreeSet::new(),
        containers: BTreeSet::new(),
        networks: BTreeSet::new(),
    };

    /// What was touched between two views. `members` are brought from the first to the second.
    pub(super) fn between(before: &Inputs, now: &Inputs, members: &mut Members) -> Self {
        let mut touched = Self::default();
        let tasks = members.follow(&before.snapshot, &now.snapshot);
        if before.local.node != now.local.node || before.surroundings.serving != now.surroundings.serving {
            return Self::EVERYTHING;
        }
        for Difference { key: id, before, after } in tasks {
            touched.tasks(id, before.into_iter().chain(after));
        }
        touched.by_id(before, now);
        touched.nodes(before, now, members);
        touched.containers(before, now);
        touched.networks(before, now);
        touched
    }

    fn tasks<'a>(&mut self, id: &str, versions: impl Iterator<Item = &'a Task>) {
        for task in versions {
            if task.service_id.is_empty() {
                self.attached.insert(id.to_owned());
            } else if !self.services.contains(&task.service_id) {
                self.services.insert(task.service_id.clone());
            }
        }
    }

    /// Services, and what is known of tasks beside themselves.
    fn by_id(&mut self, before: &Inputs, now: &Inputs) {
        let (old, new) = (&before.snapshot, &now.snapshot);
        let services = new.services.differences(&old.services);
        self.services.extend(services.into_iter().map(|difference| difference.key.clone()));
        let conditions = new.conditions.differences(&old.conditions);
        let tasks = conditions.into_iter().map(|difference| difference.key);
        let drained = now.surroundings.drained.symmetric_difference(&before.surroundings.drained);
        for id in tasks.chain(drained) {
            self.tasks(id, new.tasks.get(id).into_iter());
        }
    }

    /// What a node is, and what it told, concerns the tasks on it.
    fn nodes(&mut self, before: &Inputs, now: &Inputs, members: &Members) {
        let (old, new) = (&before.snapshot, &now.snapshot);
        let mut touched = BTreeSet::new();
        for Difference { key: id, before, after } in new.nodes.differences(&old.nodes) {
            // Its version changes far more often than anything else.
            let same = before.zip(after).is_some_and(|(one, other)| {
                *one == crate::swarm::snapshot::Node { version: one.version, ..other.clone() }
            });
            if !same {
                touched.insert(id.as_str());
            }
        }
        let (one, other) = (&before.surroundings.reach, &now.surroundings.reach);
        if one != other {
            let silent = one.silent.symmetric_difference(&other.silent);
            let mut addresses: BTreeSet<_> = silent.copied().collect();
            addresses.extend(one.without_mesh.symmetric_difference(&other.without_mesh));
            let meant = new.nodes.iter().filter(|(_, node)| match node.address {
                Some(std::net::IpAddr::V4(address)) => addresses.contains(&address),
                _ => false,
            });
            touched.extend(meant.map(|(id, _)| id.as_str()));
        }
        if !touched.is_empty() {
            let services = members.services_with(|task| touched.contains(task.node_id.as_str()));
            self.services.extend(services.filter(|id| !id.is_empty()).cloned());
        }
        touched
            .extend(new.attached.differences(&old.attached).iter().map(|difference| difference.key.as_str()));
        let here = members.of_service("").filter(|task| touched.contains(task.node_id.as_str()));
        self.attached.extend(here.map(|task| task.id.clone()));
    }

    fn containers(&mut self, before: &Inputs, now: &Inputs) {
        let (old, new) = (&before.local.containers, &now.local.containers);
        let gone = old.iter().filter(|(id, container)| new.get(*id) != Some(container));
        let came = new.iter().filter(|(id, container)| old.get(*id) != Some(container));
        for (id, container) in gone.chain(came) {
            self.containers.insert(id.clone());
            self.services.insert(container.service_id.clone());
            self.tasks(&container.task_id, now.snapshot.tasks.get(&container.task_id).into_iter());
        }
        let (old_ports, new_ports) = (&before.surroundings.ports, &now.surroundings.ports);
        if old_ports == new_ports {
            return;
        }
        for container in new.values() {
            let namespace = container.details.as_ref().and_then(|details| details.namespace);
            if namespace.is_some_and(|namespace| old_ports.get(&namespace) != new_ports.get(&namespace)) {
                self.services.insert(container.service_id.clone());
            }
        }
    }

    /// Networks, and whether they are here, concern the services on them.
    fn networks(&mut self, before: &Inputs, now: &Inputs) {
        let (old, new) = (&before.snapshot, &now.snapshot);
        let overlays = now.surroundings.overlays.symmetric_difference(&before.surroundings.overlays);
        let mut touched: BTreeSet<&str> = overlays.map(String::as_str).collect();
        for Difference { key: id, before, after } in new.networks.differences(&old.networks) {
            if before.into_iter().chain(after).any(|network| network.ingress) {
                self.everything = true;
                return;
            }
            touched.insert(id);
            self.networks.insert(id.clone());
        }
        if touched.is_empty() {
            return;
        }
        for (id, service) in &new.services {
            if service.virtual_ips.iter().any(|vip| touched.contains(vip.network_id.as_str())) {
                self.services.insert(id.clone());
            }
        }
    }
}
