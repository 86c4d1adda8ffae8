//! Virtual machines with Debian's kernels, for tests and benchmarks.

mod initramfs;
pub(crate) mod kernel;
pub(crate) mod qemu;
mod tally;
pub(crate) mod test;
