//! Task → client, at the home node, in a conversation that is established: see [`crate::entry::established`].

use mesh_common::tcp::Sender;

use crate::home::reply;
use crate::hook::skb::Skb;
use crate::packet::Packet;
use crate::split;
use crate::tables::{node, replies};
use crate::verdict::{Next, PackedNext};

/// A task's packet.
#[inline(never)]
pub fn answer(frame: &Skb) -> PackedNext {
    try_answer(frame).unwrap_or(Next::GoOn.into())
}

#[inline(always)]
fn try_answer(frame: &Skb) -> Option<PackedNext> {
    let settings = node::settings()?;
    let packet = Packet::plain(frame)?;
    let known = replies::recall_settled(&reply::key(&packet))?;
    if packet.ttl <= 1 || reply::is_by_another_port(frame, known, settings) {
        return None;
    }
    let goes_straight = reply::goes_straight(known);
    let limit = if goes_straight { settings.straight_mtu() } else { settings.inner_mtu };
    if split::exceeds(frame, &packet, limit) {
        return None;
    }
    replies::note_plain(known, &packet, Sender::Task);
    // Packed apart: see `entry::choose`.
    Some(if goes_straight {
        reply::straight(frame, &packet, settings, known).into()
    } else {
        reply::by_tunnel(frame, &packet, settings, known).into()
    })
}
