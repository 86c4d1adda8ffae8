//! The kernel's clock.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;

pub(crate) use mesh_common::clock::elapsed;

/// The kernel's coarse monotonic clock, nanoseconds: as good as a timer tick, and nearly free.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}
