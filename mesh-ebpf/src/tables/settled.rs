//! What a packet changes in a conversation that it neither begins nor ends: nothing, most often. Both directions of a conversation
//! come in on processors of their own, and a line that both write goes back and forth between them.

use mesh_common::settings::NOTED_NANOSECONDS;
use mesh_common::tcp::{self, Sender, flag};

use crate::clock;
use crate::packet::Packet;

#[inline(always)]
pub(super) fn note_time(last_seen: &mut u64, now: u64) {
    if clock::elapsed(*last_seen, now) >= NOTED_NANOSECONDS {
        *last_seen = now;
    }
}

/// Takes note of where the client of a TCP conversation is: by a sequence number of its own, or what its task has acknowledged.
#[inline(always)]
pub(super) fn note_number(known: &mut u32, packet: &Packet, sender: Sender) {
    let number = match sender {
        Sender::Client if packet.is_tcp() => packet.sequence,
        Sender::Task if packet.tcp_flags & flag::ACK != 0 => packet.acknowledgement,
        Sender::Client | Sender::Task => return,
    };
    if tcp::has_moved(*known, number) {
        *known = tcp::known_number(number);
    }
}
