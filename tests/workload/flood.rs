//! Packets from random sources as fast as the kernel takes them: only ever inside the lab, and never for long.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use crate::resolve;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// ADDRESS:PORT to send to
    #[arg(value_parser = resolve)]
    target: SocketAddr,
    #[arg(long, value_enum, default_value = "syn")]
    kind: Kind,
    /// Packets at most
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    count: u64,
    /// Seconds at most
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=30))]
    seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Syn,
    /// Segments of connections that do not exist
    Ack,
    Udp,
}

#[derive(Debug, Serialize)]
pub(crate) struct Flood {
    sent: u64,
    seconds: f64,
}

/// The namespace of the lab's client, which has no way out of this machine.
const CLIENT_NAMESPACE: &str = "/run/netns/fabric";

pub(crate) fn run(args: &Args) -> Result<Flood> {
    ensure!(is_lab_client(), "a flood is sent by the lab's client only: there is no other place for it");
    let SocketAddr::V4(target) = args.target else { bail!("only IPv4 is flooded") };
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)));
    let socket = raw.context("cannot make a raw socket; it needs root")?;
    let (begin, limit) = (Instant::now(), Duration::from_secs(args.seconds));
    let mut random = Random(begin_seed());
    let (mut sent, address) = (0, args.target.into());
    while sent < args.count && (sent % 256 != 0 || begin.elapsed() < limit) {
        match socket.send_to(&packet(args.kind, target, &mut random), &address) {
            Ok(_) => sent += 1,
            // The device's queue is full for a moment.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => return Err(error).context("cannot send"),
        }
    }
    Ok(Flood { sent, seconds: begin.elapsed().as_secs_f64() })
}

pub(crate) fn is_lab_client() -> bool {
    let identity = |path: &str| -> io::Result<(u64, u64)> {
        let file = fs::metadata(path)?;
        Ok((file.dev(), file.ino()))
    };
    let own = identity("/proc/self/ns/net");
    own.is_ok_and(|own| identity(CLIENT_NAMESPACE).is_ok_and(|client| client == own))
}

/// From the network for measurements of devices (RFC 2544), so that no answer finds anybody.
fn packet(kind: Kind, target: SocketAddrV4, random: &mut Random) -> Vec<u8> {
    let word = random.next();
    let source = Ipv4Addr::from(0xc612_0000 | (word as u32 & 0x1_ffff));
    let port = 1024 + (word >> 32) as u16 % 64_000;
    let (protocol, mut transport) = match kind {
        Kind::Udp => (17, udp(port, target.port())),
        Kind::Syn => (6, tcp(port, target.port(), random.next() as u32, 0, 0x02)),
        Kind::Ack => (6, tcp(port, target.port(), random.next() as u32, random.next() as u32, 0x10)),
    };
    let sum = checksum(source, *target.ip(), protocol, &transport);
    let place = if kind == Kind::Udp { 6 } else { 16 };
    transport[place..place + 2].copy_from_slice(&sum.to_be_bytes());

    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    // The kernel fills in the length, the identification and the checksum.
    packet[2..4].copy_from_slice(&(20 + transport.len() as u16).to_be_bytes());
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&target.ip().octets());
    packet.extend_from_slice(&transport);
    packet
}

fn tcp(source: u16, target: u16, sequence: u32, acknowledgement: u32, flags: u8) -> Vec<u8> {
    let mut header = Vec::with_capacity(20);
    header.extend_from_slice(&source.to_be_bytes());
    header.extend_from_slice(&target.to_be_bytes());
    header.extend_from_slice(&sequence.to_be_bytes());
    header.extend_from_slice(&acknowledgement.to_be_bytes());
    header.extend_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

fn udp(source: u16, target: u16) -> Vec<u8> {
    const PAYLOAD: &[u8] = b"flood";
    let mut datagram = Vec::with_capacity(8 + PAYLOAD.len());
    datagram.extend_from_slice(&source.to_be_bytes());
    datagram.extend_from_slice(&target.to_be_bytes());
    datagram.extend_from_slice(&(8 + PAYLOAD.len() as u16).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(PAYLOAD);
    datagram
}

/// RFC 1071, over the pseudo header and a transport header whose own sum is zero.
fn checksum(source: Ipv4Addr, target: Ipv4Addr, protocol: u8, transport: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
    };
    let pseudo = words(&source.octets()) + words(&target.octets()) + u32::from(protocol);
    let mut sum = pseudo + transport.len() as u32 + words(transport);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn begin_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_nanos() as u64 | 1)
}
