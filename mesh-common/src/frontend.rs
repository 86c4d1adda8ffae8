//! What a client dials, and which backends serve it.

use crate::net::{Address, Port, protocol};

/// Key of `FRONTENDS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FrontendKey {
    /// [`Address::UNSPECIFIED`] for a port that answers on every address of the node.
    pub address: Address,
    pub port: Port,
    pub protocol: u8,
    pub padding: u8,
}

impl FrontendKey {
    /// A published port: every address of the node.
    pub const fn published(port: Port, protocol: u8) -> Self {
        Self { address: Address::UNSPECIFIED, port, protocol, padding: 0 }
    }
}

/// Value of `FRONTENDS`. It is replaced as a whole, which is what makes a change of backends one step for a packet: the
/// new set's slots are written under a set number that no packet has seen yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Frontend {
    /// Index into `TURNS`; stays the same while the frontend lives.
    pub turn: u32,
    /// The set of backends, see [`SlotKey::set`].
    pub set: u32,
    /// How many slots the set has; 0 refuses.
    pub count: u32,
    /// One of [`policy`].
    pub policy: u8,
    /// Bits of [`flags`].
    pub flags: u8,
    pub padding: [u8; 2],
    /// For how many seconds after its last new flow a client keeps its backend; 0 for each flow on its own.
    pub affinity: u32,
}

/// What of a frontend is Docker's own mesh's.
pub mod flags {
    /// New flows. Those that the mesh has go on.
    pub const LEFT: u8 = 1;
    /// It is not known yet which connections Docker's mesh carries: segments that belong to no known flow are its.
    pub const UNREAD: u8 = 2;
    /// Connections that are in `DOCKER_FLOWS` or `DOCKER_VIPFLOWS`.
    pub const SHARED: u8 = 4;
}

/// How a slot is chosen for a new flow.
pub mod policy {
    /// In turns.
    pub const ROUND_ROBIN: u8 = 0;
    /// By the flow's hash.
    pub const MAGLEV: u8 = 1;
    /// Of two at random, the one whose backend has fewer connections through this node.
    pub const LEAST_CONNECTIONS: u8 = 2;
    pub const RANDOM: u8 = 3;
}

/// Key of `AFFINITIES`: a client of a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct AffinityKey {
    /// [`Frontend::turn`]. Another frontend that gets the same one later has other backends.
    pub turn: u32,
    pub client: Address,
}

/// Value of `AFFINITIES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Affinity {
    /// When the client last began a flow: nanoseconds of the kernel's coarse monotonic clock.
    pub last_used: u64,
    pub backend: u32,
    /// [`crate::backend::Backend::generation`] at that time.
    pub generation: u32,
}

/// Key of `SLOTS`: the `slot`-th backend of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SlotKey {
    /// A number given once to each version of a frontend's backends.
    pub set: u32,
    /// From 0 to [`Frontend::count`] - 1.
    pub slot: u32,
}

/// Where a protocol and port have their bit in `PORTS`, an array of 64-bit words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortBit {
    pub word: u32,
    pub mask: u64,
}

impl PortBit {
    /// Words of `PORTS`: 65,536 bits for each of TCP, UDP, SCTP, and all the rest.
    pub const WORDS: u32 = 4 * 1024;

    /// Protocols without published ports share a row in which no bit is ever set: a lookup is cheaper than a case.
    #[inline(always)]
    pub const fn of(protocol: u8, port: Port) -> Self {
        let row = match protocol {
            protocol::TCP => 0,
            protocol::UDP => 1,
            protocol::SCTP => 2,
            _ => 3,
        };
        let number = port.number();
        Self { word: row * 1024 + (number >> 6) as u32, mask: 1 << (number & 63) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_protocol_and_port_has_a_bit_of_its_own() {
        let mut seen = BTreeSet::new();
        for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::ICMP] {
            for port in 0..=u16::MAX {
                let bit = PortBit::of(protocol, Port::new(port));
                assert!(bit.word < PortBit::WORDS);
                assert!(seen.insert((bit.word, bit.mask)));
            }
        }
    }
}
