//! What `crate::split` is at TC: packets that are too big for their way are cut there.

use mesh_common::outcome::Outcome;

use crate::frame::Frame;
use crate::packet::Packet;
use crate::verdict::LEAVE_TO_TC;

/// Whether a packet is larger than `limit`.
#[inline(always)]
pub(crate) fn is_too_big(_: &Frame, packet: &Packet, limit: u16) -> bool {
    packet.length > limit
}

/// Only the kernel can make two packets of one.
#[inline(always)]
pub(crate) fn keep_first_part(_: &Frame, _: &Packet, _: u16) -> Result<(), Outcome> {
    Err(LEAVE_TO_TC)
}
