//! Waiting for something to become true, with a deadline and the last reason why it was not.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::interrupt;

static PATIENCE: AtomicU32 = AtomicU32::new(1);

/// From now on everything is waited for so many times as long, and asked so much more rarely: on a machine that is emulated.
pub fn be_patient(times: u32) {
    PATIENCE.store(times.max(1), Ordering::Relaxed);
}

/// How many times as long everything is waited for.
pub(crate) fn patience() -> u32 {
    PATIENCE.load(Ordering::Relaxed)
}

/// Whether this machine is slow.
pub(crate) fn is_patient() -> bool {
    patience() > 1
}

static IN_VAIN: OnceLock<fn(&str)> = OnceLock::new();

/// From now on this is called with what was waited for whenever that has not come, before anybody is told. The first call counts.
pub fn when_in_vain(act: fn(&str)) {
    let _ = IN_VAIN.set(act);
}

/// Asks every `every` until the answer is `Ok`, and passes on the last error when `limit` is over.
pub fn until<T>(
    what: &str,
    limit: Duration,
    every: Duration,
    mut ask: impl FnMut() -> Result<T>,
) -> Result<T> {
    let begin = Instant::now();
    let (limit, every) = (limit * patience(), every * patience());
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if begin.elapsed() >= limit => {
                if let Some(act) = IN_VAIN.get() {
                    act(&format!("{what}: {error:#}"));
                }
                return Err(error).with_context(|| format!("{what}: not within {limit:?}"));
            }
            Err(_) if interrupt::happened() => bail!("{what}: interrupted"),
            Err(_) => thread::sleep(every),
        }
    }
}

/// [`until`] with the step that suits a Swarm.
pub fn for_up_to<T>(limit: Duration, what: &str, ask: impl FnMut() -> Result<T>) -> Result<T> {
    until(what, limit, Duration::from_millis(100), ask)
}
