//! Reading packets: an IPv4 packet as the rest of the dataplane sees it.

mod arp;
mod plain;
pub mod quoted;
pub mod rewrite;
mod seen;
pub mod sum;

use core::mem::MaybeUninit;

use mesh_common::flow::{FlowKey, FragmentKey};
use mesh_common::net::{Address, ETHERNET_HEADER, IPV4_HEADER, Port, TCP_HEADER, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::tcp;

use crate::clock;
use crate::hook::Hook;
use crate::verifier::{self, Aligned};

pub(crate) use arp::{ArpEnd, asked_for};
pub use seen::{Seen, begins_or_ends, peek, peek_in_kernel};

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
            fragment: match (fragment & ipv4::FRAGMENT_OFFSET, fragment & ipv4::MORE_FRAGMENTS) {
                (0, 0) => Fragment::Whole,
                (0, _) => Fragment::First,
                _ => Fragment::Later,
            },
            fragment_blocks: fragment & ipv4::FRAGMENT_OFFSET,
            more_fragments: fragment & ipv4::MORE_FRAGMENTS != 0,
            ..Self::of_header(frame, &header, header_length)
        };
        if packet.fragment != Fragment::Later {
            packet.read_transport(frame, header_length)?;
        }
        Ok(packet)
    }

    /// What the IP header says of a whole packet.
    #[inline(always)]
    fn of_header<H: Hook>(frame: &H, header: &Ipv4Header, header_length: usize) -> Self {
        Self {
            network: frame.network(),
            source: Address::from_wire(header.source),
            destination: Address::from_wire(header.destination),
            protocol: header.protocol,
            ttl: header.ttl,
            traffic_class: header.traffic_class,
            identification: header.identification,
            dont_fragment: header.fragment & ipv4::DONT_FRAGMENT.to_be() != 0,
            length: u16::from_be(header.length),
            transport: (NETWORK + header_length) as u16,
            ..Self::default()
        }
    }

    /// Takes over what a TCP header says. False if it is none, or is cut short.
    #[inline(always)]
    fn take_tcp(&mut self, header: &TcpHeader) -> bool {
        let length = usize::from(header.offset >> 4) * 4;
        if length < TCP_HEADER || usize::from(self.length) < self.header_length() + length {
            return false;
        }
        [self.source_port, self.destination_port] = header.ports.map(Port::from_wire);
        self.tcp_flags = header.flags;
        self.sequence = u32::from_be(header.sequence);
        self.acknowledgement = u32::from_be(header.acknowledgement);
        true
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
        if self.take_tcp(&header) { Ok(()) } else { Err(Outcome::Malformed) }
    }
}
