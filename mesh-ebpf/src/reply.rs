//! Task → client, at the home node: give the packet the frontend's address, and send it to the client or to the entry node.

use mesh_common::backend::flags;
use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;
use mesh_common::reply::{Reply, ReplyKey};
use mesh_common::settings::Settings;
use mesh_common::tcp::{self, Sender, flag};
use mesh_common::tunnel;

use crate::frame::Frame;
use crate::packet::{Fragment, Packet};
use crate::rewrite::{self, Ends, Hop};
use crate::route::Route;
use crate::verdict::{PackedVerdict, Step};
use crate::{flows, refuse, replies, split};

/// A packet that a task sent out on docker_gwbridge.
#[inline(never)]
pub(crate) fn from_task(frame: &Frame, packet: &mut Packet, settings: &Settings) -> PackedVerdict {
    try_from_task(frame, packet, settings).into()
}

#[inline(always)]
fn try_from_task(frame: &Frame, packet: &mut Packet, settings: &Settings) -> Step {
    let key = ReplyKey {
        task: packet.source,
        client: packet.destination,
        task_port: packet.source_port,
        client_port: packet.destination_port,
        protocol: packet.protocol,
        padding: [0; 3],
    };
    let reply = replies::recall(&key).ok_or(Outcome::NotOurs)?;
    if packet.ttl <= 1 {
        return Err(Outcome::HopLimit);
    }
    flows::remember_fragment(packet);
    reply.last_seen = flows::now();
    reply.state = tcp::after(reply.state, packet.tcp_flags, Sender::Task);
    let reply = *reply;
    if reply.entry.is_unspecified() {
        note_at_entry(packet, &reply);
    }
    let straightly = goes_straight(&reply);
    let limit = if straightly { settings.inner_mtu + tunnel::OVERHEAD as u16 } else { settings.inner_mtu };
    if split::is_too_big(frame, packet, limit) {
        if packet.dont_fragment {
            return refuse::too_big(packet, limit);
        }
        split::keep_first_part(frame, packet, limit)?;
    }
    if straightly {
        straight(frame, packet, settings, &reply)
    } else {
        by_tunnel(frame, packet, settings, &reply)
    }
}

/// Whether an answer goes to the client by this node's own routes.
#[inline(always)]
pub(crate) fn goes_straight(reply: &Reply) -> bool {
    reply.entry.is_unspecified() || reply.flags & flags::RETURN_DIRECT != 0
}

#[inline(always)]
fn straight(frame: &Frame, packet: &Packet, settings: &Settings, reply: &Reply) -> Step {
    let route = Route::find(frame, reply.frontend, packet.destination, reply.uplink);
    rewrite::readdress(frame, packet, &as_frontend(packet, reply), Hop::Routed)?;
    if !reply.entry.is_unspecified() {
        clamp(frame, packet, settings)?;
    }
    Ok((Outcome::Replied, route.take(frame)).into())
}

#[inline(always)]
fn by_tunnel(frame: &Frame, packet: &Packet, settings: &Settings, reply: &Reply) -> Step {
    rewrite::readdress(frame, packet, &as_frontend(packet, reply), Hop::Routed)?;
    clamp(frame, packet, settings)?;
    let address = tunnel::TunnelAddress {
        identity: reply.identity,
        port: packet.source_port,
        flags: tunnel::flags::REPLY,
    };
    let way = crate::tunnel::send(frame, packet, settings, reply.entry, reply.uplink, address)?;
    Ok((Outcome::ReplyTunnelled, way).into())
}

/// What the client sends will go through the tunnel, whichever way this SYN-ACK goes.
#[inline(always)]
fn clamp(frame: &Frame, packet: &Packet, settings: &Settings) -> Result<(), Outcome> {
    if packet.protocol == protocol::TCP
        && packet.tcp_flags & flag::SYN != 0
        && packet.fragment == Fragment::Whole
    {
        rewrite::clamp_mss(frame, packet, settings.inner_mtu)?;
    }
    Ok(())
}

#[inline(always)]
fn as_frontend(packet: &Packet, reply: &Reply) -> Ends {
    Ends {
        source: reply.frontend,
        destination: packet.destination,
        source_port: reply.frontend_port,
        destination_port: reply.client_port,
    }
}

/// When this node is the entry node too, the flow learns what the task said.
#[inline(always)]
fn note_at_entry(packet: &Packet, reply: &Reply) {
    if packet.tcp_flags & (flag::FIN | flag::RST) == 0 {
        return;
    }
    let mut key = packet.flow_from_frontend();
    key.frontend = reply.frontend;
    key.frontend_port = reply.frontend_port;
    key.client_port = reply.client_port;
    if let Some(flow) = flows::recall(&key) {
        flow.state = tcp::after(flow.state, packet.tcp_flags, Sender::Task);
    }
}
