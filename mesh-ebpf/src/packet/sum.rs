//! Sums over bytes of a packet, and what a checksum's change comes from: for both kinds of frame.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_csum_diff;
use mesh_common::checksum::Sum;
use mesh_common::outcome::Outcome;

use crate::verifier::{bounded, zeroed};

/// Which sums a transport checksum's change comes from.
#[derive(Clone, Copy)]
pub struct TransportChange {
    /// Where the checksum stands in the packet.
    pub(crate) offset: usize,
    /// What changed in the addresses, and in the length of the pseudo-header.
    pub(crate) pseudo_header: Sum,
    /// What changed in the segment itself.
    pub(crate) segment: Sum,
    /// UDP: a checksum of 0 means that there is none (RFC 768).
    pub(crate) optional: bool,
}

/// The sum of `length` bytes, which are an IP header and 8 to 20 more: 28 to 80. `load` copies so many bytes to where it is
/// told, and returns 0 if it could.
#[inline(always)]
pub(crate) fn sum(length: usize, load: impl FnOnce(*mut c_void, u32) -> i64) -> Result<Sum, Outcome> {
    const LEAST: usize = 28;
    const MOST: usize = 80;

    // Said in the way that Linux 6.1's verifier follows: from a sum it knows that the result is not 0.
    let length = bounded(length.wrapping_sub(LEAST)) + LEAST;
    if length > MOST {
        return Err(Outcome::Malformed);
    }
    let mut bytes = MaybeUninit::uninit();
    // SAFETY: these are integers.
    let bytes: &mut [u32; MOST / 4] = unsafe { zeroed(&mut bytes) };
    if load(bytes.as_mut_ptr().cast(), length as u32) != 0 {
        return Err(Outcome::Malformed);
    }
    // SAFETY: the buffer is as long as it says; what is behind the bytes that were loaded is zero and adds nothing.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.as_mut_ptr(), MOST as u32, 0) };
    Ok(halves(sum))
}

/// A sum as `bpf_csum_diff` returns it: 32 bits.
#[inline(always)]
pub(crate) fn halves(sum: i64) -> Sum {
    let sum = sum.cast_unsigned();
    Sum::ZERO.add_word(sum as u16).add_word((sum >> 16) as u16)
}
