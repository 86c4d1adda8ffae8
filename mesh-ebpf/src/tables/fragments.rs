//! Map `FRAGMENTS`: the ports of later fragments, which their first one alone has.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use mesh_common::flow::{FragmentKey, FragmentPorts};
use mesh_common::maps;

use crate::packet::{Fragment, Packet};

#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> = LruHashMap::with_max_entries(maps::FRAGMENTS, 0);

/// Fills in the ports of a later fragment from those of the first one. False if that one has not passed.
#[inline(always)]
pub fn complete(packet: &mut Packet) -> bool {
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
pub(crate) fn remember(packet: &Packet) {
    if packet.fragment == Fragment::First {
        let ports = FragmentPorts { source: packet.source_port, destination: packet.destination_port };
        // The table forgets the oldest datagram when it is full, so this cannot fail for want of room.
        let _ = FRAGMENTS.insert(packet.fragment_key(), ports, u64::from(BPF_ANY));
    }
}
