//! Conversations that this node has begun itself, or a container behind its address, from a port that is published here. Map
//! `OUTGOING`.
//!
//! Docker's listener keeps sockets of the node from such a port, but netfilter gives it to containers that are masqueraded: what they
//! are answered is theirs, and no client's.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use mesh_common::flow::FlowKey;
use mesh_common::maps;
use mesh_common::net::{IPV4_HEADER, protocol};
use mesh_common::settings::UDP_IDLE_NANOSECONDS;
use mesh_common::tcp;

use crate::clock;
use crate::hook::Hook;
use crate::packet::{NETWORK, Packet, Seen};
use crate::tables::{frontends, handover, node};

#[map]
static OUTGOING: LruHashMap<FlowKey, u64> = LruHashMap::with_max_entries(maps::OUTGOING, 0);

/// Whether a packet that leaves may begin such a conversation, or go on with one that is not TCP.
#[inline(always)]
pub fn may_begin<H: Hook>(frame: &H, seen: &Seen) -> bool {
    /// Where the flags of a TCP header stand, behind an IP header without options.
    const TCP_FLAGS: usize = NETWORK + IPV4_HEADER + 13;

    frontends::is_published(seen.protocol, seen.source_port)
        && (seen.protocol != protocol::TCP || frame.read(TCP_FLAGS).is_some_and(tcp::is_opening))
}

/// Remembers it. What the mesh answers to a client is marked, by all programs of this node or by none.
#[inline(never)]
pub fn note<H: Hook>(frame: &H) {
    let mut packet = MaybeUninit::uninit();
    let packet = Packet::unread(&mut packet);
    if !handover::are_on_all_hooks() || packet.read(frame).is_err() || !node::is_local(packet.source) {
        return;
    }
    let key = packet.flow_from_frontend();
    // Without room nobody's answers are known for what they are.
    let _ = OUTGOING.insert(key, packet.now, u64::from(BPF_ANY));
}

/// Whether a packet that begins nothing answers such a conversation.
#[inline(always)]
pub(crate) fn is_answered_by(packet: &Packet) -> bool {
    let key = packet.flow_from_client();
    // SAFETY: the value is copied at once.
    let Some(asked) = (unsafe { OUTGOING.get(key) }).copied() else { return false };
    // Who is asked no more by datagrams may become a client.
    packet.is_tcp() || clock::elapsed(asked, packet.now) < UDP_IDLE_NANOSECONDS
}
