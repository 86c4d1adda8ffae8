//! Maps `FLOWS` and `FRAGMENTS`: conversations that this node is the entry node of.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use mesh_common::flow::{Flow, FlowKey, FragmentKey, FragmentPorts};
use mesh_common::maps;
use mesh_common::outcome::Outcome;

use crate::packet::{Fragment, Packet};

#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(maps::FLOWS, 0);

#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> = LruHashMap::with_max_entries(maps::FRAGMENTS, 0);

/// The kernel's coarse monotonic clock, nanoseconds: as good as a timer tick, and nearly free.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The flow as the table has it.
#[inline(always)]
pub(crate) fn recall(key: &FlowKey) -> Option<&'static mut Flow> {
    // SAFETY: elements of the map stay allocated. Two packets of a flow on two CPUs may write the time and state of one
    // flow at once; either value will do.
    FLOWS.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
}

/// Puts a flow into the table, over one with the same key.
#[inline(always)]
pub(crate) fn remember(key: &FlowKey, flow: &Flow) -> Result<(), Outcome> {
    FLOWS.insert(key, flow, u64::from(BPF_ANY)).map_err(|_| Outcome::FlowTableFull)
}

/// Fills in the ports of a later fragment from those of the first one. False if that one has not passed.
#[inline(always)]
pub(crate) fn complete_fragment(packet: &mut Packet) -> bool {
    packet.fragment != Fragment::Later || fill_in_ports(packet)
}

#[inline(never)]
fn fill_in_ports(packet: &mut Packet) -> bool {
    // SAFETY: the value is copied at once; should the element be given to another datagram at this very moment, the
    // fragment is lost as any packet may be.
    let Some(ports) = unsafe { FRAGMENTS.get(packet.fragment_key()) }.copied() else { return false };
    packet.source_port = ports.source;
    packet.destination_port = ports.destination;
    true
}

/// Lets later fragments follow this one if it is the first of several.
#[inline(always)]
pub(crate) fn remember_fragment(packet: &Packet) {
    if packet.fragment == Fragment::First {
        let ports = FragmentPorts { source: packet.source_port, destination: packet.destination_port };
        // The table forgets the oldest datagram when it is full, so this cannot fail for want of room.
        let _ = FRAGMENTS.insert(packet.fragment_key(), ports, u64::from(BPF_ANY));
    }
}
