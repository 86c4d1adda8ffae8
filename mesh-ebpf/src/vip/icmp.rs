//! Pings of virtual addresses, and ICMP errors about what went through one.

use mesh_common::backend::state;
use mesh_common::net::Address;
use mesh_common::outcome::Outcome;
use mesh_common::overlay::{VipFlowKey, VipReplyKey};

use crate::entry::replay::{self, Refusal};
use crate::hook::Hook;
use crate::hook::skb::Skb;
use crate::packet::quoted::Quoted;
use crate::packet::rewrite::{self, Hop, Tuple};
use crate::packet::{Fragment, Packet};
use crate::tables::flows::{self, Known};
use crate::tables::vips::{self, Virtual};
use crate::tables::{fragments, frontends};
use crate::verdict::{Next, PackedNext, Redirect, Step};
use crate::vip::offer;

/// Only tasks answer for themselves otherwise; a virtual address is nobody's.
#[inline(always)]
pub(crate) fn from_caller(frame: &Skb, packet: &Packet) -> Step {
    const ECHO_REQUEST: u8 = 8;

    // The first fragment of nothing else has been remembered.
    if packet.fragment == Fragment::Later {
        rewrite::readdress_network(frame, packet, packet.destination, packet.source, Hop::Bridged)?;
        rewrite::swap_macs(frame)?;
    } else if frame.read::<u8>(packet.transport()) == Some(ECHO_REQUEST) {
        fragments::remember(packet);
        rewrite::icmp::into_echo_reply(frame, packet)?;
    } else {
        return error_to_task(frame, packet);
    }
    Ok((Outcome::VipPinged, Redirect::Interface(frame.interface())).into())
}

/// An ICMP error from a task, or from a node on the way to it, about a packet that went through a virtual address.
#[inline(always)]
pub(crate) fn error_to_caller(frame: &Skb, packet: &Packet) -> Step {
    let quoted = Quoted::read(frame, packet)?;
    let tuple = quoted.tuple;
    let key = VipReplyKey {
        network: packet.network,
        task: tuple.destination,
        caller: tuple.source,
        port: tuple.destination_port,
        caller_port: tuple.source_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    };
    let vip = vips::recall_reply(&key, packet.now).ok_or(Outcome::NotOurs)?.vip;
    if quoted.is_refused
        && let Some(verdict) = refused(frame, packet, &quoted, tuple.source, vip).done()
    {
        return Ok(verdict.unpack());
    }
    rewrite::icmp::readdress_quoted(frame, packet, &quoted.change(Tuple { destination: vip, ..tuple }))?;
    if packet.source == tuple.destination {
        rewrite::readdress_network(frame, packet, vip, packet.destination, Hop::Bridged)?;
    }
    Ok(Outcome::VipError.into())
}

/// Whether an error about what a caller has sent to `vip` is a refusal that it need not hear of; then, what becomes of it.
#[inline(never)]
fn refused(frame: &Skb, packet: &Packet, quoted: &Quoted, caller: Address, vip: Address) -> PackedNext {
    let tuple = quoted.tuple;
    let key = VipFlowKey {
        network: packet.network,
        caller,
        vip,
        caller_port: tuple.source_port,
        port: tuple.destination_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    };
    match flows::recall::<Virtual>(&key) {
        Some(Known::Opening(opening)) if Refusal::Unreachable(quoted.sequence).answers(opening) => {
            replay::take(frame, opening, &offer(&key, tuple.destination))
        }
        _ => Next::GoOn.into(),
    }
}

/// An ICMP error from a caller about an answer of a virtual address; or from a task that was given to itself about what
/// called it.
#[inline(always)]
fn error_to_task(frame: &Skb, packet: &Packet) -> Step {
    let quoted = Quoted::read(frame, packet)?;
    let (tuple, vip) = (quoted.tuple, packet.destination);
    if tuple.source != vip || tuple.destination != packet.source {
        return Err(Outcome::NotOurs);
    }
    let itself = VipReplyKey {
        network: packet.network,
        task: packet.source,
        caller: vip,
        port: tuple.destination_port,
        caller_port: tuple.source_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    };
    if vips::recall_reply(&itself, packet.now).is_some() {
        return error_to_self(frame, packet, &quoted);
    }
    let key = VipFlowKey {
        network: packet.network,
        caller: packet.source,
        vip,
        caller_port: tuple.destination_port,
        port: tuple.source_port,
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
        &quoted.change(Tuple { source: backend.identity, ..tuple }),
    )?;
    rewrite::readdress_network(frame, packet, packet.source, backend.identity, Hop::Bridged)?;
    rewrite::set_destination_mac(frame, backend.mac)?;
    Ok(Outcome::VipError.into())
}

#[inline(always)]
fn error_to_self(frame: &Skb, packet: &Packet, quoted: &Quoted) -> Step {
    let tuple = Tuple { source: packet.source, destination: packet.destination, ..quoted.tuple };
    rewrite::icmp::readdress_quoted(frame, packet, &quoted.change(tuple))?;
    rewrite::readdress_network(frame, packet, packet.destination, packet.source, Hop::Bridged)?;
    rewrite::swap_macs(frame)?;
    Ok((Outcome::VipToSelf, Redirect::Interface(frame.interface())).into())
}
