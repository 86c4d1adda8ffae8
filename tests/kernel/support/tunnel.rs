//! The tunnel's headers as values (design §4).

use mesh_common::net::Mac;

use super::cast::{self, Ip};
use super::packet::Packet;
use super::payload::{Payload, Udp};

/// What the tunnel puts around an IP packet.
#[derive(Clone, Debug)]
pub(crate) struct Tunnel {
    pub(crate) destination_mac: Mac,
    pub(crate) source_mac: Mac,
    pub(crate) source: Ip,
    pub(crate) destination: Ip,
    pub(crate) port: u16,
    pub(crate) vni: u32,
    /// 0 is none.
    pub(crate) cookie: u32,
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
            cookie: 0,
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
        let [a, b, c, d] = self.cookie.to_be_bytes();
        let mut vxlan = vec![0x08, a, b, c];
        vxlan.extend(&self.vni.to_be_bytes()[1..]);
        vxlan.push(d);
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
