//! Maps `VIPS`, `VIP_FLOWS`, `VIP_OPENING`, `VIP_UDP_FLOWS`, `VIP_REPLIES` and `DOCKER_VIPFLOWS`: virtual addresses, and conversations through them.

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap};
use mesh_common::flow::{Flow, Opening};
use mesh_common::frontend::Frontend;
use mesh_common::maps;
use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;
use mesh_common::overlay::{VipFlowKey, VipKey, VipReply, VipReplyKey};

use crate::tables::flows::{Protocol, Tables};

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

/// What a task's packet answers, if it answers something that went through a virtual address.
#[inline(always)]
pub(crate) fn recall_reply(key: &VipReplyKey) -> Option<&'static mut VipReply> {
    // SAFETY: elements of the map stay allocated. Two packets of a flow on two CPUs may write its time at once; either value
    // will do.
    VIP_REPLIES.get_ptr_mut(key).map(|reply| unsafe { &mut *reply })
}

/// From now on the task's packets with this key are its own.
#[inline(always)]
pub(crate) fn forget_reply(key: &VipReplyKey) {
    // It may be gone already.
    let _ = VIP_REPLIES.remove(key);
}

/// Sees to it that the task's answers find their way back.
#[inline(always)]
pub(crate) fn remember_reply(key: &VipReplyKey, reply: &VipReply) -> Result<(), Outcome> {
    if let Some(known) = recall_reply(key)
        && known.vip == reply.vip
    {
        known.last_seen = reply.last_seen;
        known.settled &= reply.settled;
        return Ok(());
    }
    // Not even a call whose SYN has not been seen is established before its task has answered.
    let reply = VipReply { settled: 0, ..*reply };
    VIP_REPLIES.insert(key, reply, u64::from(BPF_ANY)).map_err(|_| Outcome::FlowTableFull)
}
