//! Offsets, lengths and sums of a packet's bytes, said in the way that the verifier follows: for both kinds of frame.

use core::arch::asm;
use core::ffi::c_void;
use core::intrinsics::is_val_statically_known;
use core::mem::{MaybeUninit, size_of};

use aya_ebpf::helpers::generated::bpf_csum_diff;
use mesh_common::checksum::Sum;
use mesh_common::outcome::Outcome;

/// A value in a packet. Packets begin at even addresses, as do all fields that are read or written here: by halves of 32 bits,
/// not byte by byte, as the compiler would for a value at any place.
#[derive(Clone, Copy)]
#[repr(C, packed(2))]
pub(crate) struct Even<T: Copy>(T);

impl<T: Copy> Even<T> {
    /// # Safety
    /// The bytes at the even address `place` are the packet's, and it has been checked that it has them.
    #[inline(always)]
    pub(crate) unsafe fn read(place: *const T) -> T {
        // SAFETY: as promised by the caller.
        unsafe { place.cast::<Self>().read().0 }
    }

    /// # Safety
    /// As for [`Even::read`].
    #[inline(always)]
    pub(crate) unsafe fn write(place: *mut T, value: T) {
        // SAFETY: as promised by the caller.
        unsafe { place.cast::<Self>().write(Self(value)) }
    }
}

/// Aligned for words of 64 bits.
#[repr(C, align(8))]
pub(crate) struct Aligned<T>(T);

/// All zeroes, word by word: told to clear a struct, the compiler calls a loop over its bytes.
///
/// # Safety
/// All zeroes is a value of the type.
#[inline(always)]
pub(crate) unsafe fn zeroed<T>(place: &mut MaybeUninit<Aligned<T>>) -> &mut T {
    // SAFETY: the place is aligned for its words; and as promised by the caller.
    unsafe {
        clear(place.as_mut_ptr());
        &mut place.assume_init_mut().0
    }
}

/// As [`zeroed`], where something is already.
///
/// # Safety
/// The pointer is to a value that may be written, and is aligned for words of 64 bits. All zeroes is a value of the type.
#[inline(always)]
pub(crate) unsafe fn clear<T>(place: *mut T) {
    const { assert!(size_of::<T>().is_multiple_of(size_of::<u64>())) };
    let words = place.cast::<u64>();
    for word in 0..size_of::<T>() / size_of::<u64>() {
        // SAFETY: the struct is aligned for its words, and has as many.
        unsafe { words.add(word).write_volatile(0) };
    }
}

/// Which sums a transport checksum's change comes from.
#[derive(Clone, Copy)]
pub(crate) struct TransportChange {
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

/// A length of 1 to `most`, said as in [`sum`].
#[inline(always)]
pub(crate) fn some_of(length: u32, most: usize) -> Option<u32> {
    let length = bounded(length.wrapping_sub(1) as usize) + 1;
    if length > most { None } else { Some(length as u32) }
}

/// A sum as `bpf_csum_diff` returns it: 32 bits.
#[inline(always)]
pub(crate) fn halves(sum: i64) -> Sum {
    let sum = sum.cast_unsigned();
    Sum::ZERO.add_word(sum as u16).add_word((sum >> 16) as u16)
}

/// An offset that the verifier can follow. Headers end well before the bound, but only a mask tells it so; and the mask
/// must be out of the compiler's sight, or it computes the offset twice and makes the access by another register than the
/// one it checked. (Not an empty `asm!`: two lines of debug information for one instruction are refused by the kernel.)
#[inline(always)]
pub(crate) fn bounded(offset: usize) -> usize {
    if is_val_statically_known(offset) {
        return offset;
    }
    let mut bounded = offset;
    // SAFETY: one arithmetic instruction on the operand.
    unsafe { asm!("{0} &= 0x1ff", inout(reg) bounded, options(nomem, nostack, pure)) };
    bounded
}
