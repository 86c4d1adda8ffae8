//! Map `SUSPECTS`: backends that have refused a client a moment ago, or left one without an answer.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use mesh_common::backend::Suspicion;
use mesh_common::flow::SUSPICION_NANOSECONDS;
use mesh_common::{clock, maps};

#[map]
static SUSPECTS: Array<Suspicion> = Array::with_max_entries(maps::BACKENDS, 0);

/// Whether a backend shall get no new flows at the moment.
#[inline(always)]
pub(crate) fn is_suspect(backend: u32, now: u64) -> bool {
    SUSPECTS.get(backend).is_some_and(|suspicion| suspicion.until > now)
}

/// From now on, for a while, the backend gets no new flows of this node.
#[inline(always)]
pub(crate) fn suspect(backend: u32, now: u64) {
    change(backend, |suspicion| suspicion.until = now + SUSPICION_NANOSECONDS);
}

/// The backend has completed a handshake.
#[inline(always)]
pub(crate) fn forgive(backend: u32) {
    change(backend, |suspicion| {
        if suspicion.until != 0 {
            suspicion.until = 0;
        }
    });
}

/// The backend has taken a SYN.
#[inline(always)]
pub(crate) fn note_answer(backend: u32, now: u64) {
    change(backend, |suspicion| {
        if suspicion.until != 0 {
            suspicion.until = 0;
        }
        // The clock stands still for some milliseconds, in which many are answered.
        if suspicion.answered != now {
            suspicion.answered = now;
        }
    });
}

/// Whether the backend has taken a SYN of anybody's since it was sent one that it owes an answer to: that one it does not want.
#[inline(always)]
pub(crate) fn has_answered_since(backend: u32, sent: u64) -> bool {
    SUSPECTS.get(backend).is_some_and(|suspicion| clock::elapsed(sent, suspicion.answered) > 0)
}

#[inline(always)]
fn change(backend: u32, how: impl FnOnce(&mut Suspicion)) {
    if let Some(place) = SUSPECTS.get_ptr_mut(backend) {
        // SAFETY: an aligned value of the map; of two CPUs' writes either will do.
        how(unsafe { &mut *place });
    }
}
