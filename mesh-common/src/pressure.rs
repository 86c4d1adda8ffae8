//! How many flows begin, so that a flood of SYNs is known when there is one; and how many senders are told no.
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
    /// When the span began in which these senders have been told no, coarse monotonic nanoseconds.
    pub told_since: u64,
    /// By a RST, and by an ICMP error.
    pub resets: u32,
    pub errors: u32,
}

/// So many senders are told no by a RST in a second: as many as lose their task with a large one, and too few to serve somebody who
/// sends in another's name.
pub const RESETS: u32 = 10_000;
/// So many by an ICMP error: as the kernel's own (`net.ipv4.icmp_msgs_per_sec`).
pub const ERRORS: u32 = 1_000;

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

    /// Counts a sender that is to be told no, and tells whether it may be.
    #[inline(always)]
    pub fn may_tell(&mut self, by_reset: bool, now: u64) -> bool {
        if clock::elapsed(self.told_since, now) >= SPAN_NANOSECONDS {
            (self.told_since, self.resets, self.errors) = (now, 0, 0);
        }
        let (count, limit) = if by_reset { (&mut self.resets, RESETS) } else { (&mut self.errors, ERRORS) };
        *count = count.saturating_add(1);
        *count <= limit
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
    fn so_many_senders_are_told_no_in_a_second() {
        let mut pressure = Pressure::default();
        let begun = 1_000 * SECOND;
        let mut told = |by_reset, now| (0..20_000).filter(|_| pressure.may_tell(by_reset, now)).count();
        assert_eq!((told(true, begun), told(false, begun)), (RESETS as usize, ERRORS as usize));
        assert_eq!((told(true, begun + SECOND - 1), told(false, begun + SECOND - 1)), (0, 0));
        assert_eq!(told(false, begun + SECOND), ERRORS as usize);
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
