//! Client → task, at the home node: out of the tunnel, to the task that the entry node has chosen.

use core::mem::MaybeUninit;

use mesh_common::backend::TaskKey;
use mesh_common::outcome::Outcome;
use mesh_common::settings::Settings;

use crate::home::delivery::{self, Target};
use crate::hook::Hook;
use crate::packet::Packet;
use crate::tables::{frontends, replies};
use crate::tunnel::Arrival;
use crate::verdict::{PackedVerdict, Step};

/// A client's packet out of the tunnel.
#[inline(never)]
pub fn from_tunnel<H: Hook>(
    frame: &H,
    packet: &Packet,
    settings: &Settings,
    arrival: &Arrival,
) -> PackedVerdict {
    try_from_tunnel(frame, packet, settings, arrival).into()
}

#[inline(always)]
fn try_from_tunnel<H: Hook>(frame: &H, packet: &Packet, settings: &Settings, arrival: &Arrival) -> Step {
    let address = arrival.address;
    let key =
        TaskKey { identity: address.identity, port: address.port, protocol: packet.protocol, padding: 0 };
    let task = frontends::task(&key).ok_or(Outcome::UnknownTask)?;
    let mut reply = MaybeUninit::uninit();
    let reply = replies::begun(&mut reply, packet);
    reply.entry = arrival.sender;
    reply.identity = address.identity;
    reply.uplink = frame.interface();
    reply.flags = task.flags;
    let target = Target::of_task(&task, address.port);
    reply.interface = target.interface;
    let redirect = delivery::deliver(frame, packet, settings, &target, reply)?;
    Ok((Outcome::DeliveredFromTunnel, redirect).into())
}
