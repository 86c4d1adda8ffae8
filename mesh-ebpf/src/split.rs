//! Packets that are too big for their way, and may be fragmented (RFC 791 §3.2).
//!
//! The kernel would fragment what it routes, but our packets leave by redirect. So the packet is sent around once more: a
//! marked copy of it comes in at the same hook again, while the original is cut to its first part and goes on. The copy
//! then loses that first part, becomes a later fragment of the same datagram, and is cut again if it is still too big.
//! netfilter on docker_gwbridge makes this common: it puts together what a task has sent in fragments.

use mesh_common::net::{IPV4_HEADER, UDP_HEADER};
use mesh_common::outcome::Outcome;

use crate::hook::Hook;
use crate::hook::skb::{LinkLayer, Skb};
use crate::hook::xdp::XdpBuff;
use crate::packet::{Fragment, NETWORK, Packet, rewrite};
use crate::tables::fragments;
use crate::verdict::LEAVE_TO_TC;

/// Upper half of the mark of a copy; the lower half counts the 8-byte blocks that it has to lose.
const MARK: u32 = 0x6d65_0000;
const BLOCKS: u32 = 0x1fff;

/// What a hook does with a packet that is too big.
pub trait Split: Hook {
    /// Whether a packet, or one of those that it stands for, is larger than `limit`.
    fn is_too_big(&self, packet: &Packet, limit: u16) -> bool;

    /// Whether a packet that is too big may be cut into fragments. Otherwise its sender has to be told.
    fn may_be_cut(&self, packet: &Packet) -> bool;

    /// Cuts the packet to the first part that fits into `limit` bytes, and sends a copy around for the rest.
    fn keep_first_part(&self, packet: &mut Packet, limit: u16) -> Result<(), Outcome>;
}

impl<L: LinkLayer> Split for Skb<L> {
    #[inline(always)]
    fn is_too_big(&self, packet: &Packet, limit: u16) -> bool {
        packet.length > limit && exceeds_apart(self, packet, limit)
    }

    /// Nobody makes fragments of what an aggregate stands for: its sender has to make smaller segments.
    #[inline(always)]
    fn may_be_cut(&self, packet: &Packet) -> bool {
        !packet.dont_fragment && !self.is_aggregate()
    }

    #[inline(always)]
    fn keep_first_part(&self, packet: &mut Packet, limit: u16) -> Result<(), Outcome> {
        keep_first_part(self, packet, limit)
    }
}

impl Split for XdpBuff {
    #[inline(always)]
    fn is_too_big(&self, packet: &Packet, limit: u16) -> bool {
        packet.length > limit
    }

    #[inline(always)]
    fn may_be_cut(&self, packet: &Packet) -> bool {
        !packet.dont_fragment
    }

    /// Only the kernel can make two packets of one.
    #[inline(always)]
    fn keep_first_part(&self, _: &mut Packet, _: u16) -> Result<(), Outcome> {
        Err(LEAVE_TO_TC)
    }
}

/// For the steps whose own stack has no room for it.
#[inline(never)]
fn exceeds_apart<L: LinkLayer>(frame: &Skb<L>, packet: &Packet, limit: u16) -> bool {
    exceeds(frame, packet, limit)
}

/// Whether a packet is larger than `limit`, or those that an aggregate will be cut into are. They fit if their size was agreed on when
/// the MSS was clamped: not if the connection began by another way, or where there is no MSS (UDP).
#[inline(always)]
pub(crate) fn exceeds<L: LinkLayer>(frame: &Skb<L>, packet: &Packet, limit: u16) -> bool {
    if packet.length <= limit || !frame.is_aggregate() {
        return packet.length > limit;
    }
    let transport = if packet.is_tcp() {
        /// Where in the TCP header its length stands, in words of 4 bytes, in the upper half.
        const DATA_OFFSET: usize = 12;
        let offset: u8 = frame.read(packet.transport() + DATA_OFFSET).unwrap_or_default();
        usize::from(offset >> 4) * 4
    } else {
        UDP_HEADER
    };
    packet.header_length() + transport + frame.segment_size() as usize > usize::from(limit)
}

#[inline(always)]
fn keep_first_part<L: LinkLayer>(frame: &Skb<L>, packet: &mut Packet, limit: u16) -> Result<(), Outcome> {
    // Options would have to be sorted into those that later fragments repeat and those that they do not.
    if packet.header_length() != IPV4_HEADER {
        return Err(Outcome::TooBigDropped);
    }
    let blocks = (limit - IPV4_HEADER as u16) >> 3;
    let payload = blocks << 3;
    let was_whole = packet.fragment == Fragment::Whole;
    if was_whole {
        packet.fragment = Fragment::First;
    }
    // On its way out the copy comes around before the call returns.
    fragments::remember(packet);
    frame.send_around(MARK | u32::from(blocks))?;
    if was_whole {
        let rest = NETWORK + IPV4_HEADER + usize::from(payload);
        let rest = frame.sum_of_rest(rest, NETWORK + usize::from(packet.length) - rest);
        rewrite::carry_into_checksum(frame, packet, rest)?;
    }
    frame.resize((NETWORK + IPV4_HEADER) as u32 + u32::from(payload))?;
    rewrite::set_fragment(frame, IPV4_HEADER as u16 + payload, packet.fragment_blocks, true)?;
    packet.length = IPV4_HEADER as u16 + payload;
    packet.more_fragments = true;
    Ok(())
}

/// Whether the packet is a copy that has come around, and how many blocks it has to lose.
#[inline(always)]
pub fn is_copy<L: LinkLayer>(frame: &Skb<L>) -> Option<u16> {
    let mark = frame.mark();
    if mark & !BLOCKS == MARK { Some((mark & BLOCKS) as u16) } else { None }
}

/// Whether a packet is on no VLAN, and no copy.
#[inline(always)]
pub fn is_whole<L: LinkLayer>(frame: &Skb<L>) -> bool {
    !frame.is_of_vlan() && is_copy(frame).is_none()
}

/// Makes a copy the later fragment that it stands for.
#[inline(never)]
pub fn lose_first_part<H: Hook>(frame: &H, packet: &mut Packet, blocks: u16) -> Result<(), Outcome> {
    frame.set_mark(0);
    packet.is_copy = true;
    let payload = blocks << 3;
    if packet.header_length() != IPV4_HEADER || packet.length <= IPV4_HEADER as u16 + payload {
        return Err(Outcome::TooBigDropped);
    }
    let header = rewrite::network_header(frame)?;
    frame.shrink(payload)?;
    frame.make_linear((NETWORK + IPV4_HEADER) as u32);
    rewrite::restore_network_header(frame, &header)?;
    packet.length -= payload;
    packet.fragment_blocks += blocks;
    packet.fragment = Fragment::Later;
    rewrite::set_fragment(frame, packet.length, packet.fragment_blocks, packet.more_fragments)
}
