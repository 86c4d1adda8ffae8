//! How many flows begin, so that a flood of SYNs is known when there is one.
//!
//! Half-open flows are in a table that forgets. While more of them begin than it can keep for a round trip, remembering them only makes
//! it forget those of clients: SYNs are then given to a backend by their hash alone, and so is the segment that follows, without
//! anything remembered in between. Katran does the same (`is_under_flood`).

use crate::clock;

/// What is counted is counted for so long.
const SPAN_NANOSECONDS: u64 = 1_000_000_000;

/// The only value of `PRESSURE`, for all processors: clients' packets need not come in on all of them alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pressure {
    /// When this span began, coarse monotonic nanoseconds.
    pub since: u64,
    /// Flows that have begun in it, and in the one before.
    pub now: u32,
    pub before: u32,
}

impl Pressure {
    /// Counts a flow that begins, and tells whether that is more than `limit` in a span, or was in the one before; no number is
    /// too high for a limit of 0.
    #[inline(always)]
    pub fn rises_over(&mut self, limit: u32, now: u64) -> bool {
        let age = clock::elapsed(self.since, now);
        if age >= SPAN_NANOSECONDS {
            self.before = if age < 2 * SPAN_NANOSECONDS { self.now } else { 0 };
            (self.since, self.now) = (now, 0);
        }
        self.now = self.now.saturating_add(1);
        limit != 0 && (self.now > limit || self.before > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = SPAN_NANOSECONDS;

    fn begin(pressure: &mut Pressure, count: u32, now: u64) -> u32 {
        (0..count).map(|_| u32::from(pressure.rises_over(100, now))).sum()
    }

    #[test]
    fn a_flood_lasts_until_a_second_after_its_end() {
        let mut pressure = Pressure::default();
        let begun = 1_000 * SECOND;
        assert_eq!(begin(&mut pressure, 100, begun), 0);
        assert_eq!(begin(&mut pressure, 50, begun + SECOND / 2), 50);
        assert_eq!(begin(&mut pressure, 10, begun + SECOND), 10);
        assert_eq!(begin(&mut pressure, 10, begun + 2 * SECOND), 0);
    }

    #[test]
    fn a_pause_ends_it_and_no_limit_is_never_reached() {
        let mut pressure = Pressure::default();
        let begun = 1_000 * SECOND;
        assert_eq!(begin(&mut pressure, 500, begun), 400);
        assert_eq!(begin(&mut pressure, 1, begun + 3 * SECOND), 0);
        assert!((0..1_000).all(|_| !pressure.rises_over(0, begun)));
    }
}
