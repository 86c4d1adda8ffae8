//! Map `PRESSURE`: how many TCP flows begin, and how many senders are told no.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use mesh_common::pressure::Pressure;

use crate::tables::node;

#[map]
static PRESSURE: Array<Pressure> = Array::with_max_entries(1, 0);

/// Counts a flow that begins, and tells whether it is one of a flood.
#[inline(never)]
pub(crate) fn is_flood(now: u64) -> bool {
    let limit = node::settings().map_or(0, |settings| settings.flood);
    // SAFETY: an aligned value of the map. Of two CPUs' counts one may be lost: where that happens often, it is a flood anyway.
    PRESSURE.get_ptr_mut(0).is_some_and(|pressure| unsafe { &mut *pressure }.rises_over(limit, now))
}

/// Counts a sender that is to be told no, and tells whether it may be.
#[inline(always)]
pub(crate) fn may_tell(by_reset: bool, now: u64) -> bool {
    // SAFETY: as above.
    PRESSURE.get_ptr_mut(0).is_some_and(|pressure| unsafe { &mut *pressure }.may_tell(by_reset, now))
}
