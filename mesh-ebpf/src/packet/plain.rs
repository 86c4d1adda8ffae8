//! Packets as most are, read without a place in memory.

use mesh_common::net::{Address, IPV4_HEADER, Port, TCP_HEADER, UDP_HEADER, protocol};
use mesh_common::tcp::flag;

use crate::clock;
use crate::hook::Hook;
use crate::packet::{Ipv4Header, NETWORK, Packet, TcpHeader, ipv4};

impl Packet {
    /// A packet as most are: whole, of TCP or UDP, without IP options or a VLAN, and neither the begin nor the end of a TCP
    /// conversation. `None` for any other. It lies in registers, as long as no pointer to it is given away.
    #[inline(always)]
    pub(crate) fn plain<H: Hook>(frame: &H) -> Option<Self> {
        Some(Self { now: clock::now(), ..Self::plain_without_time(frame)? })
    }

    /// As [`Packet::plain`], without the time.
    #[inline(always)]
    pub(crate) fn plain_without_time<H: Hook>(frame: &H) -> Option<Self> {
        const NO_OPTIONS: u8 = 0x45;

        if !frame.is_ipv4() {
            return None;
        }
        let header: Ipv4Header = frame.read(NETWORK)?;
        let fragment = u16::from_be(header.fragment);
        let length = u16::from_be(header.length);
        if header.version_and_length != NO_OPTIONS
            || fragment & !ipv4::DONT_FRAGMENT != 0
            || NETWORK as u32 + u32::from(length) > frame.size()
        {
            return None;
        }
        let mut packet = Self {
            network: frame.network(),
            source: Address::from_wire(header.source),
            destination: Address::from_wire(header.destination),
            protocol: header.protocol,
            ttl: header.ttl,
            traffic_class: header.traffic_class,
            identification: header.identification,
            dont_fragment: fragment != 0,
            length,
            transport: (NETWORK + IPV4_HEADER) as u16,
            ..Self::default()
        };
        if header.protocol == protocol::TCP {
            let tcp: TcpHeader = frame.read(NETWORK + IPV4_HEADER)?;
            let tcp_header = u16::from(tcp.offset >> 4) * 4;
            if tcp_header < TCP_HEADER as u16
                || length < IPV4_HEADER as u16 + tcp_header
                || tcp.flags & (flag::SYN | flag::FIN | flag::RST) != 0
            {
                return None;
            }
            [packet.source_port, packet.destination_port] = tcp.ports.map(Port::from_wire);
            packet.tcp_flags = tcp.flags;
            packet.sequence = u32::from_be(tcp.sequence);
            packet.acknowledgement = u32::from_be(tcp.acknowledgement);
            return Some(packet);
        }
        if header.protocol != protocol::UDP || usize::from(length) < IPV4_HEADER + UDP_HEADER {
            return None;
        }
        let ports: [u16; 2] = frame.read(NETWORK + IPV4_HEADER)?;
        [packet.source_port, packet.destination_port] = ports.map(Port::from_wire);
        Some(packet)
    }
}
