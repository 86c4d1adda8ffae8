//! What is sent to another node's dataplane, and how its answer is known. Pure.

use std::net::Ipv4Addr;

use mesh_common::net::{Address, Port};
use mesh_common::tunnel::{self, PROBE_KNOWN, TunnelAddress, TunnelFields, TunnelHeader, flags, known};

/// The way from this node to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// This node's address in the Swarm: a dataplane answers nobody else.
    pub from: Ipv4Addr,
    pub tunnel_port: u16,
    pub vni: u32,
}

/// As long as the smallest packet that the tunnel carries, for receivers that look at the length first.
const SMALL_PAYLOAD: usize = 20;
/// So much of an answer is compared with the question: the number that nobody else knows is in it.
pub(super) const COMPARED: usize = 128;

/// Where the VXLAN header stands, behind outer IP and UDP headers, which the kernel makes.
const VXLAN: usize = 28;
/// Where the flags stand in a datagram.
pub(super) const FLAGS: usize = tunnel::OVERHEAD - VXLAN - 4;

/// Whether somebody is there.
pub(super) fn small(way: &Way, number: u64) -> Vec<u8> {
    question(way, number, SMALL_PAYLOAD)
}

/// The same, as an IP packet of so many bytes, or of as many as a small one has.
pub(super) fn of_size(way: &Way, number: u64, size: u16) -> Vec<u8> {
    question(way, number, usize::from(size).saturating_sub(tunnel::OVERHEAD).max(SMALL_PAYLOAD))
}

/// A VXLAN header, an Ethernet header with the flag of a probe, a number, what this agent knows, and zeroes.
fn question(way: &Way, number: u64, payload: usize) -> Vec<u8> {
    let header = TunnelHeader::new(&TunnelFields {
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        port: Port::new(way.tunnel_port),
        vni: way.vni,
        hash: 0,
        inner_length: 0,
        traffic_class: 0,
        address: TunnelAddress { flags: flags::PROBE, ..TunnelAddress::default() },
    });
    let mut question = header.bytes()[VXLAN..].to_vec();
    let begin = question.len();
    question.extend(number.to_be_bytes());
    question.resize(begin + payload, 0);
    question[begin + PROBE_KNOWN] = known::PROBE_ANSWER;
    question
}

/// The flag of what came, if it is the answer: the question with the answer's flag, or as it was, from a dataplane that does
/// not know the flag. Of both the first [`COMPARED`] bytes count.
pub(super) fn answer_flag(question: &[u8], answer: &[u8]) -> Option<u16> {
    let question = &question[..question.len().min(COMPARED)];
    let is_with = |flag: &u16| {
        let mut expected = question.to_vec();
        expected[FLAGS..FLAGS + 2].copy_from_slice(&flag.to_be_bytes());
        answer == expected
    };
    [flags::PROBE_ANSWER, flags::PROBE].into_iter().find(is_with)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Way = Way { from: Ipv4Addr::LOCALHOST, tunnel_port: 4799, vni: 0x6d_6573 };

    #[test]
    fn a_question_is_a_tunnel_packet_with_the_flag_and_no_address() {
        let bytes = small(&WAY, 9);
        assert_eq!(bytes[..8], [8, 0, 0, 0, 0x6d, 0x65, 0x73, 0]);
        assert_eq!(bytes[8..14], [0x02, 0x42, 0, 0, 0, 0]);
        assert_eq!(bytes[14..20], [0x02, 0x6d, 0, 0, 0, 2]);
        assert_eq!(bytes[20..22], [0x08, 0]);
        assert_eq!(bytes[22..30], 9_u64.to_be_bytes());
        assert_eq!(bytes[30..], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_question_of_a_size_is_an_ip_packet_as_large() {
        const HEADERS: usize = 20 + 8;

        for size in [576, 1_500, 9_216] {
            let bytes = of_size(&WAY, 9, size);
            assert_eq!(bytes.len() + HEADERS, usize::from(size));
            assert_eq!(bytes[..42], small(&WAY, 9)[..]);
            assert!(bytes.len() - 22 <= tunnel::MOST_PROBE_PAYLOAD);
        }
        assert_eq!(of_size(&WAY, 9, 0), small(&WAY, 9));
    }

    #[test]
    fn an_answer_is_the_question_with_either_flag() {
        let question = small(&WAY, 9);
        let with = |place: usize, byte: u8| {
            let mut bytes = question.clone();
            bytes[place] = byte;
            bytes
        };
        assert_eq!(answer_flag(&question, &question), Some(2), "of a dataplane that knows no other");
        assert_eq!(answer_flag(&question, &with(19, 4)), Some(4));
        for other in [with(19, 0), with(19, 6), with(18, 4), with(29, 8), question[1..].to_vec()] {
            assert_eq!(answer_flag(&question, &other), None, "{other:02x?}");
        }
        let long = of_size(&WAY, 9, 1_500);
        assert_eq!(answer_flag(&long, &long[..COMPARED]), Some(2));
        assert_eq!(answer_flag(&long, &question), None, "of the same number, and smaller");
    }
}
