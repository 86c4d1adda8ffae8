//! Packets of a client, a node, another node and a task, as bytes. IP checksums are right; transport checksums are only
//! there, because the programs bring them in step without looking whether they were right before.

use mesh_common::net::{Mac, protocol};

pub(super) type Ip = [u8; 4];

/// The node whose programs run.
pub(super) const NODE: Ip = [10, 99, 0, 1];
pub(super) const NODE_MAC: Mac = [0x02, 0, 0, 0, 0, 0x01];
pub(super) const BRIDGE_MAC: Mac = [0x02, 0, 0, 0, 0, 0x0b];
/// Another node.
pub(super) const OTHER: Ip = [10, 99, 0, 2];
pub(super) const OTHER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x02];
pub(super) const CLIENT: Ip = [10, 99, 0, 254];
pub(super) const CLIENT_MAC: Mac = [0x02, 0, 0, 0, 0, 0xfe];
pub(super) const CLIENT_PORT: u16 = 40_000;
/// Of [`from_another_client`].
pub(super) const OTHER_CLIENT_PORT: u16 = CLIENT_PORT + 2;
/// A task on this node: on docker_gwbridge, and in the tunnel.
pub(super) const TASK: Ip = [172, 18, 0, 5];
pub(super) const TASK_MAC: Mac = [0x02, 0x42, 172, 18, 0, 5];
pub(super) const TASK_IDENTITY: Ip = [10, 0, 0, 5];
/// One on the other node.
pub(super) const OTHER_IDENTITY: Ip = [10, 0, 0, 6];
/// Port of both tasks.
pub(super) const TARGET: u16 = 8080;
/// Published with the task elsewhere, and with the one here; and one that nobody has published.
pub(super) const PORT_ELSEWHERE: u16 = 80;
pub(super) const PORT_HERE: u16 = 81;
pub(super) const PORT_OF_NOBODY: u16 = 82;
pub(super) const TUNNEL_PORT: u16 = 4799;
/// A network with a caller, and a virtual address that a task serves.
pub(super) const NETWORK: u32 = 4097;
pub(super) const CALLER: Ip = [10, 0, 1, 5];
pub(super) const VIP: Ip = [10, 0, 1, 200];
pub(super) const SERVER: Ip = [10, 0, 1, 1];
pub(super) const SERVER_MAC: Mac = [0x02, 0x42, 10, 0, 1, 1];
const CALLER_MAC: Mac = [0x02, 0x42, 10, 0, 1, 5];
/// Of the network's load balancer, which answers for virtual addresses.
const BALANCER_MAC: Mac = [0x02, 0x42, 10, 0, 1, 2];
pub(super) const VNI: u32 = 0x6d_6573;

pub(super) const SYN: u8 = 0x02;
pub(super) const SYN_ACK: u8 = 0x12;
pub(super) const ACK: u8 = 0x10;
pub(super) const REPLY: u16 = mesh_common::tunnel::flags::REPLY;

/// What the wrapper restores of each packet; all are this long or longer.
pub(super) const HEADER: usize = 128;

/// Sequence numbers before the first byte of each side.
const CLIENT_START: u32 = 0x1122_3344;
const TASK_START: u32 = 0x5566_7788;

/// From the client to a port of the node.
pub(super) fn from_client(port: u16, flags: u8) -> Vec<u8> {
    frame(NODE_MAC, CLIENT_MAC, &client_packet(port, flags))
}

/// As [`from_client`], from another port of the client's.
pub(super) fn from_another_client(port: u16, flags: u8) -> Vec<u8> {
    let mut bytes = from_client(port, flags);
    bytes[34..36].copy_from_slice(&OTHER_CLIENT_PORT.to_be_bytes());
    bytes
}

/// What the task here answers it, with `port` being the client's; as it comes by docker_gwbridge.
pub(super) fn from_task(port: u16, flags: u8) -> Vec<u8> {
    let packet = ip(TASK, CLIENT, protocol::TCP, 0, &segment(TARGET, port, TASK_START, CLIENT_START, flags));
    frame(BRIDGE_MAC, TASK_MAC, &packet)
}

/// What the task here sends in a conversation of its own, with a database.
pub(super) fn of_task_itself() -> Vec<u8> {
    let segment = segment(CLIENT_PORT + 9, 5432, TASK_START, CLIENT_START, ACK);
    frame(BRIDGE_MAC, TASK_MAC, &ip(TASK, CLIENT, protocol::TCP, 0, &segment))
}

/// A call of the virtual address, as it leaves the caller.
pub(super) fn call(flags: u8) -> Vec<u8> {
    let call = segment(CLIENT_PORT, TARGET, CLIENT_START, TASK_START, flags);
    frame(BALANCER_MAC, CALLER_MAC, &ip(CALLER, VIP, protocol::TCP, 0, &call))
}

/// The answer of the task that serves it, as it is about to reach the caller.
pub(super) fn answer_to_call(flags: u8) -> Vec<u8> {
    let answer = segment(TARGET, CLIENT_PORT, TASK_START, CLIENT_START, flags);
    frame(CALLER_MAC, SERVER_MAC, &ip(SERVER, CALLER, protocol::TCP, 0, &answer))
}

/// The client's packet for the task here, through the tunnel from the node that it came to.
pub(super) fn request_by_tunnel(flags: u8) -> Vec<u8> {
    let packet = ip(
        CLIENT,
        OTHER,
        protocol::TCP,
        0,
        &segment(CLIENT_PORT + 1, PORT_HERE, CLIENT_START, TASK_START, flags),
    );
    by_tunnel(TASK_IDENTITY, 0, &packet)
}

/// The answer of the task on the other node, through the tunnel.
pub(super) fn answer_by_tunnel(flags: u8) -> Vec<u8> {
    let answer = segment(PORT_ELSEWHERE, CLIENT_PORT, TASK_START, CLIENT_START, flags);
    by_tunnel(OTHER_IDENTITY, REPLY, &ip(NODE, CLIENT, protocol::TCP, 0, &answer))
}

/// The client has no use for a packet of the task here (RFC 792: host unreachable).
pub(super) fn error_from_client() -> Vec<u8> {
    let quoted =
        ip(NODE, CLIENT, protocol::TCP, 0, &segment(PORT_HERE, CLIENT_PORT, TASK_START, CLIENT_START, ACK));
    let mut error = vec![3, 1, 0, 0, 0, 0, 0, 0];
    error.extend(&quoted);
    let checksum = checksum(&error);
    error[2..4].copy_from_slice(&checksum);
    frame(NODE_MAC, CLIENT_MAC, &ip(CLIENT, NODE, protocol::ICMP, 0, &error))
}

/// The first and the last fragment of a datagram for the task here.
pub(super) fn fragments() -> [Vec<u8>; 2] {
    const MORE: u16 = 0x2000;
    let mut first = Vec::new();
    for word in [CLIENT_PORT, PORT_HERE, 208, 0x1234] {
        first.extend(word.to_be_bytes());
    }
    first.resize(104, 0);
    [(MORE, first), (104 / 8, vec![0; 104])].map(|(fragment, payload)| {
        frame(NODE_MAC, CLIENT_MAC, &ip(CLIENT, NODE, protocol::UDP, fragment, &payload))
    })
}

fn client_packet(port: u16, flags: u8) -> Vec<u8> {
    ip(CLIENT, NODE, protocol::TCP, 0, &segment(CLIENT_PORT, port, CLIENT_START, TASK_START, flags))
}

/// Of the handshake, or the first one after it: the numbers fit.
fn segment(source: u16, destination: u16, own_start: u32, other_start: u32, flags: u8) -> Vec<u8> {
    let sequence = if flags & SYN == 0 { own_start + 1 } else { own_start };
    let acknowledgement = if flags & ACK == 0 { 0 } else { other_start + 1 };
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(acknowledgement.to_be_bytes());
    // Ten words of header, with what Linux sends in a SYN: MSS, SACK permitted, timestamps, window scale.
    bytes.extend([0xa0, flags, 0xfa, 0xf0, 0x12, 0x34, 0, 0]);
    bytes.extend([2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7]);
    // Data, so that the packet need not be padded.
    if flags & SYN == 0 {
        bytes.resize(40 + 54, 0);
    }
    bytes
}

fn ip(source: Ip, destination: Ip, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0];
    bytes.extend(((20 + payload.len()) as u16).to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(source);
    bytes.extend(destination);
    let checksum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&checksum);
    bytes.extend(payload);
    bytes
}

fn by_tunnel(identity: Ip, flags: u16, packet: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    for word in [50_000, TUNNEL_PORT, (8 + 8 + 14 + packet.len()) as u16, 0] {
        datagram.extend(word.to_be_bytes());
    }
    datagram.extend([0x08, 0, 0, 0]);
    datagram.extend((VNI << 8).to_be_bytes());
    datagram.extend([0x02, 0x42]);
    datagram.extend(identity);
    datagram.extend([0x02, 0x6d]);
    datagram.extend(TARGET.to_be_bytes());
    datagram.extend(flags.to_be_bytes());
    datagram.extend([0x08, 0]);
    datagram.extend(packet);
    frame(NODE_MAC, OTHER_MAC, &ip(OTHER, NODE, protocol::UDP, 0, &datagram))
}

/// Padded behind its end if it is shorter than what is restored.
fn frame(destination: Mac, source: Mac, packet: &[u8]) -> Vec<u8> {
    let mut bytes = [&destination[..], &source, &[0x08, 0], packet].concat();
    bytes.resize(bytes.len().max(HEADER), 0);
    bytes
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!sum as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_is_as_long_as_what_is_restored_and_has_a_true_ip_header() {
        let [first, last] = fragments();
        for bytes in [
            from_client(PORT_HERE, SYN),
            from_client(PORT_HERE, ACK),
            from_task(CLIENT_PORT, ACK),
            of_task_itself(),
            call(ACK),
            answer_to_call(ACK),
            request_by_tunnel(ACK),
            answer_by_tunnel(ACK),
            error_from_client(),
            first,
            last,
        ] {
            assert!(bytes.len() >= HEADER, "{}", bytes.len());
            assert_eq!(checksum(&bytes[14..34]), [0, 0], "{bytes:02x?}");
            assert!(usize::from(u16::from_be_bytes([bytes[16], bytes[17]])) + 14 <= bytes.len());
        }
    }

    #[test]
    fn a_packet_in_the_tunnel_is_the_packet_itself_fifty_bytes_later() {
        let bytes = answer_by_tunnel(ACK);
        assert_eq!(bytes[64..68], [0x45, 0, 0, 114]);
        assert_eq!(
            bytes[42..64],
            [8, 0, 0, 0, 0x6d, 0x65, 0x73, 0, 0x02, 0x42, 10, 0, 0, 6, 0x02, 0x6d, 0x1f, 0x90, 0, 1, 8, 0]
        );
    }

    #[test]
    fn a_handshake_adds_up() {
        let numbers =
            |bytes: &[u8]| [38, 42].map(|at| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()));
        let [syn, _] = numbers(&from_client(PORT_HERE, SYN));
        let [answer, acknowledged] = numbers(&from_task(CLIENT_PORT, SYN_ACK));
        assert_eq!(acknowledged, syn + 1);
        assert_eq!(numbers(&from_client(PORT_HERE, ACK)), [syn + 1, answer + 1]);
    }
}
