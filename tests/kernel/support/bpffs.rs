//! A BPF file system that nobody else sees and that is gone with its last user.

use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::null;

/// From `linux/mount.h`.
const FSOPEN_CLOEXEC: libc::c_long = 1;
const FSCONFIG_CMD_CREATE: libc::c_long = 6;
const FSMOUNT_CLOEXEC: libc::c_long = 1;

/// It is mounted nowhere: its files have names by way of the descriptor only.
#[derive(Debug)]
pub(crate) struct BpfFs(OwnedFd);

impl BpfFs {
    pub(crate) fn new() -> Self {
        let nothing = null::<libc::c_char>();
        // SAFETY: the name ends with a zero byte, and the command takes no key and no value.
        unsafe {
            let context = libc::syscall(libc::SYS_fsopen, c"bpf".as_ptr(), FSOPEN_CLOEXEC);
            let context = owned(context, "open a BPF file system");
            let created = libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                FSCONFIG_CMD_CREATE,
                nothing,
                nothing,
                0,
            );
            assert!(created == 0, "cannot make a BPF file system: {}", Error::last_os_error());
            let mount = libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0);
            Self(owned(mount, "mount a BPF file system"))
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }
}

/// # Safety
/// A `result` that is not negative is a descriptor that nobody else has.
unsafe fn owned(result: libc::c_long, what: &str) -> OwnedFd {
    assert!(result >= 0, "cannot {what}: {}", Error::last_os_error());
    let descriptor = libc::c_int::try_from(result).expect("descriptors are small");
    // SAFETY: as promised by the caller.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
