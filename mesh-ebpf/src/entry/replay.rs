//! Tasks that refuse a connection: their RST or ICMP error in answer to a SYN. It need not be the client's problem: the
//! refusal becomes the client's SYN again and comes in once more by the interface that the SYN came in by, where it is given
//! another backend.

use mesh_common::flow::{self, FlowKey, Opening};
use mesh_common::net::{Address, Port};
use mesh_common::outcome::Outcome;
use mesh_common::tcp::{self, state};

use crate::clock;
use crate::entry::choose;
use crate::hook::Hook;
use crate::packet::Packet;
use crate::packet::rewrite::{self, Tuple};
use crate::tables::flows::{self, Published, Tables};
use crate::tables::{frontends, suspects};
use crate::verdict::{Next, PackedNext, Redirect};

/// At the entry node of a published port: takes note of what a task has sent, which belongs to the flow with this key. `offer`
/// names the task. The next step is to send the packet on to the client.
#[inline(never)]
pub(crate) fn hear<H: Hook>(
    frame: &H,
    packet: &Packet,
    key: &FlowKey,
    identity: Address,
    port: Port,
) -> PackedNext {
    let Some(opening) = flows::recall_opening::<Published>(key) else { return Next::GoOn.into() };
    note_task::<_, Published>(frame, packet, key, opening, || offer(key, identity, port))
}

/// At the entry node, takes note of what a task has sent in a flow that is not established. The next step is to send the
/// packet on to the client.
#[inline(always)]
pub(crate) fn note_task<H: Hook, T: Tables>(
    frame: &H,
    packet: &Packet,
    key: &T::Key,
    opening: &'static mut Opening,
    offer: impl FnOnce() -> Offer,
) -> PackedNext {
    let refusal = Refusal::Reset(packet.tcp_flags, packet.acknowledgement);
    // XDP has left those to TC.
    if !H::IS_XDP && refusal.answers(opening) {
        return take(frame, opening, &offer());
    }
    flows::note_task_opening::<T>(key, opening, packet, clock::now());
    Next::GoOn.into()
}

/// What becomes of a refusal that answers the flow's SYN. The next step is to tell the client.
#[inline(never)]
pub(crate) fn take<H: Hook>(frame: &H, opening: &mut Opening, offer: &Offer) -> PackedNext {
    // A task that is gone meanwhile is not asked for its name.
    let backend = choose::serving(&opening.flow);
    let speaks_for_itself = backend.is_none_or(|backend| {
        backend.identity == offer.identity && (backend.port == offer.port || backend.port == Port::default())
    });
    // Otherwise one that had it before says so once more.
    if opening.flow.state & state::REFUSED != 0 || !speaks_for_itself {
        return Outcome::RefusalSwallowed.into();
    }
    if backend.is_some() {
        suspects::suspect(opening.flow.backend, clock::now());
    }
    opening.refusals = opening.refusals.saturating_add(1);
    if !flow::is_offered_again(opening.refusals, offer.count) {
        opening.flow.state |= state::RESET;
        return Next::GoOn.into();
    }
    opening.flow.state |= state::REFUSED;
    let interface = opening.syn.interface;
    if interface == 0 || rewrite::tcp::into_syn(frame, &offer.tuple, &opening.syn).is_err() {
        return Outcome::RefusalSwallowed.into();
    }
    Next::Done((Outcome::RefusalReplayed, Redirect::Ingress(interface)).into()).into()
}

/// A packet that says no to a client.
#[derive(Clone, Copy)]
pub(crate) enum Refusal {
    /// With its flags and its acknowledgement number.
    Reset(u8, u32),
    /// With the sequence number of the segment that could not be delivered.
    Unreachable(u32),
}

impl Refusal {
    /// Whether it says no to the SYN that this flow began with, and to nothing later.
    #[inline(always)]
    pub(crate) fn answers(self, opening: &Opening) -> bool {
        match self {
            Self::Reset(flags, acknowledgement) => {
                tcp::may_refuse(opening.flow.state, flags) && opening.syn.is_acknowledged_by(acknowledgement)
            }
            Self::Unreachable(sequence) => {
                tcp::may_refuse(opening.flow.state, tcp::flag::RST)
                    && opening.syn.is_known()
                    && opening.syn.sequence == sequence
            }
        }
    }
}

/// Where a SYN came from and who could be offered it, and which task speaks now.
#[derive(Clone, Copy)]
pub(crate) struct Offer {
    /// The client, and what it dialled.
    pub(crate) tuple: Tuple,
    /// How many backends serve that.
    pub(crate) count: u32,
    /// The task that refuses: its name, and the port inside it.
    pub(crate) identity: Address,
    pub(crate) port: Port,
}

/// Who could be offered the SYN of the flow with this key, and which task speaks now.
#[inline(always)]
pub(crate) fn offer(key: &FlowKey, identity: Address, port: Port) -> Offer {
    Offer {
        tuple: Tuple {
            source: key.client,
            destination: key.frontend,
            source_port: key.client_port,
            destination_port: key.frontend_port,
        },
        count: frontends::find(key.protocol, key.frontend_port).map_or(0, |frontend| frontend.count),
        identity,
        port,
    }
}
