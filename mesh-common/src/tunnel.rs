//! The tunnel's wire format: VXLAN (RFC 7348) whose inner Ethernet addresses name the task.
//!
//! Destination MAC `02:42` + the task's IPv4 identity; source MAC `02:6d` + its port + flags. The inner IP packet is the
//! client's, or the answer as the client will see it.

use crate::checksum::Sum;
use crate::cookie::Cookie;
use crate::net::{Address, Mac, Port, ethertype, protocol};

/// Bytes that the tunnel adds to an IP packet: outer IPv4, UDP, VXLAN and inner Ethernet headers.
pub const OVERHEAD: usize = 50;
/// The least that a probe carries behind the tunnel's headers, in place of an inner IP packet: a number to know it by.
pub const PROBE_PAYLOAD: usize = 8;
/// The most that it carries there, in the largest packet that networks are made for: agents ask how large packets get to a node. Its
/// answer is as long.
pub const MOST_PROBE_PAYLOAD: usize = 9_216 - OVERHEAD;
/// Where in it, behind the number, stands what the agent that has sent it knows: a byte of bits of [`known`], and one of zeroes.
pub const PROBE_KNOWN: usize = PROBE_PAYLOAD;
/// First word of a VXLAN header: the VNI is valid.
pub const VXLAN_FLAG_VNI: u8 = 0x08;
/// The mark of packets that the programs of TC have put into the tunnel or answer a client with, on their way out of this
/// node. Between network namespaces the kernel takes marks off, and nothing that netfilter marks has passed it.
pub const MARK: u32 = 0x6d65_8000;
/// TTL of the outer header.
pub const OUTER_TTL: u8 = 64;

/// The bits of a traffic class that are marked where there is congestion (RFC 3168 §5).
pub mod ecn {
    pub const MASK: u8 = 3;
    /// The sender does not understand marks.
    pub const NOT_CAPABLE: u8 = 0;
    pub const CAPABLE_1: u8 = 1;
    pub const CAPABLE_0: u8 = 2;
    pub const CONGESTED: u8 = 3;
}

/// The traffic class of a packet that has come out of the tunnel: its own, `inner`, with what happened to the `outer` one on the way
/// (RFC 6040 §4.2). `None` if the packet has to be dropped instead of marked.
#[inline(always)]
pub const fn class_after(inner: u8, outer: u8) -> Option<u8> {
    let class = inner & !ecn::MASK;
    match (inner & ecn::MASK, outer & ecn::MASK) {
        (ecn::NOT_CAPABLE, ecn::CONGESTED) => None,
        (ecn::CAPABLE_0 | ecn::CAPABLE_1, ecn::CONGESTED) => Some(class | ecn::CONGESTED),
        (ecn::CAPABLE_0, ecn::CAPABLE_1) => Some(class | ecn::CAPABLE_1),
        _ => Some(inner),
    }
}

/// Who a tunnel packet is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelAddress {
    pub identity: Address,
    pub port: Port,
    /// Bits of [`flags`].
    pub flags: u16,
}

/// Flags in the source MAC.
pub mod flags {
    /// An answer on its way to the entry node.
    pub const REPLY: u16 = 1;
    /// A question whether this node's dataplane is there.
    pub const PROBE: u16 = 2;
    /// The answer, if whoever asks knows this flag; others get their question back as it came. Never answered.
    pub const PROBE_ANSWER: u16 = 4;
}

/// What the agent that has sent a probe knows. Agents from before this byte say nothing: it is 0.
pub mod known {
    /// [`flags::PROBE_ANSWER`](super::flags::PROBE_ANSWER).
    pub const PROBE_ANSWER: u8 = 1;
}

impl TunnelAddress {
    #[inline(always)]
    pub const fn destination_mac(&self) -> Mac {
        let [a, b, c, d] = self.identity.octets();
        [0x02, 0x42, a, b, c, d]
    }

    #[inline(always)]
    pub const fn source_mac(&self) -> Mac {
        let [high, low] = self.port.wire().to_ne_bytes();
        let [flags_high, flags_low] = self.flags.to_be_bytes();
        [0x02, 0x6d, high, low, flags_high, flags_low]
    }

    /// `None` if the addresses are none of ours.
    #[inline(always)]
    pub const fn from_macs(destination: Mac, source: Mac) -> Option<Self> {
        if destination[0] != 0x02 || destination[1] != 0x42 || source[0] != 0x02 || source[1] != 0x6d {
            return None;
        }
        Some(Self {
            identity: Address::new([destination[2], destination[3], destination[4], destination[5]]),
            port: Port::from_wire(u16::from_ne_bytes([source[2], source[3]])),
            flags: u16::from_be_bytes([source[4], source[5]]),
        })
    }
}

/// What stands between the outer Ethernet header and the inner IP packet, as it goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TunnelHeader {
    words: [u16; OVERHEAD / 2],
}

/// What a [`TunnelHeader`] is made from.
#[derive(Clone, Copy, Debug)]
pub struct TunnelFields {
    pub source: Address,
    pub destination: Address,
    /// UDP destination port.
    pub port: Port,
    pub vni: u32,
    /// Spreads flows over the receiver's queues; becomes the UDP source port.
    pub hash: u32,
    /// Length of the inner IP packet.
    pub inner_length: u16,
    /// Traffic class of the inner packet, copied out (RFC 6040 normal mode).
    pub traffic_class: u8,
    pub address: TunnelAddress,
}

impl TunnelHeader {
    #[inline(always)]
    pub const fn new(fields: &TunnelFields) -> Self {
        let udp_length = fields.inner_length.wrapping_add((OVERHEAD - 20) as u16);
        let mut words = [0_u16; OVERHEAD / 2];

        // IPv4. The identification may stay 0 only for packets that are never fragmented (RFC 6864); DF is clear here,
        // so the flow's hash stands in.
        words[0] = u16::from_ne_bytes([0x45, fields.traffic_class]);
        words[1] = udp_length.wrapping_add(20).to_be();
        words[2] = fields.hash as u16;
        words[4] = u16::from_ne_bytes([OUTER_TTL, protocol::UDP]);
        words[6] = low(fields.source.wire());
        words[7] = high(fields.source.wire());
        words[8] = low(fields.destination.wire());
        words[9] = high(fields.destination.wire());
        words[5] = Sum::ZERO
            .add_word(words[0])
            .add_word(words[1])
            .add_word(words[2])
            .add_word(words[4])
            .add_address(fields.source)
            .add_address(fields.destination)
            .checksum();

        // UDP, without a checksum (RFC 7348 §5). The source port is from the dynamic range.
        words[10] = (0xc000 | ((fields.hash >> 16) as u16 & 0x3fff)).to_be();
        words[11] = fields.port.wire();
        words[12] = udp_length.to_be();

        [words[14], words[15], words[16], words[17]] = Self::vxlan(fields.vni, Cookie::NONE);

        let identity = fields.address.identity.wire();
        words[18] = u16::from_ne_bytes([0x02, 0x42]);
        words[19] = low(identity);
        words[20] = high(identity);
        words[21] = u16::from_ne_bytes([0x02, 0x6d]);
        words[22] = fields.address.port.wire();
        words[23] = fields.address.flags.to_be();
        words[24] = ethertype::IPV4.to_be();
        Self { words }
    }

    /// The VXLAN header in it, as it goes over the wire.
    #[inline(always)]
    pub const fn vxlan(vni: u32, cookie: Cookie) -> [u16; 4] {
        let ([a, b, c], d) = cookie.wire();
        let [_, vni_high, vni_middle, vni_low] = vni.to_be_bytes();
        [
            u16::from_ne_bytes([VXLAN_FLAG_VNI, a]),
            u16::from_ne_bytes([b, c]),
            u16::from_ne_bytes([vni_high, vni_middle]),
            u16::from_ne_bytes([vni_low, d]),
        ]
    }

    #[inline(always)]
    pub const fn as_ptr(&self) -> *const u16 {
        self.words.as_ptr()
    }

    /// The bytes in the order of the wire.
    pub fn bytes(&self) -> [u8; OVERHEAD] {
        let mut bytes = [0; OVERHEAD];
        for (place, word) in self.words.iter().enumerate() {
            bytes[2 * place..2 * place + 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// The half of a native integer that stands first in memory, on a little-endian machine.
const fn low(wire: u32) -> u16 {
    let [a, b, _, _] = wire.to_ne_bytes();
    u16::from_ne_bytes([a, b])
}

const fn high(wire: u32) -> u16 {
    let [_, _, c, d] = wire.to_ne_bytes();
    u16::from_ne_bytes([c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum;

    const FIELDS: TunnelFields = TunnelFields {
        source: Address::new([10, 99, 0, 1]),
        destination: Address::new([10, 99, 0, 2]),
        port: Port::new(4799),
        vni: 0x6d_6573,
        hash: 0x1234_5678,
        inner_length: 60,
        traffic_class: 0x10,
        address: TunnelAddress {
            identity: Address::new([10, 0, 0, 7]),
            port: Port::new(80),
            flags: flags::REPLY,
        },
    };

    #[test]
    fn marks_of_congestion_come_out_of_the_tunnel_as_rfc_6040_says() {
        // RFC 6040 §4.2, figure 4: the rows are the inner codepoints, the columns the outer ones, both from 0 to 3.
        const FIGURE: [[Option<u8>; 4]; 4] = [
            [Some(0), Some(0), Some(0), None],
            [Some(1), Some(1), Some(1), Some(3)],
            [Some(2), Some(1), Some(2), Some(3)],
            [Some(3), Some(3), Some(3), Some(3)],
        ];
        for (inner, row) in FIGURE.into_iter().enumerate() {
            for (outer, expected) in row.into_iter().enumerate() {
                let class = class_after(0xb8 | inner as u8, 0x10 | outer as u8);
                assert_eq!(class, expected.map(|codepoint| 0xb8 | codepoint), "{outer} around {inner}");
            }
        }
    }

    #[test]
    fn the_header_is_as_the_design_says() {
        let bytes = TunnelHeader::new(&FIELDS).bytes();
        assert_eq!(bytes[0..2], [0x45, 0x10]);
        assert_eq!(u16::from_be_bytes([bytes[2], bytes[3]]), 60 + 50);
        assert_eq!(bytes[6..10], [0, 0, 64, 17], "DF clear");
        assert_eq!(checksum::sum(&bytes[..20]).folded(), 0xffff);
        assert_eq!(bytes[12..20], [10, 99, 0, 1, 10, 99, 0, 2]);
        assert!(u16::from_be_bytes([bytes[20], bytes[21]]) >= 0xc000);
        assert_eq!(bytes[22..24], 4799_u16.to_be_bytes());
        assert_eq!(u16::from_be_bytes([bytes[24], bytes[25]]), 60 + 30);
        assert_eq!(bytes[28..36], [0x08, 0, 0, 0, 0x6d, 0x65, 0x73, 0]);
        let with_cookie = TunnelHeader::vxlan(FIELDS.vni, Cookie::new(0x1234_5678).unwrap());
        let with_cookie = with_cookie.map(u16::to_ne_bytes).concat();
        assert_eq!(with_cookie, [0x08, 0x12, 0x34, 0x56, 0x6d, 0x65, 0x73, 0x78]);
        assert_eq!(bytes[36..42], [0x02, 0x42, 10, 0, 0, 7]);
        assert_eq!(bytes[42..48], [0x02, 0x6d, 0, 80, 0, 1]);
        assert_eq!(bytes[48..50], [0x08, 0x00]);
    }

    #[test]
    fn addresses_survive_the_wire() {
        let address = FIELDS.address;
        assert_eq!(TunnelAddress::from_macs(address.destination_mac(), address.source_mac()), Some(address));
        assert_eq!(TunnelAddress::from_macs([2, 0x42, 1, 2, 3, 4], [2, 0x42, 0, 80, 0, 0]), None);
    }
}
