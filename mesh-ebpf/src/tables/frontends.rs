//! Maps `PORTS`, `FRONTENDS`, `SLOTS`, `BACKENDS`, `TASKS` and `TURNS`: who serves what.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use mesh_common::backend::{Backend, LocalTask, TaskKey};
use mesh_common::frontend::{Frontend, FrontendKey, PortBit, SlotKey};
use mesh_common::net::Port;
use mesh_common::{maps, select};

#[map]
static PORTS: Array<u64> = Array::with_max_entries(PortBit::WORDS, 0);

#[map]
static FRONTENDS: HashMap<FrontendKey, Frontend> =
    HashMap::with_max_entries(maps::FRONTENDS, BPF_F_NO_PREALLOC);

#[map]
static SLOTS: HashMap<SlotKey, u32> = HashMap::with_max_entries(maps::SLOTS, BPF_F_NO_PREALLOC);

#[map]
static BACKENDS: Array<Backend> = Array::with_max_entries(maps::BACKENDS, 0);

#[map]
static TASKS: HashMap<TaskKey, LocalTask> = HashMap::with_max_entries(maps::TASKS, BPF_F_NO_PREALLOC);

#[map]
static TURNS: Array<u64> = Array::with_max_entries(maps::TURNS, 0);

/// Whether anything at all is published on a port; also true for the tunnel's own port.
#[inline(always)]
pub fn is_published(protocol: u8, port: Port) -> bool {
    let bit = PortBit::of(protocol, port);
    PORTS.get(bit.word).is_some_and(|word| word & bit.mask != 0)
}

/// The frontend that answers on `port` of every address.
#[inline(always)]
pub(crate) fn find(protocol: u8, port: Port) -> Option<Frontend> {
    let key = FrontendKey::published(port, protocol);
    // SAFETY: the map is not preallocated: an element that is replaced stays valid until this program has returned.
    unsafe { FRONTENDS.get(key) }.copied()
}

#[inline(always)]
pub(crate) fn backend(id: u32) -> Option<&'static Backend> {
    BACKENDS.get(id)
}

/// Takes a turn. Exact: every caller draws a number of its own.
#[inline(always)]
pub(crate) fn draw(frontend: &Frontend) -> Option<u64> {
    let turns = TURNS.get_ptr_mut(frontend.turn)?;
    // SAFETY: the pointer is to an aligned value of the map that is only ever changed by this instruction.
    Some(unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(turns, 1) })
}

/// The backend that every node chooses for a flow with this hash and no beginning.
#[inline(always)]
pub(crate) fn by_hash(frontend: &Frontend, hash: u32) -> Option<u32> {
    in_slot(frontend, select::slot_by_hash(hash, frontend.count))
}

/// A task on this node, if that port of it is published right now.
#[inline(always)]
pub(crate) fn task(key: &TaskKey) -> Option<LocalTask> {
    // SAFETY: as in `find`.
    unsafe { TASKS.get(key) }.copied()
}

/// The backend in a slot of the frontend's set.
#[inline(always)]
pub(crate) fn in_slot(frontend: &Frontend, slot: u32) -> Option<u32> {
    let key = SlotKey { set: frontend.set, slot };
    // SAFETY: as in `find`.
    unsafe { SLOTS.get(key) }.copied()
}
