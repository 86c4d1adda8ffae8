//! Maps `REPLIES` and `TRANSLATIONS`: conversations that this node is the home node of.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use mesh_common::maps;
use mesh_common::net::Port;
use mesh_common::outcome::Outcome;
use mesh_common::reply::{Reply, ReplyKey, TRANSLATION_ATTEMPTS, TranslationKey, translated_port};
use mesh_common::tcp;

#[map]
static REPLIES: LruHashMap<ReplyKey, Reply> = LruHashMap::with_max_entries(maps::FLOWS, 0);

#[map]
static TRANSLATIONS: LruHashMap<TranslationKey, Port> = LruHashMap::with_max_entries(maps::TRANSLATIONS, 0);

/// The conversation that a task's packet belongs to.
#[inline(always)]
pub(crate) fn recall(key: &ReplyKey) -> Option<&'static mut Reply> {
    // SAFETY: elements of the map stay allocated. Two packets of a conversation on two CPUs may write its time and state
    // at once; either value will do.
    REPLIES.get_ptr_mut(key).map(|reply| unsafe { &mut *reply })
}

/// Sees to it that the task's answers find their way back, and returns the port that the task sees the client come from.
/// `key` has the client's own port.
#[inline(always)]
pub(crate) fn remember(key: &ReplyKey, reply: &Reply, tcp_flags: u8) -> Result<Port, Outcome> {
    if let Some(known) = recall(key) {
        if known.is_same_conversation(reply) {
            touch(known, reply, tcp_flags);
            return Ok(key.client_port);
        }
        return remember_translated(key, reply, tcp_flags);
    }
    // A translated flow keeps its port when the flow that it had to make way for is gone.
    if TRANSLATIONS.get_ptr(translation_key(key, reply)).is_some() {
        return remember_translated(key, reply, tcp_flags);
    }
    insert(key, reply, tcp_flags, u64::from(BPF_ANY))?;
    Ok(key.client_port)
}

/// As [`remember`], for a flow whose client port another flow already has towards this task.
#[inline(never)]
fn remember_translated(key: &ReplyKey, reply: &Reply, tcp_flags: u8) -> Result<Port, Outcome> {
    let translation = translation_key(key, reply);
    let mut key = *key;
    // SAFETY: the value is copied at once.
    if let Some(port) = unsafe { TRANSLATIONS.get(translation) }.copied() {
        key.client_port = port;
        match recall(&key) {
            Some(known) if known.is_same_conversation(reply) => {
                touch(known, reply, tcp_flags);
                return Ok(port);
            }
            Some(_) => {}
            None => {
                insert(&key, reply, tcp_flags, u64::from(BPF_ANY))?;
                return Ok(port);
            }
        }
    }
    let hash = reply.frontend.wire() ^ u32::from(reply.client_port.wire());
    for attempt in 0..TRANSLATION_ATTEMPTS {
        key.client_port = translated_port(hash.wrapping_mul(0x85eb_ca6b), attempt);
        if insert(&key, reply, tcp_flags, u64::from(BPF_NOEXIST)).is_ok() {
            TRANSLATIONS
                .insert(translation, key.client_port, u64::from(BPF_ANY))
                .map_err(|_| Outcome::FlowTableFull)?;
            return Ok(key.client_port);
        }
    }
    Err(Outcome::NoFreePort)
}

#[inline(always)]
fn insert(key: &ReplyKey, reply: &Reply, tcp_flags: u8, flags: u64) -> Result<(), Outcome> {
    let mut value = *reply;
    value.state = tcp::after(0, tcp_flags, tcp::Sender::Client);
    REPLIES.insert(key, value, flags).map_err(|_| Outcome::FlowTableFull)
}

/// A packet of a known conversation: what may change while it lasts follows the packet.
#[inline(always)]
fn touch(known: &mut Reply, reply: &Reply, tcp_flags: u8) {
    known.last_seen = reply.last_seen;
    known.entry = reply.entry;
    known.uplink = reply.uplink;
    known.flags = reply.flags;
    if tcp::is_opening(tcp_flags) {
        known.state = 0;
    }
    known.state = tcp::after(known.state, tcp_flags, tcp::Sender::Client);
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
