//! Maps `FLOWS`, `OPENING`, `UDP_FLOWS`, `SCRATCH` and `DOCKER_FLOWS`: conversations that this node is the entry node of.
//!
//! Only a TCP flow whose handshake is proven gets into the table of established ones, which forgets nothing; when it ends it
//! leaves it again. All others are in tables that forget what was used longest ago, so a flood pushes out its like.

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuArray};
use mesh_common::backend::{Backend, flags};
use mesh_common::flow::{Flow, FlowKey, Opening};
use mesh_common::maps;
use mesh_common::outcome::Outcome;
use mesh_common::tcp::{self, Sender, flag, state};

use crate::hook::Hook;
use crate::packet::{Packet, rewrite};
use crate::tables::{connections, counters, settled, suspects};
use crate::verifier;

#[map]
static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(maps::FLOWS, BPF_F_NO_PREALLOC);

#[map]
static OPENING: LruHashMap<FlowKey, Opening> = LruHashMap::with_max_entries(maps::OTHER_FLOWS, 0);

#[map]
static UDP_FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(maps::OTHER_FLOWS, 0);

/// Where an element of `OPENING` is made: the stack has no room for it where Linux 6.1 counts every function's part in
/// steps of 32 bytes.
#[map]
static SCRATCH: PerCpuArray<Opening> = PerCpuArray::with_max_entries(1, 0);

#[map]
static DOCKER_FLOWS: HashMap<FlowKey, u32> = HashMap::with_max_entries(maps::DOCKER_FLOWS, BPF_F_NO_PREALLOC);

/// The tables of one kind of frontend.
pub(crate) trait Tables {
    type Key: Protocol + 'static;

    fn established() -> &'static HashMap<Self::Key, Flow>;
    fn opening() -> &'static LruHashMap<Self::Key, Opening>;
    fn others() -> &'static LruHashMap<Self::Key, Flow>;
    fn dockers() -> &'static HashMap<Self::Key, u32>;
}

/// A key that tells its protocol and its network.
pub(crate) trait Protocol {
    fn is_tcp(&self) -> bool;
    /// The overlay's; 0 for the node's own.
    fn network(&self) -> u32;
}

impl Protocol for FlowKey {
    #[inline(always)]
    fn is_tcp(&self) -> bool {
        self.protocol == mesh_common::net::protocol::TCP
    }

    #[inline(always)]
    fn network(&self) -> u32 {
        0
    }
}

/// Published ports.
pub(crate) struct Published;

impl Tables for Published {
    type Key = FlowKey;

    #[inline(always)]
    fn established() -> &'static HashMap<FlowKey, Flow> {
        &FLOWS
    }

    #[inline(always)]
    fn opening() -> &'static LruHashMap<FlowKey, Opening> {
        &OPENING
    }

    #[inline(always)]
    fn others() -> &'static LruHashMap<FlowKey, Flow> {
        &UDP_FLOWS
    }

    #[inline(always)]
    fn dockers() -> &'static HashMap<FlowKey, u32> {
        &DOCKER_FLOWS
    }
}

/// A flow as the tables have it. Elements of the maps stay allocated. Two packets of a flow on two CPUs may write its time and
/// state at once; either value will do. So it will for an element that becomes another flow's at that moment.
pub(crate) enum Known {
    Established(&'static mut Flow),
    Opening(&'static mut Opening),
    /// Of any other protocol.
    Other(&'static mut Flow),
}

impl Known {
    #[inline(always)]
    pub(crate) fn flow(&self) -> &Flow {
        match self {
            Self::Established(flow) | Self::Other(flow) => flow,
            Self::Opening(opening) => &opening.flow,
        }
    }
}

/// The flow as the tables have it.
#[inline(always)]
pub(crate) fn recall<T: Tables>(key: &T::Key) -> Option<Known> {
    if !key.is_tcp() {
        // SAFETY: see `Known`, here and below.
        return T::others().get_ptr_mut(key).map(|flow| Known::Other(unsafe { &mut *flow }));
    }
    match recall_established::<T>(key) {
        Some(known) => Some(known),
        None => recall_opening::<T>(key).map(Known::Opening),
    }
}

/// The flow that a packet belongs to which neither begins nor ends one, if it is established, or not TCP.
#[inline(always)]
pub(crate) fn recall_settled<T: Tables>(key: &T::Key) -> Option<&'static mut Flow> {
    let flow = if key.is_tcp() { T::established().get_ptr_mut(key) } else { T::others().get_ptr_mut(key) };
    // SAFETY: see `Known`.
    flow.map(|flow| unsafe { &mut *flow })
}

/// Takes note of a packet that neither begins nor ends anything in such a flow.
#[inline(always)]
pub(crate) fn note_plain(flow: &mut Flow, packet: &Packet, sender: Sender) {
    settled::note_time(&mut flow.last_seen, packet.now);
    settled::note_number(&mut flow.client_number, packet, sender);
}

/// An established TCP flow.
#[inline(always)]
pub(crate) fn recall_established<T: Tables>(key: &T::Key) -> Option<Known> {
    // SAFETY: see `Known`.
    T::established().get_ptr_mut(key).map(|flow| Known::Established(unsafe { &mut *flow }))
}

/// A TCP flow that is known not to be established.
#[inline(always)]
pub(crate) fn recall_opening<T: Tables>(key: &T::Key) -> Option<&'static mut Opening> {
    // SAFETY: see `Known`.
    T::opening().get_ptr_mut(key).map(|opening| unsafe { &mut *opening })
}

/// Puts a flow of another protocol than TCP into its table, over one with the same key.
#[inline(always)]
pub(crate) fn remember_other<T: Tables>(key: &T::Key, flow: &Flow) -> Result<(), Outcome> {
    T::others().insert(key, flow, u64::from(BPF_ANY)).map_err(|_| Outcome::FlowTableFull)
}

/// Puts a TCP flow that starts with this packet into its table, over one with the same key. A SYN is kept with it, for
/// another backend to have it if this one refuses.
#[inline(never)]
pub(crate) fn remember_opening<H: Hook, T: Tables>(
    frame: &H,
    packet: &Packet,
    key: &T::Key,
    flow: &Flow,
) -> Result<(), Outcome> {
    let opening = fresh(flow).ok_or(Outcome::FlowTableFull)?;
    opening.flow.state = tcp::first(packet.tcp_flags);
    opening.flow.client_number = tcp::known_number(packet.sequence);
    opening.given_by_xdp = H::IS_XDP.into();
    if packet.opens() {
        rewrite::tcp::keep_syn(frame, packet, &mut opening.syn);
    }
    put(T::opening(), key, opening)
}

/// Forgets an established flow whose backend is gone or whose client starts another.
#[inline(always)]
pub(crate) fn forget_established<T: Tables>(key: &T::Key, backend: u32) {
    // Another CPU may have been faster.
    if T::established().remove(key).is_ok() {
        connections::closed(backend);
    }
}

/// Whether this is TC, and XDP has given the flow its backend and left the packet to TC: it must not be given another one.
#[inline(always)]
pub(crate) fn has_just_been_given<H: Hook>(opening: &Opening) -> bool {
    !H::IS_XDP && opening.given_by_xdp != 0
}

/// Takes note of a client's packet in the flow that it belongs to, which `backend` serves.
#[inline(always)]
pub(crate) fn note_client<H: Hook, T: Tables>(
    key: &T::Key,
    known: Known,
    packet: &Packet,
    backend: &Backend,
    now: u64,
) {
    match known {
        Known::Established(flow) => {
            let (flags, number) = tcp::believed(flow.client_number, packet.tcp_flags, packet.sequence);
            flow.last_seen = now;
            flow.client_number = number;
            flow.state = tcp::after(flow.state, flags, Sender::Client);
            // Nobody will see here how the task ends it.
            if is_unseen(backend) {
                flow.state = tcp::after(flow.state, flags, Sender::Task);
            }
            if tcp::is_closed(flow.state) {
                retire::<T>(key, flow);
            }
        }
        Known::Opening(opening) => note_client_opening::<H, T>(key, opening, packet, backend, now),
        Known::Other(flow) => flow.last_seen = now,
    }
}

/// Whether what a backend answers goes past this node.
#[inline(always)]
fn is_unseen(backend: &Backend) -> bool {
    !backend.is_local() && backend.flags & flags::RETURN_DIRECT != 0
}

#[inline(always)]
fn note_client_opening<H: Hook, T: Tables>(
    key: &T::Key,
    opening: &'static mut Opening,
    packet: &Packet,
    backend: &Backend,
    now: u64,
) {
    let before = opening.flow.state;
    if !H::IS_XDP {
        opening.given_by_xdp = 0;
    }
    opening.flow.last_seen = now;
    opening.flow.state = tcp::after(before, packet.tcp_flags, Sender::Client);
    // That the client has gone on after its SYN is all there is to see.
    let proves = if is_unseen(backend) {
        before & state::ADOPTED == 0
            && tcp::is_acknowledgement(packet.tcp_flags)
            && packet.sequence == opening.syn.sequence.wrapping_add(1)
    } else {
        tcp::client_proves(before, opening.expected, packet.tcp_flags, packet.acknowledgement)
    };
    if proves || before & state::PROVEN != 0 {
        establish::<T>(key, opening);
    }
}

/// Takes note of what a task has sent in a flow that is established, or not TCP, and returns its state then; in one that is
/// opening with [`note_task_opening`].
#[inline(always)]
pub(crate) fn note_task<T: Tables>(key: &T::Key, flow: &'static mut Flow, packet: &Packet, now: u64) -> u8 {
    // A task that takes a SYN has begun another conversation: what was said of the end was of the one before.
    let before = if tcp::is_syn_ack(packet.tcp_flags) { tcp::begun_again(flow.state) } else { flow.state };
    let after = tcp::after(before, packet.tcp_flags, Sender::Task);
    flow.last_seen = now;
    flow.state = after;
    if packet.tcp_flags & flag::ACK != 0 {
        flow.client_number = tcp::known_number(packet.acknowledgement);
    }
    if key.is_tcp() && tcp::is_closed(after) {
        retire::<T>(key, flow);
    }
    after
}

#[inline(always)]
pub(crate) fn note_task_opening<T: Tables>(
    key: &T::Key,
    opening: &'static mut Opening,
    packet: &Packet,
    now: u64,
) {
    let before = opening.flow.state;
    opening.flow.last_seen = now;
    opening.flow.state = tcp::after(before, packet.tcp_flags, Sender::Task);
    if tcp::is_syn_ack(packet.tcp_flags) {
        opening.flow.state |= state::ANSWERED;
        opening.expected = packet.sequence.wrapping_add(1);
        suspects::note_answer(opening.flow.backend, now);
    }
    if tcp::task_proves(before, packet.tcp_flags) {
        establish::<T>(key, opening);
    }
}

/// Moves a proven flow to the established ones. If there is no room it stays where it is, and each packet of its client tries
/// again.
#[inline(never)]
fn establish<T: Tables>(key: &T::Key, opening: &'static mut Opening) {
    if tcp::is_closed(opening.flow.state) {
        return;
    }
    let first_time = opening.flow.state & state::PROVEN == 0;
    opening.flow.state |= state::PROVEN;
    if first_time {
        suspects::forgive(opening.flow.backend);
    }
    let flow = &opening.flow;
    match T::established().insert(key, flow, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            connections::opened(opening.flow.backend);
            let _ = T::opening().remove(key);
        }
        // Another CPU was faster, and what is read here may be another flow's by now.
        Err(maps::EXISTS) => {}
        Err(_) if first_time => counters::count(Outcome::FlowUnprotected),
        Err(_) => {}
    }
}

/// By reference: a value would be copied on the stack once more.
#[inline(always)]
fn put<K>(table: &LruHashMap<K, Opening>, key: &K, opening: &Opening) -> Result<(), Outcome> {
    table.insert(key, opening, u64::from(BPF_ANY)).map_err(|_| Outcome::FlowTableFull)
}

/// Moves a flow that has ended out of the established ones.
#[inline(never)]
fn retire<T: Tables>(key: &T::Key, flow: &Flow) {
    let Some(opening) = fresh(flow) else { return };
    if put(T::opening(), key, opening).is_ok() {
        forget_established::<T>(key, opening.flow.backend);
    }
}

/// An element for `OPENING` to fill in, with nothing in it but the flow. Programs are not moved to another CPU, and none
/// needs two of them at once.
#[inline(always)]
fn fresh(flow: &Flow) -> Option<&'static mut Opening> {
    let place = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: an aligned value of this CPU's own; whoever interrupts this program does not run it.
    let opening = unsafe {
        verifier::clear(place);
        &mut *place
    };
    opening.flow = *flow;
    Some(opening)
}
