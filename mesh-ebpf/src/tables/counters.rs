//! Maps `OUTCOMES` and `BACKEND_STATS`: what happened, counted per CPU.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use mesh_common::backend::BackendCounters;
use mesh_common::maps;
use mesh_common::outcome::Outcome;

use crate::packet::Packet;

#[map]
static OUTCOMES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Outcome::CAPACITY, 0);

#[map]
static BACKEND_STATS: PerCpuArray<BackendCounters> = PerCpuArray::with_max_entries(maps::BACKENDS, 0);

#[inline(always)]
pub fn count(outcome: Outcome) {
    if let Some(counter) = OUTCOMES.get_ptr_mut(outcome as u32) {
        // SAFETY: the value is this CPU's own, and programs are not preempted by each other on one CPU.
        unsafe { *counter += 1 };
    }
}

/// A flow was given to `backend`.
#[inline(always)]
pub(crate) fn count_flow(backend: u32) {
    if let Some(counters) = BACKEND_STATS.get_ptr_mut(backend) {
        // SAFETY: as above.
        unsafe { (*counters).flows += 1 };
    }
}

/// A client's packet, which came with `length` bytes, went to `backend`. A copy that has come around is a part of a packet
/// that has been counted.
#[inline(always)]
pub(crate) fn count_packet(backend: u32, packet: &Packet, length: u16) {
    if !packet.is_copy
        && let Some(counters) = BACKEND_STATS.get_ptr_mut(backend)
    {
        // SAFETY: as above.
        unsafe {
            (*counters).packets += 1;
            (*counters).bytes += u64::from(length);
        }
    }
}
