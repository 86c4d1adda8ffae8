//! Task → virtual address, on the caller's own node: at the bridge port of the caller, in the namespace of its overlay.
//!
//! The virtual address becomes the address of a task and back; transport is left to Docker's bridge and VXLAN. A task that
//! is given to itself would see its own address call: it sees the virtual address instead, and what it answers comes by
//! here once more.

use core::ptr;

use aya_ebpf::programs::TcContext;
use mesh_common::backend::{Backend, state};
use mesh_common::clock;
use mesh_common::net::{Address, Port, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::overlay::{NetworkTag, VipFlowKey, VipKey, VipReply, VipReplyKey};
use mesh_common::settings::UDP_IDLE_NANOSECONDS;
use mesh_common::tcp::{self, flag};

use crate::entry::reject;
use crate::entry::replay::{self, Offer, Refusal};
use crate::entry::request::{self, Choice, Chosen};
use crate::frame::Frame;
use crate::icmp::Quoted;
use crate::packet::rewrite::{self, Ends, Hop};
use crate::packet::{self, Fragment, Packet};
use crate::tables::flows::{self, Known};
use crate::tables::vips::{self, Virtual};
use crate::tables::{counters, frontends};
use crate::verdict::{Next, PackedNext, PackedVerdict, Step, Way};
use crate::verifier::Packed;

/// What the program ahead of these has said of the port's network (`network/main.rs`).
#[inline(always)]
pub(crate) fn tag(context: &TcContext) -> Option<NetworkTag> {
    let block = context.skb.skb;
    let mut words = [0; 4];
    for (place, word) in words.iter_mut().enumerate() {
        // SAFETY: the context is valid for the whole program, and its control block has five words.
        *word = unsafe { ptr::read_volatile(&raw const (*block).cb[place]) };
    }
    NetworkTag::from_words(words)
}

/// ARP for a virtual address is answered as Docker's load balancer would: should these programs go, what tasks remember
/// leads to it.
#[inline(always)]
pub(crate) fn resolve(frame: &Frame, balancer: [u8; 6]) -> Step {
    if frame.has_vlan_tag() {
        return Err(Outcome::NotOurs);
    }
    let address = packet::asked_for(frame).ok_or(Outcome::NotOurs)?;
    vips::find(&VipKey { network: frame.network(), address }).ok_or(Outcome::NotOurs)?;
    let mac = if balancer == [0; 6] {
        let [a, b, c, d] = address.octets();
        [0x02, 0x42, a, b, c, d]
    } else {
        balancer
    };
    rewrite::into_arp_reply(frame, mac)?;
    Ok((Outcome::VipResolved, Way::Interface(frame.interface())).into())
}

/// A packet that a task sends. The next steps, [`assign`] and [`serve`], are for calls of a virtual address.
#[inline(never)]
pub(crate) fn from_caller(frame: &Frame, packet: &Packet) -> PackedNext {
    try_from_caller(frame, packet).into()
}

/// A packet that a task is about to get.
#[inline(never)]
pub(crate) fn to_caller(frame: &Frame, packet: &Packet) -> PackedVerdict {
    try_to_caller(frame, packet).into()
}

#[inline(always)]
fn try_from_caller(frame: &Frame, packet: &Packet) -> Result<Next, Outcome> {
    let vip = VipKey { network: packet.network, address: packet.destination };
    if vips::find(&vip).is_none() {
        forget_finished(packet);
        return Err(Outcome::NotOurs);
    }
    if packet.protocol == protocol::ICMP {
        return icmp(frame, packet).map(Next::Done);
    }
    flows::remember_fragment(packet);
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
pub(crate) fn assign(frame: &Frame, packet: &Packet) -> Packed<Chosen> {
    let vip = VipKey { network: packet.network, address: packet.destination };
    let Some(frontend) = vips::find(&vip) else { return Err(Outcome::NotOurs).into() };
    let key = flow_key(packet, packet.source, packet.destination, false);
    request::choose::<Virtual>(frame, packet, || Some(frontend), &key).into()
}

/// Sends a call of a virtual address to what was chosen for it.
#[inline(never)]
pub(crate) fn serve(frame: &Frame, packet: &Packet, choice: Packed<Chosen>) -> PackedVerdict {
    try_serve(frame, packet, choice).into()
}

#[inline(always)]
fn try_serve(frame: &Frame, packet: &Packet, choice: Packed<Chosen>) -> Step {
    match choice.unpack()? {
        Choice::Refuse => reject::no_backend(packet),
        Choice::Backend(id, backend) => {
            let verdict = send(frame, packet, backend)?;
            counters::count_packet(id, packet, packet.length);
            Ok(verdict)
        }
    }
}

/// If this is the answer of a task that was given to itself, what becomes of it; next, it is [`to_self`].
#[inline(always)]
fn answers_itself(frame: &Frame, packet: &Packet) -> Option<PackedNext> {
    // Between equal ports an answer looks as a call does and becomes the same; and a SYN alone is always a call.
    if packet.source_port == packet.destination_port || packet.opens() {
        return None;
    }
    let key = reply_key(packet.source, packet.destination, packet, true);
    let reply = vips::recall_reply(&key)?;
    reply.last_seen = flows::now();
    Some(note_task(frame, packet, reply, packet.source, packet.destination))
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
    let Some(reply) = vips::recall_reply(&key) else { return };
    let lasts =
        flows::recall::<Virtual>(&flow_key(packet, packet.source, reply.vip, false)).is_some_and(|known| {
            let flow = known.flow();
            let given = frontends::backend(flow.backend).is_some_and(|backend| {
                backend.generation == flow.generation && backend.identity == packet.destination
            });
            let goes_on = if packet.is_tcp() {
                !tcp::is_closed(flow.state)
            } else {
                clock::elapsed(flow.last_seen, flows::now()) < UDP_IDLE_NANOSECONDS
            };
            given && goes_on
        });
    if !lasts {
        vips::forget_reply(&key);
    }
}

/// Only tasks answer for themselves otherwise; a virtual address is nobody's.
#[inline(always)]
fn icmp(frame: &Frame, packet: &Packet) -> Step {
    const ECHO_REQUEST: u8 = 8;

    // The first fragment of nothing else has been remembered.
    if packet.fragment == Fragment::Later {
        rewrite::readdress_network(frame, packet, packet.destination, packet.source, Hop::Bridged)?;
        rewrite::swap_macs(frame)?;
    } else if frame.read::<u8>(packet.transport) == Some(ECHO_REQUEST) {
        flows::remember_fragment(packet);
        rewrite::icmp::into_echo_reply(frame, packet)?;
    } else {
        return error_to_task(frame, packet);
    }
    Ok((Outcome::VipPinged, Way::Interface(frame.interface())).into())
}

#[inline(always)]
fn send(frame: &Frame, packet: &Packet, backend: &Backend) -> Step {
    let itself = backend.identity == packet.source;
    // A task does not answer itself by the network: it has to see another caller.
    let caller = if itself { packet.destination } else { packet.source };
    let key = reply_key(backend.identity, caller, packet, false);
    let settled = u32::from(!packet.opens());
    let reply = VipReply { last_seen: flows::now(), vip: packet.destination, settled };
    vips::remember_reply(&key, &reply)?;
    if itself {
        return to_self(frame, packet, packet.destination, backend.identity);
    }
    rewrite::readdress(frame, packet, &ends(packet, packet.source, backend.identity), Hop::Bridged)?;
    rewrite::set_destination_mac(frame, backend.mac)?;
    Ok(Outcome::VipToTask.into())
}

/// Back out of the port that the packet came in by.
#[inline(always)]
fn to_self(frame: &Frame, packet: &Packet, source: Address, destination: Address) -> Step {
    rewrite::readdress(frame, packet, &ends(packet, source, destination), Hop::Bridged)?;
    rewrite::swap_macs(frame)?;
    Ok((Outcome::VipToSelf, Way::Interface(frame.interface())).into())
}

#[inline(always)]
fn try_to_caller(frame: &Frame, packet: &Packet) -> Step {
    if packet.protocol == protocol::ICMP {
        return error_to_caller(frame, packet);
    }
    let key = reply_key(packet.source, packet.destination, packet, true);
    let reply = vips::recall_reply(&key).ok_or(Outcome::NotOurs)?;
    flows::remember_fragment(packet);
    reply.last_seen = flows::now();
    let vip = reply.vip;
    if let Some(verdict) = note_task(frame, packet, reply, packet.destination, vip).done() {
        return Ok(verdict.unpack());
    }
    rewrite::readdress(frame, packet, &ends(packet, vip, packet.destination), Hop::Bridged)?;
    Ok(Outcome::VipReplied.into())
}

/// The caller's flow learns what the task, whose packet this is, has said. The next step is to send the packet on to
/// the caller.
#[inline(always)]
fn note_task(
    frame: &Frame,
    packet: &Packet,
    reply: &mut VipReply,
    caller: Address,
    vip: Address,
) -> PackedNext {
    let is_news = reply.settled == 0 || packet.tcp_flags & (flag::FIN | flag::RST) != 0;
    if !packet.is_tcp() || !is_news {
        return Next::GoOn.into();
    }
    hear(frame, packet, reply, caller, vip)
}

#[inline(never)]
fn hear(frame: &Frame, packet: &Packet, reply: &mut VipReply, caller: Address, vip: Address) -> PackedNext {
    let key = flow_key(packet, caller, vip, true);
    match flows::recall::<Virtual>(&key) {
        Some(Known::Established(flow)) => {
            reply.settled = 1;
            flows::note_task::<Virtual>(&key, flow, packet, flows::now());
        }
        Some(Known::Opening(opening)) => {
            return replay::note_task::<Virtual>(frame, packet, &key, opening, || offer(&key, packet.source));
        }
        _ => {}
    }
    Next::GoOn.into()
}

/// Who could be offered the SYN of the flow with this key; `task` speaks now.
#[inline(always)]
fn offer(key: &VipFlowKey, task: Address) -> Offer {
    let vip = VipKey { network: key.network, address: key.vip };
    Offer {
        ends: Ends {
            source: key.caller,
            destination: key.vip,
            source_port: key.caller_port,
            destination_port: key.port,
        },
        count: vips::find(&vip).map_or(0, |frontend| frontend.count),
        identity: task,
        port: key.port,
    }
}

/// Whether an error about what a caller has sent to `vip` is a refusal that it need not hear of; then, what becomes of it.
#[inline(never)]
fn refused(frame: &Frame, packet: &Packet, quoted: &Quoted, caller: Address, vip: Address) -> PackedNext {
    let ends = quoted.ends;
    let key = VipFlowKey {
        network: packet.network,
        caller,
        vip,
        caller_port: ends.source_port,
        port: ends.destination_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    };
    match flows::recall::<Virtual>(&key) {
        Some(Known::Opening(opening)) if Refusal::Unreachable(quoted.sequence).answers(opening) => {
            replay::take(frame, opening, &offer(&key, ends.destination))
        }
        _ => Next::GoOn.into(),
    }
}

/// An ICMP error from a task, or from a node on the way to it, about a packet that went through a virtual address.
#[inline(always)]
fn error_to_caller(frame: &Frame, packet: &Packet) -> Step {
    let quoted = Quoted::read(frame, packet)?;
    let ends = quoted.ends;
    let key = VipReplyKey {
        network: packet.network,
        task: ends.destination,
        caller: ends.source,
        port: ends.destination_port,
        caller_port: ends.source_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    };
    let vip = vips::recall_reply(&key).ok_or(Outcome::NotOurs)?.vip;
    if quoted.is_refused
        && let Some(verdict) = refused(frame, packet, &quoted, ends.source, vip).done()
    {
        return Ok(verdict.unpack());
    }
    rewrite::icmp::readdress_quoted(frame, packet, &quoted.change(Ends { destination: vip, ..ends }))?;
    if packet.source == ends.destination {
        rewrite::readdress_network(frame, packet, vip, packet.destination, Hop::Bridged)?;
    }
    Ok(Outcome::VipError.into())
}

/// An ICMP error from a caller about an answer of a virtual address; or from a task that was given to itself about what
/// called it.
#[inline(always)]
fn error_to_task(frame: &Frame, packet: &Packet) -> Step {
    let quoted = Quoted::read(frame, packet)?;
    let (ends, vip) = (quoted.ends, packet.destination);
    if ends.source != vip || ends.destination != packet.source {
        return Err(Outcome::NotOurs);
    }
    let itself = VipReplyKey {
        network: packet.network,
        task: packet.source,
        caller: vip,
        port: ends.destination_port,
        caller_port: ends.source_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    };
    if vips::recall_reply(&itself).is_some() {
        return error_to_self(frame, packet, &quoted);
    }
    let key = VipFlowKey {
        network: packet.network,
        caller: packet.source,
        vip,
        caller_port: ends.destination_port,
        port: ends.source_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    };
    let known = flows::recall::<Virtual>(&key).ok_or(Outcome::NotOurs)?;
    let flow = known.flow();
    let backend = frontends::backend(flow.backend).ok_or(Outcome::NotOurs)?;
    if backend.generation != flow.generation || backend.state == state::DOWN {
        return Err(Outcome::NotOurs);
    }
    if backend.identity == packet.source {
        return error_to_self(frame, packet, &quoted);
    }
    rewrite::icmp::readdress_quoted(
        frame,
        packet,
        &quoted.change(Ends { source: backend.identity, ..ends }),
    )?;
    rewrite::readdress_network(frame, packet, packet.source, backend.identity, Hop::Bridged)?;
    rewrite::set_destination_mac(frame, backend.mac)?;
    Ok(Outcome::VipError.into())
}

#[inline(always)]
fn error_to_self(frame: &Frame, packet: &Packet, quoted: &Quoted) -> Step {
    let ends = Ends { source: packet.source, destination: packet.destination, ..quoted.ends };
    rewrite::icmp::readdress_quoted(frame, packet, &quoted.change(ends))?;
    rewrite::readdress_network(frame, packet, packet.destination, packet.source, Hop::Bridged)?;
    rewrite::swap_macs(frame)?;
    Ok((Outcome::VipToSelf, Way::Interface(frame.interface())).into())
}

/// The key of `caller`'s flow to `vip`; `answer` tells whether the packet comes from its task.
#[inline(always)]
fn flow_key(packet: &Packet, caller: Address, vip: Address, answer: bool) -> VipFlowKey {
    let (port, caller_port) = ports(packet, answer);
    VipFlowKey {
        network: packet.network,
        caller,
        vip,
        caller_port,
        port,
        protocol: packet.protocol,
        padding: [0, 0, 0],
    }
}

/// The key that `task`'s answers to `caller` have; `answer` tells whether the packet is such an answer.
#[inline(always)]
fn reply_key(task: Address, caller: Address, packet: &Packet, answer: bool) -> VipReplyKey {
    let (port, caller_port) = ports(packet, answer);
    VipReplyKey {
        network: packet.network,
        task,
        caller,
        port,
        caller_port,
        protocol: packet.protocol,
        padding: [0, 0, 0],
    }
}

/// The port that was called, and the caller's own.
#[inline(always)]
fn ports(packet: &Packet, answer: bool) -> (Port, Port) {
    if answer {
        (packet.source_port, packet.destination_port)
    } else {
        (packet.destination_port, packet.source_port)
    }
}

/// Other addresses; ports stay, a virtual address serves them all.
#[inline(always)]
fn ends(packet: &Packet, source: Address, destination: Address) -> Ends {
    Ends { source, destination, source_port: packet.source_port, destination_port: packet.destination_port }
}
