//! Map `SUSPECTS`: backends that have refused a client a moment ago.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use mesh_common::flow::SUSPICION_NANOSECONDS;
use mesh_common::maps;

#[map]
static SUSPECTS: Array<u64> = Array::with_max_entries(maps::BACKENDS, 0);

/// Whether a backend shall get no new flows at the moment.
#[inline(always)]
pub(crate) fn is_suspect(backend: u32, now: u64) -> bool {
    SUSPECTS.get(backend).is_some_and(|until| *until > now)
}

/// From now on, for a while, the backend gets no new flows of this node.
#[inline(always)]
pub(crate) fn suspect(backend: u32, now: u64) {
    set(backend, now + SUSPICION_NANOSECONDS);
}

/// The backend has completed a handshake.
#[inline(always)]
pub(crate) fn forgive(backend: u32) {
    if SUSPECTS.get(backend).is_some_and(|until| *until != 0) {
        set(backend, 0);
    }
}

#[inline(always)]
fn set(backend: u32, until: u64) {
    if let Some(place) = SUSPECTS.get_ptr_mut(backend) {
        // SAFETY: an aligned value of the map; of two CPUs' writes either will do.
        unsafe { place.write_volatile(until) };
    }
}
