//! Virtual machines with Debian's kernels, for tests and benchmarks.

pub(crate) mod kernel;
pub(crate) mod qemu;
