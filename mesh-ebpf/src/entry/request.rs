//! Client → service, at the entry node: a packet goes to the backend that its flow has or gets.

use core::mem::MaybeUninit;

use mesh_common::backend::Backend;
use mesh_common::outcome::Outcome;
use mesh_common::settings::Settings;

use crate::entry::choose::{self, Choice, is_offered_again, is_unanswered, serving};
use crate::entry::reject;
use crate::home::delivery::{self, Target};
use crate::packet::Packet;
use crate::split::Split;
use crate::tables::flows::{self, Published};
use crate::tables::{counters, fragments, frontends, node, replies};
use crate::tunnel;
use crate::verdict::{PackedVerdict, Redirect, Step};

/// Sends a packet whose port is published on this node to the backend that its flow has or gets.
#[inline(always)]
pub fn handle<H: Split>(frame: &H, packet: &mut Packet, settings: &Settings) -> PackedVerdict {
    // As `Packet::read`.
    if H::IS_XDP { try_handle(frame, packet, settings).into() } else { handle_apart(frame, packet, settings) }
}

#[inline(never)]
fn handle_apart<H: Split>(frame: &H, packet: &mut Packet, settings: &Settings) -> PackedVerdict {
    try_handle(frame, packet, settings).into()
}

#[inline(always)]
fn try_handle<H: Split>(frame: &H, packet: &mut Packet, settings: &Settings) -> Step {
    // Before it is given to anybody: none shall owe it an answer.
    if packet.ttl <= 1 && node::is_local(packet.destination) {
        return reject::hop_limit(packet);
    }
    if !node::is_local(packet.destination) && !is_refused_to_node(packet) {
        return Err(Outcome::NotOurs);
    }
    let frontend = || frontends::find(packet.protocol, packet.destination_port);
    let choice = choose::backend_of::<_, Published>(frame, packet, frontend, &packet.flow_from_client());
    let choice = choice.unpack()?;
    fragments::remember(packet);
    serve(frame, packet, settings, choice)
}

/// Sends a packet to what was chosen for it.
#[inline(always)]
fn serve<H: Split>(frame: &H, packet: &mut Packet, settings: &Settings, choice: Choice) -> Step {
    match choice {
        Choice::Backend(id, backend) => {
            let length = packet.length;
            let verdict = send(frame, packet, settings, backend)?;
            if !matches!(verdict.redirect, Redirect::Back(_)) {
                counters::count_packet(id, packet, length);
            }
            Ok(verdict)
        }
        // It would go to the network. The socket sends its SYN again, and is told on its way out.
        Choice::Refuse if !frame.is_leaving() && node::is_local(packet.source) => {
            Err(Outcome::RefusalSwallowed)
        }
        Choice::Refuse => reject::no_backend(packet),
    }
}

/// Whether this is the SYN of a process on this node, sent to a task elsewhere that has refused it or left it unanswered:
/// another one shall have it.
#[inline(never)]
pub fn is_refused_to_node(packet: &Packet) -> bool {
    packet.is_tcp()
        && packet.opens()
        && flows::recall_opening::<Published>(&packet.flow_from_client()).is_some_and(|opening| {
            is_offered_again(packet, opening)
                || serving(&opening.flow)
                    .is_some_and(|backend| is_unanswered(packet, opening, backend, packet.now))
        })
        && node::is_local(packet.source)
}

/// Sends a packet on to its backend.
#[inline(always)]
pub(crate) fn send<H: Split>(frame: &H, packet: &mut Packet, settings: &Settings, backend: &Backend) -> Step {
    if !backend.is_local() {
        if let Some(limit) = tunnel::exceeded(frame, packet, settings, backend.node) {
            if !frame.may_be_cut(packet) {
                return reject::too_big(packet, limit);
            }
            frame.keep_first_part(packet, limit)?;
        }
        return tunnel::to_home(frame, packet, settings, backend)
            .map(|redirect| (Outcome::Tunnelled, redirect).into());
    }
    let mut reply = MaybeUninit::uninit();
    let reply = replies::begun(&mut reply, packet);
    reply.identity = backend.identity;
    reply.uplink = frame.interface();
    reply.flags = backend.flags;
    let target = Target::of(backend);
    reply.interface = target.interface;
    delivery::deliver(frame, packet, settings, &target, reply)
        .map(|redirect| (Outcome::Delivered, redirect).into())
}
