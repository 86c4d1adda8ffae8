//! Which names the containers on this node can ask for, and what they mean to each of them.
//!
//! Docker gives names to services and tasks per network, and looks them up on the networks of the container that asks
//! (moby, daemon/libnetwork: `service_common.go`, `sandbox.go`). So do we; only networks that somebody here is on count.

mod asker;
mod hostname;
mod network;
mod parts;
mod seat;

use std::collections::{BTreeMap, HashMap};

pub use asker::{Asker, Upstream};
use asker::{networks_of, seat, upstream};
pub use network::{Found, NetworkNames, Reverse, ServicePort};
use network::{Owner, Part};
use parts::Parts;
pub use seat::{Sandbox, Seat};

use super::Surroundings;
use super::index::{Index, Members, Touched};
use crate::swarm::snapshot::{LocalView, Snapshot};

/// For how many seconds an answer with a task's address may be kept. Docker says 600, and names tasks that are long gone.
pub const TASK_TTL: u32 = 5;
/// The same for a virtual address, which a service keeps for life.
pub const VIRTUAL_TTL: u32 = 30;

/// The names on the networks of this node's containers. Copies share what they have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    networks: Vec<NetworkNames>,
    askers: HashMap<Seat, Asker>,
    left_to_docker: BTreeMap<String, String>,
    /// Where each network stands in `networks`, by its id.
    places: BTreeMap<String, usize>,
}

impl Names {
    pub fn from(snapshot: &Snapshot, local: &LocalView) -> Self {
        let members = Members::of(snapshot);
        let mut names = Self::default();
        names.update(&Index::of(snapshot, local, Surroundings::NONE, &members), &Touched::EVERYTHING);
        names
    }

    /// Works out anew what was touched; all of it, if other networks count than before.
    pub(super) fn update(&mut self, index: &Index<'_>, touched: &Touched) {
        let networks_stay = self.find_askers(index);
        let is_known = |id: &String| self.places.contains_key(id);
        if touched.everything || !networks_stay || touched.networks.iter().any(is_known) {
            self.networks
                .iter_mut()
                .for_each(|network| *network = NetworkNames::new(&network.id, &network.name));
            let snapshot = index.snapshot;
            snapshot.services.values().for_each(|service| self.set_service(index, &service.id));
            index.attached().for_each(|task| self.set_attached(index, &task.id));
            index.local.containers.keys().for_each(|id| self.set_container(index, id));
            return;
        }
        touched.services.iter().for_each(|id| self.set_service(index, id));
        touched.attached.iter().for_each(|id| self.set_attached(index, id));
        touched.containers.iter().for_each(|id| self.set_container(index, id));
    }

    /// Whose questions are answered, and about which networks. Returns whether these are the same networks as before.
    fn find_askers(&mut self, index: &Index<'_>) -> bool {
        let (snapshot, local) = (index.snapshot, index.local);
        self.left_to_docker.clear();
        let mut askers = BTreeMap::new();
        for container in local.containers.values() {
            let Some(details) = &container.details else { continue };
            let Some(seat) = seat(snapshot, container, details) else { continue };
            let networks = networks_of(snapshot, local, container);
            if !networks.iter().any(|order| !order.local) {
                continue;
            }
            match upstream(snapshot, container, details) {
                Ok(upstream) => {
                    // Who is shut in has no way to other servers, and must not get one.
                    let servers =
                        if let Seat::Sandbox(_) = seat { Some([].into()) } else { upstream.servers };
                    askers.insert(seat, (container, networks, Upstream { servers, ..upstream }));
                }
                Err(reason) => {
                    self.left_to_docker.insert(container.name.clone(), reason);
                }
            }
        }
        let wanted: BTreeMap<&str, &str> = askers
            .values()
            .flat_map(|(_, networks, _)| networks)
            .map(|order| (order.id, order.name))
            .collect();
        let known = self.networks.iter().map(|network| (network.id.as_str(), network.name.as_str()));
        let networks_stay = wanted == known.collect();
        if !networks_stay {
            self.networks = wanted.iter().map(|(id, name)| NetworkNames::new(id, name)).collect();
            self.places = wanted.keys().zip(0..).map(|(id, place)| ((*id).to_owned(), place)).collect();
        }
        self.askers.clear();
        for (seat, (container, networks, upstream)) in askers {
            let networks = networks.iter().filter_map(|order| self.places.get(order.id).copied()).collect();
            self.askers.insert(seat, Asker { name: container.name.clone(), networks, upstream });
        }
        networks_stay
    }

    fn set_service(&mut self, index: &Index<'_>, id: &str) {
        let mut parts = Parts::at(&self.places);
        if let Some(service) = index.snapshot.services.get(id) {
            parts.service(index, service);
        }
        let parts = parts.parts;
        self.set(&Owner::Service(id.into()), parts);
    }

    fn set_attached(&mut self, index: &Index<'_>, id: &str) {
        let mut parts = Parts::at(&self.places);
        if let Some(task) = index.snapshot.tasks.get(id).filter(|task| task.service_id.is_empty()) {
            parts.attached_elsewhere(index, task);
        }
        let parts = parts.parts;
        self.set(&Owner::Attached(id.into()), parts);
    }

    fn set_container(&mut self, index: &Index<'_>, id: &str) {
        let mut parts = Parts::at(&self.places);
        if let Some(container) = index.local.containers.get(id) {
            parts.container(index, id, container);
        }
        let parts = parts.parts;
        self.set(&Owner::Container(id.into()), parts);
    }

    fn set(&mut self, owner: &Owner, mut parts: BTreeMap<usize, Part>) {
        for (place, network) in self.networks.iter_mut().enumerate() {
            network.set(owner, parts.remove(&place).unwrap_or_default());
        }
    }

    /// Whose questions are answered.
    pub fn askers(&self) -> &HashMap<Seat, Asker> {
        &self.askers
    }

    /// The namespaces in which questions are answered because there is no way out of them.
    pub fn sandboxes(&self) -> impl Iterator<Item = Sandbox> {
        self.askers
            .keys()
            .filter_map(|seat| if let Seat::Sandbox(sandbox) = seat { Some(*sandbox) } else { None })
    }

    /// The networks of a container, in the order in which they are asked.
    pub fn networks_of<'a>(&'a self, asker: &'a Asker) -> impl Iterator<Item = &'a NetworkNames> {
        asker.networks.iter().filter_map(|place| self.networks.get(*place))
    }

    /// Every network that a container on this node can ask for names on.
    pub fn networks(&self) -> &[NetworkNames] {
        &self.networks
    }

    /// Containers, by name, whose questions must go to Docker's own resolver, and why.
    pub fn left_to_docker(&self) -> &BTreeMap<String, String> {
        &self.left_to_docker
    }
}

#[cfg(test)]
pub(crate) mod tests;
