//! Task → client, at the home node: give the packet the frontend's address, and send it to the client or to the entry node.

use mesh_common::backend::{TaskKey, flags};
use mesh_common::net::{Address, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::reply::{Reply, ReplyKey};
use mesh_common::settings::{Settings, UDP_IDLE_NANOSECONDS};
use mesh_common::tcp::{self, flag};
use mesh_common::tunnel;

use crate::clock;
use crate::entry::{reject, replay};
use crate::hook::Hook;
use crate::hook::skb::Skb;
use crate::mark;
use crate::next_hop::NextHop;
use crate::packet::rewrite::{self, Hop, Tuple};
use crate::packet::{Fragment, Packet};
use crate::split::Split;
use crate::tables::flows::{self, Known, Published};
use crate::tables::{fragments, frontends, node, replies};
use crate::verdict::{Next, PackedNext, PackedVerdict, Redirect, Step, Verdict};

/// Takes note of a packet that a task sent out on docker_gwbridge, and copies the conversation that it belongs to. The next
/// step is [`send`].
#[inline(never)]
pub fn hear(frame: &Skb, packet: &Packet, settings: &Settings, reply: &mut Reply) -> PackedNext {
    let key = key(packet);
    let Some(known) = replies::recall_of(&key, packet) else { return Outcome::NotOurs.into() };
    let is_anothers = is_by_another_port(frame, known.reply, settings);
    if is_anothers && has_its_port(packet, known.reply) {
        return Outcome::ForgedSource.into();
    }
    let now = packet.now;
    if is_anothers || is_its_own(packet, known.reply, now) {
        replies::forget(&key);
        return Outcome::NotOurs.into();
    }
    if packet.ttl <= 1 {
        return Outcome::HopLimit.into();
    }
    fragments::remember(packet);
    let was_established = known.is_established;
    *reply = replies::note_task(&key, known, packet, now);
    if reply.entry.is_unspecified() && packet.is_tcp() && (!was_established || tells_more(packet)) {
        return note_at_entry(frame, packet, reply);
    }
    Next::GoOn.into()
}

/// The key of the conversation that a task's packet belongs to.
#[inline(always)]
pub(crate) fn key(packet: &Packet) -> ReplyKey {
    ReplyKey {
        task: packet.source,
        client: packet.destination,
        task_port: packet.source_port,
        client_port: packet.destination_port,
        protocol: packet.protocol,
        padding: [0, 0, 0],
    }
}

/// Sends a task's packet on in the conversation that it belongs to.
#[inline(never)]
pub fn send(frame: &Skb, packet: &mut Packet, settings: &Settings, reply: &Reply) -> PackedVerdict {
    try_send(frame, packet, settings, reply).into()
}

#[inline(always)]
fn try_send(frame: &Skb, packet: &mut Packet, settings: &Settings, reply: &Reply) -> Step {
    // The entry node shall be the one to decide who else is offered a SYN that a task has refused.
    let is_for_entry = !reply.entry.is_unspecified() && tcp::may_refuse(reply.state, packet.tcp_flags);
    let straightly = goes_straight(reply) && !is_for_entry;
    let exceeded = if straightly {
        let limit = settings.straight_mtu();
        frame.is_too_big(packet, limit).then_some(limit)
    } else {
        crate::tunnel::exceeded(frame, packet, settings, reply.entry)
    };
    if let Some(limit) = exceeded {
        if !frame.may_be_cut(packet) {
            return reject::too_big(packet, limit);
        }
        frame.keep_first_part(packet, limit)?;
    }
    if straightly {
        straight(frame, packet, settings, reply)
    } else {
        by_tunnel(frame, packet, settings, reply)
    }
}

/// Whether an answer goes to the client by this node's own routes.
#[inline(always)]
pub(crate) fn goes_straight(reply: &Reply) -> bool {
    reply.entry.is_unspecified() || reply.flags & flags::RETURN_DIRECT != 0
}

#[inline(always)]
pub(crate) fn straight(frame: &Skb, packet: &Packet, settings: &Settings, reply: &Reply) -> Step {
    let next_hop = NextHop::known(frame, packet.now, settings.bridge, reply.frontend, packet.destination);
    rewrite::readdress(frame, packet, &as_frontend(packet, reply), Hop::Routed)?;
    if !reply.entry.is_unspecified() {
        clamp(frame, packet, settings, reply.entry)?;
    }
    if next_hop.is_none() && node::is_local(packet.destination) {
        return Ok(inward(frame, packet, settings, reply));
    }
    mark::answer(frame, packet, settings);
    let redirect = match next_hop {
        Some(next_hop) => next_hop.take(frame),
        None => Redirect::Neighbour(reply.uplink),
    };
    Ok((Outcome::Replied, redirect).into())
}

/// To a process on this node that has dialled another one, and was given a task here when that one's had refused: the answer
/// comes in as if the other node had sent it.
#[inline(always)]
fn inward(frame: &Skb, packet: &Packet, settings: &Settings, reply: &Reply) -> Verdict {
    let redirect = NextHop::known(frame, packet.now, settings.bridge, packet.destination, reply.frontend)
        .map(|next_hop| next_hop.come_from(frame));
    match redirect {
        Some(redirect @ Redirect::Ingress(_)) => (Outcome::Replied, redirect).into(),
        // In by the bridge, which a strict `rp_filter` may not like.
        _ => Outcome::RepliedToNode.into(),
    }
}

#[inline(always)]
pub(crate) fn by_tunnel(frame: &Skb, packet: &Packet, settings: &Settings, reply: &Reply) -> Step {
    rewrite::readdress(frame, packet, &as_frontend(packet, reply), Hop::Routed)?;
    clamp(frame, packet, settings, reply.entry)?;
    let address = tunnel::TunnelAddress {
        identity: reply.identity,
        port: packet.source_port,
        flags: tunnel::flags::REPLY,
    };
    let redirect = crate::tunnel::send(frame, packet, settings, reply.entry, reply.uplink, address)?;
    Ok((Outcome::ReplyTunnelled, redirect).into())
}

/// What the client sends will come through the tunnel from its entry node, whichever way this SYN-ACK goes. A path takes the same in
/// both directions as far as anybody knows.
#[inline(always)]
fn clamp(frame: &Skb, packet: &Packet, settings: &Settings, entry: Address) -> Result<(), Outcome> {
    if packet.protocol == protocol::TCP
        && packet.tcp_flags & flag::SYN != 0
        && packet.fragment == Fragment::Whole
    {
        rewrite::tcp::clamp_mss(frame, packet, node::inner_mtu(entry, settings))?;
    }
    Ok(())
}

#[inline(always)]
fn as_frontend(packet: &Packet, reply: &Reply) -> Tuple {
    Tuple {
        source: reply.frontend,
        destination: packet.destination,
        source_port: reply.frontend_port,
        destination_port: reply.client_port,
    }
}

/// Whether a packet has come in by another port than that of the task whose conversation it seems to belong to. By the bridge
/// itself comes what a port without programs has heard.
#[inline(always)]
pub(crate) fn is_by_another_port(frame: &Skb, reply: &Reply, settings: &Settings) -> bool {
    let interface = frame.interface();
    reply.interface != 0 && interface != reply.interface && interface != settings.bridge
}

/// Whether the task of a conversation still has its address and its port. If not, its address is somebody else's by now.
#[inline(never)]
fn has_its_port(packet: &Packet, reply: &Reply) -> bool {
    frontends::task(&task_key(packet, reply))
        .is_some_and(|task| task.bridge == packet.source && task.interface == reply.interface)
}

#[inline(always)]
fn task_key(packet: &Packet, reply: &Reply) -> TaskKey {
    TaskKey { identity: reply.identity, port: packet.source_port, protocol: packet.protocol, padding: 0 }
}

/// Whether a task's packet belongs to no conversation of a client, though one has this tuple: it has been another task's at
/// this address, or is long over.
#[inline(always)]
fn is_its_own(packet: &Packet, reply: &Reply, now: u64) -> bool {
    if packet.is_tcp() {
        // Nobody who was called answers by calling. And who answers a SYN that did not come this way, after the conversation is
        // over, answers somebody who uses its ports again for another way to the task, like a port with mode=host.
        return packet.opens() || tcp::is_syn_ack(packet.tcp_flags) && tcp::is_closed(reply.state);
    }
    let key = task_key(packet, reply);
    clock::elapsed(reply.last_seen, now) >= UDP_IDLE_NANOSECONDS
        || frontends::task(&key).is_some_and(|task| task.bridge != packet.source)
}

/// Whether an established flow changes by the packet.
#[inline(always)]
fn tells_more(packet: &Packet) -> bool {
    packet.tcp_flags & (flag::SYN | flag::FIN | flag::RST) != 0
}

/// When this node is the entry node too, the flow learns what the task said.
#[inline(never)]
fn note_at_entry(frame: &Skb, packet: &Packet, reply: &Reply) -> PackedNext {
    let mut key = packet.flow_from_frontend();
    key.frontend = reply.frontend;
    key.frontend_port = reply.frontend_port;
    key.client_port = reply.client_port;
    match flows::recall::<Published>(&key) {
        Some(Known::Established(flow)) => {
            flows::note_task::<Published>(&key, flow, packet, packet.now);
            Next::GoOn.into()
        }
        Some(Known::Opening(_)) => replay::hear(frame, packet, &key, reply.identity, packet.source_port),
        _ => Next::GoOn.into(),
    }
}
