//! Sockets of the node's own processes that talk to a frontend.
//!
//! They do not pass the uplink on their way in, so the choice is made when they connect or send: a task on this node is
//! dialled at its docker_gwbridge address; for a task elsewhere the socket dials its home node on the published port,
//! and the uplink's egress program puts those packets into the tunnel.

use crate::net::{Address, Port};

/// Key of `SOCKETS`: a socket and the destination its packets carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SocketKey {
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    pub destination: Address,
    pub port: Port,
    pub protocol: u8,
    pub padding: u8,
}

/// Value of `SOCKETS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SocketFlow {
    /// When it was last used: nanoseconds of the kernel's coarse monotonic clock.
    pub last_seen: u64,
    pub backend: u32,
    pub generation: u32,
    /// What the process dialled.
    pub frontend: Address,
    pub frontend_port: Port,
    /// Whether this entry is for the destination as dialled (it remembers a UDP socket's choice) rather than for the
    /// destination that its packets carry.
    pub dialled: u8,
    /// Whether the process dialled it as `::1`.
    pub loopback6: u8,
}
