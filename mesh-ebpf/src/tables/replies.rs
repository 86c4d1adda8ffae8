//! Maps `REPLIES`, `OPENING_REPLIES`, `UDP_REPLIES`, `TRANSLATIONS` and `TASK_PORTS`: conversations that this node is the home node of.
//!
//! As for an entry node's flows, only TCP conversations whose handshake is proven get into the table that forgets nothing. The
//! home node sees both directions, whichever way the answers go.

use core::intrinsics::{AtomicOrdering, atomic_or};
use core::mem::MaybeUninit;

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap};
use mesh_common::frontend::PortBit;
use mesh_common::maps;
use mesh_common::net::{Port, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::reply::{Reply, ReplyKey, TRANSLATION_ATTEMPTS, TranslationKey, translated_port};
use mesh_common::settings::{TIME_WAIT_NANOSECONDS, UDP_IDLE_NANOSECONDS};
use mesh_common::tcp::{self, Sender, flag, state};

use crate::clock;
use crate::packet::Packet;
use crate::tables::{counters, settled};
use crate::verifier::{self, Aligned};

#[map]
static REPLIES: HashMap<ReplyKey, Reply> = HashMap::with_max_entries(maps::FLOWS, BPF_F_NO_PREALLOC);

#[map]
static OPENING_REPLIES: LruHashMap<ReplyKey, Reply> = LruHashMap::with_max_entries(maps::OTHER_FLOWS, 0);

#[map]
static UDP_REPLIES: LruHashMap<ReplyKey, Reply> = LruHashMap::with_max_entries(maps::OTHER_FLOWS, 0);

#[map]
static TRANSLATIONS: LruHashMap<TranslationKey, Port> = LruHashMap::with_max_entries(maps::TRANSLATIONS, 0);

/// The ports of tasks that any conversation has been with. A bit stays: one too many costs some lookups, and a task goes on answering
/// in its conversations when its port is not published any more.
#[map]
static TASK_PORTS: Array<u64> = Array::with_max_entries(PortBit::WORDS, 0);

/// A conversation as the tables have it.
pub(crate) struct Known {
    pub(crate) reply: &'static mut Reply,
    pub(crate) is_established: bool,
}

/// A conversation with nothing in it.
#[inline(always)]
pub fn empty(place: &mut MaybeUninit<Aligned<Reply>>) -> &mut Reply {
    // SAFETY: this is a struct of integers.
    unsafe { verifier::zeroed(place) }
}

/// One that begins with this client's packet. The rest is its caller's.
#[inline(always)]
pub(crate) fn begun<'a>(place: &'a mut MaybeUninit<Aligned<Reply>>, packet: &Packet) -> &'a mut Reply {
    let reply = empty(place);
    reply.last_seen = packet.now;
    reply.state = if packet.is_tcp() { tcp::first(packet.tcp_flags) } else { 0 };
    reply.client_number = if packet.is_tcp() { tcp::known_number(packet.sequence) } else { 0 };
    reply.frontend = packet.destination;
    reply.frontend_port = packet.destination_port;
    reply.client_port = packet.source_port;
    reply
}

/// Whether what comes from this port on docker_gwbridge may belong to a conversation. Most of what containers send of their own accord
/// does not.
#[inline(always)]
pub fn may_answer(protocol: u8, port: Port) -> bool {
    let bit = PortBit::of(protocol, port);
    TASK_PORTS.get(bit.word).is_none_or(|word| word & bit.mask != 0)
}

#[inline(always)]
fn note_port(key: &ReplyKey) {
    let bit = PortBit::of(key.protocol, key.task_port);
    let Some(word) = TASK_PORTS.get_ptr_mut(bit.word) else { return };
    // SAFETY: the pointer is to an aligned value of the map, which is only read, and changed by one instruction.
    unsafe {
        if word.read_volatile() & bit.mask == 0 {
            atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(word, bit.mask);
        }
    }
}

/// The conversation that a task's packet belongs to.
#[inline(always)]
pub(crate) fn recall(key: &ReplyKey) -> Option<Known> {
    // SAFETY: elements of the maps stay allocated. Two packets of a conversation on two CPUs may write its time and state
    // at once; either value will do. So it will for an element that becomes another conversation's at that moment.
    let known = |reply: *mut Reply, is_established| Known { reply: unsafe { &mut *reply }, is_established };
    if key.protocol != protocol::TCP {
        return UDP_REPLIES.get_ptr_mut(key).map(|reply| known(reply, false));
    }
    if let Some(reply) = REPLIES.get_ptr_mut(key) {
        return Some(known(reply, true));
    }
    OPENING_REPLIES.get_ptr_mut(key).map(|reply| known(reply, false))
}

/// The conversation that a packet belongs to which neither begins nor ends one, if it is established.
#[inline(always)]
pub(crate) fn recall_settled(key: &ReplyKey) -> Option<&'static mut Reply> {
    // SAFETY: as in `recall`.
    REPLIES.get_ptr_mut(key).map(|reply| unsafe { &mut *reply })
}

/// Takes note of a client's packet that neither begins nor ends anything, if its conversation is established, and has its client's own
/// port. `reply` is as [`begun`] with this packet.
#[inline(always)]
pub(crate) fn note_plain_client(key: &ReplyKey, reply: &Reply, packet: &Packet) -> bool {
    let Some(known) = recall_settled(key) else { return false };
    if !known.is_same_conversation(reply)
        || known.entry != reply.entry
        || known.uplink != reply.uplink
        || known.flags != reply.flags
        || known.interface != reply.interface
    {
        return false;
    }
    note_plain(known, packet, Sender::Client);
    true
}

/// Takes note of a packet that neither begins nor ends anything in an established conversation.
#[inline(always)]
pub(crate) fn note_plain(known: &mut Reply, packet: &Packet, sender: Sender) {
    settled::note_time(&mut known.last_seen, packet.now);
    settled::note_number(&mut known.client_number, packet, sender);
}

/// As [`recall`], for a packet of the conversation.
#[inline(always)]
pub(crate) fn recall_of(key: &ReplyKey, packet: &Packet) -> Option<Known> {
    let known = recall(key);
    if known.is_some() || !packet.is_tcp() || packet.opens() {
        return known;
    }
    // On another CPU it may have moved from one table to the other between the two looks.
    // SAFETY: as in `recall`.
    REPLIES.get_ptr_mut(key).map(|reply| Known { reply: unsafe { &mut *reply }, is_established: true })
}

/// Takes note of a task's packet in the conversation that it belongs to, and returns the conversation as it is then.
#[inline(always)]
pub(crate) fn note_task(key: &ReplyKey, known: Known, packet: &Packet, now: u64) -> Reply {
    let Known { reply, is_established } = known;
    let is_syn_ack = tcp::is_syn_ack(packet.tcp_flags);
    // A task that takes a SYN has begun another conversation: what was said of the end was of the one before.
    let before = if is_established && is_syn_ack { tcp::begun_again(reply.state) } else { reply.state };
    reply.last_seen = now;
    reply.state = tcp::after(before, packet.tcp_flags, Sender::Task);
    if packet.tcp_flags & flag::ACK != 0 {
        reply.client_number = tcp::known_number(packet.acknowledgement);
    }
    if !is_established && is_syn_ack {
        reply.state |= state::ANSWERED;
        reply.expected = packet.sequence.wrapping_add(1);
    }
    let after = *reply;
    settle(key, reply, is_established, tcp::task_proves(before, packet.tcp_flags));
    after
}

/// Takes note of a client's packet: what may change while the conversation lasts follows it.
#[inline(always)]
fn touch(key: &ReplyKey, known: Known, reply: &Reply, packet: &Packet) {
    let Known { reply: known, is_established } = known;
    known.last_seen = reply.last_seen;
    known.entry = reply.entry;
    known.uplink = reply.uplink;
    known.flags = reply.flags;
    known.interface = reply.interface;
    let (flags, number) = if is_established {
        tcp::believed(known.client_number, packet.tcp_flags, packet.sequence)
    } else {
        (packet.tcp_flags, tcp::known_number(packet.sequence))
    };
    known.client_number = number;
    // In an established conversation its task has to answer it.
    if packet.opens() && !is_established {
        known.state = 0;
    }
    let before = known.state;
    known.state = tcp::after(before, flags, Sender::Client);
    let proves = tcp::client_proves(before, known.expected, flags, packet.acknowledgement);
    settle(key, known, is_established, proves);
}

/// Moves a conversation to the table where it belongs now.
#[inline(always)]
fn settle(key: &ReplyKey, reply: &'static mut Reply, is_established: bool, proves: bool) {
    if is_established {
        if tcp::is_closed(reply.state) {
            retire(key, reply);
        }
    } else if proves || reply.state & state::PROVEN != 0 {
        establish(key, reply);
    }
}

#[inline(never)]
fn establish(key: &ReplyKey, reply: &'static mut Reply) {
    if tcp::is_closed(reply.state) {
        return;
    }
    let first_time = reply.state & state::PROVEN == 0;
    reply.state |= state::PROVEN;
    let value: &Reply = reply;
    match REPLIES.insert(key, value, u64::from(BPF_NOEXIST)) {
        Ok(()) => drop(OPENING_REPLIES.remove(key)),
        // Another CPU was faster, and what is read here may be another conversation's by now.
        Err(maps::EXISTS) => {}
        Err(_) if first_time => counters::count(Outcome::FlowUnprotected),
        Err(_) => {}
    }
}

#[inline(never)]
fn retire(key: &ReplyKey, reply: &Reply) {
    if OPENING_REPLIES.insert(key, reply, u64::from(BPF_ANY)).is_ok() {
        let _ = REPLIES.remove(key);
    }
}

/// Forgets a conversation of an earlier task at the same address.
#[inline(never)]
pub(crate) fn forget(key: &ReplyKey) {
    let _ = REPLIES.remove(key);
    let _ = OPENING_REPLIES.remove(key);
    let _ = UDP_REPLIES.remove(key);
}

/// Sees to it that the task's answers find their way back, and returns the port that the task sees the client come from.
/// `key` has the client's own port, and `reply` is as [`begun`] with this packet.
#[inline(always)]
pub(crate) fn remember(key: &ReplyKey, reply: &Reply, packet: &Packet) -> Result<Port, Outcome> {
    match recall_of(key, packet) {
        Some(known) if known.reply.is_same_conversation(reply) => {
            touch(key, known, reply, packet);
            return Ok(key.client_port);
        }
        Some(known) if known.reply.identity == reply.identity && !is_over(&known, packet) => {
            return remember_translated(key, reply, packet);
        }
        // Over, or of an earlier task at this address.
        Some(_) => forget(key),
        None => {}
    }
    // A translated flow keeps its port when the flow that it had to make way for is gone.
    if TRANSLATIONS.get_ptr(translation_key(key, reply)).is_some() {
        return remember_translated(key, reply, packet);
    }
    match insert(key, reply, packet, u64::from(BPF_NOEXIST)) {
        Ok(()) => Ok(key.client_port),
        Err(maps::EXISTS) => remember_second(key, reply, packet),
        Err(_) => Err(Outcome::FlowTableFull),
    }
}

/// Whether the port of a conversation is free for the one that a packet belongs to: the task knows it no more.
#[inline(always)]
fn is_over(known: &Known, packet: &Packet) -> bool {
    let idle = clock::elapsed(known.reply.last_seen, packet.now);
    if packet.is_tcp() {
        tcp::is_closed(known.reply.state) && idle >= TIME_WAIT_NANOSECONDS
    } else {
        idle >= UDP_IDLE_NANOSECONDS
    }
}

/// As [`remember`], for a packet that came on one CPU while another had the first one of the same key.
#[inline(always)]
fn remember_second(key: &ReplyKey, reply: &Reply, packet: &Packet) -> Result<Port, Outcome> {
    match recall(key) {
        Some(known) if !known.reply.is_same_conversation(reply) => remember_translated(key, reply, packet),
        _ => Ok(key.client_port),
    }
}

/// As [`remember`], for a flow whose client port another flow already has towards this task.
#[inline(never)]
fn remember_translated(key: &ReplyKey, reply: &Reply, packet: &Packet) -> Result<Port, Outcome> {
    let translation = translation_key(key, reply);
    let mut key = *key;
    // SAFETY: the value is copied at once.
    if let Some(port) = unsafe { TRANSLATIONS.get(translation) }.copied() {
        key.client_port = port;
        match recall(&key) {
            Some(known) if known.reply.is_same_conversation(reply) => {
                touch(&key, known, reply, packet);
                return Ok(port);
            }
            Some(known) if known.reply.identity == reply.identity => {}
            other => {
                if other.is_some() {
                    forget(&key);
                }
                insert(&key, reply, packet, u64::from(BPF_ANY)).map_err(|_| Outcome::FlowTableFull)?;
                return Ok(port);
            }
        }
    }
    let hash = reply.frontend.wire() ^ u32::from(reply.client_port.wire());
    for attempt in 0..TRANSLATION_ATTEMPTS {
        key.client_port = translated_port(hash.wrapping_mul(0x85eb_ca6b), attempt);
        // Its own, whose translation was forgotten, or nobody's.
        let known = REPLIES.get_ptr_mut(key);
        // SAFETY: as in `recall`.
        let is_own = known.is_some_and(|known| unsafe { &*known }.is_same_conversation(reply));
        let is_free = known.is_none() && insert(&key, reply, packet, u64::from(BPF_NOEXIST)).is_ok();
        if is_own || is_free {
            TRANSLATIONS
                .insert(translation, key.client_port, u64::from(BPF_ANY))
                .map_err(|_| Outcome::FlowTableFull)?;
            return Ok(key.client_port);
        }
    }
    Err(Outcome::NoFreePort)
}

#[inline(always)]
fn insert(key: &ReplyKey, reply: &Reply, packet: &Packet, flags: u64) -> Result<(), i32> {
    note_port(key);
    let table = if packet.is_tcp() { &OPENING_REPLIES } else { &UDP_REPLIES };
    table.insert(key, reply, flags)
}

/// The task-side port of a translated flow, if it is one. `key` has the client's own port.
#[inline(always)]
pub(crate) fn translated(key: &ReplyKey, reply: &Reply) -> Option<Port> {
    // SAFETY: the value is copied at once.
    unsafe { TRANSLATIONS.get(translation_key(key, reply)) }.copied()
}

#[inline(always)]
fn translation_key(key: &ReplyKey, reply: &Reply) -> TranslationKey {
    TranslationKey {
        task: key.task,
        client: key.client,
        frontend: reply.frontend,
        task_port: key.task_port,
        client_port: reply.client_port,
        frontend_port: reply.frontend_port,
        protocol: key.protocol,
        padding: 0,
    }
}
