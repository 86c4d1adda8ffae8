//! What the kernel's verifier and the compiler for it need to be told, each with its reason: said here once, and referred to by name.

use core::arch::asm;
use core::intrinsics::is_val_statically_known;
use core::marker::PhantomData;
use core::mem::{MaybeUninit, size_of, transmute};

use mesh_common::outcome::Outcome;

/// A result in one register, for what functions that are not inlined return: the verifier does not allow results by pointers
/// into the caller's stack, and the compiler spills the part that a result of another kind does not have as a register that
/// nobody has written, which it does not allow either.
#[repr(transparent)]
#[must_use]
pub struct Packed<T>(u64, PhantomData<T>);

/// What can be said in 64 bits.
pub trait Pack {
    fn pack(self) -> u64;

    /// # Safety
    /// The word is one that [`Pack::pack`] has made of a value of this type.
    unsafe fn unpack(word: u64) -> Self;
}

/// The outcome whose number a word holds in its lowest 16 bits. Asked whether there is an outcome with that number, the compiler
/// compares it with one after the other.
///
/// # Safety
/// [`Outcome::number`] has returned the number.
#[inline(always)]
pub(crate) unsafe fn outcome_in(word: u64) -> Outcome {
    // SAFETY: an outcome is its number; and as promised by the caller.
    unsafe { transmute::<u32, Outcome>(u32::from(word as u16)) }
}

impl<T: Pack> Packed<T> {
    /// # Safety
    /// The word is one that [`Pack::pack`] has made of a value of this type.
    #[inline(always)]
    pub(crate) unsafe fn of_word(word: u64) -> Self {
        Self(word, PhantomData)
    }

    #[inline(always)]
    pub(crate) fn word(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub fn unpack(self) -> T {
        // SAFETY: no other words get into this.
        unsafe { T::unpack(self.0) }
    }
}

impl<T> Clone for Packed<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Packed<T> {}

impl<T: Pack> From<T> for Packed<T> {
    #[inline(always)]
    fn from(value: T) -> Self {
        Self(value.pack(), PhantomData)
    }
}

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
pub struct Aligned<T>(T);

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

/// A length of 1 to `most`, said in the way that Linux 6.1's verifier follows: from a sum it knows that the result is not 0.
#[inline(always)]
pub(crate) fn some_of(length: u32, most: usize) -> Option<u32> {
    let length = bounded(length.wrapping_sub(1) as usize) + 1;
    if length > most { None } else { Some(length as u32) }
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
