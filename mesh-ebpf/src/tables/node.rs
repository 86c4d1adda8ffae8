//! Maps `SETTINGS`, `LOCAL_ADDRESSES`, `UPLINKS`, `UPLINK_PORTS` and `PEERS`: this node and the others.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use mesh_common::maps;
use mesh_common::net::Address;
use mesh_common::peer::Peer;
use mesh_common::settings::Settings;

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

#[map]
static LOCAL_ADDRESSES: HashMap<Address, u32> =
    HashMap::with_max_entries(maps::LOCAL_ADDRESSES, BPF_F_NO_PREALLOC);

#[map]
static PEERS: HashMap<Address, Peer> = HashMap::with_max_entries(maps::PEERS, BPF_F_NO_PREALLOC);

#[map]
static UPLINKS: HashMap<u32, u32> = HashMap::with_max_entries(maps::UPLINKS, BPF_F_NO_PREALLOC);

#[map]
static UPLINK_PORTS: HashMap<u32, u32> = HashMap::with_max_entries(maps::UPLINK_PORTS, BPF_F_NO_PREALLOC);

#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// Whether `address` is one of this node's own. Most that are asked for are the one that the Swarm knows it by: that one needs no
/// lookup.
#[inline(always)]
pub(crate) fn is_local(address: Address) -> bool {
    settings().is_some_and(|settings| settings.node == address) || LOCAL_ADDRESSES.get_ptr(address).is_some()
}

/// Whether XDP can send packets out of an interface that have come in by another one.
#[inline(always)]
pub fn takes_frames(interface: u32) -> bool {
    settings().is_some_and(|settings| settings.frame_takers.contains(&interface))
}

/// Whether clients and other nodes are reached by an interface.
#[inline(always)]
pub(crate) fn is_uplink(interface: u32) -> bool {
    UPLINKS.get_ptr(interface).is_some()
}

/// The uplink that an interface is a port of, if it is a bridge's.
#[inline(always)]
pub(crate) fn bridge_of(port: u32) -> Option<u32> {
    // SAFETY: the value is copied at once, and says of every port on which interface its packets come in: should the element be
    // given to another port's at this very moment, the packet comes in by that one's bridge, as a wrong guess of a switch would.
    unsafe { UPLINK_PORTS.get(port) }.copied()
}

/// How another node of this Swarm is reached, if `address` is one's.
#[inline(always)]
pub(crate) fn peer(address: Address) -> Option<Peer> {
    // SAFETY: the value is copied at once, and the agent writes it whole.
    unsafe { PEERS.get(address) }.copied()
}

/// Largest IP packet that the tunnel to a node carries.
#[inline(always)]
pub(crate) fn inner_mtu(node: Address, settings: &Settings) -> u16 {
    let known = PEERS.get_ptr(node);
    // SAFETY: the entry is there until this program ends, and the agent writes it whole.
    match known.map_or(0, |peer| unsafe { (*peer).inner_mtu }) {
        0 => settings.inner_mtu,
        known => known,
    }
}
