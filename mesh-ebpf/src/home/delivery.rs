//! To a task on this node, by its place on docker_gwbridge. netfilter there would drop what Docker has not published itself,
//! and takes as long as all the rest, so the packet goes to the task's end of its port at once; or to the bridge as a frame,
//! while the port is not known.

use mesh_common::backend::{Backend, LocalTask};
use mesh_common::net::{Address, Mac, Port};
use mesh_common::outcome::Outcome;
use mesh_common::reply::{Reply, ReplyKey};
use mesh_common::settings::Settings;

use crate::hook::Hook;
use crate::packet::rewrite::{self, Hop, Tuple};
use crate::packet::{Fragment, Packet};
use crate::tables::{node, replies};
use crate::verdict::{LEAVE_TO_TC, Redirect};

/// A task's place on docker_gwbridge.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) port: Port,
    pub(crate) mac: Mac,
    /// The bridge's port that it is behind; 0 if that is unknown.
    pub(crate) interface: u32,
}

impl Target {
    /// Of a flow that begins on this node.
    #[inline(always)]
    pub(crate) fn of(backend: &Backend) -> Self {
        Self { address: backend.bridge, port: backend.port, mac: backend.mac, interface: backend.interface }
    }

    /// Of one that has come here through the tunnel, for this port.
    #[inline(always)]
    pub(crate) fn of_task(task: &LocalTask, port: Port) -> Self {
        Self { address: task.bridge, port, mac: task.mac, interface: task.interface }
    }

    /// How a frame with its hardware addresses gets there.
    #[inline(always)]
    pub(crate) fn redirect<H: Hook>(&self, frame: &H, settings: &Settings) -> Redirect {
        if self.interface == 0 {
            Redirect::Interface(settings.bridge)
        } else if frame.is_leaving() {
            // The kernel takes no shorter way for a packet of a socket here.
            Redirect::Interface(self.interface)
        } else {
            Redirect::Peer(self.interface)
        }
    }
}

/// Hands a client's packet to a task. `reply` says where the answers belong.
#[inline(always)]
pub(crate) fn deliver<H: Hook>(
    frame: &H,
    packet: &Packet,
    settings: &Settings,
    target: &Target,
    reply: &Reply,
) -> Result<Redirect, Outcome> {
    if H::IS_XDP {
        // It takes no packets for a bridge.
        return Err(LEAVE_TO_TC);
    }
    if settings.bridge == 0 {
        return Err(Outcome::NoBridge);
    }
    if packet.ttl <= 1 {
        return Err(Outcome::HopLimit);
    }
    let key = key(packet, target);
    let client_port = replies::remember(&key, reply, packet)?;
    readdress(frame, packet, target, client_port)?;
    if packet.opens() && packet.fragment == Fragment::Whole && !reply.entry.is_unspecified() {
        rewrite::tcp::clamp_mss(frame, packet, node::inner_mtu(reply.entry, settings))?;
    }
    rewrite::set_macs(frame, target.mac, settings.bridge_mac)?;
    Ok(target.redirect(frame, settings))
}

/// As [`deliver`], of a packet that neither begins nor ends anything, in a conversation that is established. `None` if it is not, or
/// changes by the packet.
#[inline(always)]
pub(crate) fn deliver_plain<H: Hook>(
    frame: &H,
    packet: &Packet,
    settings: &Settings,
    target: &Target,
    reply: &Reply,
) -> Option<Result<Redirect, Outcome>> {
    let key = key(packet, target);
    if settings.bridge == 0 || packet.ttl <= 1 || !replies::note_plain_client(&key, reply, packet) {
        return None;
    }
    let redirect = readdress(frame, packet, target, packet.source_port)
        .and_then(|()| rewrite::set_macs(frame, target.mac, settings.bridge_mac))
        .map(|()| target.redirect(frame, settings));
    Some(redirect)
}

#[inline(always)]
fn key(packet: &Packet, target: &Target) -> ReplyKey {
    ReplyKey {
        task: target.address,
        client: packet.source,
        task_port: target.port,
        client_port: packet.source_port,
        protocol: packet.protocol,
        padding: [0, 0, 0],
    }
}

#[inline(always)]
fn readdress<H: Hook>(frame: &H, packet: &Packet, target: &Target, client_port: Port) -> Result<(), Outcome> {
    let tuple = Tuple {
        source: packet.source,
        destination: target.address,
        source_port: client_port,
        destination_port: target.port,
    };
    rewrite::readdress(frame, packet, &tuple, Hop::Routed)
}
