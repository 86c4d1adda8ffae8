//! Looking at packets with eyes that are not ours: etherparse reads the headers and works the checksums out again.

use std::fmt::Write;
use std::net::Ipv4Addr;

use etherparse::{Icmpv4Slice, Ipv4HeaderSlice, TcpSlice, UdpSlice};

use super::cast;

const ETHERNET: usize = 14;
/// UDP, VXLAN and inner Ethernet headers.
const TUNNEL_TAIL: usize = 30;

#[track_caller]
pub(crate) fn assert_same(expected: &[u8], actual: &[u8]) {
    assert!(
        expected == actual,
        "the packet is not as it should be{}\n expected: {}\n actual:   {}",
        difference(expected, actual),
        describe(expected),
        describe(actual),
    );
}

/// Every checksum of the frame: outer and inner, and in what an ICMP error quotes.
#[track_caller]
pub(crate) fn assert_checksums(frame: &[u8]) {
    if let Err(problem) = checksums(frame) {
        panic!("{problem}\n {}", describe(frame));
    }
}

pub(crate) fn checksums(frame: &[u8]) -> Result<(), String> {
    if frame.get(12..14) != Some(&[0x08, 0x00]) {
        return Err("no IPv4 frame".to_owned());
    }
    ip_checksums(&frame[ETHERNET..])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.chunks(2).fold(String::new(), |mut text, word| {
        for byte in word {
            let _ = write!(text, "{byte:02x}");
        }
        text.push(' ');
        text
    })
}

/// The headers in words, and all bytes.
pub(crate) fn describe(frame: &[u8]) -> String {
    let mut text = String::new();
    if frame.len() >= ETHERNET {
        let _ = write!(text, "{} > {} ", mac(&frame[6..12]), mac(&frame[..6]));
        describe_ip(&frame[ETHERNET..], &mut text);
    }
    let _ = write!(text, "\n   {} bytes: {}", frame.len(), hex(frame));
    text
}

fn ip_checksums(packet: &[u8]) -> Result<(), String> {
    let ip = Ipv4HeaderSlice::from_slice(packet).map_err(|error| format!("IPv4: {error}"))?;
    same("IPv4", ip.to_header().calc_header_checksum(), ip.header_checksum())?;
    let end = usize::from(ip.total_len());
    let payload = packet.get(ip.slice().len()..end).ok_or("IPv4: longer than the packet")?;
    if ip.is_fragmenting_payload() {
        // A part of a segment has no checksum of its own.
        return Ok(());
    }
    match ip.protocol().0 {
        1 => icmp_checksums(payload),
        6 => {
            let tcp = TcpSlice::from_slice(payload).map_err(|error| format!("TCP: {error}"))?;
            let full =
                tcp.calc_checksum_ipv4(ip.source(), ip.destination()).map_err(|error| error.to_string())?;
            same("TCP", full, tcp.checksum())
        }
        17 => udp_checksums(&ip, payload),
        _ => Ok(()),
    }
}

fn udp_checksums(ip: &Ipv4HeaderSlice<'_>, payload: &[u8]) -> Result<(), String> {
    let udp = UdpSlice::from_slice(payload).map_err(|error| format!("UDP: {error}"))?;
    if usize::from(udp.length()) != payload.len() {
        return Err(format!("UDP: length {} of {} bytes", udp.length(), payload.len()));
    }
    if udp.checksum() != 0 {
        let full = udp
            .to_header()
            .calc_checksum_ipv4_raw(ip.source(), ip.destination(), udp.payload())
            .map_err(|error| error.to_string())?;
        same("UDP", full, udp.checksum())?;
    }
    if udp.destination_port() == cast::TUNNEL_PORT && payload.len() > TUNNEL_TAIL {
        return ip_checksums(&payload[TUNNEL_TAIL..]).map_err(|problem| format!("in the tunnel: {problem}"));
    }
    Ok(())
}

fn icmp_checksums(payload: &[u8]) -> Result<(), String> {
    let icmp = Icmpv4Slice::from_slice(payload).map_err(|error| format!("ICMP: {error}"))?;
    same("ICMP", icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum())?;
    if matches!(icmp.type_u8(), 3 | 11 | 12) {
        let quoted =
            Ipv4HeaderSlice::from_slice(icmp.payload()).map_err(|error| format!("quoted IPv4: {error}"))?;
        same("quoted IPv4", quoted.to_header().calc_header_checksum(), quoted.header_checksum())?;
    }
    Ok(())
}

fn same(what: &str, expected: u16, actual: u16) -> Result<(), String> {
    if expected == actual {
        return Ok(());
    }
    Err(format!("{what}: checksum {actual:04x}, worked out {expected:04x}"))
}

fn difference(expected: &[u8], actual: &[u8]) -> String {
    match expected.iter().zip(actual).position(|(one, other)| one != other) {
        Some(place) => format!(": first difference at byte {place}"),
        None if expected.len() == actual.len() => String::new(),
        None => format!(": {} bytes instead of {}", actual.len(), expected.len()),
    }
}

fn describe_ip(packet: &[u8], text: &mut String) {
    let Ok(ip) = Ipv4HeaderSlice::from_slice(packet) else { return };
    let _ = write!(
        text,
        "| {} > {} ihl {} tos {:02x} length {} id {:04x}{}{} offset {} ttl {} ",
        Ipv4Addr::from(ip.source()),
        Ipv4Addr::from(ip.destination()),
        ip.ihl(),
        packet[1],
        ip.total_len(),
        ip.identification(),
        if ip.dont_fragment() { " DF" } else { "" },
        if ip.more_fragments() { " MF" } else { "" },
        ip.fragments_offset().byte_offset(),
        ip.ttl(),
    );
    let payload = &packet[ip.slice().len()..];
    match ip.protocol().0 {
        1 => describe_icmp(payload, text),
        6 => describe_tcp(payload, text),
        17 => describe_udp(payload, text),
        other => {
            let _ = write!(text, "| protocol {other} ");
        }
    }
}

fn describe_tcp(payload: &[u8], text: &mut String) {
    let Ok(tcp) = TcpSlice::from_slice(payload) else { return };
    let _ = write!(
        text,
        "| TCP {} > {} seq {} ack {} flags {:02x} options {:02x?} sum {:04x} ",
        tcp.source_port(),
        tcp.destination_port(),
        tcp.sequence_number(),
        tcp.acknowledgment_number(),
        payload[13],
        tcp.options(),
        tcp.checksum(),
    );
}

fn describe_udp(payload: &[u8], text: &mut String) {
    let Ok(udp) = UdpSlice::from_slice_lax(payload) else { return };
    let _ = write!(
        text,
        "| UDP {} > {} length {} sum {:04x} ",
        udp.source_port(),
        udp.destination_port(),
        udp.length(),
        udp.checksum()
    );
    if udp.destination_port() == cast::TUNNEL_PORT && payload.len() > TUNNEL_TAIL {
        let _ = write!(text, "| VXLAN {}> {} ", hex(&payload[22..28]), hex(&payload[16..22]));
        describe_ip(&payload[TUNNEL_TAIL..], text);
    }
}

fn describe_icmp(payload: &[u8], text: &mut String) {
    let Ok(icmp) = Icmpv4Slice::from_slice(payload) else { return };
    let _ = write!(
        text,
        "| ICMP type {} code {} word {:02x?} sum {:04x} [ ",
        icmp.type_u8(),
        icmp.code_u8(),
        icmp.bytes5to8(),
        icmp.checksum()
    );
    describe_ip(icmp.payload(), text);
    text.push_str("] ");
}

pub(crate) fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
