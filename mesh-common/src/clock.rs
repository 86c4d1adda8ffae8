//! The kernel's coarse monotonic clock, in nanoseconds, as several processors read it at once.

/// How long ago `then` was.
///
/// What another processor has just written may be ahead of the `now` that a packet came with: that is no time ago. The
/// bare difference of two such numbers is centuries, and a conversation that has just begun would count as one long over.
#[inline(always)]
pub const fn elapsed(then: u64, now: u64) -> u64 {
    let difference = now.wrapping_sub(then);
    if difference.cast_signed() < 0 { 0 } else { difference }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_processor_has_just_written_is_no_time_ago() {
        assert_eq!(elapsed(7, 10), 3);
        assert_eq!(elapsed(10, 10), 0);
        assert_eq!(elapsed(14, 10), 0);
        assert_eq!(elapsed(14, 0), 0);
    }
}
