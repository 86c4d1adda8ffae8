//! Packets that are whole in spite of random faults in them: who gets one of these must send one on, and to somebody who is known.

use std::net::Ipv4Addr;

use etherparse::{Icmpv4Slice, Ipv4HeaderSlice, TcpSlice, UdpSlice};

use super::{cast, checks};

const ETHERNET: usize = 14;
/// UDP, VXLAN and inner Ethernet headers.
const TUNNEL_TAIL: usize = 30;

/// The frame with its checksums worked out anew, where it has the headers for them.
pub(crate) fn with_checksums(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    if bytes.len() > ETHERNET {
        let _ = set_checksums(&mut bytes[ETHERNET..]);
    }
    bytes
}

/// Inside first, because what is around it sums it up. `None` where there is nothing to sum up.
fn set_checksums(packet: &mut [u8]) -> Option<()> {
    let ip = Ipv4HeaderSlice::from_slice(packet).ok()?.to_header();
    packet[10..12].copy_from_slice(&ip.calc_header_checksum().to_be_bytes());
    if ip.is_fragmenting_payload() {
        return None;
    }
    let (source, destination, protocol) = (ip.source, ip.destination, ip.protocol.0);
    let payload = packet.get_mut(ip.header_len()..usize::from(ip.total_len))?;
    let (place, sum) = match protocol {
        1 => (
            2,
            Icmpv4Slice::from_slice(payload)
                .ok()
                .map(|icmp| icmp.icmp_type().calc_checksum(icmp.payload()))?,
        ),
        6 => (16, TcpSlice::from_slice(payload).ok()?.calc_checksum_ipv4(source, destination).ok()?),
        17 => {
            let (is_tunnel, has_sum) = {
                let udp = UdpSlice::from_slice(payload).ok()?;
                (udp.destination_port() == cast::TUNNEL_PORT, udp.checksum() != 0)
            };
            if is_tunnel && payload.len() > TUNNEL_TAIL {
                let _ = set_checksums(&mut payload[TUNNEL_TAIL..]);
            }
            if !has_sum {
                return None;
            }
            let udp = UdpSlice::from_slice(payload).ok()?;
            (6, udp.to_header().calc_checksum_ipv4_raw(source, destination, udp.payload()).ok()?)
        }
        _ => return None,
    };
    payload.get_mut(place..place + 2)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// A packet that was whole is whole when it goes on.
#[track_caller]
pub(crate) fn assert_goes_on_whole(before: &[u8], after: &[u8]) {
    if checks::checksums(before).is_err() {
        return;
    }
    if let Err(problem) = checks::checksums(after) {
        panic!("{problem}\n before: {}\n after:  {}", checks::describe(before), checks::describe(after));
    }
}

/// [`assert_goes_on_whole`], and it goes to somebody who is known: a task, a node, or one of those whom it was about.
#[track_caller]
pub(crate) fn assert_sent_whole(before: &[u8], after: &[u8]) {
    assert_goes_on_whole(before, after);
    let Some(to) = addresses(after).get(1).copied() else { return };
    let is_task = (1..=u8::MAX).any(|number| cast::task(number) == to);
    let is_node = [cast::NODE, cast::OTHER, cast::CLIENT].contains(&to);
    assert!(
        is_task || is_node || addresses(before).contains(&to),
        "nobody knows {}\n before: {}\n after:  {}",
        Ipv4Addr::from(to),
        checks::describe(before),
        checks::describe(after)
    );
}

/// The source and the destination of the packet, of what is in the tunnel, and of what an ICMP error quotes.
fn addresses(frame: &[u8]) -> Vec<cast::Ip> {
    let mut found = Vec::new();
    let mut rest = frame.get(ETHERNET..);
    while let Some(packet) = rest {
        let Ok(ip) = Ipv4HeaderSlice::from_slice(packet) else { break };
        found.extend([ip.source(), ip.destination()]);
        let skipped = match ip.protocol().0 {
            1 => 8,
            17 => TUNNEL_TAIL,
            _ => break,
        };
        rest = packet.get(ip.slice().len() + skipped..);
    }
    found
}
