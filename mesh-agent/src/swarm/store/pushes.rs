//! One kind of object: which of a change and of a list counts.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::shared_map::SharedMap;
use crate::swarm::snapshot::{Network, Node, Role, Service, Task};

/// How long after a change a list may still be begun and know nothing of it: managers apply what they agreed on within
/// milliseconds of each other.
const PROTECTED: Duration = Duration::from_secs(1);

/// The changes of one kind of object that lists may not know yet, by its id.
#[derive(Debug, Default)]
pub(super) struct Pushes(BTreeMap<String, Push>);

impl Pushes {
    pub(super) fn set<T: Listable + Clone>(
        &mut self,
        known: &mut SharedMap<String, T>,
        id: String,
        mut object: T,
        version: u64,
        now: Instant,
    ) {
        let pushed = self.0.get(&id);
        // Ids are never used twice.
        let is_gone = pushed.is_some_and(|push| push.is_removal);
        let newest = pushed.map(|push| push.version).max(known.get(&id).map(Listable::version));
        if is_gone || newest.is_some_and(|newest| newest > version) {
            return;
        }
        if let Some(known) = known.get(&id) {
            object.pushed_over(known);
        }
        self.0.insert(id.clone(), Push { version, at: now, is_removal: false });
        known.insert(id, object);
    }

    pub(super) fn remove<T>(
        &mut self,
        known: &mut SharedMap<String, T>,
        id: String,
        version: u64,
        now: Instant,
    ) {
        known.remove(&id);
        self.0.insert(id, Push { version, at: now, is_removal: true });
    }

    pub(super) fn list<T: Listable + Clone + PartialEq>(
        &mut self,
        known: &mut SharedMap<String, T>,
        mut list: SharedMap<String, T>,
        begun: Instant,
    ) {
        self.0.retain(|_, push| push.is_protected_from(begun));
        list.update(|id, listed| {
            if let Some(before) = known.get(id) {
                listed.listed_over(before);
            }
        });
        for (id, push) in &self.0 {
            if push.is_removal {
                list.remove(id);
            } else if list.get(id).is_none_or(|listed| listed.version() < push.version)
                && let Some(pushed) = known.get_shared(id)
            {
                list.insert_shared(id.clone(), pushed.clone());
            }
        }
        // A push that comes late must not bring back what is gone.
        for (id, gone) in known.iter().filter(|(id, _)| !list.contains_key(*id)) {
            let push = Push { version: gone.version(), at: begun, is_removal: true };
            self.0.entry(id.clone()).or_insert(push);
        }
        known.become_like(&list);
    }
}

#[derive(Clone, Copy, Debug)]
struct Push {
    version: u64,
    at: Instant,
    is_removal: bool,
}

impl Push {
    fn is_protected_from(self, begun: Instant) -> bool {
        begun < self.at + PROTECTED
    }
}

/// What the two sources tell of an object.
pub(super) trait Listable {
    /// As in lists; 0 where lists tell none.
    fn version(&self) -> u64;

    /// Takes over what only lists tell.
    fn pushed_over(&mut self, _known: &Self) {}

    /// Takes over what lists do not tell.
    fn listed_over(&mut self, _known: &Self) {}
}

impl Listable for Network {
    fn version(&self) -> u64 {
        0
    }
}

impl Listable for Node {
    fn version(&self) -> u64 {
        self.version
    }

    /// By what address managers know each other is not in the store that changes are pushed from.
    fn pushed_over(&mut self, known: &Self) {
        if self.role == Role::Manager || self.address.is_none() {
            self.address = known.address.or(self.address);
        }
    }
}

impl Listable for Service {
    fn version(&self) -> u64 {
        self.version
    }
}

impl Listable for Task {
    fn version(&self) -> u64 {
        self.version
    }

    fn pushed_over(&mut self, known: &Self) {
        self.listed_over(known);
    }

    fn listed_over(&mut self, known: &Self) {
        if self.ports.is_none() {
            self.ports.clone_from(&known.ports);
        }
    }
}
