//! ICMP errors at the entry node: from a client's side about an answer, and out of the tunnel from a task's side.

use mesh_common::backend::state;
use mesh_common::flow::FlowKey;
use mesh_common::net::{Address, Port};
use mesh_common::outcome::Outcome;
use mesh_common::settings::Settings;

use crate::entry::replay::{self, Refusal, offer};
use crate::entry::reply;
use crate::home;
use crate::home::delivery::Target;
use crate::hook::Hook;
use crate::packet::Packet;
use crate::packet::quoted::Quoted;
use crate::tables::flows::{self, Known, Published};
use crate::tables::{frontends, handover};
use crate::tunnel::Arrival;
use crate::verdict::{Next, PackedNext, PackedVerdict, Step};

/// At the entry node: an error from the client's side about an answer of ours.
#[inline(never)]
pub fn from_client<H: Hook>(frame: &H, packet: &Packet, settings: &Settings) -> PackedVerdict {
    try_from_client(frame, packet, settings).into()
}

#[inline(always)]
fn try_from_client<H: Hook>(frame: &H, packet: &Packet, settings: &Settings) -> Step {
    let quoted = Quoted::read(frame, packet)?;
    let tuple = quoted.tuple;
    if !frontends::is_published(quoted.protocol, tuple.source_port) {
        return Err(Outcome::NotOurs);
    }
    let key = FlowKey {
        client: tuple.destination,
        frontend: tuple.source,
        client_port: tuple.destination_port,
        frontend_port: tuple.source_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    };
    let known = flows::recall::<Published>(&key).ok_or(Outcome::NotOurs)?;
    let flow = known.flow();
    let backend = frontends::backend(flow.backend).ok_or(Outcome::NotOurs)?;
    if backend.generation != flow.generation || backend.state == state::DOWN {
        return Err(Outcome::NotOurs);
    }
    if !backend.is_local() {
        let redirect = crate::tunnel::to_home(frame, packet, settings, backend)?;
        return Ok((Outcome::ErrorToTask, redirect).into());
    }
    home::icmp::deliver(frame, packet, settings, &quoted, &Target::of(backend))
}

/// At the entry node: an error out of the tunnel, from the side of a task. The next step is to send it on to the client, if
/// it is about a flow of that task.
#[inline(never)]
pub fn from_home<H: Hook>(frame: &H, packet: &Packet, arrival: &Arrival) -> PackedNext {
    let Ok(quoted) = Quoted::read(frame, packet) else { return Outcome::UnknownAnswer.into() };
    let tuple = quoted.tuple;
    if packet.source != tuple.destination || packet.destination != tuple.source {
        return Outcome::UnknownAnswer.into();
    }
    let flow = FlowKey {
        client: tuple.source,
        frontend: tuple.destination,
        client_port: tuple.source_port,
        frontend_port: tuple.destination_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    };
    let known = flows::recall::<Published>(&flow);
    match known.and_then(|known| reply::is_from_backend(known.flow(), arrival)) {
        Some(true) => {}
        Some(false) => return Outcome::WrongSender.into(),
        None if handover::are_taken_over() => return Next::GoOn.into(),
        None => return Outcome::UnknownAnswer.into(),
    }
    if !quoted.is_refused {
        return Next::GoOn.into();
    }
    refused(frame, &flow, quoted.sequence, arrival.address.identity, arrival.address.port)
}

/// The packet says that the segment with this sequence number of a client's flow was refused.
#[inline(never)]
pub(crate) fn refused<H: Hook>(
    frame: &H,
    flow: &FlowKey,
    sequence: u32,
    identity: Address,
    port: Port,
) -> PackedNext {
    match flows::recall::<Published>(flow) {
        Some(Known::Opening(opening)) if Refusal::Unreachable(sequence).answers(opening) => {
            replay::take(frame, opening, &offer(flow, identity, port))
        }
        _ => Next::GoOn.into(),
    }
}
