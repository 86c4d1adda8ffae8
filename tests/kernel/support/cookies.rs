//! Which cookies the kernel gives to the next sockets.

use std::mem::{size_of, zeroed};
use std::net::UdpSocket;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;

/// The kernel hands cookies out to each CPU in blocks of this many (`COOKIE_LOCAL_BATCH` in linux/cookie.h).
const BLOCK: u64 = 4096;
/// Tests on other threads take cookies, too.
const AHEAD: u64 = 1024;

/// The cookies of the next sockets of this thread, which stays on its CPU from now on.
pub(crate) fn next() -> RangeInclusive<u64> {
    stay();
    loop {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket can be had");
        let cookie = of(&socket);
        // In the next block if this one is about to end.
        if BLOCK - cookie % BLOCK > AHEAD {
            return cookie + 1..=cookie + AHEAD;
        }
    }
}

pub(crate) fn of(socket: &UdpSocket) -> u64 {
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option is a 64-bit number, and the size says so.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    } != 0;
    assert!(!failed, "a socket's cookie cannot be had: {}", std::io::Error::last_os_error());
    cookie
}

/// Binds the thread to the CPU that it is on.
fn stay() {
    // SAFETY: all zeroes is an empty set, and the calls affect only this thread.
    let failed = unsafe {
        let cpu = libc::sched_getcpu();
        let mut set: libc::cpu_set_t = zeroed();
        libc::CPU_SET(usize::try_from(cpu).expect("the kernel knows the CPU"), &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    } != 0;
    assert!(!failed, "the thread cannot stay on its CPU: {}", std::io::Error::last_os_error());
}
