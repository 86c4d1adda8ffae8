//! Packets as values: say what is in them, get their bytes. Lengths and checksums are worked out from scratch, by the
//! textbook, every time; nothing here comes from the code under test.

use mesh_common::net::Mac;

use super::cast::{self, Ip};
use super::payload::{Payload, checksum};

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
