//! Task → virtual address and back, in a call that is established: see [`crate::entry::established`].

use mesh_common::net::Address;
use mesh_common::outcome::Outcome;
use mesh_common::tcp::Sender;

use crate::entry::choose;
use crate::hook::skb::Skb;
use crate::packet::Packet;
use crate::packet::rewrite::{self, Hop};
use crate::split;
use crate::tables::vips::{self, Virtual};
use crate::tables::{counters, flows};
use crate::verdict::{Next, PackedNext, Step};
use crate::vip::{flow_key, reply_key, tuple};

/// A packet that a task sends.
#[inline(never)]
pub fn call(frame: &Skb) -> PackedNext {
    try_call(frame).map_or(Next::GoOn.into(), Into::into)
}

#[inline(always)]
fn try_call(frame: &Skb) -> Option<Step> {
    let packet = plain(frame)?;
    let vip = packet.destination;
    let flow = flows::recall_settled::<Virtual>(&flow_key(&packet, packet.source, vip, false))?;
    let (id, backend) = (flow.backend, choose::kept(&packet, flow)?);
    // Of a task that was given to itself none has this key: it sees another caller.
    let way_back = reply_key(backend.identity, packet.source, &packet, false);
    if vips::recall_established(&way_back, packet.now) != Some(vip) {
        return None;
    }
    flows::note_plain(flow, &packet, Sender::Client);
    let step = send(frame, &packet, packet.source, backend.identity)
        .and_then(|()| rewrite::set_destination_mac(frame, backend.mac));
    Some(step.map(|()| {
        counters::count_packet(id, &packet, packet.length);
        Outcome::VipToTask.into()
    }))
}

/// A packet that a task is about to get.
#[inline(never)]
pub fn answer(frame: &Skb) -> PackedNext {
    try_answer(frame).map_or(Next::GoOn.into(), Into::into)
}

#[inline(always)]
fn try_answer(frame: &Skb) -> Option<Step> {
    let packet = plain(frame)?;
    let key = reply_key(packet.source, packet.destination, &packet, true);
    let vip = vips::recall_established(&key, packet.now)?;
    Some(send(frame, &packet, vip, packet.destination).map(|()| Outcome::VipReplied.into()))
}

/// A plain packet of TCP.
#[inline(always)]
fn plain(frame: &Skb) -> Option<Packet> {
    if split::is_whole(frame) { Packet::plain(frame).filter(Packet::is_tcp) } else { None }
}

#[inline(always)]
fn send(frame: &Skb, packet: &Packet, source: Address, destination: Address) -> Result<(), Outcome> {
    rewrite::readdress(frame, packet, &tuple(packet, source, destination), Hop::Bridged)
}
