//! TCP segments: the MSS option, the RST that answers one, and a SYN made once more.

use mesh_common::checksum::Sum;
use mesh_common::flow::Syn;
use mesh_common::net::{IPV4_HEADER, TCP_HEADER, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::tcp::flag;

use super::{Tuple, halves, macs, set_macs, swap_macs, write, write_ipv4};
use crate::hook::Hook;
use crate::packet::sum::TransportChange;
use crate::packet::{Fragment, NETWORK, Packet, TCP_CHECKSUM, ipv4};

/// Lowers the MSS option of a SYN or SYN-ACK to what fits into `mtu` (RFC 9293 §3.7.1).
#[inline(always)]
pub(crate) fn clamp_mss<H: Hook>(frame: &H, packet: &Packet, mtu: u16) -> Result<(), Outcome> {
    /// Options that are looked at. Every known stack sends the MSS first; each more costs the verifier dearly.
    const MOST_OPTIONS: usize = 6;
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const MSS: u8 = 2;

    let largest = mtu - (IPV4_HEADER + TCP_HEADER) as u16;
    let first: u8 = frame.read(packet.transport() + 12).ok_or(Outcome::Malformed)?;
    let end = usize::from(first >> 4) * 4;
    let mut offset = TCP_HEADER;
    for _ in 0..MOST_OPTIONS {
        // The mask tells the verifier what the comparison means.
        let place = packet.transport() + (offset & 0x3f);
        if offset + 4 > end {
            return Ok(());
        }
        let Some(option) = frame.read::<[u8; 2]>(place) else { return Ok(()) };
        match option[0] {
            END => return Ok(()),
            NO_OPERATION => offset += 1,
            MSS if option[1] == 4 => {
                return lower_mss(frame, packet, place + 2, largest, !offset.is_multiple_of(2));
            }
            _ if option[1] < 2 => return Ok(()),
            _ => offset += usize::from(option[1]),
        }
    }
    Ok(())
}

#[inline(always)]
fn lower_mss<H: Hook>(
    frame: &H,
    packet: &Packet,
    place: usize,
    largest: u16,
    odd: bool,
) -> Result<(), Outcome> {
    let Some(before) = frame.read(place).map(u16::from_ne_bytes) else { return Ok(()) };
    if u16::from_be(before) <= largest {
        return Ok(());
    }
    let after = largest.to_be();
    // At an odd offset the two bytes belong to two words, each with its bytes in the other order (RFC 1071 §2.B).
    let segment = if odd {
        Sum::ZERO.remove_word(before.swap_bytes()).add_word(after.swap_bytes())
    } else {
        Sum::ZERO.remove_word(before).add_word(after)
    };
    frame.update_transport(&TransportChange {
        offset: packet.transport_checksum(),
        pseudo_header: Sum::ZERO,
        segment,
        optional: false,
    })?;
    write(frame, place, after.to_ne_bytes())
}

/// What a TCP RST is made of (RFC 9293 §3.10.7.1): a TCP header that stands for no payload.
#[derive(Clone, Copy)]
#[repr(C)]
struct Reset {
    source_port: u16,
    destination_port: u16,
    sequence: [u16; 2],
    acknowledgement: [u16; 2],
    offset_and_flags: u16,
    window: u16,
    checksum: u16,
    urgent: u16,
}

/// Turns a segment into the RST that answers it. Its sender must not be answered if the segment is itself a RST.
#[inline(always)]
pub(crate) fn into_reset<H: Hook>(frame: &H, packet: &Packet) -> Result<(), Outcome> {
    let numbers: [u32; 2] = frame.read(packet.transport() + 4).ok_or(Outcome::Malformed)?;
    let first: u8 = frame.read(packet.transport() + 12).ok_or(Outcome::Malformed)?;
    let payload =
        u32::from(packet.length) - (packet.transport() - NETWORK) as u32 - u32::from(first >> 4) * 4;
    let counted = u32::from(packet.tcp_flags & flag::SYN != 0) + u32::from(packet.tcp_flags & flag::FIN != 0);
    let (sequence, acknowledgement, flags) = if packet.tcp_flags & flag::ACK != 0 {
        (numbers[1], 0, flag::RST)
    } else {
        (0, u32::from_be(numbers[0]).wrapping_add(payload + counted).to_be(), flag::RST | flag::ACK)
    };

    // A checksum that is left to a device is found by its place, which has to stay in the packet.
    if packet.header_length() != IPV4_HEADER {
        frame.shrink((packet.header_length() - IPV4_HEADER) as u16)?;
    }
    let length = (NETWORK + IPV4_HEADER + TCP_HEADER) as u32;
    if frame.resize(length).is_err() {
        // A SYN that has been a refusal out of the tunnel.
        fit(frame, length)?;
    }
    swap_macs(frame)?;
    write_ipv4(frame, packet.destination, packet.source, protocol::TCP, TCP_HEADER as u16)?;
    let pseudo = Sum::pseudo_header(packet.destination, packet.source, protocol::TCP, TCP_HEADER as u16);
    let mut reset = Reset {
        source_port: packet.destination_port.wire(),
        destination_port: packet.source_port.wire(),
        sequence: halves(sequence),
        acknowledgement: halves(acknowledgement),
        offset_and_flags: u16::from_ne_bytes([0x50, flags]),
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    let segment = Sum::ZERO
        .add_word(reset.source_port)
        .add_word(reset.destination_port)
        .add_word(reset.sequence[0])
        .add_word(reset.sequence[1])
        .add_word(reset.acknowledgement[0])
        .add_word(reset.acknowledgement[1])
        .add_word(reset.offset_and_flags);
    // Where a device still has to complete the checksum, the field must hold the pseudo-header's sum; elsewhere the
    // complete checksum. Which of the two this packet is cannot be asked, but the helper knows: it leaves the first
    // alone, and adds to the second what turns the one into the other.
    reset.checksum = pseudo.folded();
    write(frame, NETWORK + IPV4_HEADER, reset)?;
    let folded = Sum::ZERO.add_word(pseudo.folded());
    frame.update_transport(&TransportChange {
        offset: NETWORK + IPV4_HEADER + 16,
        pseudo_header: Sum::ZERO,
        segment: segment.add(folded).add(folded),
        optional: false,
    })
}

/// Keeps what it takes to make a SYN once more. One with IP options, or in fragments, cannot be.
#[inline(always)]
pub(crate) fn keep_syn<H: Hook>(frame: &H, packet: &Packet, syn: &mut Syn) {
    let Some(numbers) = frame.read::<[u16; 2]>(NETWORK + ipv4::IDENTIFICATION) else { return };
    let Some(flags) = frame.read::<[u16; 2]>(packet.transport() + 12) else { return };
    let Some([destination_mac, source_mac]) = macs(frame) else { return };
    let tcp_header = usize::from(flags[0].to_ne_bytes()[0] >> 4) * 4;
    let data = usize::from(packet.length).wrapping_sub(packet.header_length() + tcp_header) as u32;
    syn.sequence = packet.sequence;
    syn.end = packet.sequence.wrapping_add(1).wrapping_add(data);
    syn.identification = numbers[0];
    syn.fragment = numbers[1];
    syn.offset_and_flags = flags[0];
    syn.window = flags[1];
    syn.traffic_class = packet.traffic_class;
    syn.ttl = packet.ttl;
    // What leaves would come in again from where it goes to.
    let leaves = frame.is_leaving();
    syn.destination_mac = if leaves { source_mac } else { destination_mac };
    syn.source_mac = if leaves { destination_mac } else { source_mac };
    let options = tcp_header.wrapping_sub(TCP_HEADER) as u32;
    let is_kept =
        options == 0 || frame.load(packet.transport() + TCP_HEADER, &mut syn.options, options).is_ok();
    if is_kept && packet.fragment == Fragment::Whole && packet.header_length() == IPV4_HEADER {
        syn.options_length = options as u8;
        syn.interface = frame.interface();
    }
}

/// Makes the packet a client's SYN once more, as it came from the tuple's source, less any data: the client sends that again.
#[inline(always)]
pub(crate) fn into_syn<H: Hook>(frame: &H, tuple: &Tuple, syn: &Syn) -> Result<(), Outcome> {
    let options = u32::from(syn.options_length);
    let segment = TCP_HEADER as u16 + options as u16;
    let length = (NETWORK + IPV4_HEADER) as u32 + u32::from(segment);
    if frame.resize(length).is_err() {
        fit(frame, length)?;
    }
    frame.make_linear((NETWORK + IPV4_HEADER + TCP_HEADER) as u32);
    if options != 0 {
        frame.store(NETWORK + IPV4_HEADER + TCP_HEADER, &syn.options, options)?;
    }
    write_syn_network(frame, tuple, syn, segment)?;
    // As for a RST of ours, the field holds what a device needs to complete it, and the helper does the rest if there is none.
    let pseudo = Sum::pseudo_header(tuple.source, tuple.destination, protocol::TCP, segment);
    let sum = write_syn_transport(frame, tuple, syn, pseudo.folded())?.add(sum_of_options(&syn.options));
    let folded = Sum::ZERO.add_word(pseudo.folded());
    frame.update_transport(&TransportChange {
        offset: NETWORK + IPV4_HEADER + TCP_CHECKSUM,
        pseudo_header: Sum::ZERO,
        segment: sum.add(folded).add(folded),
        optional: false,
    })?;
    set_macs(frame, syn.destination_mac, syn.source_mac)
}

/// Makes the packet so long by room behind the Ethernet header: the kernel takes a packet out of the tunnel for one whose
/// transport header is before its start, and refuses to change its end.
#[inline(always)]
fn fit<H: Hook>(frame: &H, bytes: u32) -> Result<(), Outcome> {
    let now = frame.size();
    if now < bytes { frame.grow((bytes - now) as u16) } else { frame.shrink((now - bytes) as u16) }
}

/// The IP header in pieces that need no room on the stack.
#[inline(always)]
fn write_syn_network<H: Hook>(frame: &H, tuple: &Tuple, syn: &Syn, segment: u16) -> Result<(), Outcome> {
    let first = u16::from_ne_bytes([0x45, syn.traffic_class]);
    let length = (IPV4_HEADER as u16 + segment).to_be();
    let last = u16::from_ne_bytes([syn.ttl, protocol::TCP]);
    let sum = Sum::ZERO
        .add_word(first)
        .add_word(length)
        .add_word(syn.identification)
        .add_word(syn.fragment)
        .add_word(last)
        .add_address(tuple.source)
        .add_address(tuple.destination);
    write(frame, NETWORK, [first, length])?;
    write(frame, NETWORK + ipv4::IDENTIFICATION, [syn.identification, syn.fragment])?;
    write(frame, NETWORK + ipv4::TTL, [last, sum.checksum()])?;
    write(frame, NETWORK + ipv4::SOURCE, tuple.source.wire())?;
    write(frame, NETWORK + ipv4::SOURCE + 4, tuple.destination.wire())
}

/// The TCP header, likewise; returns its sum without the checksum.
#[inline(always)]
fn write_syn_transport<H: Hook>(frame: &H, tuple: &Tuple, syn: &Syn, checksum: u16) -> Result<Sum, Outcome> {
    const TRANSPORT: usize = NETWORK + IPV4_HEADER;

    let sequence = syn.sequence.to_be();
    write(frame, TRANSPORT, [tuple.source_port.wire(), tuple.destination_port.wire()])?;
    write(frame, TRANSPORT + 4, sequence)?;
    write(frame, TRANSPORT + 8, 0_u32)?;
    write(frame, TRANSPORT + 12, [syn.offset_and_flags, syn.window])?;
    write(frame, TRANSPORT + 16, [checksum, 0])?;
    let [first, second] = halves(sequence);
    Ok(Sum::ZERO
        .add_word(tuple.source_port.wire())
        .add_word(tuple.destination_port.wire())
        .add_word(first)
        .add_word(second)
        .add_word(syn.offset_and_flags)
        .add_word(syn.window))
}

#[inline(always)]
fn sum_of_options(options: &[u32; 10]) -> Sum {
    let mut sum = Sum::ZERO;
    for word in options {
        sum = sum.add_word(*word as u16).add_word((*word >> 16) as u16);
    }
    sum
}
