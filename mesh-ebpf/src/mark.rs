//! The mark that tells at an uplink what these programs have sent on from what others send.

use mesh_common::net::protocol;
use mesh_common::settings::Settings;
use mesh_common::tunnel::MARK;

use crate::hook::Hook;
use crate::hook::skb::{LinkLayer, Skb};
use crate::packet::Packet;

/// At an uplink, on the way out: whether these programs have sent the packet.
#[inline(always)]
pub fn is_ours<L: LinkLayer>(frame: &Skb<L>) -> bool {
    frame.mark() == MARK
}

/// Marks what goes into the tunnel.
#[inline(always)]
pub(crate) fn tunnelled<H: Hook>(frame: &H) {
    frame.set_mark(MARK);
}

/// Marks what goes to a client. What is for the tunnel's port is looked at as anybody's: the client may be another node, and a task
/// have made its answer into a packet of the tunnel.
#[inline(always)]
pub(crate) fn answer<H: Hook>(frame: &H, packet: &Packet, settings: &Settings) {
    if packet.protocol != protocol::UDP || packet.destination_port != settings.tunnel_port {
        frame.set_mark(MARK);
    }
}
