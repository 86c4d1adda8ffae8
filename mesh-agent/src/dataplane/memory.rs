//! A dataplane that only remembers, for tests; it can be told to fail.

use std::collections::BTreeMap;

use mesh_common::backend::Backend;

use super::{Dataplane, DataplaneError};
use crate::desired::FrontendId;
use crate::reconcile::tables::{Operation, Tables};

/// Tables without a kernel.
#[derive(Debug, Default)]
pub struct Memory {
    pub tables: Tables,
    /// Every how manieth change fails; 0 for none.
    pub failing: usize,
    pub changes: usize,
    /// How many slots and frontends there is room for; 0 for any number.
    pub slots: usize,
    pub frontends: usize,
    /// One that the kernel never takes.
    pub refused: Option<FrontendId>,
}

impl Memory {
    fn has_room(&self, operation: &Operation) -> bool {
        let fits = |is_there: bool, taken: usize, room: usize| is_there || room == 0 || taken < room;
        let (slots, frontends) = (&self.tables.slots, &self.tables.frontends);
        if let Operation::SetSlot(key, _) = operation {
            fits(slots.contains_key(key), slots.len(), self.slots)
        } else if let Operation::SetFrontend(id, _) = operation {
            self.refused != Some(*id) && fits(frontends.contains_key(id), frontends.len(), self.frontends)
        } else {
            true
        }
    }
}

impl Dataplane for Memory {
    fn apply(&mut self, operation: &Operation) -> Result<(), DataplaneError> {
        self.changes += 1;
        if self.failing != 0 && self.changes.is_multiple_of(self.failing) {
            return Err(DataplaneError::Injected("told to fail"));
        }
        if !self.has_room(operation) {
            return Err(DataplaneError::Injected("there is no room"));
        }
        self.tables.apply(operation);
        Ok(())
    }

    fn dump(&self, ids: Option<&BTreeMap<u32, Backend>>) -> Result<Tables, DataplaneError> {
        let mut tables = self.tables.clone();
        tables.backends.retain(|id, _| ids.is_none_or(|ids| ids.contains_key(id)));
        Ok(tables)
    }
}
