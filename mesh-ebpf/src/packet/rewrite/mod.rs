//! Writing packets: nothing outside of this folder changes packet bytes.
//!
//! Here is what every packet has: hardware addresses, the IP header, the tuple; and the one function that writes. [`tcp`],
//! [`udp`] and [`icmp`] make packets of their protocol out of others.

pub(crate) mod icmp;
pub(crate) mod tcp;
pub(crate) mod udp;

use core::mem::size_of;

use mesh_common::checksum::Sum;
use mesh_common::net::{Address, ETHERNET_HEADER, IPV4_HEADER, Mac, Port, UDP_HEADER, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::tunnel::TunnelHeader;

use crate::hook::Hook;
use crate::packet::sum::TransportChange;
use crate::packet::{ArpEnd, Fragment, NETWORK, Packet, arp, ipv4};
use crate::verifier::Even;

/// TTL of packets that we make: RFC 1700's default.
const OWN_TTL: u8 = 64;

/// Addresses and ports of a packet, as they are or as they shall be.
#[derive(Clone, Copy)]
pub(crate) struct Tuple {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) source_port: Port,
    pub(crate) destination_port: Port,
}

/// How a packet goes on: over a router, which takes one hop off its TTL, or over a bridge.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    /// The caller has found the TTL to be at least 2.
    Routed,
    Bridged,
}

/// Gives a packet another tuple.
#[inline(always)]
pub(crate) fn readdress<H: Hook>(frame: &H, packet: &Packet, tuple: &Tuple, hop: Hop) -> Result<(), Outcome> {
    let addresses = Sum::ZERO
        .remove_address(packet.source)
        .remove_address(packet.destination)
        .add_address(tuple.source)
        .add_address(tuple.destination);
    // SCTP's checksum covers no addresses, and its ports stay (RFC 9260 §6.8).
    if packet.fragment != Fragment::Later && (packet.is_tcp() || packet.protocol == protocol::UDP) {
        let ports = Sum::ZERO
            .remove_word(packet.source_port.wire())
            .remove_word(packet.destination_port.wire())
            .add_word(tuple.source_port.wire())
            .add_word(tuple.destination_port.wire());
        frame.update_transport(&TransportChange {
            offset: packet.transport_checksum(),
            pseudo_header: addresses,
            segment: ports,
            optional: !packet.is_tcp(),
        })?;
        write(frame, packet.transport(), [tuple.source_port.wire(), tuple.destination_port.wire()])?;
    }
    readdress_network(frame, packet, tuple.source, tuple.destination, hop)
}

/// As [`readdress`], for the IP header alone.
#[inline(always)]
pub(crate) fn readdress_network<H: Hook>(
    frame: &H,
    packet: &Packet,
    source: Address,
    destination: Address,
    hop: Hop,
) -> Result<(), Outcome> {
    let ttl = if hop == Hop::Routed { packet.ttl - 1 } else { packet.ttl };
    let checksum: u16 = frame.read(NETWORK + ipv4::CHECKSUM).ok_or(Outcome::NotChangeable)?;
    let checksum = Sum::ZERO
        .remove_address(packet.source)
        .remove_address(packet.destination)
        .add_address(source)
        .add_address(destination)
        .remove_word(u16::from_ne_bytes([packet.ttl, packet.protocol]))
        .add_word(u16::from_ne_bytes([ttl, packet.protocol]))
        .update(checksum);
    write(frame, NETWORK + ipv4::TTL, ttl)?;
    write(frame, NETWORK + ipv4::CHECKSUM, checksum)?;
    write(frame, NETWORK + ipv4::SOURCE, [source.wire(), destination.wire()])
}

/// Gives a packet another traffic class.
#[inline(always)]
pub(crate) fn set_traffic_class<H: Hook>(frame: &H, class: u8) -> Result<(), Outcome> {
    let [version, before]: [u8; 2] = frame.read(NETWORK).ok_or(Outcome::NotChangeable)?;
    let checksum: u16 = frame.read(NETWORK + ipv4::CHECKSUM).ok_or(Outcome::NotChangeable)?;
    let checksum = Sum::ZERO
        .remove_word(u16::from_ne_bytes([version, before]))
        .add_word(u16::from_ne_bytes([version, class]))
        .update(checksum);
    write(frame, NETWORK, [version, class])?;
    write(frame, NETWORK + ipv4::CHECKSUM, checksum)
}

/// Turns an ARP request (RFC 826) for `address` into the answer that it is at `mac`.
#[inline(always)]
pub(crate) fn into_arp_reply<H: Hook>(frame: &H, mac: Mac) -> Result<(), Outcome> {
    const REPLY: u16 = 2_u16.to_be();

    let sender: ArpEnd = frame.read(arp::SENDER).ok_or(Outcome::NotChangeable)?;
    let target: ArpEnd = frame.read(arp::TARGET).ok_or(Outcome::NotChangeable)?;
    write(frame, 0, [sender.mac, mac])?;
    write(frame, arp::OPERATION, REPLY)?;
    write(frame, arp::SENDER, ArpEnd { mac, address: target.address })?;
    write(frame, arp::TARGET, sender)
}

/// Sets only where a frame goes.
#[inline(always)]
pub(crate) fn set_destination_mac<H: Hook>(frame: &H, destination: Mac) -> Result<(), Outcome> {
    write(frame, 0, destination)
}

/// An IP header without options, for a packet that is about to lose it.
pub(crate) type NetworkHeader = [u32; IPV4_HEADER / 4];

#[inline(always)]
pub(crate) fn network_header<H: Hook>(frame: &H) -> Result<NetworkHeader, Outcome> {
    frame.read(NETWORK).ok_or(Outcome::NotChangeable)
}

#[inline(always)]
pub(crate) fn restore_network_header<H: Hook>(frame: &H, header: &NetworkHeader) -> Result<(), Outcome> {
    write(frame, NETWORK, *header)
}

/// For a packet that is about to lose what sums up to `rest`, while its transport checksum stays that of all of it: where a
/// device still has to complete the checksum, it will do so for what is left, and the field must have the rest already.
#[inline(always)]
pub(crate) fn carry_into_checksum<H: Hook>(frame: &H, packet: &Packet, rest: u16) -> Result<(), Outcome> {
    // The helper adds the first to any checksum; the second takes it back from a complete one, and leaves the other alone.
    frame.update_transport(&TransportChange {
        offset: packet.transport_checksum(),
        pseudo_header: Sum::ZERO.add_word(rest),
        segment: Sum::ZERO.remove_word(rest),
        optional: !packet.is_tcp(),
    })
}

/// Makes the packet, whose IP header has no options, `length` bytes of a datagram from `blocks` times 8 on.
#[inline(always)]
pub(crate) fn set_fragment<H: Hook>(frame: &H, length: u16, blocks: u16, more: bool) -> Result<(), Outcome> {
    let flags = if more { ipv4::MORE_FRAGMENTS } else { 0 };
    write(frame, NETWORK + ipv4::LENGTH, length.to_be())?;
    write(frame, NETWORK + ipv4::FRAGMENT, (flags | blocks).to_be())?;
    write(frame, NETWORK + ipv4::CHECKSUM, 0_u16)?;
    let words: [u16; IPV4_HEADER / 2] = frame.read(NETWORK).ok_or(Outcome::NotChangeable)?;
    let mut sum = Sum::ZERO;
    for word in words {
        sum = sum.add_word(word);
    }
    write(frame, NETWORK + ipv4::CHECKSUM, sum.checksum())
}

/// Hardware addresses for an interface that the kernel sends on as they are. The last that is done to a packet: see
/// [`Hook::prepend_ethernet`].
#[inline(always)]
pub(crate) fn set_macs<H: Hook>(frame: &H, destination: Mac, source: Mac) -> Result<(), Outcome> {
    if H::IS_L3 {
        return frame.prepend_ethernet(destination, source);
    }
    write(frame, 0, [destination, source])
}

/// As [`set_macs`], both as they stand in a frame.
#[inline(always)]
pub(crate) fn set_both_macs<H: Hook>(frame: &H, macs: [u32; 3]) -> Result<(), Outcome> {
    /// Of an array, the compiler would copy one byte after the other.
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Words(u32, u32, u32);

    let [first, second, third] = macs;
    write(frame, 0, Words(first, second, third))
}

/// Writes the header of a packet that has got room for it, and is in the tunnel then.
#[inline(always)]
pub(crate) fn write_tunnel<H: Hook>(frame: &H, header: TunnelHeader) -> Result<(), Outcome> {
    write(frame, NETWORK, header)
}

/// Writes the VXLAN header of a packet that is in the tunnel anew.
#[inline(always)]
pub(crate) fn write_vxlan<H: Hook>(frame: &H, header: [u16; 4]) -> Result<(), Outcome> {
    write(frame, NETWORK + IPV4_HEADER + UDP_HEADER, header)
}

/// A new IPv4 header without options in front of `payload` bytes.
#[inline(always)]
fn write_ipv4<H: Hook>(
    frame: &H,
    source: Address,
    destination: Address,
    protocol: u8,
    payload: u16,
) -> Result<(), Outcome> {
    let mut words = [
        u16::from_ne_bytes([0x45, 0]),
        (IPV4_HEADER as u16 + payload).to_be(),
        0,
        ipv4::DONT_FRAGMENT.to_be(),
        u16::from_ne_bytes([OWN_TTL, protocol]),
        0,
        source.wire() as u16,
        (source.wire() >> 16) as u16,
        destination.wire() as u16,
        (destination.wire() >> 16) as u16,
    ];
    words[5] = Sum::ZERO
        .add_word(words[0])
        .add_word(words[1])
        .add_word(words[3])
        .add_word(words[4])
        .add_address(source)
        .add_address(destination)
        .checksum();
    write(frame, NETWORK, words)
}

/// Sends a frame back to the hardware address that it came from.
#[inline(always)]
pub(crate) fn swap_macs<H: Hook>(frame: &H) -> Result<(), Outcome> {
    if H::IS_L3 {
        return Ok(());
    }
    let [destination, source] = macs(frame).ok_or(Outcome::NotChangeable)?;
    write(frame, 0, [source, destination])
}

/// The destination's and the source's hardware address; zeroes where there are none.
#[inline(always)]
fn macs<H: Hook>(frame: &H) -> Option<[Mac; 2]> {
    if H::IS_L3 { Some([[0; 6]; 2]) } else { frame.read(0) }
}

/// A 32-bit field as the two words it is in memory.
#[inline(always)]
const fn halves(wire: u32) -> [u16; 2] {
    [wire as u16, (wire >> 16) as u16]
}

#[inline(always)]
fn write<H: Hook, T: Copy>(frame: &H, offset: usize, value: T) -> Result<(), Outcome> {
    const { assert!(size_of::<T>() <= 64 && ETHERNET_HEADER == NETWORK) };
    let pointer = frame.at::<T>(offset).ok_or(Outcome::NotChangeable)?;
    // SAFETY: `at` has checked that the packet holds the bytes, and every field that is written stands at an even address.
    unsafe { Even::write(pointer, value) };
    Ok(())
}
