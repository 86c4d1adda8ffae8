//! How long to wait before the next try: longer each time, never longer than a limit, never in step with others.

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, next: first }
    }

    /// The pause before the next try: between half of the step and the whole step.
    pub fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.limit);
        step.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// The pause after something worked for a while and then failed. Only what lasted is worth a quick new try; what
    /// breaks again and again is not.
    pub fn pause_after(&mut self, lasted: Duration) -> Duration {
        if lasted >= self.limit * 2 {
            self.next = self.first;
        }
        self.pause()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_limit_and_start_over_after_what_lasted() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for step in [100, 200, 400, 800, 1600, 2000, 2000] {
            let pause = backoff.pause();
            let step = Duration::from_millis(step);
            assert!(pause >= step / 2 && pause <= step, "{pause:?} for a step of {step:?}");
        }
        assert!(backoff.pause_after(Duration::from_secs(1)) >= Duration::from_secs(1));
        assert!(backoff.pause_after(Duration::from_secs(4)) <= Duration::from_millis(100));
    }
}
