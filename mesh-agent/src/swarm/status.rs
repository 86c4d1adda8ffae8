//! How the agent's knowledge of the Swarm is doing, for `status` and the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::trouble::{PATIENCE, Trouble};

/// Where the snapshots come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceRole {
    #[default]
    Starting,
    NotInSwarm,
    Manager,
    Worker,
    File,
}

impl SourceRole {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::NotInSwarm => "not in a swarm",
            Self::Manager => "manager",
            Self::Worker => "worker",
            Self::File => "file",
        }
    }
}

/// One of the two things that are read: the Swarm, and this node's own containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Swarm,
    Local,
    /// Serving snapshots to the agents of other nodes.
    Peers,
    /// Having the Swarm's changes pushed; only on managers.
    Watch,
}

#[derive(Clone, Debug, Default)]
pub struct Health {
    pub last_success: Option<Instant>,
    /// Why the last try failed; `None` while all is well.
    pub last_error: Option<String>,
    pub errors_total: u64,
    trouble: Trouble,
}

/// The agent of another node that reads the Swarm through us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriber {
    pub address: String,
    pub agent_version: String,
}

#[derive(Clone, Debug, Default)]
pub struct SourceStatus {
    pub role: SourceRole,
    /// The Docker socket, the manager's agent or the file that answered last.
    pub connected_to: Option<String>,
    pub swarm: Health,
    pub local: Health,
    pub peers: Health,
    pub watch: Health,
    /// Objects that could not be understood and are left out.
    pub skipped: BTreeSet<String>,
    /// By node id; only on managers.
    pub subscribers: BTreeMap<String, Subscriber>,
}

/// One [`SourceStatus`], written by the parts of the source and read by `status`.
#[derive(Clone, Debug, Default)]
pub struct StatusBoard(Arc<Mutex<SourceStatus>>);

impl StatusBoard {
    pub fn read(&self) -> SourceStatus {
        self.lock().clone()
    }

    pub fn set_role(&self, role: SourceRole) {
        let mut status = self.lock();
        status.role = role;
        status.connected_to = None;
        status.watch = Health::default();
        status.subscribers.clear();
    }

    pub fn set_skipped(&self, skipped: BTreeSet<String>) {
        self.lock().skipped = skipped;
    }

    pub fn connected_to(&self, whom: &str) {
        self.lock().connected_to = Some(whom.to_owned());
    }

    pub fn succeeded(&self, part: Part) {
        let is_news = {
            let mut status = self.lock();
            let health = status.health(part);
            health.last_success = Some(Instant::now());
            health.last_error = None;
            health.trouble.ends()
        };
        if is_news {
            info!("{} again", part.works());
        }
    }

    /// Warns of each kind of trouble once, not each time it shows, until all is well again.
    pub fn failed(&self, part: Part, error: &dyn Display) {
        self.fails(part, error, Duration::ZERO);
    }

    /// [`StatusBoard::failed`] for what others bring about by being exchanged: it is a warning only if it lasts.
    pub fn failed_for_now(&self, part: Part, error: &dyn Display) {
        self.fails(part, error, PATIENCE);
    }

    fn fails(&self, part: Part, error: &dyn Display, patience: Duration) {
        let text = error.to_string();
        let is_news = {
            let mut status = self.lock();
            let health = status.health(part);
            health.errors_total += 1;
            health.last_error = Some(text.clone());
            health.trouble.is_news(&text, patience, Instant::now().into())
        };
        if is_news {
            warn!("{}: {text}", part.fails());
        } else {
            debug!("{}: {text}", part.fails());
        }
    }

    pub fn subscribed(&self, node_id: &str, subscriber: Subscriber) {
        self.lock().subscribers.insert(node_id.to_owned(), subscriber);
    }

    pub fn unsubscribed(&self, node_id: &str, subscriber: &Subscriber) {
        let mut status = self.lock();
        // The node may have come back over another connection before this one was found dead.
        if status.subscribers.get(node_id) == Some(subscriber) {
            status.subscribers.remove(node_id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, SourceStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourceStatus {
    fn health(&mut self, part: Part) -> &mut Health {
        match part {
            Part::Swarm => &mut self.swarm,
            Part::Local => &mut self.local,
            Part::Peers => &mut self.peers,
            Part::Watch => &mut self.watch,
        }
    }
}

impl Part {
    fn works(self) -> &'static str {
        match self {
            Self::Swarm => "the state of the Swarm is readable",
            Self::Local => "this node's containers are readable",
            Self::Peers => "the agents of other nodes are served",
            Self::Watch => "changes of the Swarm are pushed",
        }
    }

    fn fails(self) -> &'static str {
        match self {
            Self::Swarm => "the state of the Swarm cannot be read, the last known one stays in force",
            Self::Local => "this node's containers cannot be read, the last known ones stay in force",
            Self::Peers => "the agents of other nodes cannot be served",
            Self::Watch => "changes of the Swarm are not pushed, they are polled, which takes longer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_ends_the_trouble_but_keeps_its_count() {
        let board = StatusBoard::default();
        board.failed(Part::Swarm, &"no answer");
        board.failed(Part::Swarm, &"no answer");
        let status = board.read();
        assert_eq!(status.swarm.last_error.as_deref(), Some("no answer"));
        assert!(status.swarm.last_success.is_none());

        board.succeeded(Part::Swarm);
        let status = board.read();
        assert_eq!(status.swarm.last_error, None);
        assert_eq!(status.swarm.errors_total, 2);
        assert!(status.swarm.last_success.is_some());
        assert_eq!(status.local.errors_total, 0);
    }

    #[test]
    fn the_end_of_an_old_connection_does_not_hide_the_new_one() {
        let board = StatusBoard::default();
        let old = Subscriber { address: "10.0.0.2:1".into(), agent_version: "1".into() };
        let new = Subscriber { address: "10.0.0.2:2".into(), agent_version: "1".into() };
        board.subscribed("node", old.clone());
        board.subscribed("node", new.clone());
        board.unsubscribed("node", &old);
        assert_eq!(board.read().subscribers["node"], new);
        board.unsubscribed("node", &new);
        assert!(board.read().subscribers.is_empty());
    }
}
