//! A task calls a virtual address: the call goes to a task that serves it.

use mesh_common::backend::Backend;
use mesh_common::net::{Address, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::overlay::{VipKey, VipReplyKey};
use mesh_common::settings::UDP_IDLE_NANOSECONDS;
use mesh_common::tcp::{self, flag};

use crate::clock;
use crate::entry::choose::{self, Choice, Chosen};
use crate::entry::reject;
use crate::hook::Hook;
use crate::hook::skb::Skb;
use crate::packet::Packet;
use crate::packet::rewrite::{self, Hop};
use crate::tables::vips::{self, Virtual};
use crate::tables::{counters, flows, fragments, frontends};
use crate::verdict::{Next, PackedNext, PackedVerdict, Redirect, Step};
use crate::verifier::Packed;
use crate::vip::{flow_key, icmp, reply, reply_key, tuple};

/// A packet that a task sends. The next steps, [`assign`] and [`serve`], are for calls of a virtual address.
#[inline(never)]
pub fn from_caller(frame: &Skb, packet: &Packet) -> PackedNext {
    try_from_caller(frame, packet).into()
}

#[inline(always)]
fn try_from_caller(frame: &Skb, packet: &Packet) -> Result<Next, Outcome> {
    let vip = VipKey { network: packet.network, address: packet.destination };
    if vips::find(&vip).is_none() {
        forget_finished(packet);
        return Err(Outcome::NotOurs);
    }
    if packet.protocol == protocol::ICMP {
        return icmp::from_caller(frame, packet).map(Next::Done);
    }
    fragments::remember(packet);
    if let Some(next) = answers_itself(frame, packet) {
        return match next.done() {
            Some(verdict) => Ok(Next::Done(verdict.unpack())),
            None => to_self(frame, packet, packet.destination, packet.source).map(Next::Done),
        };
    }
    Ok(Next::GoOn)
}

/// Chooses for a call of a virtual address.
#[inline(never)]
pub fn assign(frame: &Skb, packet: &Packet) -> Packed<Chosen> {
    let vip = VipKey { network: packet.network, address: packet.destination };
    let key = flow_key(packet, packet.source, packet.destination, false);
    choose::backend_of::<_, Virtual>(frame, packet, || vips::find(&vip), &key)
}

/// Sends a call of a virtual address to what was chosen for it.
#[inline(never)]
pub fn serve(frame: &Skb, packet: &Packet, choice: Packed<Chosen>) -> PackedVerdict {
    try_serve(frame, packet, choice).into()
}

#[inline(always)]
fn try_serve(frame: &Skb, packet: &Packet, choice: Packed<Chosen>) -> Step {
    match choice.unpack()? {
        Choice::Refuse => reject::no_backend(packet),
        Choice::Backend(id, backend) => {
            let verdict = send(frame, packet, backend)?;
            counters::count_packet(id, packet, packet.length);
            Ok(verdict)
        }
    }
}

#[inline(always)]
fn send(frame: &Skb, packet: &Packet, backend: &Backend) -> Step {
    let itself = backend.identity == packet.source;
    // A task does not answer itself by the network: it has to see another caller.
    let caller = if itself { packet.destination } else { packet.source };
    let key = reply_key(backend.identity, caller, packet, false);
    let is_established = vips::remember_reply(&key, packet.destination, packet.now)?;
    if packet.is_tcp() && (!is_established || packet.tcp_flags & (flag::SYN | flag::FIN | flag::RST) != 0) {
        follow_flow(packet, &key, is_established);
    }
    if itself {
        return to_self(frame, packet, packet.destination, backend.identity);
    }
    rewrite::readdress(frame, packet, &tuple(packet, packet.source, backend.identity), Hop::Bridged)?;
    rewrite::set_destination_mac(frame, backend.mac)?;
    Ok(Outcome::VipToTask.into())
}

/// The way back of a call is protected while its flow is established.
#[inline(never)]
fn follow_flow(packet: &Packet, key: &VipReplyKey, is_protected: bool) {
    let vip = packet.destination;
    let flow = flow_key(packet, packet.source, vip, false);
    let is_established = flows::recall_established::<Virtual>(&flow).is_some();
    if is_established && !is_protected {
        vips::protect_reply(key, vip, packet.now);
    } else if is_protected && !is_established {
        vips::retire_reply(key, vip, packet.now);
    }
}

/// If this is the answer of a task that was given to itself, what becomes of it; next, it is [`to_self`].
#[inline(always)]
fn answers_itself(frame: &Skb, packet: &Packet) -> Option<PackedNext> {
    // Between equal ports an answer looks as a call does and becomes the same; and a SYN alone is always a call.
    if packet.source_port == packet.destination_port || packet.opens() {
        return None;
    }
    let key = reply_key(packet.source, packet.destination, packet, true);
    let reply = vips::recall_reply(&key, packet.now)?;
    Some(reply::note_task(frame, packet, &key, reply, packet.source))
}

/// Back out of the port that the packet came in by.
#[inline(always)]
fn to_self(frame: &Skb, packet: &Packet, source: Address, destination: Address) -> Step {
    rewrite::readdress(frame, packet, &tuple(packet, source, destination), Hop::Bridged)?;
    rewrite::swap_macs(frame)?;
    Ok((Outcome::VipToSelf, Redirect::Interface(frame.interface())).into())
}

/// A caller that talks straight to a task may do so from a port from which it has called a virtual address and was given
/// that task. Once that conversation is over, the task's answers are its own. (While it lasts, the task cannot tell the two
/// apart either.)
#[inline(always)]
fn forget_finished(packet: &Packet) {
    if packet.is_tcp() && !packet.opens() || packet.protocol == protocol::ICMP {
        return;
    }
    let key = reply_key(packet.destination, packet.source, packet, false);
    let Some(reply) = vips::recall_reply(&key, packet.now) else { return };
    let lasts =
        flows::recall::<Virtual>(&flow_key(packet, packet.source, reply.vip, false)).is_some_and(|known| {
            let flow = known.flow();
            let given = frontends::backend(flow.backend).is_some_and(|backend| {
                backend.generation == flow.generation && backend.identity == packet.destination
            });
            let goes_on = if packet.is_tcp() {
                !tcp::is_closed(flow.state)
            } else {
                clock::elapsed(flow.last_seen, packet.now) < UDP_IDLE_NANOSECONDS
            };
            given && goes_on
        });
    if !lasts {
        vips::forget_reply(&key);
    }
}
