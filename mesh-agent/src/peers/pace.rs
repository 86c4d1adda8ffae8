//! How often a node is listened to. Pure: the clock is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// What one node changes makes work on all others. What comes faster is not lost: the latest is taken a moment later.
const EVERY: Duration = Duration::from_millis(50);
/// So many at once are nothing unusual: a node that is drained tells of one task after the other.
const AT_ONCE: u32 = 20;

/// Of one node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// When all that was taken so far would have come at an even pace.
    even: Option<Instant>,
}

impl Pace {
    /// Takes a report, or says when it may come again.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let ahead = EVERY * (AT_ONCE - 1);
        let even = self.even.map_or(now, |even| even.max(now));
        if even > now + ahead {
            return Err(even - ahead);
        }
        self.even = Some(even + EVERY);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_what_follows_at_an_even_pace() {
        let begin = Instant::now();
        let mut pace = Pace::default();
        for _ in 0..AT_ONCE {
            assert_eq!(pace.take(begin), Ok(()));
        }
        assert_eq!(pace.take(begin), Err(begin + EVERY));
        let mut now = begin;
        for _ in 0..100 {
            now = pace.take(now).err().unwrap_or(now);
            assert_eq!(pace.take(now), Ok(()), "when it was said");
        }
        assert_eq!(now, begin + EVERY * 100);
        let later = now + Duration::from_secs(10);
        assert!((0..AT_ONCE).all(|_| pace.take(later).is_ok()), "a quiet node may do it again, once");
        assert!(pace.take(later).is_err());
    }
}
