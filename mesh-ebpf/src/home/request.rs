//! Client → task, at the home node: out of the tunnel, to the task that the entry node has chosen.

use core::mem::MaybeUninit;

use mesh_common::backend::TaskKey;
use mesh_common::outcome::Outcome;
use mesh_common::settings::Settings;
use mesh_common::tunnel::TunnelAddress;
use mesh_common::tunnel::flags::REPLY;

use crate::home::delivery::{self, Target};
use crate::hook::Hook;
use crate::packet::{Fragment, Packet, rewrite};
use crate::tables::{frontends, pressure, replies};
use crate::tunnel::{self, Arrival};
use crate::verdict::{Next, PackedNext, PackedVerdict, Step};

/// A client's packet out of the tunnel. The next step, for one whose task is not here, is [`refuse`].
#[inline(never)]
pub fn from_tunnel<H: Hook>(
    frame: &H,
    packet: &Packet,
    settings: &Settings,
    arrival: &Arrival,
) -> PackedNext {
    try_from_tunnel(frame, packet, settings, arrival).into()
}

#[inline(always)]
fn try_from_tunnel<H: Hook>(
    frame: &H,
    packet: &Packet,
    settings: &Settings,
    arrival: &Arrival,
) -> Result<Next, Outcome> {
    let address = arrival.address;
    let key =
        TaskKey { identity: address.identity, port: address.port, protocol: packet.protocol, padding: 0 };
    let Some(task) = frontends::task(&key) else { return Ok(Next::GoOn) };
    let mut reply = MaybeUninit::uninit();
    let reply = replies::begun(&mut reply, packet);
    reply.entry = arrival.sender;
    reply.identity = address.identity;
    reply.uplink = frame.interface();
    reply.flags = task.flags;
    let target = Target::of_task(&task, address.port);
    reply.interface = target.interface;
    let redirect = delivery::deliver(frame, packet, settings, &target, reply)?;
    Ok(Next::Done((Outcome::DeliveredFromTunnel, redirect).into()))
}

/// For a task that is not here, any more or yet. A SYN is refused in its name: its entry node, which will hear of the task in a
/// moment, gives it to another one at once, while its client would send it again after a second.
#[inline(never)]
pub fn refuse<H: Hook>(
    frame: &H,
    packet: &mut Packet,
    settings: &Settings,
    arrival: &Arrival,
) -> PackedVerdict {
    try_refuse(frame, packet, settings, arrival).into()
}

#[inline(always)]
fn try_refuse<H: Hook>(frame: &H, packet: &mut Packet, settings: &Settings, arrival: &Arrival) -> Step {
    let is_syn = packet.is_tcp() && packet.opens() && packet.fragment == Fragment::Whole;
    if !is_syn || !pressure::may_tell(true, packet.now) {
        return Err(Outcome::UnknownTask);
    }
    rewrite::tcp::into_refusal(frame, packet)?;
    packet.read(frame)?;
    let address = TunnelAddress { flags: REPLY, ..arrival.address };
    let redirect = tunnel::send(frame, packet, settings, arrival.sender, frame.interface(), address)?;
    Ok((Outcome::RefusedToEntry, redirect).into())
}
