//! A dataplane that only remembers, for tests; it can be told to fail.

use std::collections::BTreeMap;

use mesh_common::backend::Backend;

use super::{Dataplane, DataplaneError};
use crate::reconcile::tables::{Operation, Tables};

/// Tables without a kernel.
#[derive(Debug, Default)]
pub struct Memory {
    pub tables: Tables,
    /// Every how manieth change fails; 0 for none.
    pub failing: usize,
    pub changes: usize,
}

impl Dataplane for Memory {
    fn apply(&mut self, operation: &Operation) -> Result<(), DataplaneError> {
        self.changes += 1;
        if self.failing != 0 && self.changes.is_multiple_of(self.failing) {
            return Err(DataplaneError::Injected("told to fail"));
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
