//! The snapshot at the receiving end, put together from updates: always whole, never a part of a change. Pure.

use std::sync::Arc;

use thiserror::Error;

use super::changes::{self, Changes};
use super::messages::Update;
use crate::swarm::snapshot::Snapshot;

#[derive(Debug, Default)]
pub(super) struct Assembly {
    snapshot: Arc<Snapshot>,
    /// `None` before the first complete update.
    sequence: Option<u64>,
    /// The parts of the update that is on its way.
    parts: Changes,
    is_full: bool,
}

#[derive(Debug, PartialEq)]
pub(super) enum Received {
    Part,
    Heartbeat,
    /// The snapshot is another one; some of its objects could not be understood.
    Snapshot {
        complaints: Vec<String>,
    },
}

#[derive(Debug, Error)]
pub(super) enum AssemblyError {
    #[error("the manager's agent began with a change instead of everything")]
    NothingToChange,
    #[error("the manager's agent sent change {sent} after change {last}")]
    Gap { last: u64, sent: u64 },
}

impl Assembly {
    /// The last complete snapshot.
    pub(super) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(super) fn receive(&mut self, update: Update) -> Result<Received, AssemblyError> {
        if !update.full {
            let last = self.sequence.ok_or(AssemblyError::NothingToChange)?;
            let sent = update.sequence;
            let is_heartbeat =
                update.upserts.is_empty() && update.removes.is_empty() && self.parts.is_empty();
            if is_heartbeat && sent == last {
                return Ok(Received::Heartbeat);
            }
            if sent != last + 1 {
                return Err(AssemblyError::Gap { last, sent });
            }
        }
        self.is_full = update.full;
        self.parts.upserts.extend(update.upserts);
        self.parts.removes.extend(update.removes);
        if !update.complete {
            return Ok(Received::Part);
        }
        self.sequence = Some(update.sequence);
        if self.is_full {
            self.snapshot = Arc::default();
        }
        let complaints = changes::apply(std::mem::take(&mut self.parts), Arc::make_mut(&mut self.snapshot));
        Ok(Received::Snapshot { complaints })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::changes::between;
    use crate::peers::tests::snapshots::numbered;

    fn update(sequence: u64, full: bool, old: &Snapshot, new: &Snapshot) -> Update {
        let Changes { upserts, removes, .. } = between(old, new);
        Update { sequence, full, upserts, removes, complete: true }
    }

    #[test]
    fn nothing_of_a_change_shows_before_its_last_part() {
        let mut assembly = Assembly::default();
        assembly.receive(update(1, true, &Snapshot::default(), &numbered(1))).unwrap();
        let whole = update(2, true, &Snapshot::default(), &numbered(2));
        let first = Update { complete: false, ..whole.clone() };
        let last = Update { upserts: vec![], ..whole };
        assert_eq!(assembly.receive(first).unwrap(), Received::Part);
        assert_eq!(*assembly.snapshot(), numbered(1));
        assert_eq!(assembly.receive(last).unwrap(), Received::Snapshot { complaints: vec![] });
        assert_eq!(*assembly.snapshot(), numbered(2));
    }

    #[test]
    fn everything_anew_forgets_what_was_there() {
        let mut assembly = Assembly::default();
        assembly.receive(update(7, true, &Snapshot::default(), &numbered(1))).unwrap();
        assembly.receive(Update { sequence: 1, full: true, complete: true, ..Update::default() }).unwrap();
        assert_eq!(**assembly.snapshot(), Snapshot::default());
    }

    #[test]
    fn a_gap_is_an_error_and_a_heartbeat_is_not() {
        let mut assembly = Assembly::default();
        let heartbeat = |sequence| Update { sequence, complete: true, ..Update::default() };
        assert!(matches!(assembly.receive(heartbeat(1)), Err(AssemblyError::NothingToChange)));
        assembly.receive(update(1, true, &Snapshot::default(), &numbered(1))).unwrap();
        assert_eq!(assembly.receive(heartbeat(1)).unwrap(), Received::Heartbeat);
        let later = update(3, false, &numbered(1), &numbered(2));
        assert!(matches!(assembly.receive(later), Err(AssemblyError::Gap { last: 1, sent: 3 })));
    }
}
