//! Reading packets: an IPv4 packet as the rest of the dataplane sees it.

pub mod quoted;
pub mod rewrite;
pub mod sum;

use core::mem::MaybeUninit;

use mesh_common::flow::{FlowKey, FragmentKey};
use mesh_common::net::{
    Address, ETHERNET_HEADER, IPV4_HEADER, Mac, Port, TCP_HEADER, UDP_HEADER, ethertype, protocol,
};
use mesh_common::outcome::Outcome;
use mesh_common::tcp::{self, flag};

use crate::clock;
use crate::hook::Hook;
use crate::verifier::{self, Aligned};

/// Where the IP header of a packet stands: tags are the VLAN device's business, so it is always behind a plain Ethernet
/// header; or where it would stand, of an interface without one.
pub(crate) const NETWORK: usize = ETHERNET_HEADER;

/// Offsets of fields in an IPv4 header (RFC 791 §3.1).
pub mod ipv4 {
    pub(crate) const LENGTH: usize = 2;
    pub(crate) const IDENTIFICATION: usize = 4;
    pub(crate) const FRAGMENT: usize = 6;
    pub(crate) const TTL: usize = 8;
    pub(crate) const CHECKSUM: usize = 10;
    pub(crate) const SOURCE: usize = 12;
    pub(crate) const DESTINATION: usize = 16;
    /// "Don't fragment", in the flags and fragment offset field.
    pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
    pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
    pub(crate) const FRAGMENT_OFFSET: u16 = 0x1fff;
}

/// Offset of the checksum in a TCP header (RFC 9293 §3.1).
pub(crate) const TCP_CHECKSUM: usize = 16;
/// Offset of the length in a UDP header (RFC 768).
pub(crate) const UDP_LENGTH: usize = 4;
/// Offset of the checksum in a UDP header (RFC 768).
pub(crate) const UDP_CHECKSUM: usize = 6;

/// Offsets of fields in an ARP packet for IPv4 over Ethernet (RFC 826), counted from the Ethernet header.
pub mod arp {
    use super::NETWORK;

    pub(crate) const OPERATION: usize = NETWORK + 6;
    pub(crate) const SENDER: usize = NETWORK + 8;
    pub(crate) const TARGET: usize = NETWORK + 18;
}

/// One end of an ARP packet.
#[derive(Clone, Copy)]
#[repr(C, packed(2))]
pub(crate) struct ArpEnd {
    pub(crate) mac: Mac,
    pub(crate) address: u32,
}

/// The address that an ARP request asks for; `None` for any other packet.
#[inline(always)]
pub(crate) fn asked_for<H: Hook>(frame: &H) -> Option<Address> {
    /// Ethernet, IPv4, 6 and 4 bytes of address, request.
    const REQUEST: [u16; 4] =
        [1_u16.to_be(), ethertype::IPV4.to_be(), u16::from_ne_bytes([6, 4]), 1_u16.to_be()];

    frame.make_linear((arp::TARGET + 10) as u32);
    if frame.read::<u16>(NETWORK - 2)? != ethertype::ARP.to_be()
        || frame.read::<[u16; 4]>(NETWORK)? != REQUEST
    {
        return None;
    }
    let asked: ArpEnd = frame.read(arp::TARGET)?;
    Some(Address::from_wire(asked.address))
}

/// An IPv4 header without its options.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ipv4Header {
    pub(crate) version_and_length: u8,
    pub(crate) traffic_class: u8,
    /// Network byte order, as are all fields of more than one byte.
    pub(crate) length: u16,
    pub(crate) identification: u16,
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub protocol: u8,
    pub(crate) checksum: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

impl Ipv4Header {
    /// Bytes with options; `None` if this is no IPv4 header.
    #[inline(always)]
    pub(crate) fn header_length(&self) -> Option<usize> {
        if self.version_and_length >> 4 != 4 {
            return None;
        }
        let length = usize::from(self.version_and_length & 0x0f) * 4;
        if length < IPV4_HEADER { None } else { Some(length) }
    }
}

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

/// Whether a packet of TCP that has been [looked at](peek) begins or ends a conversation.
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

/// The start of a TCP header (RFC 9293 §3.1). All fields in network byte order.
#[derive(Clone, Copy)]
#[repr(C)]
struct TcpHeader {
    ports: [u16; 2],
    sequence: u32,
    acknowledgement: u32,
    offset: u8,
    flags: u8,
    window: u16,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Fragment {
    /// All of it.
    #[default]
    Whole,
    /// The first part, with the transport header.
    First,
    /// Another part, without it.
    Later,
}

/// What the dataplane reads of a packet.
#[derive(Clone, Copy, Default)]
pub struct Packet {
    /// When it was read: [`clock::now`], once for all that is done with it.
    pub(crate) now: u64,
    /// The number of the overlay network that it is on; 0 for none.
    pub(crate) network: u32,
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) traffic_class: u8,
    /// As it stands in the header.
    pub(crate) identification: u16,
    pub(crate) fragment: Fragment,
    /// Where the part begins in its datagram, in blocks of 8 bytes.
    pub(crate) fragment_blocks: u16,
    pub(crate) more_fragments: bool,
    pub(crate) dont_fragment: bool,
    /// Whether it has come around for what did not fit (see `split.rs`).
    pub(crate) is_copy: bool,
    /// Of the IP packet, header included.
    pub(crate) length: u16,
    /// See [`Packet::transport`]; half a word, because a packet lies on the stack of every chain of calls.
    transport: u16,
    /// 0 for a later fragment, and for protocols without ports.
    pub(crate) source_port: Port,
    pub destination_port: Port,
    /// 0 for anything but TCP, as are the next two, which are in host byte order.
    pub(crate) tcp_flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
}

impl Packet {
    /// One that is yet to be read.
    #[inline(always)]
    pub fn unread(place: &mut MaybeUninit<Aligned<Self>>) -> &mut Self {
        // SAFETY: all zeroes is a value of each field, as `Default` says.
        unsafe { verifier::zeroed(place) }
    }

    /// Reads the IPv4 packet behind the Ethernet header into this one. Anything else is [`Outcome::NotOurs`]; lengths that
    /// do not add up are [`Outcome::Malformed`].
    ///
    /// A call costs more than most of what is called. At XDP, where the stack has room for it, this is a part of the caller.
    #[inline(always)]
    pub fn read<H: Hook>(&mut self, frame: &H) -> Result<(), Outcome> {
        if H::IS_XDP { self.read_here(frame) } else { self.read_apart(frame) }
    }

    #[inline(never)]
    fn read_apart<H: Hook>(&mut self, frame: &H) -> Result<(), Outcome> {
        self.read_here(frame)
    }

    #[inline(always)]
    fn read_here<H: Hook>(&mut self, frame: &H) -> Result<(), Outcome> {
        let now = if self.now == 0 { clock::now() } else { self.now };
        *self = Self::try_read(frame, now)?;
        Ok(())
    }

    #[inline(always)]
    fn try_read<H: Hook>(frame: &H, now: u64) -> Result<Self, Outcome> {
        frame.make_linear(NETWORK as u32 + 40);
        if !frame.is_ipv4() {
            return Err(Outcome::NotOurs);
        }
        let header: Ipv4Header = frame.read(NETWORK).ok_or(Outcome::Malformed)?;
        let header_length = header.header_length().ok_or(Outcome::Malformed)?;
        let length = u16::from_be(header.length);
        if usize::from(length) < header_length || NETWORK + usize::from(length) > frame.size() as usize {
            return Err(Outcome::Malformed);
        }
        let fragment = u16::from_be(header.fragment);
        let mut packet = Self {
            now,
            network: frame.network(),
            source: Address::from_wire(header.source),
            destination: Address::from_wire(header.destination),
            protocol: header.protocol,
            ttl: header.ttl,
            traffic_class: header.traffic_class,
            identification: header.identification,
            fragment: match (fragment & ipv4::FRAGMENT_OFFSET, fragment & ipv4::MORE_FRAGMENTS) {
                (0, 0) => Fragment::Whole,
                (0, _) => Fragment::First,
                _ => Fragment::Later,
            },
            fragment_blocks: fragment & ipv4::FRAGMENT_OFFSET,
            more_fragments: fragment & ipv4::MORE_FRAGMENTS != 0,
            dont_fragment: fragment & ipv4::DONT_FRAGMENT != 0,
            is_copy: false,
            length,
            transport: (NETWORK + header_length) as u16,
            source_port: Port::default(),
            destination_port: Port::default(),
            tcp_flags: 0,
            sequence: 0,
            acknowledgement: 0,
        };
        if packet.fragment != Fragment::Later {
            packet.read_transport(frame, header_length)?;
        }
        Ok(packet)
    }

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

    /// Where the transport header starts, counted from the Ethernet header.
    #[inline(always)]
    pub(crate) fn transport(&self) -> usize {
        usize::from(self.transport)
    }

    /// Bytes of the IP header.
    #[inline(always)]
    pub(crate) fn header_length(&self) -> usize {
        self.transport() - NETWORK
    }

    /// The key of the flow when the client sent it.
    #[inline(always)]
    pub(crate) fn flow_from_client(&self) -> FlowKey {
        FlowKey {
            client: self.source,
            frontend: self.destination,
            client_port: self.source_port,
            frontend_port: self.destination_port,
            protocol: self.protocol,
            padding: [0, 0, 0],
        }
    }

    /// The key of the flow when its answer has become the frontend's.
    #[inline(always)]
    pub(crate) fn flow_from_frontend(&self) -> FlowKey {
        FlowKey {
            client: self.destination,
            frontend: self.source,
            client_port: self.destination_port,
            frontend_port: self.source_port,
            protocol: self.protocol,
            padding: [0, 0, 0],
        }
    }

    #[inline(always)]
    pub(crate) fn fragment_key(&self) -> FragmentKey {
        FragmentKey {
            network: self.network,
            source: self.source,
            destination: self.destination,
            identification: self.identification,
            protocol: self.protocol,
            padding: 0,
        }
    }

    /// A TCP segment that starts a flow.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        self.protocol == protocol::TCP && tcp::is_opening(self.tcp_flags)
    }

    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> bool {
        self.protocol == protocol::TCP
    }

    /// Where the transport checksum stands, for packets that carry one.
    #[inline(always)]
    pub(crate) fn transport_checksum(&self) -> usize {
        self.transport() + if self.protocol == protocol::TCP { TCP_CHECKSUM } else { UDP_CHECKSUM }
    }

    #[inline(always)]
    fn read_transport<H: Hook>(&mut self, frame: &H, header_length: usize) -> Result<(), Outcome> {
        let least = match self.protocol {
            protocol::TCP => 20,
            protocol::SCTP => 12,
            protocol::UDP | protocol::ICMP => 8,
            _ => return Ok(()),
        };
        if usize::from(self.length) < header_length + least {
            return Err(Outcome::Malformed);
        }
        frame.make_linear((NETWORK + header_length + least) as u32);
        if self.protocol == protocol::ICMP {
            return Ok(());
        }
        if self.protocol != protocol::TCP {
            let ports: [u16; 2] = frame.read(self.transport()).ok_or(Outcome::Malformed)?;
            self.source_port = Port::from_wire(ports[0]);
            self.destination_port = Port::from_wire(ports[1]);
            return Ok(());
        }
        let header: TcpHeader = frame.read(self.transport()).ok_or(Outcome::Malformed)?;
        let tcp_header = usize::from(header.offset >> 4) * 4;
        if tcp_header < 20 || usize::from(self.length) < header_length + tcp_header {
            return Err(Outcome::Malformed);
        }
        self.source_port = Port::from_wire(header.ports[0]);
        self.destination_port = Port::from_wire(header.ports[1]);
        self.tcp_flags = header.flags;
        self.sequence = u32::from_be(header.sequence);
        self.acknowledgement = u32::from_be(header.acknowledgement);
        Ok(())
    }
}
