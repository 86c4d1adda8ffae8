//! Writing packets: the only file that changes packet bytes.

use core::mem::{self, size_of};

use mesh_common::checksum::Sum;
use mesh_common::flow::Syn;
use mesh_common::net::{
    Address, ETHERNET_HEADER, ICMP_HEADER, IPV4_HEADER, Mac, Port, SCTP_HEADER, TCP_HEADER, UDP_HEADER,
    protocol,
};
use mesh_common::outcome::Outcome;
use mesh_common::tcp::flag;
use mesh_common::tunnel::TunnelHeader;

use crate::bytes::{Even, TransportChange};
use crate::frame::Frame;
use crate::packet::{ArpEnd, Fragment, NETWORK, Packet, TCP_CHECKSUM, UDP_CHECKSUM, arp, ipv4};

/// TTL of packets that we make: RFC 1700's default.
const OWN_TTL: u8 = 64;

/// Both ends of a packet, as they are or as they shall be.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
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

/// Gives a packet other ends.
#[inline(always)]
pub(crate) fn readdress(frame: &Frame, packet: &Packet, ends: &Ends, hop: Hop) -> Result<(), Outcome> {
    let addresses = Sum::ZERO
        .remove_address(packet.source)
        .remove_address(packet.destination)
        .add_address(ends.source)
        .add_address(ends.destination);
    // SCTP's checksum covers no addresses, and its ports stay (RFC 9260 §6.8).
    if packet.fragment != Fragment::Later && (packet.is_tcp() || packet.protocol == protocol::UDP) {
        let ports = Sum::ZERO
            .remove_word(packet.source_port.wire())
            .remove_word(packet.destination_port.wire())
            .add_word(ends.source_port.wire())
            .add_word(ends.destination_port.wire());
        frame.update_transport(&TransportChange {
            offset: packet.transport_checksum(),
            pseudo_header: addresses,
            segment: ports,
            optional: !packet.is_tcp(),
        })?;
        write(frame, packet.transport, [ends.source_port.wire(), ends.destination_port.wire()])?;
    }
    readdress_network(frame, packet, ends.source, ends.destination, hop)
}

/// As [`readdress`], for the IP header alone.
#[inline(always)]
pub(crate) fn readdress_network(
    frame: &Frame,
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

/// Turns an ARP request (RFC 826) for `address` into the answer that it is at `mac`.
#[inline(always)]
pub(crate) fn into_arp_reply(frame: &Frame, mac: Mac) -> Result<(), Outcome> {
    const REPLY: u16 = 2_u16.to_be();

    let sender: ArpEnd = frame.read(arp::SENDER).ok_or(Outcome::NotChangeable)?;
    let target: ArpEnd = frame.read(arp::TARGET).ok_or(Outcome::NotChangeable)?;
    write(frame, 0, [sender.mac, mac])?;
    write(frame, arp::OPERATION, REPLY)?;
    write(frame, arp::SENDER, ArpEnd { mac, address: target.address })?;
    write(frame, arp::TARGET, sender)
}

/// Turns a ping into its answer (RFC 792), at the same hardware addresses the other way round.
#[inline(always)]
pub(crate) fn into_echo_reply(frame: &Frame, packet: &Packet) -> Result<(), Outcome> {
    const REQUEST: u16 = u16::from_ne_bytes([8, 0]);
    const REPLY: u16 = 0;

    swap_macs(frame)?;
    frame.update_transport(&TransportChange {
        offset: packet.transport + 2,
        pseudo_header: Sum::ZERO,
        segment: Sum::ZERO.remove_word(REQUEST).add_word(REPLY),
        optional: false,
    })?;
    write(frame, packet.transport, REPLY)?;
    readdress_network(frame, packet, packet.destination, packet.source, Hop::Bridged)
}

/// Sets only where a frame goes.
#[inline(always)]
pub(crate) fn set_destination_mac(frame: &Frame, destination: Mac) -> Result<(), Outcome> {
    write(frame, 0, destination)
}

/// An IP header without options, for a packet that is about to lose it.
pub(crate) type NetworkHeader = [u32; IPV4_HEADER / 4];

#[inline(always)]
pub(crate) fn network_header(frame: &Frame) -> Result<NetworkHeader, Outcome> {
    frame.read(NETWORK).ok_or(Outcome::NotChangeable)
}

#[inline(always)]
pub(crate) fn restore_network_header(frame: &Frame, header: &NetworkHeader) -> Result<(), Outcome> {
    write(frame, NETWORK, *header)
}

/// For a packet that is about to lose what sums up to `rest`, while its transport checksum stays that of all of it: where a
/// device still has to complete the checksum, it will do so for what is left, and the field must have the rest already.
#[inline(always)]
pub(crate) fn carry_into_checksum(frame: &Frame, packet: &Packet, rest: u16) -> Result<(), Outcome> {
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
pub(crate) fn set_fragment(frame: &Frame, length: u16, blocks: u16, more: bool) -> Result<(), Outcome> {
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

/// Hardware addresses for an interface that the kernel sends on as they are.
#[inline(always)]
pub(crate) fn set_macs(frame: &Frame, destination: Mac, source: Mac) -> Result<(), Outcome> {
    write(frame, 0, [destination, source])
}

/// As [`set_macs`], both as they stand in a frame.
#[inline(always)]
pub(crate) fn set_both_macs(frame: &Frame, macs: [u32; 3]) -> Result<(), Outcome> {
    /// Of an array, the compiler would copy one byte after the other.
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Words(u32, u32, u32);

    let [first, second, third] = macs;
    write(frame, 0, Words(first, second, third))
}

/// Lowers the MSS option of a SYN or SYN-ACK to what fits into `mtu` (RFC 9293 §3.7.1).
#[inline(always)]
pub(crate) fn clamp_mss(frame: &Frame, packet: &Packet, mtu: u16) -> Result<(), Outcome> {
    /// Options that are looked at. Every known stack sends the MSS first; each more costs the verifier dearly.
    const MOST_OPTIONS: usize = 6;
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const MSS: u8 = 2;

    let largest = mtu - (IPV4_HEADER + TCP_HEADER) as u16;
    let first: u8 = frame.read(packet.transport + 12).ok_or(Outcome::Malformed)?;
    let end = usize::from(first >> 4) * 4;
    let mut offset = TCP_HEADER;
    for _ in 0..MOST_OPTIONS {
        // The mask tells the verifier what the comparison means.
        let place = packet.transport + (offset & 0x3f);
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
fn lower_mss(frame: &Frame, packet: &Packet, place: usize, largest: u16, odd: bool) -> Result<(), Outcome> {
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

/// Puts the packet into the tunnel.
#[inline(always)]
pub(crate) fn encapsulate(frame: &Frame, header: &TunnelHeader, plain: bool) -> Result<(), Outcome> {
    frame.grow_for_tunnel(plain)?;
    write(frame, NETWORK, *header)
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
pub(crate) fn into_reset(frame: &Frame, packet: &Packet) -> Result<(), Outcome> {
    let numbers: [u32; 2] = frame.read(packet.transport + 4).ok_or(Outcome::Malformed)?;
    let first: u8 = frame.read(packet.transport + 12).ok_or(Outcome::Malformed)?;
    let payload = u32::from(packet.length) - (packet.transport - NETWORK) as u32 - u32::from(first >> 4) * 4;
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
    frame.resize((NETWORK + IPV4_HEADER + TCP_HEADER) as u32)?;
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
pub(crate) fn keep_syn(frame: &Frame, packet: &Packet, syn: &mut Syn) {
    let Some(numbers) = frame.read::<[u16; 2]>(NETWORK + ipv4::IDENTIFICATION) else { return };
    let Some(flags) = frame.read::<[u16; 2]>(packet.transport + 12) else { return };
    let Some(macs) = frame.read::<[u16; 6]>(0) else { return };
    // SAFETY: both are 12 bytes of integers.
    let [destination_mac, source_mac] = unsafe { mem::transmute::<[u16; 6], [Mac; 2]>(macs) };
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
        options == 0 || frame.load(packet.transport + TCP_HEADER, &mut syn.options, options).is_ok();
    if is_kept && packet.fragment == Fragment::Whole && packet.header_length() == IPV4_HEADER {
        syn.options_length = options as u8;
        syn.interface = frame.interface();
    }
}

/// Makes the packet a client's SYN once more, as it came from `ends`' source, less any data: the client sends that again.
#[inline(always)]
pub(crate) fn into_syn(frame: &Frame, ends: &Ends, syn: &Syn) -> Result<(), Outcome> {
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
    set_macs(frame, syn.destination_mac, syn.source_mac)?;
    write_syn_network(frame, ends, syn, segment)?;
    // As for a RST of ours, the field holds what a device needs to complete it, and the helper does the rest if there is none.
    let pseudo = Sum::pseudo_header(ends.source, ends.destination, protocol::TCP, segment);
    let sum = write_syn_transport(frame, ends, syn, pseudo.folded())?.add(sum_of_options(&syn.options));
    let folded = Sum::ZERO.add_word(pseudo.folded());
    frame.update_transport(&TransportChange {
        offset: NETWORK + IPV4_HEADER + TCP_CHECKSUM,
        pseudo_header: Sum::ZERO,
        segment: sum.add(folded).add(folded),
        optional: false,
    })
}

/// Makes the packet so long by room behind the Ethernet header: the kernel takes a packet out of the tunnel for one whose
/// transport header is before its start, and refuses to change its end.
#[inline(always)]
fn fit(frame: &Frame, bytes: u32) -> Result<(), Outcome> {
    let now = frame.len();
    if now < bytes { frame.grow((bytes - now) as u16) } else { frame.shrink((now - bytes) as u16) }
}

/// The IP header in pieces that need no room on the stack.
#[inline(always)]
fn write_syn_network(frame: &Frame, ends: &Ends, syn: &Syn, segment: u16) -> Result<(), Outcome> {
    let first = u16::from_ne_bytes([0x45, syn.traffic_class]);
    let length = (IPV4_HEADER as u16 + segment).to_be();
    let last = u16::from_ne_bytes([syn.ttl, protocol::TCP]);
    let sum = Sum::ZERO
        .add_word(first)
        .add_word(length)
        .add_word(syn.identification)
        .add_word(syn.fragment)
        .add_word(last)
        .add_address(ends.source)
        .add_address(ends.destination);
    write(frame, NETWORK, [first, length])?;
    write(frame, NETWORK + ipv4::IDENTIFICATION, [syn.identification, syn.fragment])?;
    write(frame, NETWORK + ipv4::TTL, [last, sum.checksum()])?;
    write(frame, NETWORK + ipv4::SOURCE, ends.source.wire())?;
    write(frame, NETWORK + ipv4::SOURCE + 4, ends.destination.wire())
}

/// The TCP header, likewise; returns its sum without the checksum.
#[inline(always)]
fn write_syn_transport(frame: &Frame, ends: &Ends, syn: &Syn, checksum: u16) -> Result<Sum, Outcome> {
    const TRANSPORT: usize = NETWORK + IPV4_HEADER;

    let sequence = syn.sequence.to_be();
    write(frame, TRANSPORT, [ends.source_port.wire(), ends.destination_port.wire()])?;
    write(frame, TRANSPORT + 4, sequence)?;
    write(frame, TRANSPORT + 8, 0_u32)?;
    write(frame, TRANSPORT + 12, [syn.offset_and_flags, syn.window])?;
    write(frame, TRANSPORT + 16, [checksum, 0])?;
    let [first, second] = halves(sequence);
    Ok(Sum::ZERO
        .add_word(ends.source_port.wire())
        .add_word(ends.destination_port.wire())
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

/// Turns a packet into the ICMP "destination unreachable" (RFC 792) that answers it: the packet's IP header and the start of
/// what it carried, behind new IP and ICMP headers. `mtu` goes with the code for "fragmentation needed" (RFC 1191).
#[inline(always)]
pub(crate) fn into_icmp_error(frame: &Frame, packet: &Packet, code: u8, mtu: u16) -> Result<(), Outcome> {
    const DESTINATION_UNREACHABLE: u8 = 3;
    const ADDED: usize = IPV4_HEADER + ICMP_HEADER;

    // Where a device still has to complete the transport checksum, it will do so in what is quoted: the field has to stay,
    // and the sum over it has to be the one that the device will leave behind.
    let (carried, finished, unfinished) = match packet.protocol {
        protocol::TCP => {
            let words: [u16; TCP_HEADER / 2] = frame.read(packet.transport).ok_or(Outcome::Malformed)?;
            (TCP_HEADER, sum_of(&words).checksum(), words[TCP_CHECKSUM / 2])
        }
        // Its checksum is another one, which no device can complete in a part of the packet; but its place has to stay.
        protocol::SCTP => (SCTP_HEADER, 0, 0),
        _ => {
            let words: [u16; UDP_HEADER / 2] = frame.read(packet.transport).ok_or(Outcome::Malformed)?;
            (UDP_HEADER, sum_of(&words).checksum(), words[UDP_CHECKSUM / 2])
        }
    };
    let quoted = packet.transport - NETWORK + carried;
    let quoted_sum = frame.sum(NETWORK, quoted)?;
    frame.resize((NETWORK + quoted) as u32)?;
    frame.grow(ADDED as u16)?;
    swap_macs(frame)?;
    write_ipv4(frame, packet.destination, packet.source, protocol::ICMP, (ICMP_HEADER + quoted) as u16)?;
    let mut icmp = [u16::from_ne_bytes([DESTINATION_UNREACHABLE, code]), 0, 0, mtu.to_be()];
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

/// Other ends for the packet that an ICMP error quotes.
#[derive(Clone, Copy)]
pub(crate) struct QuotedChange {
    /// Where the quoted IP header starts.
    pub(crate) network: usize,
    /// Where the quoted transport header starts.
    pub(crate) transport: usize,
    pub(crate) before: Ends,
    pub(crate) after: Ends,
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

/// Gives the packet that an ICMP error quotes other ends, and brings the error's own checksum in step.
#[inline(always)]
pub(crate) fn readdress_quoted(frame: &Frame, packet: &Packet, change: &QuotedChange) -> Result<(), Outcome> {
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
        offset: packet.transport + 2,
        pseudo_header: Sum::ZERO,
        segment: changed,
        optional: false,
    })
}

/// A new IPv4 header without options in front of `payload` bytes.
#[inline(always)]
fn write_ipv4(
    frame: &Frame,
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
pub(crate) fn turn_frame(frame: &Frame) -> Result<(), Outcome> {
    swap_macs(frame)
}

/// Sends a UDP datagram back as it came: both checksums are the same for swapped ends.
#[inline(always)]
pub(crate) fn turn_datagram(frame: &Frame, packet: &Packet) -> Result<(), Outcome> {
    swap_macs(frame)?;
    write(frame, NETWORK + ipv4::SOURCE, [packet.destination.wire(), packet.source.wire()])?;
    write(frame, packet.transport, [packet.destination_port.wire(), packet.source_port.wire()])
}

#[inline(always)]
pub(crate) fn swap_macs(frame: &Frame) -> Result<(), Outcome> {
    let macs: [Mac; 2] = frame.read(0).ok_or(Outcome::NotChangeable)?;
    write(frame, 0, [macs[1], macs[0]])
}

/// A 32-bit field as the two words it is in memory.
#[inline(always)]
const fn halves(wire: u32) -> [u16; 2] {
    [wire as u16, (wire >> 16) as u16]
}

#[inline(always)]
fn write<T: Copy>(frame: &Frame, offset: usize, value: T) -> Result<(), Outcome> {
    const { assert!(size_of::<T>() <= 64 && ETHERNET_HEADER == NETWORK) };
    let pointer = frame.at::<T>(offset).ok_or(Outcome::NotChangeable)?;
    // SAFETY: `at` has checked that the packet holds the bytes, and every field that is written stands at an even address.
    unsafe { Even::write(pointer, value) };
    Ok(())
}
