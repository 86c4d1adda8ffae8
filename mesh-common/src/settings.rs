//! What the agent tells the programs about this node.

use crate::cookie::Cookies;
use crate::net::{Address, Mac, Port};
use crate::tunnel::OVERHEAD;

/// The only value of `SETTINGS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Network namespace cookie of the node itself: sockets elsewhere are not translated.
    pub netns_cookie: u64,
    /// This node's address in the Swarm: source of the tunnel.
    pub node: Address,
    /// Interface index of docker_gwbridge; 0 while there is none.
    pub bridge: u32,
    /// The tunnel's VNI, in host byte order.
    pub vni: u32,
    /// Largest IP packet that fits into the tunnel.
    pub inner_mtu: u16,
    pub tunnel_port: Port,
    /// Hardware address of docker_gwbridge.
    pub bridge_mac: Mac,
    /// UDP and TCP port of the agent's resolver; 0 leaves names to Docker.
    pub resolver_port: Port,
    /// Where the agent's resolver listens: docker_gwbridge's own address.
    pub resolver: Address,
    /// Interface indices of uplinks that take what XDP sends from other ones; 0 is none.
    pub frame_takers: [u32; FRAME_TAKERS],
    /// Hardware addresses of uplinks; all zeroes is none.
    pub uplink_macs: [Mac; UPLINK_MACS],
    /// TCP flows that may begin in a second before it counts as a flood ([`crate::pressure`]); 0 is any number.
    pub flood: u32,
    /// Largest IP packet that every uplink takes; 0 for [`Settings::inner_mtu`] and what the tunnel adds.
    pub uplink_mtu: u16,
    pub padding: u16,
    pub cookies: Cookies,
}

impl Settings {
    /// Largest IP packet that leaves by an uplink as it is.
    #[inline(always)]
    pub const fn straight_mtu(&self) -> u16 {
        if self.uplink_mtu == 0 { self.inner_mtu + OVERHEAD as u16 } else { self.uplink_mtu }
    }

    /// Whether a frame to this hardware address is this node's. Of a node with more uplinks than are known here, not all are.
    #[inline(always)]
    pub fn is_own_mac(&self, mac: Mac) -> bool {
        mac != [0; 6] && self.uplink_macs.contains(&mac)
    }
}

/// XDP serves so many uplinks of a node; frames to others go by TC, which the kernel tells whose they are.
pub const UPLINK_MACS: usize = 4;

/// So many uplinks of a node take what XDP sends from other ones; what is for more of them goes by TC.
pub const FRAME_TAKERS: usize = 3;

/// How old the resolver's last sign of life in `HEARTBEAT` may be before queries are left to Docker's own.
pub const HEARTBEAT_NANOSECONDS: u64 = 800_000_000;

/// How long a task remembers a TCP conversation that has ended (`TCP_TIMEWAIT_LEN` of include/net/tcp.h).
pub const TIME_WAIT_NANOSECONDS: u64 = 60 * 1_000_000_000;

/// So late at most it is noted when a conversation was last heard of: about a second. That is little where somebody asks for minutes;
/// the agent's limits, which may be seconds, allow for it.
pub const NOTED_NANOSECONDS: u64 = 1 << 30;

/// Idle time after which a UDP flow may get another backend: 180 s, as conntrack's for a UDP stream
/// (`nf_conntrack_udp_timeout_stream` was 180 before Linux 5.0).
pub const UDP_IDLE_NANOSECONDS: u64 = 180 * 1_000_000_000;
