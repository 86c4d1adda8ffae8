//! Client → service, at the entry node: find the frontend, recall or choose a backend, and send the packet on to it.

use mesh_common::backend::{Backend, state};
use mesh_common::flow::Flow;
use mesh_common::frontend::Frontend;
use mesh_common::net::Address;
use mesh_common::outcome::Outcome;
use mesh_common::reply::Reply;
use mesh_common::select;
use mesh_common::settings::{Settings, UDP_IDLE_NANOSECONDS};
use mesh_common::tcp::{self, Sender, flag};

use crate::delivery::{self, Target};
use crate::frame::Frame;
use crate::packet::Packet;
use crate::verdict::{PackedVerdict, Step, Way};
use crate::{counters, flows, frontends, node, refuse, split, tunnel};

/// What a packet's backend is, or why it has none.
pub(crate) enum Choice {
    Backend(u32, &'static Backend),
    /// The frontend has no backend, or the flow's is gone: tell the client.
    Refuse,
}

/// A packet whose port is published on this node.
#[inline(never)]
pub(crate) fn from_client(frame: &Frame, packet: &mut Packet, settings: &Settings) -> PackedVerdict {
    try_from_client(frame, packet, settings).into()
}

#[inline(always)]
fn try_from_client(frame: &Frame, packet: &mut Packet, settings: &Settings) -> Step {
    if !node::is_local(packet.destination) {
        return Err(Outcome::NotOurs);
    }
    let frontend = frontends::find(packet.protocol, packet.destination_port).ok_or(Outcome::NotOurs)?;
    flows::remember_fragment(packet);
    let key = packet.flow_from_client();
    match choose(packet, &frontend, flows::recall(&key), |flow| flows::remember(&key, flow))? {
        Choice::Backend(id, backend) => {
            let length = packet.length;
            let verdict = send(frame, packet, settings, backend)?;
            if !matches!(verdict.way, Way::Back(_)) {
                counters::count_packet(id, packet, length);
            }
            Ok(verdict)
        }
        Choice::Refuse => refuse::no_backend(packet),
    }
}

/// Sends a packet on to its backend.
#[inline(always)]
pub(crate) fn send(frame: &Frame, packet: &mut Packet, settings: &Settings, backend: &Backend) -> Step {
    if !backend.is_local() {
        if split::is_too_big(frame, packet, settings.inner_mtu) {
            if packet.dont_fragment {
                return refuse::too_big(packet, settings.inner_mtu);
            }
            split::keep_first_part(frame, packet, settings.inner_mtu)?;
        }
        return tunnel::to_home(frame, packet, settings, backend).map(|way| (Outcome::Tunnelled, way).into());
    }
    let reply = Reply {
        last_seen: flows::now(),
        frontend: packet.destination,
        entry: Address::UNSPECIFIED,
        identity: backend.identity,
        uplink: frame.interface(),
        frontend_port: packet.destination_port,
        client_port: packet.source_port,
        flags: backend.flags,
        ..Reply::default()
    };
    let target = Target { address: backend.bridge, port: backend.port, mac: backend.mac };
    delivery::deliver(frame, packet, settings, &target, &reply).map(|way| (Outcome::Delivered, way).into())
}

/// The backend of a flow: the one it has if it is `known`, or the one it gets, which is to be remembered.
#[inline(always)]
pub(crate) fn choose(
    packet: &Packet,
    frontend: &Frontend,
    known: Option<&'static mut Flow>,
    remember: impl FnOnce(&Flow) -> Result<(), Outcome>,
) -> Result<Choice, Outcome> {
    let now = flows::now();
    if let Some(flow) = known {
        if let Some(backend) = kept(packet, flow, now) {
            flow.state = tcp::after(flow.state, packet.tcp_flags, Sender::Client);
            flow.last_seen = now;
            return Ok(Choice::Backend(flow.backend, backend));
        }
        if packet.is_tcp() && !packet.opens() {
            return Ok(Choice::Refuse);
        }
    }
    choose_new(packet, frontend, now, remember)
}

/// The backend that a known flow keeps, if it keeps it.
#[inline(always)]
fn kept(packet: &Packet, flow: &Flow, now: u64) -> Option<&'static Backend> {
    let backend = frontends::backend(flow.backend)?;
    if backend.generation != flow.generation {
        return None;
    }
    let keeps = if !packet.is_tcp() {
        // UDP has no end that could be waited for: it leaves a draining backend at once.
        backend.state == state::ACTIVE && now.wrapping_sub(flow.last_seen) < UDP_IDLE_NANOSECONDS
    } else if packet.opens() {
        // A retransmitted SYN keeps its choice; one on the ports of a closed conversation starts another.
        backend.state == state::ACTIVE && !tcp::may_be_reused(flow.state)
    } else {
        backend.state != state::DOWN
    };
    if keeps { Some(backend) } else { None }
}

#[inline(always)]
fn choose_new(
    packet: &Packet,
    frontend: &Frontend,
    now: u64,
    remember: impl FnOnce(&Flow) -> Result<(), Outcome>,
) -> Result<Choice, Outcome> {
    let starts = !packet.is_tcp() || packet.opens();
    if packet.tcp_flags & flag::RST != 0 {
        return Err(Outcome::UnknownReset);
    }
    if frontend.count == 0 {
        return Ok(Choice::Refuse);
    }
    let chosen = if starts {
        frontends::next_in_turn(frontend)
    } else {
        frontends::by_hash(frontend, select::hash(&packet.flow_from_client()))
    };
    let Some(id) = chosen else { return Ok(Choice::Refuse) };
    let Some(backend) = frontends::backend(id) else { return Ok(Choice::Refuse) };
    if backend.state == state::DOWN {
        return Ok(Choice::Refuse);
    }
    let flow = Flow {
        last_seen: now,
        backend: id,
        generation: backend.generation,
        state: tcp::after(0, packet.tcp_flags, Sender::Client),
        ..Flow::default()
    };
    remember(&flow)?;
    counters::count_flow(id);
    Ok(Choice::Backend(id, backend))
}
