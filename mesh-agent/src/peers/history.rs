//! The snapshots of a manager as its subscribers need them: the latest one whole, and the last few changes, worked out
//! once for all subscribers. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;

use super::changes::{self, Changes, object};
use super::messages::{Kind, Object, Update};
use crate::shared_map::SharedMap;
use crate::swarm::snapshot::Snapshot;

#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// The number of the latest snapshot; 0 before the first.
    sequence: u64,
    snapshot: Arc<Snapshot>,
    /// What led to `sequence`, oldest first.
    changes: VecDeque<Arc<Changes>>,
}

/// A subscriber that is further behind gets everything anew, which is less work than many changes.
const CHANGES_KEPT: usize = 64;

/// Messages stay far below gRPC's customary limit of 4 MiB.
const PART_BYTES: usize = 256 * 1024;

impl History {
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sequence == 0
    }

    /// This history with one more snapshot; the same one if that brings nothing new.
    pub(super) fn advanced(&self, snapshot: Arc<Snapshot>) -> Self {
        if self.is_empty() {
            return Self { sequence: 1, snapshot, changes: VecDeque::new() };
        }
        let changes = changes::between(&self.snapshot, &snapshot);
        if changes.is_empty() {
            return self.clone();
        }
        let mut kept = self.changes.clone();
        kept.push_back(Arc::new(changes));
        if kept.len() > CHANGES_KEPT {
            kept.pop_front();
        }
        Self { sequence: self.sequence + 1, snapshot, changes: kept }
    }

    /// What a subscriber lacks that has seen everything up to `sequence`, or nothing yet.
    pub(super) fn since(&self, sequence: Option<u64>) -> Lacking {
        let behind = sequence.and_then(|sequence| usize::try_from(self.sequence.checked_sub(sequence)?).ok());
        match behind {
            Some(behind) if behind <= self.changes.len() => {
                let first = self.changes.len() - behind;
                let sequences = self.sequence - behind as u64 + 1..;
                Lacking::Changes(sequences.zip(self.changes.iter().skip(first).cloned()).collect())
            }
            _ => Lacking::Everything(Transfer::new(self.sequence, self.snapshot.clone())),
        }
    }
}

/// Made part by part on demand, so that a slow subscriber costs no memory.
#[derive(Debug)]
pub(super) enum Lacking {
    Everything(Transfer),
    Changes(VecDeque<(u64, Arc<Changes>)>),
}

impl Lacking {
    /// Some of the updates that are left, in order; none if there are none. Adds to `refused` what is left out of them, in
    /// words.
    pub(super) fn next_updates(&mut self, refused: &mut Vec<String>) -> VecDeque<Update> {
        match self {
            Self::Everything(transfer) => transfer.next_update(refused).into_iter().collect(),
            Self::Changes(changes) => {
                let Some((sequence, changes)) = changes.pop_front() else { return VecDeque::new() };
                refused.extend(changes.refused.iter().cloned());
                parts(sequence, &changes)
            }
        }
    }
}

/// A whole snapshot on its way to a subscriber.
#[derive(Debug)]
pub(super) struct Transfer {
    sequence: u64,
    snapshot: Arc<Snapshot>,
    kind: Kind,
    /// The last object that was sent of `kind`.
    after: Option<String>,
    is_done: bool,
}

impl Transfer {
    fn new(sequence: u64, snapshot: Arc<Snapshot>) -> Self {
        Self { sequence, snapshot, kind: Kind::Network, after: None, is_done: false }
    }

    fn next_update(&mut self, refused: &mut Vec<String>) -> Option<Update> {
        if self.is_done {
            return None;
        }
        let mut upserts = Vec::new();
        let mut bytes = 0;
        while bytes < PART_BYTES {
            let Some(object) = self.next_object(refused) else {
                self.is_done = true;
                break;
            };
            bytes += size(&object);
            upserts.push(object);
        }
        Some(Update {
            sequence: self.sequence,
            full: true,
            upserts,
            removes: Vec::new(),
            complete: self.is_done,
        })
    }

    fn next_object(&mut self, refused: &mut Vec<String>) -> Option<Object> {
        loop {
            let after = self.after.as_deref();
            let (object, next_kind) = match self.kind {
                Kind::Network => (following(Kind::Network, &self.snapshot.networks, after), Kind::Node),
                Kind::Node => (following(Kind::Node, &self.snapshot.nodes, after), Kind::Service),
                Kind::Service => (following(Kind::Service, &self.snapshot.services, after), Kind::Task),
                Kind::Task => (following(Kind::Task, &self.snapshot.tasks, after), Kind::Condition),
                Kind::Condition => {
                    (following(Kind::Condition, &self.snapshot.conditions, after), Kind::Attached)
                }
                Kind::Attached => (following(Kind::Attached, &self.snapshot.attached, after), Kind::Unknown),
                Kind::Unknown => return None,
            };
            let Some((id, object)) = object else {
                self.kind = next_kind;
                self.after = None;
                continue;
            };
            self.after = Some(id);
            match object {
                Ok(object) => return Some(object),
                Err(why) => refused.push(why),
            }
        }
    }
}

fn following<T: Serialize>(
    kind: Kind,
    objects: &SharedMap<String, T>,
    after: Option<&str>,
) -> Option<(String, Result<Object, String>)> {
    let (id, value) = objects.first_after(after)?;
    Some((id.clone(), object(kind, id, value)))
}

/// One change as one message or, if it is large, several.
fn parts(sequence: u64, changes: &Changes) -> VecDeque<Update> {
    let part = || Update { sequence, ..Update::default() };
    let mut updates = VecDeque::from([part()]);
    let mut bytes = 0;
    let mut room = |updates: &mut VecDeque<Update>, size: usize| {
        if bytes >= PART_BYTES {
            bytes = 0;
            updates.push_back(part());
        }
        bytes += size;
    };
    for object in &changes.upserts {
        room(&mut updates, size(object));
        if let Some(update) = updates.back_mut() {
            update.upserts.push(object.clone());
        }
    }
    for reference in &changes.removes {
        room(&mut updates, reference.id.len() + 8);
        if let Some(update) = updates.back_mut() {
            update.removes.push(reference.clone());
        }
    }
    if let Some(last) = updates.back_mut() {
        last.complete = true;
    }
    updates
}

fn size(object: &Object) -> usize {
    object.id.len() + object.json.len() + 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::assembly::Assembly;
    use crate::peers::tests::snapshots::{numbered, with_many_tasks};
    use crate::swarm::snapshot::Service;

    fn all_updates(mut lacking: Lacking) -> Vec<Update> {
        let mut updates = Vec::new();
        loop {
            let next = lacking.next_updates(&mut Vec::new());
            if next.is_empty() {
                return updates;
            }
            updates.extend(next);
        }
    }

    fn received(updates: Vec<Update>, assembly: &mut Assembly) -> Arc<Snapshot> {
        for update in updates {
            assembly.receive(update).unwrap();
        }
        assembly.snapshot().clone()
    }

    #[test]
    fn a_new_subscriber_gets_everything_and_then_only_changes() {
        let first = History::default().advanced(numbered(1));
        let mut assembly = Assembly::default();
        let updates = all_updates(first.since(None));
        assert!(updates.iter().all(|update| update.full));
        assert_eq!(received(updates, &mut assembly), numbered(1));

        let third = first.advanced(numbered(2)).advanced(numbered(3));
        let updates = all_updates(third.since(Some(first.sequence())));
        assert_eq!(updates.iter().map(|update| update.sequence).collect::<Vec<_>>(), [2, 3]);
        assert!(updates.iter().all(|update| !update.full && update.upserts.len() == 1));
        assert_eq!(received(updates, &mut assembly), numbered(3));
        assert!(all_updates(third.since(Some(third.sequence()))).is_empty());
    }

    #[test]
    fn a_subscriber_too_far_behind_gets_everything_anew() {
        let mut history = History::default().advanced(numbered(1));
        let first = history.sequence();
        for number in 2..100 {
            history = history.advanced(numbered(number));
        }
        assert!(matches!(history.since(Some(first)), Lacking::Everything(_)));
        assert!(matches!(history.since(Some(history.sequence() - 64)), Lacking::Changes(_)));
        assert!(matches!(history.since(Some(history.sequence() + 1)), Lacking::Everything(_)));
    }

    #[test]
    fn a_snapshot_with_an_object_that_is_too_large_arrives_without_it() {
        let mut snapshot = Arc::unwrap_or_clone(numbered(1));
        let large = Service { name: "x".repeat(2 << 20), ..Service::default() };
        snapshot.services.insert("a-large-one".into(), large);
        let history = History::default().advanced(Arc::new(snapshot));
        let mut refused = Vec::new();
        let Lacking::Everything(mut transfer) = history.since(None) else { panic!("it is the first") };
        let updates: Vec<_> = std::iter::from_fn(|| transfer.next_update(&mut refused)).collect();
        assert_eq!(received(updates, &mut Assembly::default()), numbered(1));
        assert_eq!(refused.len(), 1);
        assert!(refused[0].starts_with("Service a-large-one has 2097"), "{refused:?}");
    }

    #[test]
    fn a_snapshot_without_news_is_no_step() {
        let history = History::default().advanced(numbered(1));
        assert_eq!(history.advanced(numbered(1)).sequence(), 1);
    }

    #[test]
    fn a_large_snapshot_and_a_large_change_travel_in_parts_of_which_the_last_completes() {
        let empty = History::default().advanced(Arc::default());
        let large = with_many_tasks(5000);
        for updates in [
            all_updates(History::default().advanced(large.clone()).since(None)),
            all_updates(empty.advanced(large.clone()).since(Some(1))),
        ] {
            assert!(updates.len() > 3, "{} parts", updates.len());
            assert!(updates.iter().all(|update| prost::Message::encoded_len(update) < 2 * PART_BYTES));
            let (last, earlier) = updates.split_last().unwrap();
            assert!(last.complete && earlier.iter().all(|update| !update.complete));
        }
        let mut assembly = Assembly::default();
        received(all_updates(empty.since(None)), &mut assembly);
        let snapshot = received(all_updates(empty.advanced(large.clone()).since(Some(1))), &mut assembly);
        assert_eq!(snapshot, large);
    }
}
