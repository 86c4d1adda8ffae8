//! Reading whole maps, many entries to a system call (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6). aya's iterators make one or two
//! calls for each entry: for 100,000 of them that takes a processor away for a quarter of a second.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd};

use aya::Pod;
use aya::maps::IterableMap;
use aya_obj::generated::{bpf_attr, bpf_cmd};

use super::raw_map::command;

/// Entries to a call, to begin with.
const ROOM: usize = 4096;

/// Calls `visit` with every entry of an array or a hash. Of entries that come or go meanwhile some may be missed; none is
/// seen twice unless it has gone and come again.
pub fn read<K: Pod, V: Pod>(map: &impl IterableMap<K, V>, mut visit: impl FnMut(K, V)) -> io::Result<()> {
    /// What the kernel knows again where it was by: four bytes for arrays and hashes.
    type Place = [u8; 16];

    let descriptor = map.map().fd().as_fd().as_raw_fd().cast_unsigned();
    let mut room = Room::of(ROOM);
    let mut place: Option<Place> = None;
    loop {
        let mut next = Place::default();
        // SAFETY: all zeroes is a value of this union of structs of integers.
        let mut attributes: bpf_attr = unsafe { zeroed() };
        attributes.batch.map_fd = descriptor;
        attributes.batch.in_batch = place.as_ref().map_or(0, |place| place.as_ptr() as u64);
        attributes.batch.out_batch = next.as_mut_ptr() as u64;
        attributes.batch.keys = room.keys.as_mut_ptr() as u64;
        attributes.batch.values = room.values.as_mut_ptr() as u64;
        attributes.batch.count = room.keys.len() as u32;
        let result = command(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attributes);
        let is_end = match result.map_err(|error| error.raw_os_error().ok_or(error)) {
            Ok(()) => false,
            Err(Ok(libc::ENOENT)) => true,
            // More of them than there is room for share a place.
            Err(Ok(libc::ENOSPC)) => {
                room = Room::of(room.keys.len() * 2);
                continue;
            }
            Err(Ok(libc::EINTR)) => continue,
            Err(Ok(code)) => return Err(io::Error::from_raw_os_error(code)),
            Err(Err(error)) => return Err(error),
        };
        // SAFETY: the kernel has written how many there are.
        let count = unsafe { attributes.batch.count } as usize;
        room.keys.iter().zip(&room.values).take(count).for_each(|(key, value)| visit(*key, *value));
        if is_end {
            return Ok(());
        }
        place = Some(next);
    }
}

struct Room<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K: Pod, V: Pod> Room<K, V> {
    fn of(entries: usize) -> Self {
        // SAFETY: every bit pattern is a value of these types, as they promise.
        unsafe { Self { keys: vec![zeroed(); entries], values: vec![zeroed(); entries] } }
    }
}
