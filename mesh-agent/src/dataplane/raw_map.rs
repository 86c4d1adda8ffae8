//! Maps whose keys and values are only bytes to us: what aya's typed maps cannot read, because the types are another
//! version's.

use std::collections::HashSet;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use aya::maps::{MapData, MapInfo};
use aya::util::nr_cpus;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_type};

use super::batch;

/// What a map is, as far as copying it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) capacity: u32,
}

/// A pinned map.
#[derive(Debug)]
pub(super) struct RawMap {
    data: MapData,
    shape: Shape,
    /// Values of one element: one for each processor where the map has that.
    values: usize,
}

impl RawMap {
    pub(super) fn open(pin: &Path) -> io::Result<Self> {
        let data = MapData::from_pin(pin).map_err(io::Error::other)?;
        let info = data.info().map_err(io::Error::other)?;
        let shape = shape_of(&info).map_err(io::Error::other)?;
        let values = if is_per_cpu(shape.kind) { nr_cpus().map_err(|(_, error)| error)? } else { 1 };
        Ok(Self { data, shape, values })
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Copies every entry to a map whose values may be longer or shorter: what is not there reads as zeroes. With
    /// `only_new`, entries that `target` has too are left as they are. Gives how many entries had no room.
    pub(super) fn copy_to(&self, target: &Self, only_new: bool) -> io::Result<usize> {
        let mut refused = 0;
        self.walk(|key, value| {
            refused += usize::from(!target.set(key, &self.fitted(value, target), only_new)?);
            Ok(())
        })?;
        Ok(refused)
    }

    /// Calls `visit` with every key.
    pub(super) fn walk_keys(&self, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
        self.walk(|key, _| {
            visit(key);
            Ok(())
        })
    }

    /// Copies entries whose keys are not in `copied`, and adds them there. What `target` has too is left as it is. Gives how
    /// many entries had no room.
    pub(super) fn copy_new_to(&self, target: &Self, copied: &mut HashSet<Vec<u8>>) -> io::Result<usize> {
        let mut refused = 0;
        self.walk(|key, value| {
            if copied.contains(key) {
                return Ok(());
            }
            if target.set(key, &self.fitted(value, target), true)? {
                copied.insert(key.to_vec());
            } else {
                refused += 1;
            }
            Ok(())
        })?;
        Ok(refused)
    }

    /// Writes an element of an array of numbers.
    pub(super) fn set_number(&self, index: u32, number: u32) -> io::Result<()> {
        self.set(&index.to_ne_bytes(), &number.to_ne_bytes(), false).map(drop)
    }

    /// Calls `visit` with every key and value.
    fn walk(&self, visit: impl FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<()> {
        let sizes = (self.shape.key_size as usize, self.stride() * self.values);
        batch::read_bytes(self.data.fd().as_fd(), sizes, visit)
    }

    /// `value` as `target` takes it.
    fn fitted(&self, value: &[u8], target: &Self) -> Vec<u8> {
        let (from, to) = (self.stride(), target.stride());
        let common = self.shape.value_size.min(target.shape.value_size) as usize;
        let mut fitted = vec![0; to * target.values];
        for (old, new) in value.chunks_exact(from).zip(fitted.chunks_exact_mut(to)) {
            new[..common].copy_from_slice(&old[..common]);
        }
        fitted
    }

    /// From one processor's value to the next one's (the kernel rounds up to 8 bytes).
    fn stride(&self) -> usize {
        let size = self.shape.value_size as usize;
        if is_per_cpu(self.shape.kind) { size.next_multiple_of(8) } else { size }
    }

    /// Whether there was room for it.
    fn set(&self, key: &[u8], value: &[u8], only_new: bool) -> io::Result<bool> {
        const NO_EXIST: u64 = 1;

        // SAFETY: all zeroes is a value of this union of structs of integers.
        let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
        attributes.__bindgen_anon_2.map_fd = self.data.fd().as_fd().as_raw_fd().cast_unsigned();
        attributes.__bindgen_anon_2.key = key.as_ptr() as u64;
        attributes.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
        // An array has all of its elements from the beginning.
        attributes.__bindgen_anon_2.flags = if only_new && !is_array(self.shape.kind) { NO_EXIST } else { 0 };
        match command(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
            // E2BIG: the table is full, or an array's index is behind its end.
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn shape_of(info: &MapInfo) -> Result<Shape, aya::maps::MapError> {
    let kind = info.map_type()? as u32;
    let (key_size, value_size) = (info.key_size(), info.value_size());
    Ok(Shape { kind, key_size, value_size, capacity: info.max_entries() })
}

pub(super) fn is_array(kind: u32) -> bool {
    [bpf_map_type::BPF_MAP_TYPE_ARRAY, bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY]
        .into_iter()
        .any(|array| array as u32 == kind)
}

fn is_per_cpu(kind: u32) -> bool {
    use bpf_map_type::{BPF_MAP_TYPE_LRU_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_PERCPU_HASH};

    [BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH]
        .into_iter()
        .any(|per_cpu| per_cpu as u32 == kind)
}

pub(super) fn command(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<()> {
    // SAFETY: the attributes are those of the command, and what they point to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attributes),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
