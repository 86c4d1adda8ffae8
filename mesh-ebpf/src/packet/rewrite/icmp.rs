//! ICMP: answers to pings, errors that answer packets, and the packets that errors quote.

use mesh_common::checksum::Sum;
use mesh_common::net::{ICMP_HEADER, IPV4_HEADER, SCTP_HEADER, TCP_HEADER, UDP_HEADER, protocol};
use mesh_common::outcome::Outcome;

use super::{Hop, Tuple, readdress_network, swap_macs, write, write_ipv4};
use crate::hook::Hook;
use crate::packet::sum::TransportChange;
use crate::packet::{NETWORK, Packet, TCP_CHECKSUM, UDP_CHECKSUM, ipv4};

/// Turns a ping into its answer (RFC 792), at the same hardware addresses the other way round. A code that means nothing stays,
/// as in Linux's own answers.
#[inline(always)]
pub(crate) fn into_echo_reply<H: Hook>(frame: &H, packet: &Packet) -> Result<(), Outcome> {
    const REPLY: u8 = 0;

    let request: [u8; 2] = frame.read(packet.transport()).ok_or(Outcome::Malformed)?;
    let (before, after) = (u16::from_ne_bytes(request), u16::from_ne_bytes([REPLY, request[1]]));
    swap_macs(frame)?;
    frame.update_transport(&TransportChange {
        offset: packet.transport() + 2,
        pseudo_header: Sum::ZERO,
        segment: Sum::ZERO.remove_word(before).add_word(after),
        optional: false,
    })?;
    write(frame, packet.transport(), after)?;
    readdress_network(frame, packet, packet.destination, packet.source, Hop::Bridged)
}

/// What an ICMP error says (RFC 792): its type and its code.
#[derive(Clone, Copy)]
pub(crate) struct Complaint(u8, u8);

impl Complaint {
    pub(crate) const PORT_UNREACHABLE: Self = Self(3, 3);
    /// With the size that fits (RFC 1191).
    pub(crate) const FRAGMENTATION_NEEDED: Self = Self(3, 4);
    /// In transit.
    pub(crate) const TIME_EXCEEDED: Self = Self(11, 0);
}

/// Turns a packet into the ICMP error that answers it: the packet's IP header and the start of what it carried, behind new IP
/// and ICMP headers. `mtu` goes with "fragmentation needed", and is 0 otherwise.
#[inline(always)]
pub(crate) fn into_error<H: Hook>(
    frame: &H,
    packet: &Packet,
    Complaint(kind, code): Complaint,
    mtu: u16,
) -> Result<(), Outcome> {
    const ADDED: usize = IPV4_HEADER + ICMP_HEADER;

    // Where a device still has to complete the transport checksum, it will do so in what is quoted: the field has to stay,
    // and the sum over it has to be the one that the device will leave behind.
    let (carried, finished, unfinished) = match packet.protocol {
        protocol::TCP => {
            let words: [u16; TCP_HEADER / 2] = frame.read(packet.transport()).ok_or(Outcome::Malformed)?;
            (TCP_HEADER, sum_of(&words).checksum(), words[TCP_CHECKSUM / 2])
        }
        // Its checksum is another one, which no device can complete in a part of the packet; but its place has to stay.
        protocol::SCTP => (SCTP_HEADER, 0, 0),
        _ => {
            let words: [u16; UDP_HEADER / 2] = frame.read(packet.transport()).ok_or(Outcome::Malformed)?;
            (UDP_HEADER, sum_of(&words).checksum(), words[UDP_CHECKSUM / 2])
        }
    };
    let quoted = packet.transport() - NETWORK + carried;
    let quoted_sum = frame.sum(NETWORK, quoted)?;
    frame.resize((NETWORK + quoted) as u32)?;
    frame.grow(ADDED as u16)?;
    swap_macs(frame)?;
    write_ipv4(frame, packet.destination, packet.source, protocol::ICMP, (ICMP_HEADER + quoted) as u16)?;
    let mut icmp = [u16::from_ne_bytes([kind, code]), 0, 0, mtu.to_be()];
    icmp[1] =
        quoted_sum.remove_word(unfinished).add_word(finished).add_word(icmp[0]).add_word(icmp[3]).checksum();
    write(frame, NETWORK + IPV4_HEADER, icmp)?;
    // As for a RST: the helper leaves the packet alone if there is a device that will complete it.
    frame.update_transport(&TransportChange {
        offset: NETWORK + IPV4_HEADER + 2,
        pseudo_header: Sum::ZERO,
        segment: Sum::ZERO.remove_word(finished).add_word(unfinished),
        optional: false,
    })
}

#[inline(always)]
fn sum_of<const N: usize>(words: &[u16; N]) -> Sum {
    let mut sum = Sum::ZERO;
    for word in words {
        sum = sum.add_word(*word);
    }
    sum
}

/// Another tuple for the packet that an ICMP error quotes.
#[derive(Clone, Copy)]
pub(crate) struct QuotedChange {
    /// Where the quoted IP header starts.
    pub(crate) network: usize,
    /// Where the quoted transport header starts.
    pub(crate) transport: usize,
    pub(crate) before: Tuple,
    pub(crate) after: Tuple,
    pub(crate) checksum: QuotedChecksum,
}

/// The checksum in the transport header that an ICMP error quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuotedChecksum {
    /// It is not among what is quoted, or does not cover what changes.
    None,
    /// Among the 8 bytes that are always there.
    Udp,
    Tcp,
}

/// Gives the packet that an ICMP error quotes another tuple, and brings the error's own checksum in step.
#[inline(always)]
pub(crate) fn readdress_quoted<H: Hook>(
    frame: &H,
    packet: &Packet,
    change: &QuotedChange,
) -> Result<(), Outcome> {
    let (before, after) = (&change.before, &change.after);
    let addresses = Sum::ZERO
        .remove_address(before.source)
        .remove_address(before.destination)
        .add_address(after.source)
        .add_address(after.destination);
    let ports = Sum::ZERO
        .remove_word(before.source_port.wire())
        .remove_word(before.destination_port.wire())
        .add_word(after.source_port.wire())
        .add_word(after.destination_port.wire());
    let mut changed = addresses.add(ports);

    let network: u16 = frame.read(change.network + ipv4::CHECKSUM).ok_or(Outcome::Malformed)?;
    let updated = addresses.update(network);
    changed = changed.remove_word(network).add_word(updated);
    write(frame, change.network + ipv4::CHECKSUM, updated)?;
    write(frame, change.network + ipv4::SOURCE, [after.source.wire(), after.destination.wire()])?;
    write(frame, change.transport, [after.source_port.wire(), after.destination_port.wire()])?;
    if change.checksum != QuotedChecksum::None {
        let optional = change.checksum == QuotedChecksum::Udp;
        let place = change.transport + if optional { UDP_CHECKSUM } else { TCP_CHECKSUM };
        let checksum: u16 = frame.read(place).ok_or(Outcome::Malformed)?;
        if checksum != 0 || !optional {
            let updated = addresses.add(ports).update(checksum);
            changed = changed.remove_word(checksum).add_word(updated);
            write(frame, place, updated)?;
        }
    }
    frame.update_transport(&TransportChange {
        offset: packet.transport() + 2,
        pseudo_header: Sum::ZERO,
        segment: changed,
        optional: false,
    })
}
