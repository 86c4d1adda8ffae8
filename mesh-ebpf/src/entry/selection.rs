//! Which backend a new flow gets: policies, and clients that keep theirs (map `AFFINITIES`).

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use mesh_common::backend::{Backend, state};
use mesh_common::frontend::{Affinity, AffinityKey, Frontend, policy};
use mesh_common::net::Address;
use mesh_common::{maps, select};

use crate::clock;
use crate::tables::{connections, frontends, suspects};
use crate::verifier::{Pack, Packed};

#[map]
static AFFINITIES: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(maps::AFFINITIES, 0);

/// A backend's id, if there is one.
pub(crate) type Pick = Packed<Option<u32>>;

/// More than there are ids.
const NOBODY: u64 = u64::MAX;

impl Pack for Option<u32> {
    #[inline(always)]
    fn pack(self) -> u64 {
        self.map_or(NOBODY, u64::from)
    }

    #[inline(always)]
    unsafe fn unpack(word: u64) -> Self {
        if word == NOBODY { None } else { Some(word as u32) }
    }
}

/// The backend for a new flow of `client`. `hash` is the flow's, the same on every node.
#[inline(never)]
pub(crate) fn pick(frontend: &Frontend, client: Address, hash: u32, now: u64) -> Pick {
    if frontend.count == 0 {
        None.into()
    } else if frontend.affinity == 0 {
        by_policy(frontend, hash, now).into()
    } else {
        by_affinity(frontend, client, hash, now)
    }
}

/// The backend for a packet whose flow is unknown though it does not begin one.
#[inline(always)]
pub(crate) fn guess(frontend: &Frontend, hash: u32) -> Pick {
    if frontend.count == 0 { None.into() } else { frontends::by_hash(frontend, hash).into() }
}

/// A backend that can be sent to; its id is [`picked`]. (Of both in one result the compiler keeps the id that it does not have in a
/// register that nobody has written.)
#[inline(always)]
pub(crate) fn usable(pick: Pick) -> Option<&'static Backend> {
    let backend = frontends::backend(picked(pick))?;
    if backend.state == state::DOWN { None } else { Some(backend) }
}

/// The id of what was picked. Nobody's is behind the end of the map.
#[inline(always)]
pub(crate) fn picked(pick: Pick) -> u32 {
    pick.word() as u32
}

/// The backend that the client had, for as long as it serves and has not just refused somebody; else a new one.
#[inline(never)]
fn by_affinity(frontend: &Frontend, client: Address, hash: u32, now: u64) -> Pick {
    let key = AffinityKey { turn: frontend.turn, client };
    if let Some(known) = AFFINITIES.get_ptr_mut(key) {
        // SAFETY: elements of the map stay allocated; of two CPUs' writes either will do.
        let known = unsafe { &mut *known };
        let lasts = clock::elapsed(known.last_used, now) < u64::from(frontend.affinity) * 1_000_000_000;
        let serves = frontends::backend(known.backend)
            .is_some_and(|backend| backend.generation == known.generation && backend.state == state::ACTIVE);
        if lasts && serves && !suspects::is_suspect(known.backend, now) {
            known.last_used = now;
            return Some(known.backend).into();
        }
    }
    let Some(id) = by_policy(frontend, hash, now) else { return None.into() };
    if let Some(backend) = frontends::backend(id) {
        let affinity = Affinity { last_used: now, backend: id, generation: backend.generation };
        // The table forgets the client that was away longest when it is full.
        let _ = AFFINITIES.insert(key, affinity, u64::from(BPF_ANY));
    }
    Some(id).into()
}

#[inline(always)]
fn by_policy(frontend: &Frontend, hash: u32, now: u64) -> Option<u32> {
    let number = if frontend.policy == policy::ROUND_ROBIN {
        frontends::draw(frontend)?
    } else {
        by_other_policy(frontend, hash)
    };
    let first = frontends::in_slot(frontend, select::slot_in_turn(number, frontend.count))?;
    if suspects::is_suspect(first, now) { Some(another(frontend, number, first, now)) } else { Some(first) }
}

/// A number that leads to a slot.
#[inline(never)]
fn by_other_policy(frontend: &Frontend, hash: u32) -> u64 {
    match frontend.policy {
        policy::MAGLEV => u64::from(select::slot_by_hash(hash, frontend.count)),
        policy::LEAST_CONNECTIONS => {
            let (one, other) = (random(), random());
            if connections_of(frontend, other) < connections_of(frontend, one) { other } else { one }
        }
        _ => random(),
    }
}

#[inline(always)]
fn random() -> u64 {
    // SAFETY: the helper has no arguments.
    u64::from(unsafe { bpf_get_prandom_u32() })
}

#[inline(always)]
fn connections_of(frontend: &Frontend, number: u64) -> u64 {
    if frontend.count == 0 {
        return 0;
    }
    match frontends::in_slot(frontend, select::slot_in_turn(number, frontend.count)) {
        Some(id) => connections::open(id),
        None => u64::MAX,
    }
}

/// Instead of a suspect. In turns a few are drawn, so that the others share alike; then the slots that follow are looked at,
/// which is the same on every node; and if all of them are suspects, it is the first one after all.
#[inline(never)]
fn another(frontend: &Frontend, number: u64, first: u32, now: u64) -> u32 {
    const DRAWS: u64 = 3;
    const LOOKS: u64 = 8;

    let draws = if frontend.policy == policy::MAGLEV { 0 } else { DRAWS };
    for attempt in 0..DRAWS + LOOKS {
        let number = if attempt < draws {
            frontends::draw(frontend).unwrap_or(number)
        } else {
            number + 1 + attempt - draws
        };
        if let Some(id) = frontends::in_slot(frontend, select::slot_in_turn(number, frontend.count))
            && !suspects::is_suspect(id, now)
        {
            return id;
        }
    }
    first
}
