//! Tables of any kind, emptied.

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsFd, AsRawFd};

use aya::Ebpf;
use aya::maps::{Map, MapData, MapInfo};
use aya::util::nr_cpus;
use aya_obj::generated::{bpf_attr, bpf_cmd};
use mesh_common::maps;

/// Those that remember packets.
pub(crate) fn left_by_packets() -> impl Iterator<Item = &'static str> {
    maps::SIZED_BY_FLOWS.into_iter().chain([
        "TURNS",
        "PRESSURE",
        "TRANSLATIONS",
        "FRAGMENTS",
        "AFFINITIES",
        "SUSPECTS",
    ])
}

/// All that can change.
pub(crate) fn of(ebpf: &Ebpf) -> impl Iterator<Item = (&str, &Map)> {
    ebpf.maps().filter(|(name, _)| !name.starts_with(".rodata"))
}

/// Makes a table as it was when it was made.
pub(crate) fn empty(map: &Map) -> io::Result<()> {
    match opened(map)? {
        (data, Kind::Array { values }) => clear(data, values),
        (data, Kind::Hash) => remove_all(data),
    }
}

enum Kind {
    /// With so many values for an index.
    Array {
        values: usize,
    },
    Hash,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the programs have no other kinds")]
fn opened(map: &Map) -> io::Result<(&MapData, Kind)> {
    match map {
        Map::Array(data) => Ok((data, Kind::Array { values: 1 })),
        Map::PerCpuArray(data) => Ok((data, Kind::Array { values: processors()? })),
        Map::HashMap(data) | Map::LruHashMap(data) => Ok((data, Kind::Hash)),
        other => Err(io::Error::other(format!("nobody has said how: {other:?}"))),
    }
}

fn clear(data: &MapData, values: usize) -> io::Result<()> {
    let info = info(data)?;
    let keys: Vec<u32> = (0..info.max_entries()).collect();
    // One processor's value is rounded up to 8 bytes; where there is one for all, the kernel takes what it needs.
    let zeroes = vec![0_u8; keys.len() * (info.value_size() as usize).next_multiple_of(8) * values];
    let mut attributes = attributes();
    attributes.batch.map_fd = descriptor(data);
    attributes.batch.keys = keys.as_ptr() as u64;
    attributes.batch.values = zeroes.as_ptr() as u64;
    attributes.batch.count = info.max_entries();
    command(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attributes)
}

fn remove_all(data: &MapData) -> io::Result<()> {
    let mut keys = Vec::new();
    // From one to the next: from the start each time, a large table would be searched once for every key.
    while let Some(key) = key_after(data, keys.last())? {
        keys.push(key);
    }
    for key in keys {
        command(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut element(data, &key))?;
    }
    Ok(())
}

fn key_after(data: &MapData, key: Option<&Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
    let mut next = vec![0_u8; info(data)?.key_size() as usize];
    let mut attributes = element(data, key.map_or(&[], Vec::as_slice));
    attributes.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    match command(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attributes) {
        Ok(()) => Ok(Some(next)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn info(data: &MapData) -> io::Result<MapInfo> {
    data.info().map_err(io::Error::other)
}

fn processors() -> io::Result<usize> {
    nr_cpus().map_err(|(_, error)| error)
}

fn descriptor(data: &MapData) -> u32 {
    data.fd().as_fd().as_raw_fd().cast_unsigned()
}

fn element(data: &MapData, key: &[u8]) -> bpf_attr {
    let mut attributes = attributes();
    attributes.__bindgen_anon_2.map_fd = descriptor(data);
    attributes.__bindgen_anon_2.key = if key.is_empty() { 0 } else { key.as_ptr() as u64 };
    attributes
}

fn attributes() -> bpf_attr {
    // SAFETY: all zeroes is a value of this union of structs of integers.
    unsafe { std::mem::zeroed() }
}

fn command(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<()> {
    // SAFETY: the attributes are those of the command, and what they point to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attributes),
            size_of_val(attributes),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
#[allow(unused_imports, reason = "the benchmark that shares this file runs no tests")]
mod tests {
    use aya_obj::generated::bpf_cmd;

    use super::{Kind, MapData, command, element, empty, info, io, opened, processors};
    use crate::support::programs::Programs;

    /// What a test has left behind, the next one must not find.
    #[test]
    fn tables_that_were_used_become_as_new() {
        let programs = Programs::take();
        for (name, map) in super::of(&programs) {
            let trouble = |error: io::Error| -> ! { panic!("{name}: {error}") };
            let (data, kind) = opened(map).unwrap_or_else(|error| trouble(error));
            let is_array = matches!(kind, Kind::Array { .. });
            let size = info(data).unwrap_or_else(|error| trouble(error));
            let keys = if is_array {
                [0, size.max_entries() - 1].map(|index| index.to_ne_bytes().to_vec())
            } else {
                [0x55, 0xaa].map(|byte| vec![byte; size.key_size() as usize])
            };
            let length = (size.value_size() as usize).next_multiple_of(8);
            let ones = vec![0xff; length * processors().unwrap_or_else(|error| trouble(error))];
            for key in &keys {
                put(data, key, &ones).unwrap_or_else(|error| trouble(error));
            }
            empty(map).unwrap_or_else(|error| trouble(error));
            for key in &keys {
                let mut value = vec![0; ones.len()];
                let found = get(data, key, &mut value);
                assert_eq!(found.is_ok(), is_array, "{name}: {found:?}");
                assert!(value.iter().all(|byte| *byte == 0), "{name}: {value:?}");
            }
        }
    }

    fn put(data: &MapData, key: &[u8], value: &[u8]) -> io::Result<()> {
        let mut attributes = element(data, key);
        attributes.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
        command(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes)
    }

    fn get(data: &MapData, key: &[u8], value: &mut [u8]) -> io::Result<()> {
        let mut attributes = element(data, key);
        attributes.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
        command(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attributes)
    }
}
