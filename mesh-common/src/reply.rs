//! A task's conversation, at its home node: what it takes to turn the task's answer into the frontend's.

use crate::net::{Address, Port};

/// Key of `REPLIES`, `OPENING_REPLIES` and `UDP_REPLIES`: the packet as the task sends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ReplyKey {
    /// On docker_gwbridge.
    pub task: Address,
    pub client: Address,
    pub task_port: Port,
    /// As the task sees it: see [`TranslationKey`].
    pub client_port: Port,
    pub protocol: u8,
    pub padding: [u8; 3],
}

/// Value of `REPLIES`, where only TCP conversations are whose handshake is proven and that have not ended, of
/// `OPENING_REPLIES`, where the others are, and of `UDP_REPLIES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Reply {
    /// When a packet of it was last seen: nanoseconds of the kernel's coarse monotonic clock.
    pub last_seen: u64,
    /// What the client dialled.
    pub frontend: Address,
    /// The entry node; [`Address::UNSPECIFIED`] when that is this node.
    pub entry: Address,
    /// The task's name in the tunnel.
    pub identity: Address,
    /// Interface that the client's packet came in by: the way back where the node's routes say nothing.
    pub uplink: u32,
    pub frontend_port: Port,
    /// As the client knows it.
    pub client_port: Port,
    /// Bits of [`crate::backend::flags`].
    pub flags: u8,
    /// For TCP, bits of [`crate::tcp::state`].
    pub state: u8,
    pub padding: [u8; 2],
    /// In `OPENING_REPLIES`, with [`crate::tcp::state::ANSWERED`]: what the client acknowledges by completing the handshake;
    /// host byte order.
    pub expected: u32,
    /// As [`crate::flow::Flow::client_number`].
    pub client_number: u32,
    /// The task's port on docker_gwbridge, by which alone it speaks; 0 if that is unknown.
    pub interface: u32,
    pub padding2: u32,
}

impl Reply {
    /// Whether both describe the same conversation of a client with one task. The entry node is not part of it: a floating address takes
    /// its conversations along when it moves to another node.
    #[inline(always)]
    pub fn is_same_conversation(&self, other: &Self) -> bool {
        self.frontend == other.frontend
            && self.frontend_port == other.frontend_port
            && self.client_port == other.client_port
            && self.identity == other.identity
    }
}

/// Key of `TRANSLATIONS`. One client port may talk to two frontends that end at the same task; the task can tell the two
/// flows apart only if the second one comes from another port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct TranslationKey {
    pub task: Address,
    pub client: Address,
    pub frontend: Address,
    pub task_port: Port,
    pub client_port: Port,
    pub frontend_port: Port,
    pub protocol: u8,
    pub padding: u8,
}

/// How many ports are tried for a translated flow before its packet is dropped.
pub const TRANSLATION_ATTEMPTS: u32 = 8;

/// The `attempt`-th port for a translated flow: spread by the flow's hash over 32768 to 65535, which no service can
/// publish by accident of allocation (Docker allocates 30000 to 32767).
#[inline(always)]
pub const fn translated_port(hash: u32, attempt: u32) -> Port {
    let offset = hash.wrapping_add(attempt.wrapping_mul(0x9e37_79b9)) >> 17;
    Port::new(0x8000 | offset as u16)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn translated_ports_are_high_and_differ_between_attempts() {
        for hash in [0, 1, 0xdead_beef, u32::MAX] {
            let ports: BTreeSet<_> =
                (0..TRANSLATION_ATTEMPTS).map(|attempt| translated_port(hash, attempt).number()).collect();
            assert_eq!(ports.len(), TRANSLATION_ATTEMPTS as usize);
            assert!(ports.iter().all(|port| *port >= 0x8000));
        }
    }
}
