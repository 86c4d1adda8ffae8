//! What is in packets: segments, datagrams, errors, and the ones that tests send most.

use super::cast::{self, Ip};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Tcp(Tcp),
    Udp(Udp),
    Icmp(Icmp),
    /// Any other protocol.
    Other(u8, Vec<u8>),
}

#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// A multiple of four bytes, at most 40.
    pub(crate) options: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Udp {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    /// Whether it has a checksum (RFC 768: 0 says that it has none).
    pub(crate) checked: bool,
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Icmp {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    /// The second word of the header.
    pub(crate) word: [u8; 4],
    pub(crate) data: Vec<u8>,
}

impl Payload {
    pub(crate) fn protocol(&self) -> u8 {
        match self {
            Self::Icmp(_) => 1,
            Self::Tcp(_) => 6,
            Self::Udp(_) => 17,
            Self::Other(protocol, _) => *protocol,
        }
    }

    pub(crate) fn with_source(&self, port: u16) -> Self {
        let mut payload = self.clone();
        payload.set_source(port);
        payload
    }

    pub(crate) fn with_destination(&self, port: u16) -> Self {
        let mut payload = self.clone();
        payload.set_destination(port);
        payload
    }

    fn set_source(&mut self, port: u16) {
        match self {
            Self::Tcp(tcp) => tcp.source = port,
            Self::Udp(udp) => udp.source = port,
            Self::Icmp(_) | Self::Other(..) => {}
        }
    }

    fn set_destination(&mut self, port: u16) {
        match self {
            Self::Tcp(tcp) => tcp.destination = port,
            Self::Udp(udp) => udp.destination = port,
            Self::Icmp(_) | Self::Other(..) => {}
        }
    }

    /// The segment or datagram, between these addresses.
    pub(crate) fn bytes(&self, source: Ip, destination: Ip) -> Vec<u8> {
        match self {
            Self::Tcp(tcp) => tcp.bytes(source, destination),
            Self::Udp(udp) => udp.bytes(source, destination),
            Self::Icmp(icmp) => icmp.bytes(),
            Self::Other(_, bytes) => bytes.clone(),
        }
    }
}

impl Tcp {
    fn bytes(&self, source: Ip, destination: Ip) -> Vec<u8> {
        assert!(self.options.len().is_multiple_of(4));
        let header = 20 + self.options.len();
        let mut bytes = Vec::with_capacity(header + self.data.len());
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgement.to_be_bytes());
        bytes.extend([((header / 4) << 4) as u8, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.options);
        bytes.extend(&self.data);
        let checksum = checksum(&[&pseudo_header(source, destination, 6, bytes.len())[..], &bytes].concat());
        bytes[16..18].copy_from_slice(&checksum);
        bytes
    }
}

impl Udp {
    fn bytes(&self, source: Ip, destination: Ip) -> Vec<u8> {
        let length = 8 + self.data.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(&self.data);
        if self.checked {
            let sum = checksum(&[&pseudo_header(source, destination, 17, length)[..], &bytes].concat());
            bytes[6..8].copy_from_slice(if sum == [0, 0] { &[0xff, 0xff] } else { &sum });
        }
        bytes
    }
}

impl Icmp {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind, self.code, 0, 0];
        bytes.extend(self.word);
        bytes.extend(&self.data);
        let checksum = checksum(&bytes);
        bytes[2..4].copy_from_slice(&checksum);
        bytes
    }
}

/// A segment from the client's port to the published one.
pub(crate) fn tcp(flags: u8) -> Tcp {
    Tcp {
        source: cast::CLIENT_PORT,
        destination: cast::PUBLISHED,
        sequence: 0x1122_3344,
        acknowledgement: if flags & ACK == 0 { 0 } else { 0x1122_4455 },
        flags,
        window: 0xfaf0,
        options: Vec::new(),
        data: Vec::new(),
    }
}

/// A datagram from the client's port to the published one.
pub(crate) fn udp(data: &[u8]) -> Udp {
    Udp { source: cast::CLIENT_PORT, destination: cast::PUBLISHED, checked: true, data: data.to_vec() }
}

/// A SYN with the options that Linux sends.
pub(crate) fn syn() -> Payload {
    Payload::Tcp(Tcp { options: linux_options(1460), ..tcp(SYN) })
}

/// A segment with some data.
pub(crate) fn data(text: &[u8]) -> Payload {
    Payload::Tcp(Tcp { data: text.to_vec(), ..tcp(PSH | ACK) })
}

/// MSS, SACK permitted, timestamps, no operation, window scale.
pub(crate) fn linux_options(mss: u16) -> Vec<u8> {
    let mut options = vec![2, 4];
    options.extend(mss.to_be_bytes());
    options.extend([4, 2, 8, 10, 0x01, 0x02, 0x03, 0x04, 0, 0, 0, 0, 1, 3, 3, 7]);
    options
}

/// `payload` from the given ports.
pub(crate) fn between(mut payload: Payload, source: u16, destination: u16) -> Payload {
    payload.set_source(source);
    payload.set_destination(destination);
    payload
}

/// The answer to a segment from the client, as the task sends it.
pub(crate) fn answer(flags: u8, text: &[u8]) -> Payload {
    let segment = Tcp { data: text.to_vec(), ..tcp(flags) };
    between(Payload::Tcp(segment), cast::TARGET, cast::CLIENT_PORT)
}

/// An ICMP error that quotes `quote`.
pub(crate) fn icmp_error(kind: u8, code: u8, mtu: u16, quote: Vec<u8>) -> Payload {
    let [high, low] = mtu.to_be_bytes();
    Payload::Icmp(Icmp { kind, code, word: [0, 0, high, low], data: quote })
}

fn pseudo_header(source: Ip, destination: Ip, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = [source, destination].concat();
    bytes.extend([0, protocol]);
    bytes.extend((length as u16).to_be_bytes());
    bytes
}

/// The complement of the one's-complement sum of all 16-bit words (RFC 1071).
pub(super) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0_u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!sum as u16).to_be_bytes()
}
