//! A dataplane that only remembers, for tests; it can be told to fail.

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

    fn dump(&self) -> Result<Tables, DataplaneError> {
        Ok(self.tables.clone())
    }
}
