//! UDP: datagrams that go back to where they came from.

use mesh_common::checksum::Sum;
use mesh_common::net::{IPV4_HEADER, UDP_HEADER, protocol};
use mesh_common::outcome::Outcome;

use super::{swap_macs, write, write_ipv4};
use crate::hook::Hook;
use crate::packet::sum::TransportChange;
use crate::packet::{NETWORK, Packet, UDP_LENGTH, ipv4};

/// Sends a UDP datagram back as it came: both checksums are the same for swapped addresses and ports.
#[inline(always)]
pub(crate) fn swap<H: Hook>(frame: &H, packet: &Packet) -> Result<(), Outcome> {
    swap_macs(frame)?;
    write(frame, NETWORK + ipv4::SOURCE, [packet.destination.wire(), packet.source.wire()])?;
    write(frame, packet.transport(), [packet.destination_port.wire(), packet.source_port.wire()])
}

/// Changes a word of a UDP datagram, and its checksum if it has one.
#[inline(always)]
pub(crate) fn set_word<H: Hook>(
    frame: &H,
    packet: &Packet,
    offset: usize,
    before: u16,
    after: u16,
) -> Result<(), Outcome> {
    frame.update_transport(&TransportChange {
        offset: packet.transport_checksum(),
        pseudo_header: Sum::ZERO,
        segment: Sum::ZERO.remove_word(before).add_word(after),
        optional: true,
    })?;
    write(frame, offset, after)
}

/// Turns a datagram without IP options into the one that answers it: the first `kept` bytes of its payload stay, and
/// `length` bytes of `rest` are behind them.
#[inline(always)]
pub(crate) fn into_answer<H: Hook, const N: usize>(
    frame: &H,
    packet: &Packet,
    kept: usize,
    rest: &[u8; N],
    length: u32,
) -> Result<(), Outcome> {
    let [asked, unfinished]: [u16; 2] =
        frame.read(packet.transport() + UDP_LENGTH).ok_or(Outcome::NotChangeable)?;
    let (source, destination) = (packet.destination, packet.source);
    let datagram = UDP_HEADER as u16 + kept as u16 + length as u16;
    // A question from this machine has its checksum left to a device: the field has the pseudo-header's so far, and a device
    // that the answer meets adds the rest. Any other answer goes without a checksum (RFC 768): it passes no wire.
    let pseudo_header = Sum::pseudo_header(destination, source, protocol::UDP, u16::from_be(asked)).folded();
    let checksum = if unfinished == pseudo_header {
        Sum::pseudo_header(source, destination, protocol::UDP, datagram).folded()
    } else {
        0
    };
    let payload = NETWORK + IPV4_HEADER + UDP_HEADER;
    frame.resize((payload + kept) as u32 + length)?;
    frame.store(payload + kept, rest, length)?;
    swap_macs(frame)?;
    write_ipv4(frame, source, destination, protocol::UDP, datagram)?;
    let (from, to) = (packet.destination_port.wire(), packet.source_port.wire());
    write(frame, NETWORK + IPV4_HEADER, [from, to, datagram.to_be(), checksum])
}
