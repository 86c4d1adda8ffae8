//! Maps `VIPS`, `VIP_FLOWS`, `VIP_OPENING`, `VIP_UDP_FLOWS`, `VIP_REPLIES`, `VIP_ESTABLISHED` and `DOCKER_VIPFLOWS`: virtual
//! addresses, and conversations through them.
//!
//! The way back of a call is in a table that forgets what was used longest ago, whoever fills it. While the call is
//! established it is in one that forgets nothing, too.

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap};
use mesh_common::flow::{Flow, Opening};
use mesh_common::frontend::Frontend;
use mesh_common::maps;
use mesh_common::net::{Address, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::overlay::{VipFlowKey, VipKey, VipReply, VipReplyKey};

use crate::tables::flows::{Protocol, Tables};
use crate::tables::settled;

#[map]
static VIPS: HashMap<VipKey, Frontend> = HashMap::with_max_entries(maps::VIPS, BPF_F_NO_PREALLOC);

#[map]
static VIP_FLOWS: HashMap<VipFlowKey, Flow> = HashMap::with_max_entries(maps::FLOWS, BPF_F_NO_PREALLOC);

#[map]
static VIP_OPENING: LruHashMap<VipFlowKey, Opening> = LruHashMap::with_max_entries(maps::OTHER_FLOWS, 0);

#[map]
static VIP_UDP_FLOWS: LruHashMap<VipFlowKey, Flow> = LruHashMap::with_max_entries(maps::OTHER_FLOWS, 0);

#[map]
static VIP_REPLIES: LruHashMap<VipReplyKey, VipReply> = LruHashMap::with_max_entries(maps::FLOWS, 0);

#[map]
static VIP_ESTABLISHED: HashMap<VipReplyKey, VipReply> =
    HashMap::with_max_entries(maps::FLOWS, BPF_F_NO_PREALLOC);

#[map]
static DOCKER_VIPFLOWS: HashMap<VipFlowKey, u32> =
    HashMap::with_max_entries(maps::DOCKER_FLOWS, BPF_F_NO_PREALLOC);

/// Virtual addresses.
pub(crate) struct Virtual;

impl Tables for Virtual {
    type Key = VipFlowKey;

    #[inline(always)]
    fn established() -> &'static HashMap<VipFlowKey, Flow> {
        &VIP_FLOWS
    }

    #[inline(always)]
    fn opening() -> &'static LruHashMap<VipFlowKey, Opening> {
        &VIP_OPENING
    }

    #[inline(always)]
    fn others() -> &'static LruHashMap<VipFlowKey, Flow> {
        &VIP_UDP_FLOWS
    }

    #[inline(always)]
    fn dockers() -> &'static HashMap<VipFlowKey, u32> {
        &DOCKER_VIPFLOWS
    }
}

impl Protocol for VipFlowKey {
    #[inline(always)]
    fn is_tcp(&self) -> bool {
        self.protocol == protocol::TCP
    }

    #[inline(always)]
    fn network(&self) -> u32 {
        self.network
    }
}

/// Who serves a virtual address.
#[inline(always)]
pub(crate) fn find(key: &VipKey) -> Option<Frontend> {
    // SAFETY: the map is not preallocated: an element that is replaced stays valid until this program has returned.
    unsafe { VIPS.get(key) }.copied()
}

/// The way back of a call.
#[derive(Clone, Copy)]
pub(crate) struct WayBack {
    /// What the caller dialled.
    pub(crate) vip: Address,
    /// Whether the call is established, so that only the end of it is news.
    pub(crate) is_established: bool,
}

/// What a task's packet answers, if it answers something that went through a virtual address; seen now.
#[inline(always)]
pub(crate) fn recall_reply(key: &VipReplyKey, now: u64) -> Option<WayBack> {
    if let Some(vip) = recall_established(key, now) {
        return Some(WayBack { vip, is_established: true });
    }
    let vip = seen(VIP_REPLIES.get_ptr_mut(key)?, now);
    Some(WayBack { vip, is_established: false })
}

/// As [`recall_reply`], if the call is established.
#[inline(always)]
pub(crate) fn recall_established(key: &VipReplyKey, now: u64) -> Option<Address> {
    if key.protocol != protocol::TCP {
        return None;
    }
    VIP_ESTABLISHED.get_ptr_mut(key).map(|reply| seen(reply, now))
}

#[inline(always)]
fn seen(reply: *mut VipReply, now: u64) -> Address {
    // SAFETY: elements of the maps stay allocated. Two packets of a flow on two CPUs may write its time at once; either value
    // will do.
    let reply = unsafe { &mut *reply };
    settled::note_time(&mut reply.last_seen, now);
    reply.vip
}

/// From now on the task's packets with this key are its own.
#[inline(always)]
pub(crate) fn forget_reply(key: &VipReplyKey) {
    // They may be gone already.
    let _ = VIP_ESTABLISHED.remove(key);
    let _ = VIP_REPLIES.remove(key);
}

/// Sees to it that the task's answers find their way back. Returns whether they are sure to, as those of an established call.
#[inline(always)]
pub(crate) fn remember_reply(key: &VipReplyKey, vip: Address, now: u64) -> Result<bool, Outcome> {
    match recall_reply(key, now) {
        Some(known) if known.vip == vip => return Ok(known.is_established),
        // The caller has been given the same task for another virtual address.
        Some(known) if known.is_established => unprotect_reply(key),
        _ => {}
    }
    insert(key, vip, now)?;
    Ok(false)
}

/// Sees to it that nothing pushes out the way back of a call that is established. Where there is no room, each packet of its
/// caller tries again.
#[inline(always)]
pub(crate) fn protect_reply(key: &VipReplyKey, vip: Address, now: u64) {
    let reply = VipReply { last_seen: now, vip, padding: 0 };
    let _ = VIP_ESTABLISHED.insert(key, reply, u64::from(BPF_ANY));
}

/// The call is over: what its task still sends finds back for a while.
#[inline(always)]
pub(crate) fn retire_reply(key: &VipReplyKey, vip: Address, now: u64) {
    // Without room it stays where it is.
    if insert(key, vip, now).is_ok() {
        unprotect_reply(key);
    }
}

#[inline(always)]
fn unprotect_reply(key: &VipReplyKey) {
    // Another CPU may have been faster.
    let _ = VIP_ESTABLISHED.remove(key);
}

#[inline(always)]
fn insert(key: &VipReplyKey, vip: Address, now: u64) -> Result<(), Outcome> {
    let reply = VipReply { last_seen: now, vip, padding: 0 };
    VIP_REPLIES.insert(key, reply, u64::from(BPF_ANY)).map_err(|_| Outcome::FlowTableFull)
}
