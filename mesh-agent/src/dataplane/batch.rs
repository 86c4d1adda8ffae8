//! Reading whole maps, many entries to a system call (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6; of per-CPU maps 5.13). aya's
//! iterators make one or two calls for each entry: for 100,000 of them that takes a processor away for a quarter of a second.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::Pod;
use aya::maps::IterableMap;
use aya_obj::generated::{bpf_attr, bpf_cmd};

use super::raw_map::command;

/// Entries to a call, to begin with.
const ROOM: usize = 4096;

/// Calls `visit` with every entry of an array or a hash. Of entries that come or go meanwhile some may be missed; none is
/// seen twice unless it has gone and come again.
pub fn read<K: Pod, V: Pod>(map: &impl IterableMap<K, V>, mut visit: impl FnMut(K, V)) -> io::Result<()> {
    let sizes = (size_of::<K>(), size_of::<V>());
    read_bytes(map.map().fd().as_fd(), sizes, |key, value| {
        // SAFETY: there are as many bytes as the types have, and any of them are values, as the types promise.
        unsafe {
            visit(key.as_ptr().cast::<K>().read_unaligned(), value.as_ptr().cast::<V>().read_unaligned());
        };
        Ok(())
    })
}

/// As [`read`], of a map whose keys and values have so many bytes; a value of a per-CPU map is that of all processors. An error
/// of `visit` ends it.
pub(super) fn read_bytes(
    map: BorrowedFd<'_>,
    (key_size, value_size): (usize, usize),
    mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    /// What the kernel knows again where it was by: four bytes for arrays and hashes.
    type Place = [u8; 16];

    let mut room = ROOM;
    let mut place: Option<Place> = None;
    let (mut keys, mut values) = (vec![0_u8; room * key_size], vec![0_u8; room * value_size]);
    loop {
        let mut next = Place::default();
        // SAFETY: all zeroes is a value of this union of structs of integers.
        let mut attributes: bpf_attr = unsafe { zeroed() };
        attributes.batch.map_fd = map.as_raw_fd().cast_unsigned();
        attributes.batch.in_batch = place.as_ref().map_or(0, |place| place.as_ptr() as u64);
        attributes.batch.out_batch = next.as_mut_ptr() as u64;
        attributes.batch.keys = keys.as_mut_ptr() as u64;
        attributes.batch.values = values.as_mut_ptr() as u64;
        attributes.batch.count = room as u32;
        let is_end = match command(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attributes) {
            Ok(()) => false,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => true,
                // More of them than there is room for share a place.
                Some(libc::ENOSPC) => {
                    room *= 2;
                    keys.resize(room * key_size, 0);
                    values.resize(room * value_size, 0);
                    continue;
                }
                Some(libc::EINTR) => continue,
                _ => return Err(error),
            },
        };
        // SAFETY: the kernel has written how many there are.
        let count = unsafe { attributes.batch.count } as usize;
        for (key, value) in keys.chunks_exact(key_size).zip(values.chunks_exact(value_size)).take(count) {
            visit(key, value)?;
        }
        if is_end {
            return Ok(());
        }
        place = Some(next);
    }
}
