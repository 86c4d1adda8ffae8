//! Map `CONNECTIONS`: how many established flows each backend has of this node.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use mesh_common::maps;

/// The agent counts anew now and then, for the flows that it removes itself.
#[map]
static CONNECTIONS: Array<u64> = Array::with_max_entries(maps::BACKENDS, 0);

#[inline(always)]
pub(crate) fn opened(backend: u32) {
    add(backend, 1);
}

#[inline(always)]
pub(crate) fn closed(backend: u32) {
    add(backend, u64::MAX);
}

/// A count that went below nothing, because the agent has just counted, is nothing.
#[inline(always)]
pub(crate) fn open(backend: u32) -> u64 {
    let count = CONNECTIONS.get(backend).copied().unwrap_or(0);
    if count > u64::from(u32::MAX) { 0 } else { count }
}

#[inline(always)]
fn add(backend: u32, number: u64) {
    if let Some(count) = CONNECTIONS.get_ptr_mut(backend) {
        // SAFETY: the pointer is to an aligned value of the map that programs only ever change by this instruction.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(count, number) };
    }
}
