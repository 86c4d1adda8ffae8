//! A client's conversation, at its entry node.

use crate::net::{Address, Port};

/// Key of `FLOWS`: the packet as the client sends it.
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

/// Value of `FLOWS`.
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
    pub padding: [u8; 7],
}

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
