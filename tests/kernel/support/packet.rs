//! Packets as values: say what is in them, get their bytes. Lengths and checksums are worked out from scratch, by the
//! textbook, every time; nothing here comes from the code under test.

use mesh_common::net::Mac;

use super::cast::{self, Ip};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

/// An Ethernet frame with an IPv4 packet.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) destination_mac: Mac,
    pub(crate) source_mac: Mac,
    pub(crate) source: Ip,
    pub(crate) destination: Ip,
    pub(crate) ttl: u8,
    pub(crate) traffic_class: u8,
    pub(crate) identification: u16,
    pub(crate) dont_fragment: bool,
    /// The part of the payload that this fragment carries, and whether it is not the last; `None` for all of it.
    pub(crate) part: Option<Part>,
    /// Behind the IPv4 header: a multiple of four bytes, at most 40.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Payload,
}

#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) more: bool,
}

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

impl Packet {
    /// From the client to the node, as it comes in by the uplink.
    pub(crate) fn from_client(payload: Payload) -> Self {
        Self {
            destination_mac: cast::NODE_MAC,
            source_mac: cast::CLIENT_MAC,
            source: cast::CLIENT,
            destination: cast::NODE,
            ttl: 64,
            traffic_class: 0,
            identification: 0x1234,
            dont_fragment: false,
            part: None,
            options: Vec::new(),
            payload,
        }
    }

    /// From task `number` to the client, as it comes in by `docker_gwbridge`.
    pub(crate) fn from_task(number: u8, payload: Payload) -> Self {
        Self {
            destination_mac: cast::BRIDGE_MAC,
            source_mac: cast::task_mac(number),
            source: cast::task(number),
            destination: cast::CLIENT,
            ..Self::from_client(payload)
        }
    }

    /// This packet as it reaches task `number` by `docker_gwbridge`: readdressed, and one hop older.
    pub(crate) fn delivered(&self, number: u8) -> Self {
        Self {
            destination_mac: cast::task_mac(number),
            source_mac: cast::BRIDGE_MAC,
            destination: cast::task(number),
            ttl: self.ttl - 1,
            payload: self.payload.with_destination(cast::TARGET),
            ..self.clone()
        }
    }

    /// This answer of a task with the frontend as its source, one hop older.
    pub(crate) fn as_frontend(&self, frontend: Ip, port: u16) -> Self {
        Self { source: frontend, ttl: self.ttl - 1, payload: self.payload.with_source(port), ..self.clone() }
    }

    pub(crate) fn macs(&self, destination: Mac, source: Mac) -> Self {
        Self { destination_mac: destination, source_mac: source, ..self.clone() }
    }

    pub(crate) fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut packet = self.clone();
        change(&mut packet);
        packet
    }

    /// The first fragment, of `at` bytes of payload, and the rest in a second one.
    pub(crate) fn in_two(&self, at: usize) -> [Self; 2] {
        let all = self.payload.bytes(self.source, self.destination).len();
        [
            self.with(|packet| packet.part = Some(Part { from: 0, to: at, more: true })),
            self.with(|packet| packet.part = Some(Part { from: at, to: all, more: false })),
        ]
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.destination_mac);
        bytes.extend(self.source_mac);
        bytes.extend([0x08, 0x00]);
        bytes.extend(self.ip());
        bytes
    }

    /// The IP packet alone.
    pub(crate) fn ip(&self) -> Vec<u8> {
        let all = self.payload.bytes(self.source, self.destination);
        let (payload, offset, more) = match &self.part {
            None => (&all[..], 0, false),
            Some(part) => (&all[part.from..part.to], part.from, part.more),
        };
        assert!(offset.is_multiple_of(8) && self.options.len().is_multiple_of(4));
        let header = 20 + self.options.len();
        let mut bytes = Vec::with_capacity(header + payload.len());
        bytes.extend([0x40 | (header / 4) as u8, self.traffic_class]);
        bytes.extend(((header + payload.len()) as u16).to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        let flags = u16::from(self.dont_fragment) << 14 | u16::from(more) << 13 | (offset / 8) as u16;
        bytes.extend(flags.to_be_bytes());
        bytes.extend([self.ttl, self.payload.protocol(), 0, 0]);
        bytes.extend(self.source);
        bytes.extend(self.destination);
        bytes.extend(&self.options);
        let checksum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&checksum);
        bytes.extend(payload);
        bytes
    }

    /// The IP header and the first 8 bytes behind it, which every ICMP error quotes.
    pub(crate) fn quote(&self) -> Vec<u8> {
        let mut bytes = self.ip();
        bytes.truncate(20 + self.options.len() + 8);
        bytes
    }

    /// The IP header and the transport header without options, which our own ICMP errors quote.
    pub(crate) fn long_quote(&self) -> Vec<u8> {
        let mut bytes = self.ip();
        bytes.truncate(20 + self.options.len() + if self.payload.protocol() == 6 { 20 } else { 8 });
        bytes
    }
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
        acknowledgement: if flags & ACK == 0 { 0 } else { 0x5566_7788 },
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

/// What the tunnel puts around an IP packet.
#[derive(Clone, Debug)]
pub(crate) struct Tunnel {
    pub(crate) destination_mac: Mac,
    pub(crate) source_mac: Mac,
    pub(crate) source: Ip,
    pub(crate) destination: Ip,
    pub(crate) port: u16,
    pub(crate) vni: u32,
    pub(crate) identity: Ip,
    pub(crate) target: u16,
    pub(crate) flags: u16,
    pub(crate) traffic_class: u8,
    /// The two fields that come from the flow's hash.
    pub(crate) identification: u16,
    pub(crate) source_port: u16,
}

impl Tunnel {
    /// From the other node to this one, for task `number`.
    pub(crate) fn to_here(number: u8) -> Self {
        Self {
            destination_mac: cast::NODE_MAC,
            source_mac: cast::OTHER_MAC,
            source: cast::OTHER,
            destination: cast::NODE,
            port: cast::TUNNEL_PORT,
            vni: cast::VNI,
            identity: cast::identity(number),
            target: cast::TARGET,
            flags: 0,
            traffic_class: 0,
            identification: 0x4321,
            source_port: 50_000,
        }
    }

    /// From this node to the other one, around a packet that came in by an interface.
    pub(crate) fn to_other(number: u8, came: &Packet) -> Self {
        Self {
            destination_mac: cast::OTHER_MAC,
            source_mac: cast::NODE_MAC,
            source: cast::NODE,
            destination: cast::OTHER,
            traffic_class: came.traffic_class,
            ..Self::to_here(number)
        }
    }

    /// An answer on its way to the entry node.
    pub(crate) fn reply(self) -> Self {
        Self { flags: 1, ..self }
    }

    /// A question whether the dataplane is there, as another node's agent sends it.
    pub(crate) fn probe(self, socket: u16) -> Self {
        Self { identity: [0; 4], target: 0, flags: 2, source_port: socket, ..self }
    }

    /// With the fields that come from the flow's hash as they are in `bytes`.
    pub(crate) fn hashed_as(self, bytes: &[u8]) -> Self {
        let word = |at: usize| bytes.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]));
        Self { identification: word(18), source_port: word(34), ..self }
    }

    /// The frame with the IP packet `inner` in the tunnel (design §4).
    pub(crate) fn around(&self, inner: &[u8]) -> Vec<u8> {
        let mut vxlan = vec![0x08, 0, 0, 0];
        vxlan.extend(&self.vni.to_be_bytes()[1..]);
        vxlan.push(0);
        vxlan.extend([0x02, 0x42]);
        vxlan.extend(self.identity);
        vxlan.extend([0x02, 0x6d]);
        vxlan.extend(self.target.to_be_bytes());
        vxlan.extend(self.flags.to_be_bytes());
        vxlan.extend([0x08, 0x00]);
        vxlan.extend(inner);
        let datagram = Udp { source: self.source_port, destination: self.port, checked: false, data: vxlan };
        Packet {
            destination_mac: self.destination_mac,
            source_mac: self.source_mac,
            source: self.source,
            destination: self.destination,
            traffic_class: self.traffic_class,
            identification: self.identification,
            ..Packet::from_client(Payload::Udp(datagram))
        }
        .bytes()
    }
}

fn pseudo_header(source: Ip, destination: Ip, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = [source, destination].concat();
    bytes.extend([0, protocol]);
    bytes.extend((length as u16).to_be_bytes());
    bytes
}

/// The complement of the one's-complement sum of all 16-bit words (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0_u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!sum as u16).to_be_bytes()
}
