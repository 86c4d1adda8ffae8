//! Programs that only `cargo xtask bench` runs. For `packet`: wrappers that make a packet what it was and then call the program
//! that is measured, empty programs to know the wrappers' own cost, and floors. For `lab`: both ends of a line.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the macros hand their context over by value")]
#![feature(asm_experimental_arch)]

mod floor;
mod wire;

use core::arch::asm;

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{
    bpf_skb_adjust_room, bpf_skb_store_bytes, bpf_xdp_adjust_head, bpf_xdp_store_bytes,
};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, LruHashMap, ProgramArray};
use aya_ebpf::programs::{TcContext, XdpContext};

/// Words of 16 bits that are restored of each packet.
const WORDS: usize = 64;
/// The client's port, and the second half of its address, among these words.
const CLIENT_PORT: usize = 17;
const CLIENT: usize = 14;

/// How the packet begins before each run.
#[map]
static ORIGINAL: Array<[u16; WORDS]> = Array::with_max_entries(1, 0);

/// The packet's length, and whether it comes from another client each time.
#[map]
static SHAPE: Array<[u32; 2]> = Array::with_max_entries(1, 0);

/// The programs that are measured.
#[map]
static PROGRAM_XDP: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[map]
static PROGRAM_TC: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[map]
static CLIENTS: LruHashMap<u32, u32> = LruHashMap::with_max_entries(65_536, 0);

#[xdp]
pub(crate) fn again_xdp(context: XdpContext) -> u32 {
    if restore_xdp(&context).is_some() {
        // SAFETY: the index is in range; an empty place is as good as an error.
        unsafe { PROGRAM_XDP.tail_call(&context, 0) };
    }
    XDP_ABORTED
}

#[classifier]
pub(crate) fn again_tc(context: TcContext) -> i32 {
    if restore_tc(&context).is_some() {
        // SAFETY: as above.
        unsafe { PROGRAM_TC.tail_call(&context, 0) };
    }
    TC_ACT_SHOT
}

#[xdp]
pub(crate) fn empty_xdp(_context: XdpContext) -> u32 {
    XDP_PASS
}

#[classifier]
pub(crate) fn empty_tc(_context: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// A yardstick for machines: a look at the packet's bounds, and one into a table.
#[xdp]
pub(crate) fn lookup_xdp(context: XdpContext) -> u32 {
    let (start, end) = bounds_xdp(&context);
    if start + 2 * (CLIENT + 1) > end {
        return XDP_ABORTED;
    }
    // SAFETY: the packet has the word, and the value is not kept.
    let known = unsafe { CLIENTS.get(u32::from((start as *const u16).add(CLIENT).read())) };
    if known.is_some() { XDP_TX } else { XDP_PASS }
}

#[inline(always)]
fn restore_xdp(context: &XdpContext) -> Option<()> {
    let (header, length) = original()?;
    let (start, end) = bounds_xdp(context);
    let grown = (distance(start, end) as u32).wrapping_sub(length).cast_signed();
    // SAFETY: the context is the one the program was called with, and the header has as many bytes as are stored.
    let failed = unsafe {
        (grown != 0 && bpf_xdp_adjust_head(context.ctx, grown) != 0)
            || bpf_xdp_store_bytes(context.ctx, 0, header.cast(), 2 * WORDS as u32) != 0
    };
    if failed { None } else { Some(()) }
}

#[inline(always)]
fn restore_tc(context: &TcContext) -> Option<()> {
    let (header, length) = original()?;
    let missing = length.wrapping_sub(context.len()).cast_signed();
    let skb = context.skb.skb;
    // SAFETY: as above.
    let failed = unsafe {
        (missing != 0 && bpf_skb_adjust_room(skb, missing, BPF_ADJ_ROOM_MAC, 0) != 0)
            || bpf_skb_store_bytes(skb, 0, header.cast(), 2 * WORDS as u32, 0) != 0
    };
    if failed { None } else { Some(()) }
}

/// What the packet shall be: how it begins, and its length.
#[inline(always)]
fn original() -> Option<(*mut [u16; WORDS], u32)> {
    let [length, varies] = *SHAPE.get(0)?;
    let header = ORIGINAL.get_ptr_mut(0)?;
    if varies != 0 {
        // SAFETY: the pointer is to the map's only value, and one packet is measured at a time.
        let words = unsafe { &mut *header };
        words[CLIENT_PORT] = words[CLIENT_PORT].wrapping_add(1);
        if words[CLIENT_PORT] == 0 {
            words[CLIENT] = words[CLIENT].wrapping_add(1);
        }
    }
    Some((header, length))
}

/// Where the packet begins and ends. Volatile, or the compiler takes the pointers for the 32-bit numbers that they look like.
#[inline(always)]
fn bounds_xdp(context: &XdpContext) -> (usize, usize) {
    let data = context.ctx;
    // SAFETY: the context is valid for the whole program.
    unsafe {
        (
            (&raw const (*data).data).read_volatile() as usize,
            (&raw const (*data).data_end).read_volatile() as usize,
        )
    }
}

#[inline(always)]
fn bounds_tc(context: &TcContext) -> (usize, usize) {
    let skb = context.skb.skb;
    // SAFETY: as above.
    unsafe {
        (
            (&raw const (*skb).data).read_volatile() as usize,
            (&raw const (*skb).data_end).read_volatile() as usize,
        )
    }
}

/// Bytes between two pointers into a packet, in one subtraction of 64 bits: all that the verifier allows.
#[inline(always)]
fn distance(from: usize, to: usize) -> usize {
    let mut distance = to;
    // SAFETY: one arithmetic instruction on the operands.
    unsafe { asm!("{0} -= {1}", inout(reg) distance, in(reg) from, options(nomem, nostack, pure)) };
    distance
}

include!("../bin/program.inc");
