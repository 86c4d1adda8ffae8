//! What is particular to one overlay network. The agent loads this object once for each network, and the programs that serve
//! virtual addresses, which the kernel takes seconds to check, once for all.
//!
//! | program | hook | |
//! |---|---|---|
//! | `network_in` | TC ingress of a task's port in an overlay's namespace, ahead of `overlay_in` | says what network it is |
//! | `network_out` | TC egress of the same port, ahead of `overlay_out` | the same |
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the macros hand their context over by value")]

use core::ptr;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

/// The words of the network's [`mesh_common::overlay::NetworkTag`].
#[unsafe(no_mangle)]
static TAG: [u32; 4] = [0; 4];

#[classifier]
pub(crate) fn network_in(context: TcContext) -> i32 {
    tag(&context)
}

#[classifier]
pub(crate) fn network_out(context: TcContext) -> i32 {
    tag(&context)
}

#[inline(always)]
fn tag(context: &TcContext) -> i32 {
    // SAFETY: the agent writes the value into the object before it is loaded; the compiler must not assume that it is 0.
    let tag = unsafe { ptr::read_volatile(&raw const TAG) };
    let block = context.skb.skb;
    for (place, word) in tag.into_iter().enumerate() {
        // SAFETY: the context is valid for the whole program, and its control block has five words.
        unsafe { ptr::write_volatile(&raw mut (*block).cb[place], word) };
    }
    TC_ACT_UNSPEC
}

include!("program.inc");
