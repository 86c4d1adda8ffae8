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

/// Key of `VIP_REPLIES` and `VIP_ESTABLISHED`: the packet as it comes back from the task.
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

/// Value of `VIP_REPLIES`, where all calls have one, and of `VIP_ESTABLISHED`, where those have another whose flows are in
/// `VIP_FLOWS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VipReply {
    /// When a packet of it was last seen: nanoseconds of the kernel's coarse monotonic clock.
    pub last_seen: u64,
    /// What the caller dialled.
    pub vip: Address,
    /// Earlier versions keep here whether the caller has sent to the task since it answered. It is always 0 now, so that a
    /// node which still runs one of them takes every answer for news.
    pub padding: u32,
}

/// What is particular to the ports of one network. All networks share the programs that serve them, which are costly for the
/// kernel to check; ahead of those, on each port, is a small one that writes this into the packet's control block
/// (`__sk_buff.cb`), where it stays until the last program of the hook has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkTag {
    /// The agent's number for the network.
    pub network: u32,
    /// The hardware address of Docker's load balancer on it; zeros if the agent does not know it.
    pub balancer: [u8; 6],
}

impl NetworkTag {
    /// What others have left in a control block is not taken for a tag.
    const MARK: u32 = 0x6d65_7368;

    /// As words of a control block.
    #[must_use]
    pub const fn words(self) -> [u32; 4] {
        let [first @ .., before_last, last] = self.balancer;
        let rest = [before_last, last, 0, 0];
        [Self::MARK, self.network, u32::from_ne_bytes(first), u32::from_ne_bytes(rest)]
    }

    /// From the words of a control block; nothing if no tag has been written there.
    #[must_use]
    pub const fn from_words([mark, network, first, rest]: [u32; 4]) -> Option<Self> {
        if mark != Self::MARK {
            return None;
        }
        let (first, rest) = (first.to_ne_bytes(), rest.to_ne_bytes());
        let balancer = [first[0], first[1], first[2], first[3], rest[0], rest[1]];
        Some(Self { network, balancer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_as_it_was_written_and_nothing_else_is() {
        let tag = NetworkTag { network: 4097, balancer: [2, 0x42, 10, 0, 1, 2] };
        assert_eq!(NetworkTag::from_words(tag.words()), Some(tag));
        assert_eq!(NetworkTag::from_words([0, 4097, 0, 0]), None);
    }
}
