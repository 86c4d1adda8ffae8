//! Virtual addresses of services on overlay networks: an address that serves every port, not an address and a port.
//!
//! Two networks may use the same subnet, so everything is keyed by network too.

use crate::net::{Address, Port};

/// Key of `VIPS`; the value is a [`crate::frontend::Frontend`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct VipKey {
    /// The agent's number for the network on this node.
    pub network: u32,
    pub address: Address,
}

/// Key of `VIP_FLOWS`, `VIP_OPENING` and `VIP_UDP_FLOWS`: the packet as the caller sends it. The values are those of
/// `FLOWS`, `OPENING` and `UDP_FLOWS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct VipFlowKey {
    pub network: u32,
    pub caller: Address,
    pub vip: Address,
    pub caller_port: Port,
    pub port: Port,
    pub protocol: u8,
    pub padding: [u8; 3],
}

/// Key of `VIP_REPLIES`: the packet as it comes back from the task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct VipReplyKey {
    pub network: u32,
    pub task: Address,
    /// Who the task thinks has called: the caller, or the virtual address when a task calls itself.
    pub caller: Address,
    pub port: Port,
    pub caller_port: Port,
    pub protocol: u8,
    pub padding: [u8; 3],
}

/// Value of `VIP_REPLIES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VipReply {
    /// When a packet of it was last seen: nanoseconds of the kernel's coarse monotonic clock.
    pub last_seen: u64,
    /// What the caller dialled.
    pub vip: Address,
    /// Whether the caller's flow is established, so that only the end of it is news.
    pub settled: u32,
}
