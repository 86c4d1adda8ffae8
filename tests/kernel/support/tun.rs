//! An interface without Ethernet, whose far end is this process: IP packets as a VPN hands them over.

use std::fs::{File, OpenOptions};
use std::io::{Error, Read, Write};
use std::mem::zeroed;
use std::os::fd::AsRawFd;

use super::checks;
use super::wire::Frame;

/// From `linux/if_tun.h`, for libc's that do not have it: `_IOW('T', 218, unsigned int)`.
const TUNSETIFINDEX: libc::c_ulong = 0x4004_54da;
/// Only so that a packet that never comes fails the test.
const PATIENCE_MILLISECONDS: i32 = 10_000;
const LARGEST: usize = 70_000;
/// Whatever stands here is no part of the packet: checks are of frames.
const ETHERNET: [u8; 14] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x00];

/// The far end of a tun interface; with it goes the interface.
#[derive(Debug)]
pub(crate) struct Tun(File);

impl Tun {
    /// Makes the interface in the namespace that the thread is in.
    pub(crate) fn new(name: &str, index: u32) -> Self {
        let file =
            OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("the kernel has tun");
        // SAFETY: a request is integers and unions of them.
        let mut request: libc::ifreq = unsafe { zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
        // SAFETY: the requests take pointers to an integer and to a request, which live through the calls.
        unsafe {
            let set = libc::ioctl(file.as_raw_fd(), TUNSETIFINDEX as _, &raw const index);
            assert!(set == 0, "cannot choose an index: {}", Error::last_os_error());
            let made = libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request);
            assert!(made == 0, "cannot make a tun interface: {}", Error::last_os_error());
        }
        Self(file)
    }

    /// The frame's packet comes in by the interface.
    pub(crate) fn send(&self, frame: &Frame) {
        (&self.0).write_all(&frame.bytes[ETHERNET.len()..]).expect("the interface is up");
    }

    /// The next IPv4 packet that the interface has sent, behind an Ethernet header of no meaning.
    #[track_caller]
    pub(crate) fn receive(&self) -> Vec<u8> {
        loop {
            let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: there is one of them, and it lives through the call.
            let ready = unsafe { libc::poll(&raw mut poll, 1, PATIENCE_MILLISECONDS) };
            assert!(ready == 1, "no packet has come");
            let mut bytes = vec![0; LARGEST];
            let length = (&self.0).read(&mut bytes).expect("there is one");
            // The kernel's own business is IPv6.
            if bytes[0] >> 4 == 4 {
                return [&ETHERNET[..], &bytes[..length]].concat();
            }
        }
    }

    /// The next IPv4 packet that the interface has sent is the one in this frame.
    #[track_caller]
    pub(crate) fn carries(&self, expected: &[u8]) {
        let bytes = self.receive();
        checks::assert_same(&[&ETHERNET[..], &expected[ETHERNET.len()..]].concat(), &bytes);
        checks::assert_checksums(&bytes);
    }
}
