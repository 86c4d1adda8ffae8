//! Maps `TAKING_OVER` and `UNREAD_PORTS`: whose a packet is that belongs to no flow here, while others have carried what these
//! programs carry now.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use mesh_common::frontend::flags as handover;
use mesh_common::maps::{self, taking_over};
use mesh_common::unread::UnreadPort;

use crate::packet::Packet;
use crate::tables::flows::{Protocol, Tables};

/// One of [`taking_over`].
#[map]
static TAKING_OVER: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static UNREAD_PORTS: HashMap<UnreadPort, u32> =
    HashMap::with_max_entries(maps::UNREAD_PORTS, BPF_F_NO_PREALLOC);

/// Whether a flow that the tables do not have is better left to the programs that come after these.
#[inline(always)]
pub(crate) fn are_taken_over() -> bool {
    TAKING_OVER.get(0).is_some_and(|programs| *programs == taking_over::PREDECESSORS)
}

/// Whether all hooks of this node have these programs.
#[inline(always)]
pub(crate) fn are_on_all_hooks() -> bool {
    TAKING_OVER.get(0).is_some_and(|programs| *programs == taking_over::ALL_HOOKS)
}

/// Whether a frontend with these flags keeps its flows and gets no new ones.
#[inline(always)]
pub(crate) fn is_left(flags: u8) -> bool {
    flags & handover::LEFT != 0
}

/// Whether a packet that came in by this interface and belongs to no flow of the mesh's is Docker's, of a frontend with these
/// flags.
#[inline(never)]
pub(crate) fn is_dockers<T: Tables>(flags: u8, packet: &Packet, key: &T::Key, interface: u32) -> bool {
    if is_left(flags) {
        return true;
    }
    // A SYN begins a conversation, whatever Docker knows of its ports.
    if packet.opens() {
        return false;
    }
    let is_unread = || {
        let port = UnreadPort { network: key.network(), interface };
        flags & handover::UNREAD != 0 || UNREAD_PORTS.get_ptr(port).is_some()
    };
    packet.is_tcp() && is_unread() || flags & handover::SHARED != 0 && T::dockers().get_ptr(key).is_some()
}
