//! Whom the server turned away and why, in the log: each reason of each caller once a minute, not each attempt.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::warn;

#[derive(Debug, Default)]
pub(super) struct Refusals {
    reported: BTreeMap<(IpAddr, String), Instant>,
}

const QUIET: Duration = Duration::from_mins(1);

/// Many callers with many reasons are an attack; the log is no place to follow it.
const REMEMBERED: usize = 256;

impl Refusals {
    pub(super) fn refused(&mut self, caller: IpAddr, reason: &str, now: Instant) {
        if self.is_news(caller, reason, now) {
            warn!("refused to tell {caller} about the Swarm: {reason}");
        }
    }

    fn is_news(&mut self, caller: IpAddr, reason: &str, now: Instant) -> bool {
        self.reported.retain(|_, reported| now.duration_since(*reported) < QUIET);
        let key = (caller, reason.to_owned());
        if self.reported.len() >= REMEMBERED || self.reported.contains_key(&key) {
            return false;
        }
        self.reported.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_reported_once_a_minute_per_caller_and_reason() {
        let mut refusals = Refusals::default();
        let (caller, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let now = Instant::now();
        assert!(refusals.is_news(caller, "expired", now));
        assert!(!refusals.is_news(caller, "expired", now + Duration::from_secs(59)));
        assert!(refusals.is_news(caller, "foreign", now));
        assert!(refusals.is_news(other, "expired", now));
        assert!(refusals.is_news(caller, "expired", now + Duration::from_secs(61)));
    }
}
