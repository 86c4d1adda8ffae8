//! A first look at packets, which most need not pass.

use mesh_common::net::{IPV4_HEADER, Port, TCP_HEADER, protocol};
use mesh_common::tcp::flag;

use crate::hook::Hook;
use crate::packet::{NETWORK, ipv4};

/// The start of a packet that has neither VLAN tags nor IP options, behind the link layer's. All fields in network byte order.
#[derive(Clone, Copy)]
#[repr(C)]
struct Start {
    network: [u16; IPV4_HEADER / 2],
    ports: [u16; 2],
}

/// Enough of a packet to know most for nobody's.
#[derive(Clone, Copy)]
pub struct Seen {
    pub protocol: u8,
    /// What stands where TCP and UDP have the destination port, and the source port.
    pub port: Port,
    pub source_port: Port,
    length: u16,
}

impl Seen {
    /// Whether it is one of TCP or UDP that cannot turn out to be cut short.
    #[inline(always)]
    pub fn is_complete<H: Hook>(self, frame: &H) -> bool {
        (self.protocol == protocol::TCP || self.protocol == protocol::UDP)
            && usize::from(self.length) >= IPV4_HEADER + TCP_HEADER
            && NETWORK as u32 + u32::from(self.length) <= frame.size()
    }
}

/// Whether a packet of TCP that has been [looked at](peek) begins or ends a conversation: a short way that does not know it would cost
/// more than this.
#[inline(always)]
pub fn begins_or_ends<H: Hook>(frame: &H, seen: &Seen) -> bool {
    const FLAGS: usize = NETWORK + IPV4_HEADER + 13;

    seen.protocol == protocol::TCP
        && frame.read::<u8>(FLAGS).is_none_or(|flags| flags & (flag::SYN | flag::FIN | flag::RST) != 0)
}

/// A first look at a packet; `None` for fragments, and for packets with VLAN tags or IP options.
#[inline(always)]
pub fn peek<H: Hook>(frame: &H) -> Option<Seen> {
    const NO_OPTIONS: u8 = 0x45;

    let start: Start = frame.read(NETWORK)?;
    let [version_and_length, _] = start.network[0].to_ne_bytes();
    let [_, protocol] = start.network[ipv4::TTL / 2].to_ne_bytes();
    let fragment = start.network[ipv4::FRAGMENT / 2] & !ipv4::DONT_FRAGMENT.to_be();
    if !frame.is_ipv4() || version_and_length != NO_OPTIONS || fragment != 0 {
        return None;
    }
    let length = u16::from_be(start.network[1]);
    let [source_port, port] = start.ports.map(Port::from_wire);
    Some(Seen { protocol, port, source_port, length })
}

/// As [`peek`], of a packet that has been through the kernel, and need not be in one piece.
#[inline(always)]
pub fn peek_in_kernel<H: Hook>(frame: &H) -> Option<Seen> {
    frame.make_linear((NETWORK + IPV4_HEADER + TCP_HEADER) as u32);
    peek(frame)
}
