//! ICMP errors at the home node: out of the tunnel about an answer of a task, and from a task about a client's packet.

use mesh_common::backend::TaskKey;
use mesh_common::flow::FlowKey;
use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;
use mesh_common::reply::{Reply, ReplyKey};
use mesh_common::settings::Settings;
use mesh_common::tcp;
use mesh_common::tunnel::{self, TunnelAddress};

use crate::entry::icmp::refused;
use crate::home::delivery::Target;
use crate::home::reply;
use crate::hook::Hook;
use crate::hook::skb::Skb;
use crate::next_hop::NextHop;
use crate::packet::Packet;
use crate::packet::quoted::Quoted;
use crate::packet::rewrite::{self, Hop, Tuple};
use crate::tables::{frontends, replies};
use crate::tunnel::Arrival;
use crate::verdict::{Next, PackedNext, PackedVerdict, Step};

/// At the home node: an error out of the tunnel about an answer of one of our tasks.
#[inline(never)]
pub fn to_task<H: Hook>(frame: &H, packet: &Packet, settings: &Settings, arrival: &Arrival) -> PackedVerdict {
    try_to_task(frame, packet, settings, arrival.address).into()
}

#[inline(always)]
fn try_to_task<H: Hook>(frame: &H, packet: &Packet, settings: &Settings, address: TunnelAddress) -> Step {
    let quoted = Quoted::read(frame, packet).map_err(|_| Outcome::MalformedInside)?;
    let key =
        TaskKey { identity: address.identity, port: address.port, protocol: quoted.protocol, padding: 0 };
    let task = frontends::task(&key).ok_or(Outcome::UnknownTask)?;
    let target = Target::of_task(&task, address.port);
    deliver(frame, packet, settings, &quoted, &target)
}

/// Makes the error one about the packet that the task sent, and hands it to the task.
#[inline(always)]
pub(crate) fn deliver<H: Hook>(
    frame: &H,
    packet: &Packet,
    settings: &Settings,
    quoted: &Quoted,
    target: &Target,
) -> Step {
    if packet.ttl <= 1 {
        return Err(Outcome::HopLimit);
    }
    if settings.bridge == 0 {
        return Err(Outcome::NoBridge);
    }
    let key = ReplyKey {
        task: target.address,
        client: quoted.tuple.destination,
        task_port: target.port,
        client_port: quoted.tuple.destination_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    };
    let conversation = Reply {
        frontend: quoted.tuple.source,
        frontend_port: quoted.tuple.source_port,
        client_port: quoted.tuple.destination_port,
        ..Reply::default()
    };
    let after = Tuple {
        source: target.address,
        destination: quoted.tuple.destination,
        source_port: target.port,
        destination_port: replies::translated(&key, &conversation).unwrap_or(quoted.tuple.destination_port),
    };
    rewrite::icmp::readdress_quoted(frame, packet, &quoted.change(after))?;
    rewrite::readdress_network(frame, packet, packet.source, target.address, Hop::Routed)?;
    rewrite::set_macs(frame, target.mac, settings.bridge_mac)?;
    Ok((Outcome::ErrorToTask, target.redirect(frame, settings)).into())
}

/// At an entry node that is the home node too: an error from a task. The next step is to send it on to the client.
#[inline(never)]
pub fn refused_here(frame: &Skb, packet: &Packet) -> PackedNext {
    let Ok(quoted) = Quoted::read(frame, packet) else { return Next::GoOn.into() };
    if !quoted.is_refused || packet.source != quoted.tuple.destination {
        return Next::GoOn.into();
    }
    let Some(known) = replies::recall(&answer_key(&quoted)) else { return Next::GoOn.into() };
    let reply = known.reply;
    if !reply.entry.is_unspecified() {
        return Next::GoOn.into();
    }
    let flow = FlowKey {
        client: quoted.tuple.source,
        frontend: reply.frontend,
        client_port: reply.client_port,
        frontend_port: reply.frontend_port,
        protocol: protocol::TCP,
        padding: [0, 0, 0],
    };
    refused(frame, &flow, quoted.sequence, reply.identity, quoted.tuple.destination_port)
}

/// At the home node: an error from a task about a client's packet.
#[inline(never)]
pub fn from_task(frame: &Skb, packet: &Packet, settings: &Settings) -> PackedVerdict {
    try_from_task(frame, packet, settings).into()
}

#[inline(always)]
fn try_from_task(frame: &Skb, packet: &Packet, settings: &Settings) -> Step {
    let quoted = Quoted::read(frame, packet)?;
    let tuple = quoted.tuple;
    let reply: Reply = *replies::recall(&answer_key(&quoted)).ok_or(Outcome::NotOurs)?.reply;
    if packet.source != tuple.destination || packet.ttl <= 1 {
        return Err(Outcome::NotOurs);
    }
    let may_refuse = quoted.is_refused && tcp::may_refuse(reply.state, tcp::flag::RST);
    let straight = reply::goes_straight(&reply) && (reply.entry.is_unspecified() || !may_refuse);
    let next_hop =
        NextHop::find(frame, packet, settings.bridge, reply.frontend, packet.destination, reply.uplink);
    let after = Tuple {
        source: tuple.source,
        destination: reply.frontend,
        source_port: reply.client_port,
        destination_port: reply.frontend_port,
    };
    rewrite::icmp::readdress_quoted(frame, packet, &quoted.change(after))?;
    rewrite::readdress_network(frame, packet, reply.frontend, packet.destination, Hop::Routed)?;
    let redirect = if straight {
        next_hop.take(frame)
    } else {
        let address = TunnelAddress {
            identity: reply.identity,
            port: tuple.destination_port,
            flags: tunnel::flags::REPLY,
        };
        crate::tunnel::send(frame, packet, settings, reply.entry, reply.uplink, address)?
    };
    Ok((Outcome::ErrorToClient, redirect).into())
}

/// The key of the conversation that a task's answers to the quoted packet belong to.
#[inline(always)]
fn answer_key(quoted: &Quoted) -> ReplyKey {
    ReplyKey {
        task: quoted.tuple.destination,
        client: quoted.tuple.source,
        task_port: quoted.tuple.destination_port,
        client_port: quoted.tuple.source_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    }
}
