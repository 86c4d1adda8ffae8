//! The packet that an ICMP error quotes.

use core::mem::size_of;

use mesh_common::net::{Address, ICMP_HEADER, Port, TCP_HEADER, protocol};
use mesh_common::outcome::Outcome;

use crate::hook::Hook;
use crate::packet::rewrite::Tuple;
use crate::packet::rewrite::icmp::{QuotedChange, QuotedChecksum};
use crate::packet::{Fragment, Ipv4Header, NETWORK, Packet, TCP_CHECKSUM, ipv4};

/// The packet that an ICMP error quotes: its first 8 bytes of transport header are all that can be counted on (RFC 792).
pub(crate) struct Quoted {
    network: usize,
    transport: usize,
    pub(crate) protocol: u8,
    /// Whether it is TCP and the checksum is there.
    tcp_checksum: bool,
    /// Whether it is TCP, and could not be delivered, now or ever (RFC 792, RFC 1122 §3.2.2.1, RFC 1812 §5.2.7.1).
    pub(crate) is_refused: bool,
    /// Of TCP, in host byte order.
    pub(crate) sequence: u32,
    pub(crate) tuple: Tuple,
}

impl Quoted {
    /// The kernel has whatever is no error, or quotes something that has no ports.
    #[inline(always)]
    pub(crate) fn read<H: Hook>(frame: &H, packet: &Packet) -> Result<Self, Outcome> {
        const DESTINATION_UNREACHABLE: u8 = 3;
        const TIME_EXCEEDED: u8 = 11;
        const PARAMETER_PROBLEM: u8 = 12;
        /// Network, host, protocol, port; and by administration, network, host, communication.
        const REFUSES: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 10 | 1 << 13;

        if packet.fragment != Fragment::Whole {
            return Err(Outcome::NotOurs);
        }
        let network = packet.transport() + ICMP_HEADER;
        frame.make_linear((network + 60 + TCP_HEADER) as u32);
        let [kind, code]: [u8; 2] = frame.read(packet.transport()).ok_or(Outcome::Malformed)?;
        if !matches!(kind, DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM) {
            return Err(Outcome::NotOurs);
        }
        let header: Ipv4Header = frame.read(network).ok_or(Outcome::NotOurs)?;
        let transport = network + header.header_length().ok_or(Outcome::NotOurs)?;
        // A later fragment has no ports to be known by.
        let later = u16::from_be(header.fragment) & ipv4::FRAGMENT_OFFSET != 0;
        if later || !matches!(header.protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
            return Err(Outcome::NotOurs);
        }
        let ports: [u16; 4] = frame.read(transport).ok_or(Outcome::NotOurs)?;
        Ok(Self {
            network,
            transport,
            protocol: header.protocol,
            tcp_checksum: header.protocol == protocol::TCP
                && transport + TCP_CHECKSUM + size_of::<u16>() <= NETWORK + usize::from(packet.length),
            is_refused: header.protocol == protocol::TCP
                && kind == DESTINATION_UNREACHABLE
                && code < 32
                && REFUSES >> code & 1 != 0,
            sequence: u32::from(u16::from_be(ports[2])) << 16 | u32::from(u16::from_be(ports[3])),
            tuple: Tuple {
                source: Address::from_wire(header.source),
                destination: Address::from_wire(header.destination),
                source_port: Port::from_wire(ports[0]),
                destination_port: Port::from_wire(ports[1]),
            },
        })
    }

    #[inline(always)]
    pub(crate) fn change(&self, after: Tuple) -> QuotedChange {
        QuotedChange {
            network: self.network,
            transport: self.transport,
            before: self.tuple,
            after,
            checksum: match self.protocol {
                protocol::UDP => QuotedChecksum::Udp,
                _ if self.tcp_checksum => QuotedChecksum::Tcp,
                _ => QuotedChecksum::None,
            },
        }
    }
}
