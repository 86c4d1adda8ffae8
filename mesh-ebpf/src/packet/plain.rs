//! Packets as most are, read without a place in memory.

use mesh_common::net::{IPV4_HEADER, Port, UDP_HEADER, protocol};
use mesh_common::tcp::flag;

use crate::clock;
use crate::hook::Hook;
use crate::packet::{Ipv4Header, NETWORK, Packet, TcpHeader, ipv4};

impl Packet {
    /// A packet as most are: whole, of TCP or UDP, without IP options, and neither the begin nor the end of a TCP conversation.
    /// `None` for any other. It lies in registers, as long as no pointer to it is given away.
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
        if header.version_and_length != NO_OPTIONS
            || header.fragment & !ipv4::DONT_FRAGMENT.to_be() != 0
            || NETWORK as u32 + u32::from(u16::from_be(header.length)) > frame.size()
        {
            return None;
        }
        let mut packet = Self::of_header(frame, &header, IPV4_HEADER);
        if packet.is_tcp() {
            let tcp: TcpHeader = frame.read(packet.transport())?;
            let is_plain = tcp.flags & (flag::SYN | flag::FIN | flag::RST) == 0;
            return if is_plain && packet.take_tcp(&tcp) { Some(packet) } else { None };
        }
        if packet.protocol != protocol::UDP || usize::from(packet.length) < IPV4_HEADER + UDP_HEADER {
            return None;
        }
        let ports: [u16; 2] = frame.read(packet.transport())?;
        [packet.source_port, packet.destination_port] = ports.map(Port::from_wire);
        Some(packet)
    }
}
