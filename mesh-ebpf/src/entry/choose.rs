//! Which backend a packet goes to: the one that its flow has, or the one that it gets and keeps. For published ports and for virtual
//! addresses.

use mesh_common::backend::{Backend, flags, state};
use mesh_common::flow::{Flow, Opening, SYN_PATIENCE_NANOSECONDS};
use mesh_common::frontend::Frontend;
use mesh_common::outcome::Outcome;
use mesh_common::select;
use mesh_common::settings::{TIME_WAIT_NANOSECONDS, UDP_IDLE_NANOSECONDS};
use mesh_common::tcp::{self, flag};

use crate::clock;
use crate::entry::selection;
use crate::hook::Hook;
use crate::packet::Packet;
use crate::tables::flows::{self, Known, Tables};
use crate::tables::{counters, frontends, handover, node, outgoing, pressure, suspects};
use crate::verifier::{Pack, Packed, outcome_in};

/// The backend of a flow: the one it has, or the one it gets and keeps. Who else serves the `frontend` is asked for only in the
/// second case.
#[inline(always)]
pub(crate) fn backend_of<H: Hook, T: Tables>(
    frame: &H,
    packet: &Packet,
    frontend: impl Fn() -> Option<Frontend>,
    key: &T::Key,
) -> Packed<Chosen> {
    let now = packet.now;
    let Some(known) = flow_of::<T>(packet, key) else {
        if !packet.opens() && handover::are_taken_over() {
            return none(Outcome::NotOurs);
        }
        let Some(frontend) = frontend() else { return none(Outcome::NotOurs) };
        return choose_new::<_, T>(frame, packet, &frontend, key, now);
    };
    let id = known.flow().backend;
    let keeps = |backend: &&Backend| {
        keeps::<H>(packet, &known, backend, now)
            && !(begins_another(packet, &known)
                && frontend().is_none_or(|frontend| handover::is_left(frontend.flags)))
    };
    let Some(backend) = serving(known.flow()).filter(keeps) else {
        if packet.is_tcp() && !packet.opens() {
            return refuse();
        }
        let Some(frontend) = &frontend() else { return none(Outcome::NotOurs) };
        return match known {
            Known::Opening(opening) if is_offered_again(packet, opening) => {
                offer_again::<H>(opening, frontend, packet, now)
            }
            Known::Established(_) => {
                flows::forget_established::<T>(key, id);
                choose_new::<_, T>(frame, packet, frontend, key, now)
            }
            Known::Opening(opening) => {
                // A SYN that others' have been taken after is one that its task does not want, and anybody could send.
                if serving(&opening.flow).is_some_and(|backend| is_unanswered(packet, opening, backend, now))
                    && !suspects::has_answered_since(id, opening.flow.last_seen)
                {
                    suspects::suspect(id, now);
                }
                choose_new::<_, T>(frame, packet, frontend, key, now)
            }
            Known::Other(_) => choose_new::<_, T>(frame, packet, frontend, key, now),
        };
    };
    if packet.opens()
        && let Known::Opening(opening) = &known
        && (opening.syn.sequence != packet.sequence
            || opening.flow.state & tcp::state::ADOPTED != 0
            || tcp::is_closed(opening.flow.state))
    {
        // The client has given up on its first SYN, or ended what that began, and tries with another.
        if let Err(outcome) = flows::remember_opening::<_, T>(frame, packet, key, &given(id, backend, now)) {
            return none(outcome);
        }
    } else {
        flows::note_client::<H, T>(key, known, packet, backend, now);
    }
    Ok(Choice::Backend(id, backend)).into()
}

/// Nobody is chosen. Where a function ends, its choice is packed at once: of several ends the compiler would keep the parts that each
/// does not have in registers that nobody has written.
#[inline(always)]
fn none(outcome: Outcome) -> Packed<Chosen> {
    Err(outcome).into()
}

#[inline(always)]
fn refuse() -> Packed<Chosen> {
    Ok(Choice::Refuse).into()
}

/// The flow that a packet belongs to.
#[inline(always)]
fn flow_of<T: Tables>(packet: &Packet, key: &T::Key) -> Option<Known> {
    let mut known = flows::recall::<T>(key);
    if known.is_none() && packet.is_tcp() && !packet.opens() {
        // On another CPU it may have moved from one table to the other between the two looks.
        known = flows::recall_established::<T>(key);
    }
    if let Some(Known::Opening(opening)) = &known
        && says_nothing(opening, packet)
    {
        known = None;
    }
    known
}

/// What a packet's backend is, or why it has none.
#[derive(Clone, Copy)]
pub enum Choice {
    Backend(u32, &'static Backend),
    /// The frontend has no backend, or the flow's is gone: tell the client.
    Refuse,
}

/// A choice, or why there is none.
pub type Chosen = Result<Choice, Outcome>;

mod chosen {
    pub(super) const BACKEND: u64 = 1 << 32;
    pub(super) const REFUSE: u64 = 2 << 32;
}

impl Pack for Chosen {
    #[inline(always)]
    fn pack(self) -> u64 {
        match self {
            Ok(Choice::Backend(id, _)) => chosen::BACKEND | u64::from(id),
            Ok(Choice::Refuse) => chosen::REFUSE,
            Err(outcome) => u64::from(outcome.number()),
        }
    }

    #[inline(always)]
    unsafe fn unpack(word: u64) -> Self {
        if word & chosen::BACKEND != 0 {
            let id = word as u32;
            return Ok(frontends::backend(id).map_or(Choice::Refuse, |backend| Choice::Backend(id, backend)));
        }
        // SAFETY: without a choice there is an outcome's number.
        if word & chosen::REFUSE != 0 { Ok(Choice::Refuse) } else { Err(unsafe { outcome_in(word) }) }
    }
}

#[inline(always)]
fn choose_new<H: Hook, T: Tables>(
    frame: &H,
    packet: &Packet,
    frontend: &Frontend,
    key: &T::Key,
    now: u64,
) -> Packed<Chosen> {
    if handover::is_dockers::<T>(frontend.flags, packet, key, frame.interface()) {
        return none(Outcome::NotOurs);
    }
    if is_no_clients(packet, frame.is_leaving()) {
        return none(Outcome::NotOurs);
    }
    let starts = !packet.is_tcp() || packet.opens();
    if packet.tcp_flags & flag::RST != 0 {
        return none(Outcome::UnknownReset);
    }
    let hash = select::hash(&packet.flow_from_client());
    // What follows finds the same backend by the same hash, and is remembered when the flood is over.
    let is_flood = packet.is_tcp() && pressure::is_flood(now);
    let pick = if starts && !is_flood {
        selection::pick(frontend, packet.source, hash, now)
    } else {
        selection::guess(frontend, hash)
    };
    let Some(backend) = selection::usable(pick) else { return refuse() };
    let id = selection::picked(pick);
    let flow = given(id, backend, now);
    let kept = if is_flood {
        counters::count(Outcome::SynNotKept);
        Ok(())
    } else if packet.is_tcp() {
        flows::remember_opening::<_, T>(frame, packet, key, &flow)
    } else {
        flows::remember_other::<T>(key, &flow)
    };
    if let Err(outcome) = kept {
        return none(outcome);
    }
    counters::count_flow(id);
    Ok(Choice::Backend(id, backend)).into()
}

/// Whether a packet that belongs to no flow is no client's. What nobody outside of this node can have sent the kernel takes for a
/// martian, and drops. (As one of the node's own nobody can complete a handshake: of TCP that is not asked.) And at the node,
/// what no call begins with, or answers one of the node's own.
#[inline(never)]
fn is_no_clients(packet: &Packet, is_leaving: bool) -> bool {
    if !packet.source.is_host() {
        return true;
    }
    if packet.network != 0 {
        return false;
    }
    if packet.is_tcp() && (packet.tcp_flags & flag::RST != 0 || tcp::is_syn_ack(packet.tcp_flags)) {
        return true;
    }
    !packet.opens()
        && (outgoing::is_answered_by(packet)
            || !packet.is_tcp() && !is_leaving && node::is_local(packet.source))
}

#[inline(always)]
fn offer_again<H: Hook>(
    opening: &mut Opening,
    frontend: &Frontend,
    packet: &Packet,
    now: u64,
) -> Packed<Chosen> {
    let hash = select::hash(&packet.flow_from_client());
    let pick = selection::pick(frontend, packet.source, hash, now);
    let Some(backend) = selection::usable(pick) else { return refuse() };
    let id = selection::picked(pick);
    opening.flow = given(id, backend, now);
    opening.given_by_xdp = H::IS_XDP.into();
    counters::count_flow(id);
    Ok(Choice::Backend(id, backend)).into()
}

/// A flow that has just been given to a backend.
#[inline(always)]
fn given(id: u32, backend: &Backend, now: u64) -> Flow {
    Flow { last_seen: now, backend: id, generation: backend.generation, ..Flow::default() }
}

/// The backend that a flow has been given, if the id is still that one's.
#[inline(always)]
pub(crate) fn serving(flow: &Flow) -> Option<&'static Backend> {
    frontends::backend(flow.backend).filter(|backend| backend.generation == flow.generation)
}

/// Whether a flow keeps its backend.
#[inline(always)]
fn keeps<H: Hook>(packet: &Packet, known: &Known, backend: &Backend, now: u64) -> bool {
    let flow = known.flow();
    match known {
        Known::Other(_) => keeps_datagrams(flow, backend, now),
        _ if !packet.opens() => backend.state != state::DOWN,
        // Its task has to answer a SYN on its ports: if the conversation lives there, with no more than an acknowledgement.
        Known::Established(_) => backend.state != state::DOWN,
        // A SYN keeps its choice, unless that has just refused somebody, or says nothing: whether its conversation is over, its
        // task knows best. Ports that have been free for a while are anybody's.
        Known::Opening(opening) => {
            backend.state == state::ACTIVE
                && !(tcp::is_closed(flow.state)
                    && clock::elapsed(flow.last_seen, now) >= TIME_WAIT_NANOSECONDS)
                && flow.state & tcp::state::REFUSED == 0
                && (flow.state & tcp::state::ANSWERED != 0
                    || flows::has_just_been_given::<H>(opening)
                    || !(suspects::is_suspect(flow.backend, now)
                        || is_unanswered(packet, opening, backend, now)))
        }
    }
}

/// UDP has no end that could be waited for: it leaves a draining backend at once.
#[inline(always)]
fn keeps_datagrams(flow: &Flow, backend: &Backend, now: u64) -> bool {
    backend.state == state::ACTIVE && clock::elapsed(flow.last_seen, now) < UDP_IDLE_NANOSECONDS
}

/// The backend that a flow keeps which is established, or not TCP.
#[inline(always)]
pub(crate) fn kept(packet: &Packet, flow: &Flow) -> Option<&'static Backend> {
    let backend = serving(flow)?;
    let is_kept = if packet.is_tcp() {
        backend.state != state::DOWN
    } else {
        keeps_datagrams(flow, backend, packet.now)
    };
    if is_kept { Some(backend) } else { None }
}

/// Whether this is a SYN on the ports of a conversation that is over.
#[inline(always)]
fn begins_another(packet: &Packet, known: &Known) -> bool {
    packet.opens() && matches!(known, Known::Opening(opening) if tcp::is_closed(opening.flow.state))
}

/// Whether a flow has ended, and its backend is gone. A segment that does not begin another may be of one that began at another
/// node, and has come here with its client's address or with this node's.
#[inline(never)]
fn says_nothing(opening: &Opening, packet: &Packet) -> bool {
    tcp::is_closed(opening.flow.state) && !packet.opens() && serving(&opening.flow).is_none()
}

/// Whether this is the very SYN that a backend has left unanswered: its task may have died together with the agent that would
/// have told.
#[inline(always)]
pub(crate) fn is_unanswered(packet: &Packet, opening: &Opening, backend: &Backend, now: u64) -> bool {
    // The answers of such a task do not pass here.
    let is_unseen = !backend.is_local() && backend.flags & flags::RETURN_DIRECT != 0;
    !is_unseen
        && opening.flow.state & tcp::state::ANSWERED == 0
        && !tcp::is_closed(opening.flow.state)
        && opening.syn.is_known()
        && opening.syn.sequence == packet.sequence
        && clock::elapsed(opening.flow.last_seen, now) >= SYN_PATIENCE_NANOSECONDS
}

/// Whether this is the very SYN that a backend has refused, without the client's having been told.
#[inline(always)]
pub(crate) fn is_offered_again(packet: &Packet, opening: &Opening) -> bool {
    opening.flow.state & (tcp::state::REFUSED | tcp::state::RESET) == tcp::state::REFUSED
        && opening.syn.sequence == packet.sequence
}
