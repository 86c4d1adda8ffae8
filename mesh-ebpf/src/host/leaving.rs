//! On the way out: packets of sockets that were given a task elsewhere go into the tunnel.

use mesh_common::backend::{Backend, state};
use mesh_common::flow::Flow;
use mesh_common::outcome::Outcome;
use mesh_common::settings::Settings;
use mesh_common::socket::SocketKey;

use crate::entry::request;
use crate::hook::skb::{LinkLayer, Skb};
use crate::host::socket;
use crate::packet::{Fragment, Packet};
use crate::tables::flows::{self, Known, Published};
use crate::tables::{counters, fragments, frontends};
use crate::verdict::{PackedVerdict, Step};

/// A packet on its way out that may be from a socket that was given a task elsewhere: into the tunnel with it; or to a task
/// here, if the other has refused the connection.
#[inline(never)]
pub fn from_socket<L: LinkLayer>(frame: &Skb<L>, packet: &mut Packet, settings: &Settings) -> PackedVerdict {
    try_from_socket(frame, packet, settings).into()
}

#[inline(always)]
fn try_from_socket<L: LinkLayer>(frame: &Skb<L>, packet: &mut Packet, settings: &Settings) -> Step {
    let key = packet.flow_from_client();
    // A later fragment need not have its socket any more; the first one has been remembered.
    let has_flow = packet.is_tcp() || packet.fragment == Fragment::Later;
    let known = if has_flow { flows::recall::<Published>(&key) } else { None };
    let (id, backend) = match known.filter(|known| !packet.opens() || is_of_syn(known, packet)) {
        Some(known) => {
            let flow = known.flow();
            let (id, generation) = (flow.backend, flow.generation);
            let backend = serving(id, generation)?;
            flows::note_client::<Skb<L>, Published>(&key, known, packet, backend, packet.now);
            (id, backend)
        }
        None => given(frame, packet)?,
    };
    fragments::remember(packet);
    let length = packet.length;
    let verdict = request::send(frame, packet, settings, backend)?;
    let outcome = verdict.outcome;
    if outcome == Outcome::TooBig {
        return Ok(verdict);
    }
    counters::count_packet(id, packet, length);
    let from_node = if outcome == Outcome::Tunnelled { Outcome::TunnelledFromNode } else { outcome };
    Ok((from_node, verdict.redirect).into())
}

/// Whether this is the SYN that the flow began with, once more.
#[inline(always)]
fn is_of_syn(known: &Known, packet: &Packet) -> bool {
    match known {
        Known::Opening(opening) => opening.syn.is_known() && opening.syn.sequence == packet.sequence,
        Known::Established(_) | Known::Other(_) => false,
    }
}

/// The backend with this id, if it serves and is still the one that was given.
#[inline(always)]
fn serving(id: u32, generation: u32) -> Result<&'static Backend, Outcome> {
    frontends::backend(id)
        .filter(|backend| backend.generation == generation && backend.state != state::DOWN)
        .ok_or(Outcome::NotOurs)
}

/// The backend that the sending socket was given; remembered as a flow, because the last segments of a connection have
/// no socket any more.
#[inline(always)]
fn given<L: LinkLayer>(frame: &Skb<L>, packet: &Packet) -> Result<(u32, &'static Backend), Outcome> {
    let key = SocketKey {
        cookie: frame.socket_cookie(),
        destination: packet.destination,
        port: packet.destination_port,
        protocol: packet.protocol,
        padding: 0,
    };
    let socket = socket::recall(&key).ok_or(Outcome::NotOurs)?;
    let backend = serving(socket.backend, socket.generation)?;
    if backend.node != packet.destination {
        return Err(Outcome::NotOurs);
    }
    let key = packet.flow_from_client();
    let flow = Flow {
        last_seen: packet.now,
        backend: socket.backend,
        generation: socket.generation,
        ..Flow::default()
    };
    if packet.is_tcp() {
        flows::remember_opening::<_, Published>(frame, packet, &key, &flow)?;
    } else {
        flows::remember_other::<Published>(&key, &flow)?;
    }
    Ok((socket.backend, backend))
}
