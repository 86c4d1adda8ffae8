//! Task → client, at the entry node: out of the tunnel, to the client or a process here.

use mesh_common::flow::Flow;
use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;
use mesh_common::tcp::flag;

use crate::entry::replay;
use crate::hook::Hook;
use crate::mark;
use crate::next_hop::NextHop;
use crate::packet::Packet;
use crate::tables::flows::{self, Known, Published};
use crate::tables::{frontends, handover, node};
use crate::tunnel::Arrival;
use crate::verdict::{LEAVE_TO_TC, PackedVerdict, Step};

/// An answer out of the tunnel, which already has the frontend's address, for a client or for a process here.
#[inline(always)]
pub fn from_tunnel<H: Hook>(frame: &H, packet: &Packet, arrival: &Arrival) -> PackedVerdict {
    // As `Packet::read`.
    if H::IS_XDP {
        try_from_tunnel(frame, packet, arrival).into()
    } else {
        from_tunnel_apart(frame, packet, arrival)
    }
}

#[inline(never)]
fn from_tunnel_apart<H: Hook>(frame: &H, packet: &Packet, arrival: &Arrival) -> PackedVerdict {
    try_from_tunnel(frame, packet, arrival).into()
}

#[inline(always)]
fn try_from_tunnel<H: Hook>(frame: &H, packet: &Packet, arrival: &Arrival) -> Step {
    if H::IS_XDP && (packet.protocol == protocol::ICMP || packet.tcp_flags & flag::RST != 0) {
        // If it is a refusal, it becomes a SYN that has to come in again.
        return Err(LEAVE_TO_TC);
    }
    // What an error quotes has been looked at before.
    let mut is_known = packet.protocol == protocol::ICMP;
    if !is_known {
        let key = packet.flow_from_frontend();
        if let Some(known) = flows::recall::<Published>(&key) {
            let speaks = is_from_backend(known.flow(), arrival);
            if speaks == Some(false) {
                return Err(Outcome::WrongSender);
            }
            is_known = speaks.is_some();
            match known {
                // Of a task that is gone nobody knows any more which one it was; only its no to a SYN is still of use.
                Known::Opening(_) if is_known || packet.tcp_flags & flag::RST != 0 => {
                    let address = &arrival.address;
                    let heard = replay::hear(frame, packet, &key, address.identity, address.port);
                    if let Some(verdict) = heard.done() {
                        return Ok(verdict.unpack());
                    }
                }
                Known::Established(flow) | Known::Other(flow) if is_known => {
                    flows::note_task::<Published>(&key, flow, packet, packet.now);
                }
                Known::Established(_) | Known::Opening(_) | Known::Other(_) => {}
            }
        }
    }
    if !is_known && !may_be_forgotten(packet) {
        return Err(Outcome::UnknownAnswer);
    }
    if node::is_local(packet.destination) {
        return Ok(Outcome::RepliedToNode.into());
    }
    if !node::is_local(packet.source) {
        return Err(Outcome::UnknownFrontend);
    }
    let next_hop = {
        let incoming = frame.interface();
        NextHop::find(frame, packet, incoming, packet.source, packet.destination, incoming)
    };
    // XDP sends by uplinks only, and leaves the rest to TC.
    if !is_known && !H::IS_XDP && !node::is_uplink(next_hop.interface()) && !handover::are_taken_over() {
        return Err(Outcome::UnknownAnswer);
    }
    if !H::IS_XDP
        && let Some(settings) = node::settings()
    {
        mark::answer(frame, packet, settings);
    }
    Ok((Outcome::RepliedFromTunnel, next_hop.take(frame)).into())
}

/// Whether what came is from the task that a flow was given to. `None` if nobody knows any more which one that was.
#[inline(always)]
pub(crate) fn is_from_backend(flow: &Flow, arrival: &Arrival) -> Option<bool> {
    let backend = frontends::backend(flow.backend).filter(|backend| backend.generation == flow.generation)?;
    let address = &arrival.address;
    Some(
        backend.node == arrival.sender
            && backend.identity == address.identity
            && backend.port == address.port,
    )
}

/// Whether an answer in a flow that nobody knows may be one that was forgotten: one to a client of a published port, or one that
/// the programs behind these know. Nothing unknown is for the node itself.
#[inline(always)]
fn may_be_forgotten(packet: &Packet) -> bool {
    handover::are_taken_over()
        || !node::is_local(packet.destination)
            && frontends::find(packet.protocol, packet.source_port).is_some()
}
