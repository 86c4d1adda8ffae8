//! Client → service and back, at the entry node, in a flow that is established: the short way of most packets, in one function, and
//! without what only other packets need. What it does not know goes the way of all.

use mesh_common::outcome::Outcome;
use mesh_common::reply::Reply;
use mesh_common::tcp::Sender;
use mesh_common::tunnel::flags::{PROBE, REPLY};

use crate::entry::{choose, reply};
use crate::home::delivery::{self, Target};
use crate::hook::Hook;
use crate::hook::xdp::XdpBuff;
use crate::next_hop;
use crate::packet::Packet;
use crate::tables::flows::{self, Published};
use crate::tables::{counters, node};
use crate::tunnel;
use crate::verdict::{LEAVE_TO_TC, Next, PackedNext, Step, Verdict};

/// A client's packet to a published port.
#[inline(never)]
pub fn request<H: Hook>(frame: &H) -> PackedNext {
    try_request(frame).map_or(Next::GoOn.into(), Into::into)
}

#[inline(always)]
fn try_request<H: Hook>(frame: &H) -> Option<Step> {
    let settings = node::settings()?;
    let packet = Packet::plain(frame)?;
    if packet.ttl <= 1 || !node::is_local(packet.destination) {
        return None;
    }
    let flow = flows::recall_settled::<Published>(&packet.flow_from_client())?;
    let (id, backend) = (flow.backend, choose::kept(&packet, flow)?);
    let (outcome, redirect) = if backend.is_local() {
        if H::IS_XDP {
            // Nothing is noted twice.
            return Some(Err(LEAVE_TO_TC));
        }
        // Of a datagram's conversation more is to be noted.
        if !packet.is_tcp() {
            return None;
        }
        let target = Target::of(backend);
        let reply = Reply {
            frontend: packet.destination,
            frontend_port: packet.destination_port,
            client_port: packet.source_port,
            identity: backend.identity,
            uplink: frame.interface(),
            flags: backend.flags,
            interface: target.interface,
            ..Reply::default()
        };
        (Outcome::Delivered, delivery::deliver_plain(frame, &packet, settings, &target, &reply)?)
    } else {
        if packet.length > settings.inner_mtu {
            return None;
        }
        (Outcome::Tunnelled, tunnel::to_home_by_known_way(frame, &packet, settings, backend)?)
    };
    flows::note_plain(flow, &packet, Sender::Client);
    Some(redirect.map(|redirect| {
        counters::count_packet(id, &packet, packet.length);
        Verdict { outcome, redirect }
    }))
}

/// A packet of the tunnel at XDP, if it is a task's answer to a client; what is for a task here is TC's.
#[inline(never)]
pub fn answer(frame: &XdpBuff) -> PackedNext {
    try_answer(&frame.own()).map_or(Next::GoOn.into(), Into::into)
}

#[inline(always)]
fn try_answer(frame: &XdpBuff) -> Option<Step> {
    if tunnel::flags(frame) & (REPLY | PROBE) == 0 {
        return Some(Err(LEAVE_TO_TC));
    }
    let settings = node::settings()?;
    let outer = Packet::plain_without_time(frame)?;
    let arrival = tunnel::check(frame, &outer, settings).ok()?;
    if arrival.address.flags != REPLY || frame.shrink_from_tunnel().is_err() {
        return None;
    }
    let packet = Packet::plain(frame)?;
    let flow = flows::recall_settled::<Published>(&packet.flow_from_frontend())?;
    if reply::is_from_backend(flow, &arrival) != Some(true) || !node::is_local(packet.source) {
        return None;
    }
    // The routes lead nothing to the node itself.
    let known = next_hop::remembered(frame, packet.now, packet.source, packet.destination)?;
    flows::note_plain(flow, &packet, Sender::Task);
    let redirect = next_hop::follow_remembered(frame, known).and_then(|redirect| {
        frame.settle()?;
        Ok(redirect)
    });
    Some(redirect.map(|redirect| (Outcome::RepliedFromTunnel, redirect).into()))
}
