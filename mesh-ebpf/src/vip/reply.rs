//! A task's answer to a call of a virtual address: it comes from the virtual address.

use mesh_common::net::{Address, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::overlay::VipReplyKey;
use mesh_common::tcp::{self, flag};

use crate::entry::replay;
use crate::hook::skb::Skb;
use crate::packet::Packet;
use crate::packet::rewrite::{self, Hop};
use crate::tables::flows::{self, Known};
use crate::tables::fragments;
use crate::tables::vips::{self, Virtual, WayBack};
use crate::verdict::{Next, PackedNext, PackedVerdict, Step};
use crate::vip::{flow_key, icmp, offer, reply_key, tuple};

/// A packet that a task is about to get.
#[inline(never)]
pub fn to_caller(frame: &Skb, packet: &Packet) -> PackedVerdict {
    try_to_caller(frame, packet).into()
}

#[inline(always)]
fn try_to_caller(frame: &Skb, packet: &Packet) -> Step {
    if packet.protocol == protocol::ICMP {
        return icmp::error_to_caller(frame, packet);
    }
    let key = reply_key(packet.source, packet.destination, packet, true);
    let reply = vips::recall_reply(&key, packet.now).ok_or(Outcome::NotOurs)?;
    fragments::remember(packet);
    if let Some(verdict) = note_task(frame, packet, &key, reply, packet.destination).done() {
        return Ok(verdict.unpack());
    }
    rewrite::readdress(frame, packet, &tuple(packet, reply.vip, packet.destination), Hop::Bridged)?;
    Ok(Outcome::VipReplied.into())
}

/// The caller's flow learns what the task, whose packet this is, has said. The next step is to send the packet on to
/// the caller.
#[inline(always)]
pub(crate) fn note_task(
    frame: &Skb,
    packet: &Packet,
    key: &VipReplyKey,
    reply: WayBack,
    caller: Address,
) -> PackedNext {
    let is_news = !reply.is_established || packet.tcp_flags & (flag::SYN | flag::FIN | flag::RST) != 0;
    if !packet.is_tcp() || !is_news {
        return Next::GoOn.into();
    }
    hear(frame, packet, key, caller, reply.vip)
}

#[inline(never)]
fn hear(frame: &Skb, packet: &Packet, reply: &VipReplyKey, caller: Address, vip: Address) -> PackedNext {
    let key = flow_key(packet, caller, vip, true);
    match flows::recall::<Virtual>(&key) {
        Some(Known::Established(flow)) => {
            let ends = tcp::is_closed(flows::note_task::<Virtual>(&key, flow, packet, packet.now));
            if ends {
                vips::retire_reply(reply, vip, packet.now);
            } else {
                vips::protect_reply(reply, vip, packet.now);
            }
        }
        Some(Known::Opening(opening)) => {
            return replay::note_task::<_, Virtual>(frame, packet, &key, opening, || {
                offer(&key, packet.source)
            });
        }
        _ => {}
    }
    Next::GoOn.into()
}
