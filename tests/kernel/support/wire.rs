//! The far end of an interface: frames as devices hand them over, with what is still left to a device to do.

use std::io::Error;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::checks;

/// From `linux/virtio_net.h`.
const NEEDS_CHECKSUM: u8 = 1;
const AGGREGATE_TCP4: u8 = 1;
const AGGREGATE_UDP: u8 = 5;
const HEADER: usize = 10;
/// An aggregate and its headers.
const LARGEST: usize = 70_000;
/// From `linux/if_packet.h`, for libc's that do not have it.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Only so that a frame that never comes fails the test.
const PATIENCE_SECONDS: libc::time_t = 10;

/// A packet socket at the far end of one of the node's interfaces.
#[derive(Debug)]
pub(crate) struct Wire(OwnedFd);

/// A frame in the hands of a device.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    /// For an aggregate, how much payload each packet gets.
    pub(crate) segment: Option<u16>,
    /// Where the sum that is to be completed starts, and the field for it, counted from there.
    pub(crate) unfinished: Option<(usize, usize)>,
}

impl Frame {
    /// Nothing is left to do.
    pub(crate) fn finished(bytes: Vec<u8>) -> Self {
        Self { bytes, segment: None, unfinished: None }
    }

    /// The transport checksum is left to the device, as processes on this machine send their packets: the field holds the
    /// sum of the pseudo-header.
    pub(crate) fn unfinished(bytes: Vec<u8>) -> Self {
        Self::unfinished_at(bytes, 14)
    }

    /// The same, with the IP header at `network`.
    pub(crate) fn unfinished_at(mut bytes: Vec<u8>, network: usize) -> Self {
        let transport = network + usize::from(bytes[network] & 0x0f) * 4;
        let place = if bytes[network + 9] == 6 { 16 } else { 6 };
        let length = (bytes.len() - transport) as u16;
        let pseudo_header =
            [&bytes[network + 12..network + 20], &[0, bytes[network + 9]], &length.to_be_bytes()].concat();
        bytes[transport + place..][..2].copy_from_slice(&sum(&pseudo_header).to_be_bytes());
        Self { bytes, segment: None, unfinished: Some((transport, place)) }
    }

    /// As it goes over the wire.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        if let Some((start, place)) = self.unfinished {
            let sum = !sum(&self.bytes[start..]);
            let sum = if sum == 0 { 0xffff } else { sum };
            self.bytes[start + place..][..2].copy_from_slice(&sum.to_be_bytes());
        }
        self.bytes
    }
}

impl Wire {
    /// At the far end of the interface `name` of the namespace that the thread is in.
    pub(crate) fn at_far_end_of(name: &str) -> Self {
        let name = std::ffi::CString::new(format!("{name}-far")).expect("names have no zero bytes");
        // SAFETY: the name ends with a zero byte; all zeroes is an address; sizes are those of what is pointed to.
        unsafe {
            let index = libc::if_nametoindex(name.as_ptr());
            check(if index == 0 { -1 } else { 0 }, "find the interface");
            let everything = (libc::ETH_P_ALL as u16).to_be();
            let socket =
                libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(everything));
            check(socket, "make a packet socket");
            let socket = OwnedFd::from_raw_fd(socket);
            let mut address: libc::sockaddr_ll = zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = everything;
            address.sll_ifindex = index.cast_signed();
            let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size), "bind a packet socket");
            let wire = Self(socket);
            wire.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1_i32);
            wire.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1_i32);
            let patience = libc::timeval { tv_sec: PATIENCE_SECONDS, tv_usec: 0 };
            wire.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience);
            wire
        }
    }

    /// The frame comes in by the interface.
    pub(crate) fn send(&self, frame: &Frame) {
        let mut bytes = vec![0; HEADER];
        if let Some((start, place)) = frame.unfinished {
            bytes[0] = NEEDS_CHECKSUM;
            bytes[6..8].copy_from_slice(&(start as u16).to_ne_bytes());
            bytes[8..10].copy_from_slice(&(place as u16).to_ne_bytes());
            if let Some(segment) = frame.segment {
                let (kind, header) = if place == 16 { (AGGREGATE_TCP4, 20) } else { (AGGREGATE_UDP, 8) };
                bytes[1] = kind;
                bytes[2..4].copy_from_slice(&((start + header) as u16).to_ne_bytes());
                bytes[4..6].copy_from_slice(&segment.to_ne_bytes());
            }
        }
        bytes.extend(&frame.bytes);
        // SAFETY: the buffer is as long as it says.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        check(sent as i32, "send a frame");
    }

    /// The next IPv4 frame that the interface has sent.
    #[track_caller]
    pub(crate) fn receive(&self) -> Frame {
        self.next(0).unwrap_or_else(|| panic!("no frame has come: {}", Error::last_os_error()))
    }

    /// All IPv4 frames that the interface has sent and nobody has received yet.
    #[allow(dead_code, reason = "text scenarios need it")]
    pub(crate) fn received(&self) -> Vec<Frame> {
        std::iter::from_fn(|| self.next(libc::MSG_DONTWAIT)).collect()
    }

    fn next(&self, flags: libc::c_int) -> Option<Frame> {
        loop {
            let mut bytes = vec![0; LARGEST];
            // SAFETY: the buffer is as long as it says.
            let length =
                unsafe { libc::recv(self.0.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), flags) };
            bytes.truncate(usize::try_from(length).ok()?);
            let frame = bytes.split_off(HEADER);
            if frame.get(12..14) != Some(&[0x08, 0x00]) {
                // The kernel's own business: neighbours, IPv6.
                continue;
            }
            let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
            return Some(Frame {
                bytes: frame,
                segment: (bytes[1] != 0).then(|| word(4)),
                unfinished: (bytes[0] & NEEDS_CHECKSUM != 0)
                    .then(|| (usize::from(word(6)), usize::from(word(8)))),
            });
        }
    }

    /// The next IPv4 frame that the interface has sent, as it goes over the wire, is this one.
    #[track_caller]
    pub(crate) fn carries(&self, expected: &[u8]) {
        let frame = self.receive();
        assert_eq!(frame.segment, None, "an aggregate: {}", checks::describe(&frame.bytes));
        let bytes = frame.finish();
        checks::assert_same(expected, &bytes);
        checks::assert_checksums(&bytes);
    }

    fn set<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) {
        let size = size_of::<T>() as libc::socklen_t;
        // SAFETY: the option's value is of the type that it takes, and the size is that type's.
        let result = unsafe {
            libc::setsockopt(self.0.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), size)
        };
        check(result, "set an option of a packet socket");
    }
}

#[track_caller]
fn check(result: i32, what: &str) {
    assert!(result >= 0, "cannot {what}: {}", Error::last_os_error());
}

/// The one's-complement sum of all 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
