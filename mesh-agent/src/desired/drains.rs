//! For how long tasks have been draining, where their service limits that (`mesh.drain`). Pure: the clock is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Backend, Desired, Frontend, FrontendId, State};
use crate::shared_map::{Difference, SharedMap};
use crate::swarm::snapshot::Snapshot;

/// Tasks with a limit, by id.
#[derive(Clone, Debug, Default)]
pub struct Drains {
    tasks: BTreeMap<String, Drain>,
    /// What was desired when the last note was taken.
    seen: SharedMap<FrontendId, Frontend>,
}

#[derive(Clone, Debug)]
struct Drain {
    began: Instant,
    limit: Duration,
    /// The frontends that still have it.
    frontends: BTreeSet<FrontendId>,
}

impl Drains {
    /// Tasks whose connections had their time.
    pub fn over(&self, now: Instant) -> BTreeSet<String> {
        let over = self.tasks.iter().filter(|(_, drain)| now >= drain.began + drain.limit);
        over.map(|(task, _)| task.clone()).collect()
    }

    /// Takes note of what drains, and returns when the next task will have had its time.
    pub fn note(&mut self, desired: &Desired, snapshot: &Snapshot, now: Instant) -> Option<Instant> {
        self.tasks.retain(|task, _| snapshot.tasks.contains_key(task));
        let before = std::mem::replace(&mut self.seen, desired.frontends.clone());
        let differences = desired.frontends.differences(&before);
        for Difference { key: id, before, .. } in &differences {
            for task in before.iter().flat_map(|frontend| frontend.backends.keys()) {
                if let Some(drain) = self.tasks.get_mut(task) {
                    drain.frontends.remove(id);
                }
            }
        }
        for Difference { key: id, after, .. } in differences {
            for (task, backend) in after.iter().flat_map(|frontend| &frontend.backends) {
                self.note_one(*id, task, backend, now);
            }
        }
        // One that is over but still in what is desired is for the next round, at once.
        let waiting = self.tasks.values();
        let waiting = waiting.filter(|drain| now < drain.began + drain.limit || !drain.frontends.is_empty());
        waiting.map(|drain| drain.began + drain.limit).min()
    }

    fn note_one(&mut self, frontend: FrontendId, task: &String, backend: &Backend, now: Instant) {
        match (backend.state, backend.drain) {
            (State::Draining, Some(limit)) => {
                let drain = Drain { began: now, limit, frontends: BTreeSet::new() };
                let drain = self.tasks.entry(task.clone()).or_insert(drain);
                drain.limit = limit;
                drain.frontends.insert(frontend);
            }
            (State::Draining, None) | (State::Active, _) => {
                self.tasks.remove(task);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{Home, Return};
    use crate::swarm::snapshot::{Protocol, Task};

    fn desired(state: State, drain: Option<u64>) -> Desired {
        let backend = Backend {
            home: Home::There([10, 99, 0, 2].into()),
            identity: [10, 0, 0, 2].into(),
            port: 80,
            state,
            return_by: Return::Tunnel,
            weight: 1,
            drain: drain.map(Duration::from_secs),
            since: 0,
        };
        let frontend = Frontend { backends: [("t".to_owned(), backend)].into(), ..Frontend::default() };
        let id = FrontendId::Published { port: 80, protocol: Protocol::Tcp };
        Desired { frontends: [(id, frontend)].into(), ..Desired::default() }
    }

    fn swarm() -> Snapshot {
        Snapshot { tasks: [("t".to_owned(), Task::default())].into(), ..Snapshot::default() }
    }

    #[test]
    fn a_task_drains_for_as_long_as_its_service_says() {
        let (mut drains, now) = (Drains::default(), Instant::now());
        let end = now + Duration::from_secs(30);
        assert_eq!(drains.note(&desired(State::Draining, Some(30)), &swarm(), now), Some(end));
        let later = now + Duration::from_secs(10);
        assert_eq!(drains.note(&desired(State::Draining, Some(30)), &swarm(), later), Some(end));
        assert!(drains.over(later).is_empty());
        assert!(drains.over(end).contains("t"));
        assert_eq!(drains.note(&Desired::default(), &swarm(), end), None, "it is gone from the tables");
        assert!(drains.over(end).contains("t"), "and stays away");
        drains.note(&Desired::default(), &Snapshot::default(), end);
        assert!(drains.over(end).is_empty());
    }

    #[test]
    fn without_a_limit_or_when_it_serves_again_nothing_is_over() {
        let (mut drains, now) = (Drains::default(), Instant::now());
        assert_eq!(drains.note(&desired(State::Draining, None), &swarm(), now), None);
        drains.note(&desired(State::Draining, Some(5)), &swarm(), now);
        assert_eq!(drains.note(&desired(State::Active, Some(5)), &swarm(), now), None);
        assert!(drains.over(now + Duration::from_mins(1)).is_empty());
    }

    #[test]
    fn a_limit_of_nothing_is_over_at_once() {
        let (mut drains, now) = (Drains::default(), Instant::now());
        assert_eq!(drains.note(&desired(State::Draining, Some(0)), &swarm(), now), Some(now));
        assert!(drains.over(now).contains("t"));
    }
}
