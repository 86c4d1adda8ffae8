//! Map `TASK_PORTS`: from which ports tasks of this node answer. The programs note a port when they remember a conversation; what the
//! tables hold that another version has left, which knew nothing of this map, is noted here.

use std::collections::BTreeMap;
use std::io;
use std::mem::size_of;

use aya::maps::Array;
use aya::{Ebpf, Pod};
use mesh_common::backend::TaskKey;
use mesh_common::frontend::PortBit;
use mesh_common::reply::ReplyKey;
use tracing::{info, warn};

use super::pins::Pins;
use super::raw_map::RawMap;

const NAME: &str = "TASK_PORTS";
/// Tables with ports of tasks in their keys.
const TABLES: [&str; 4] = ["TASKS", "REPLIES", "OPENING_REPLIES", "UDP_REPLIES"];

/// Whether an agent with this map has been here. To be asked before the map is made.
pub(super) fn is_known(pins: &Pins) -> bool {
    pins.map(NAME).exists()
}

/// Notes the ports of all tasks and conversations that are in the tables, or set aside. If they cannot be read, every port is one.
pub(super) fn note(pins: &Pins, ebpf: &mut Ebpf) {
    let words = words(pins).unwrap_or_else(|error| {
        warn!(
            table = NAME,
            "answers are looked for at every port: the tables before cannot be read: {error}"
        );
        (0..PortBit::WORDS).map(|word| (word, u64::MAX)).collect()
    });
    if words.is_empty() {
        return;
    }
    let Some(mut map) = ebpf.map_mut(NAME).and_then(|map| Array::<_, u64>::try_from(map).ok()) else {
        return;
    };
    for (word, bits) in &words {
        if let Err(error) = map.set(*word, bits, 0) {
            warn!(table = NAME, "cannot be written: {error}");
        }
    }
    info!(words = words.len(), "noted the ports of tasks that have conversations already");
}

fn words(pins: &Pins) -> io::Result<BTreeMap<u32, u64>> {
    let mut words = BTreeMap::new();
    for name in TABLES {
        for pin in [pins.map(name), pins.aside().join(name)] {
            if !pin.exists() {
                continue;
            }
            RawMap::open(&pin)?.walk_keys(|key| {
                if let Some(bit) = bit(name, key) {
                    *words.entry(bit.word).or_default() |= bit.mask;
                }
            })?;
        }
    }
    Ok(words)
}

/// Of a key of one of [`TABLES`]. Keys are the same in all versions ([`mesh_common::maps`]).
fn bit(table: &str, key: &[u8]) -> Option<PortBit> {
    if table == "TASKS" {
        read::<TaskKey>(key).map(|key| PortBit::of(key.protocol, key.port))
    } else {
        read::<ReplyKey>(key).map(|key| PortBit::of(key.protocol, key.task_port))
    }
}

fn read<K: Pod>(key: &[u8]) -> Option<K> {
    if key.len() != size_of::<K>() {
        return None;
    }
    // SAFETY: the bytes are as many as the type has, and any are a value of it.
    Some(unsafe { key.as_ptr().cast::<K>().read_unaligned() })
}
