//! Tasks that the Swarm has forgotten and that run on. Pure: the clock is an argument.
//!
//! A service that is scaled down and soon afterwards up again has its unused slots cleared: swarmkit deletes their tasks
//! (`manager/orchestrator/replicated/services.go`, dead slots), although their containers are told to stop only two
//! seconds after the first change and have their grace period still (moby,
//! `daemon/cluster/executor/container/controller.go`). Their connections are theirs until the containers end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::conditions::AllTold;
use crate::shared_map::Difference;
use crate::swarm::snapshot::{Condition, Snapshot, Task, TaskState};

/// How long a task is kept of which its node tells nothing. A node tells of its task once that is told to stop.
const UNTOLD: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
pub(super) struct Remains {
    swarm: Arc<Snapshot>,
    tasks: BTreeMap<String, Remaining>,
}

#[derive(Debug)]
struct Remaining {
    task: Arc<Task>,
    /// When the Swarm or its node told of it for the last time.
    told: Instant,
}

impl Remains {
    /// Takes note of what the Swarm and the nodes tell now.
    pub(super) fn follow(&mut self, swarm: &Arc<Snapshot>, told: &AllTold, now: Instant) {
        let before = std::mem::replace(&mut self.swarm, swarm.clone());
        if !Arc::ptr_eq(&before, swarm) {
            for Difference { key: id, before, after } in swarm.tasks.differences(&before.tasks) {
                match (before, after) {
                    (Some(gone), None) if ran(gone) => {
                        let task = Arc::new(Task { desired_state: TaskState::Remove, ..gone.clone() });
                        self.tasks.insert(id.clone(), Remaining { task, told: now });
                    }
                    (_, Some(task)) => self.tasks.retain(|other, remaining| {
                        // The addresses of a forgotten task are free for others.
                        other != id && !share_an_address(&remaining.task, task)
                    }),
                    _ => {}
                }
            }
        }
        self.tasks.retain(|id, remaining| match told.of(&remaining.task.node_id, id) {
            Some(Condition::Ended) => false,
            Some(Condition::Draining) => {
                remaining.told = now;
                true
            }
            None => now < remaining.told + UNTOLD,
        });
    }

    /// When to look again, although nobody tells anything.
    pub(super) fn due(&self) -> Option<Instant> {
        self.tasks.values().map(|remaining| remaining.told + UNTOLD).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// By task id. None of them is wanted any more.
    pub(super) fn tasks(&self) -> impl Iterator<Item = (&String, &Arc<Task>)> {
        self.tasks.iter().map(|(id, remaining)| (id, &remaining.task))
    }
}

/// Containers that were attached by hand are forgotten when they end, and not before.
fn ran(task: &Task) -> bool {
    task.state == TaskState::Running && !task.service_id.is_empty()
}

fn share_an_address(one: &Task, other: &Task) -> bool {
    one.attachments.iter().any(|mine| {
        other.attachments.iter().any(|theirs| {
            mine.network_id == theirs.network_id
                && mine.addresses.iter().any(|address| theirs.addresses.contains(address))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::conditions::Told;
    use super::*;
    use crate::swarm::snapshot::Attachment;

    fn task(id: &str, state: TaskState, address: u8) -> Task {
        let attachment = Attachment {
            network_id: "ingress".into(),
            addresses: vec![[10, 0, 0, address].into()],
            aliases: vec![],
        };
        Task {
            id: id.into(),
            service_id: "s1".into(),
            node_id: "n1".into(),
            desired_state: TaskState::Shutdown,
            state,
            attachments: vec![attachment],
            ..Task::default()
        }
    }

    fn swarm(tasks: &[Task]) -> Arc<Snapshot> {
        let tasks = tasks.iter().map(|task| (task.id.clone(), task.clone())).collect();
        Arc::new(Snapshot { tasks, ..Snapshot::default() })
    }

    fn told(ended: &[&str], draining: &[&str]) -> AllTold {
        let ids = |tasks: &[&str]| tasks.iter().map(|task| (*task).to_owned()).collect::<BTreeSet<_>>();
        let mut all = AllTold::default();
        all.set("n1", Told { ended: ids(ended), draining: ids(draining), ..Told::default() });
        all
    }

    fn kept(remains: &Remains) -> Vec<(&str, TaskState)> {
        remains.tasks().map(|(id, task)| (id.as_str(), task.desired_state)).collect()
    }

    #[test]
    fn a_task_that_is_forgotten_while_it_runs_drains_until_its_node_tells_of_its_end() {
        let start = Instant::now();
        let mut remains = Remains::default();
        let running = [task("t1", TaskState::Running, 1), task("t2", TaskState::Shutdown, 2)];
        remains.follow(&swarm(&running), &told(&[], &[]), start);
        assert!(remains.is_empty());
        remains.follow(&swarm(&[]), &told(&[], &[]), start);
        assert_eq!(kept(&remains), [("t1", TaskState::Remove)], "the other one has ended");

        let much_later = start + UNTOLD * 10;
        remains.follow(&swarm(&[]), &told(&[], &["t1"]), much_later);
        assert_eq!(kept(&remains).len(), 1, "its grace period is long");
        assert_eq!(remains.due(), Some(much_later + UNTOLD), "not before");
        remains.follow(&swarm(&[]), &told(&["t1"], &[]), much_later);
        assert!(remains.is_empty() && remains.due().is_none());
    }

    #[test]
    fn a_task_of_which_its_node_tells_nothing_is_kept_for_a_while() {
        let start = Instant::now();
        let mut remains = Remains::default();
        remains.follow(&swarm(&[task("t1", TaskState::Running, 1)]), &told(&[], &[]), start);
        remains.follow(&swarm(&[]), &told(&[], &[]), start);
        let due = remains.due().unwrap();
        remains.follow(&swarm(&[]), &told(&[], &[]), due - Duration::from_millis(1));
        assert!(!remains.is_empty());
        remains.follow(&swarm(&[]), &told(&[], &[]), due);
        assert!(remains.is_empty());
    }

    #[test]
    fn a_task_is_not_kept_that_ended_before_it_was_forgotten_or_that_was_no_services() {
        let start = Instant::now();
        let mut remains = Remains::default();
        let by_hand = Task { service_id: String::new(), ..task("by-hand", TaskState::Running, 2) };
        let tasks = [task("t1", TaskState::Running, 1), by_hand];
        remains.follow(&swarm(&tasks), &told(&["t1"], &[]), start);
        remains.follow(&swarm(&[]), &told(&["t1"], &[]), start);
        assert!(remains.is_empty());
    }

    #[test]
    fn a_forgotten_task_gives_way_to_one_with_its_address_and_to_itself() {
        let start = Instant::now();
        let (first, second) = (task("t1", TaskState::Running, 1), task("t2", TaskState::Running, 2));
        for back in [&first, &task("new", TaskState::New, 1)] {
            let mut remains = Remains::default();
            remains.follow(&swarm(&[first.clone(), second.clone()]), &told(&[], &[]), start);
            remains.follow(&swarm(&[]), &told(&[], &[]), start);
            remains.follow(&swarm(std::slice::from_ref(back)), &told(&[], &[]), start);
            assert_eq!(kept(&remains), [("t2", TaskState::Remove)]);
        }
    }
}
