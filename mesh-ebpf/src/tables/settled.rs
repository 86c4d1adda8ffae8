//! What a packet changes in a conversation that it neither begins nor ends: nothing, most often. Both directions of a conversation
//! come in on processors of their own, and a line that both write goes back and forth between them.

use mesh_common::tcp;

use crate::clock;

/// Times in a conversation are compared with minutes and more; an agent that removes it allows for this.
const CARES: u64 = 1 << 30;

#[inline(always)]
pub(super) fn note_time(last_seen: &mut u64, now: u64) {
    if clock::elapsed(*last_seen, now) >= CARES {
        *last_seen = now;
    }
}

/// Takes note of where a client is, by a sequence number of its own or what its task has acknowledged.
#[inline(always)]
pub(super) fn note_number(known: &mut u32, number: u32) {
    if tcp::has_moved(*known, number) {
        *known = tcp::known_number(number);
    }
}
