//! A client's conversation, at its entry node.

use crate::net::{Address, Mac, Port};

/// Key of `FLOWS`, `OPENING` and `UDP_FLOWS`: the packet as the client sends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FlowKey {
    pub client: Address,
    pub frontend: Address,
    pub client_port: Port,
    pub frontend_port: Port,
    pub protocol: u8,
    pub padding: [u8; 3],
}

/// Value of `FLOWS`, where only TCP flows are whose handshake is proven and that have not ended, and of `UDP_FLOWS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// When a packet of it was last seen: nanoseconds of the kernel's coarse monotonic clock.
    pub last_seen: u64,
    /// Id of the backend it was given.
    pub backend: u32,
    /// [`crate::backend::Backend::generation`] at that time.
    pub generation: u32,
    /// For TCP, bits of [`crate::tcp::state`].
    pub state: u8,
    pub padding: [u8; 3],
    /// For TCP, a sequence number of its client's that is not long ago, as [`crate::tcp::known_number`] of it; 0 for none.
    pub client_number: u32,
}

/// Value of `OPENING`: a TCP flow that is not in `FLOWS`, because its handshake is not proven, or because it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Opening {
    pub flow: Flow,
    /// With [`crate::tcp::state::ANSWERED`], what the client acknowledges by completing the handshake; host byte order.
    pub expected: u32,
    /// Backends that have refused this SYN.
    pub refusals: u8,
    /// 1 if XDP has given the flow its backend, and TC has not seen a packet of its client since.
    pub given_by_xdp: u8,
    pub padding: [u8; 6],
    pub syn: Syn,
}

/// A client's SYN, with what it takes to make it once more for another backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Syn {
    /// In host byte order.
    pub sequence: u32,
    /// What acknowledges all of it (RFC 9293 §3.10.7.1), in host byte order: the sequence number, plus one, plus the length
    /// of its data.
    pub end: u32,
    /// Interface that it came in by; 0 for one that cannot be made once more.
    pub interface: u32,
    /// Of the IP header, in network byte order, as are the next three.
    pub identification: u16,
    /// Flags and offset of the IP header.
    pub fragment: u16,
    /// Data offset and flags of the TCP header.
    pub offset_and_flags: u16,
    pub window: u16,
    pub traffic_class: u8,
    pub ttl: u8,
    /// Bytes of `options` that are in use.
    pub options_length: u8,
    pub padding: u8,
    pub destination_mac: Mac,
    pub source_mac: Mac,
    /// Of the TCP header, in memory order; zero behind the end.
    pub options: [u32; 10],
}

impl Syn {
    /// Whether a RST with this acknowledgement number answers it (RFC 9293 §3.10.7.3).
    #[inline(always)]
    pub const fn is_acknowledged_by(&self, acknowledgement: u32) -> bool {
        self.is_known() && acknowledgement == self.end
    }

    /// Whether this is a SYN at all.
    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        self.end != self.sequence
    }
}

/// How many backends a SYN is offered to at most.
pub const MOST_OFFERS: u32 = 8;

/// Whether a SYN goes to another backend, of the `count` that serve the frontend, after `refusals` have refused it.
#[inline(always)]
pub const fn is_offered_again(refusals: u8, count: u32) -> bool {
    (refusals as u32) < if count < MOST_OFFERS { count } else { MOST_OFFERS }
}

/// How old a SYN is that nobody has answered when its retransmission goes to another backend: nanoseconds. Less than any client
/// waits before it sends it again (RFC 6298 §2: a second), more than a network may take to deliver a second copy.
pub const SYN_PATIENCE_NANOSECONDS: u64 = 900_000_000;

/// How long a backend that has refused a SYN gets no new flows of this node: nanoseconds.
pub const SUSPICION_NANOSECONDS: u64 = 1_000_000_000;

/// Key of `FRAGMENTS` (RFC 791 §3.2: what identifies the fragments of one datagram).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// The overlay network that it is on; 0 for none. Two networks may use the same addresses.
    pub network: u32,
    pub source: Address,
    pub destination: Address,
    /// The identification field as it stands in the header.
    pub identification: u16,
    pub protocol: u8,
    pub padding: u8,
}

/// Value of `FRAGMENTS`: what only the first fragment carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentPorts {
    pub source: Port,
    pub destination: Port,
}
