//! How many places in sets there are for frontends that need others.

use crate::desired::Policy;
use crate::desired::spread::MAGLEV_SLOTS;
use crate::reconcile::allocation::Exhausted;
use crate::reconcile::tables::Tables;

/// Places in sets that are left. Maglev tables may take all but an eighth, so that no number of them keeps others out.
pub(super) struct Room {
    pub(super) capacity: u32,
    all: usize,
    maglev: usize,
}

impl Room {
    pub(super) fn left(tables: &Tables, capacity: u32) -> Self {
        let frontends = tables.frontends.values();
        let maglev = frontends.filter(|frontend| frontend.count == MAGLEV_SLOTS).count();
        let places = capacity as usize;
        Self {
            capacity,
            all: places.saturating_sub(tables.slots.len()),
            maglev: (places - places / 8).saturating_sub(maglev * MAGLEV_SLOTS as usize),
        }
    }

    /// Whether a Maglev table has any: it takes a while to make one.
    pub(super) fn has_maglev(&self) -> bool {
        self.maglev.min(self.all) >= MAGLEV_SLOTS as usize
    }

    pub(super) fn take(&mut self, policy: Policy, places: usize) -> Result<(), Exhausted> {
        let is_maglev = policy == Policy::Maglev;
        if places > self.all || is_maglev && places > self.maglev {
            return Err(Exhausted::Slots(self.capacity));
        }
        self.all -= places;
        if is_maglev {
            self.maglev -= places;
        }
        Ok(())
    }
}
