//! Single datagrams of any content, as an ordinary program sends them, or by somebody who names another sender.

use std::{
    io::{self, ErrorKind, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{flood, resolve};

/// Nobody: the user that owns nothing.
const NOBODY: libc::uid_t = 65_534;

#[derive(Debug, clap::Args)]
pub(crate) struct Send {
    /// ADDRESS:PORT to send to
    #[arg(value_parser = resolve)]
    target: SocketAddr,
    /// What to send, two digits for each byte; several by comma
    #[arg(long, value_delimiter = ',', value_parser = bytes)]
    hex: Vec<Bytes>,
    #[arg(long, default_value_t = 0)]
    source_port: u16,
    /// Connect the socket first
    #[arg(long)]
    connected: bool,
    /// Give up all rights before
    #[arg(long)]
    unprivileged: bool,
    /// As if from this address; in the lab's client only
    #[arg(long)]
    source: Option<Ipv4Addr>,
    /// By this interface; with --source
    #[arg(long)]
    interface: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Listen {
    /// UDP port of every address
    port: u16,
}

type Bytes = Vec<u8>;

#[derive(Debug, Default, Serialize)]
pub(crate) struct Sent {
    sent: u64,
    /// Of those that were not sent.
    errors: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Heard {
    datagrams: u64,
}

pub(crate) fn send(args: &Send) -> Result<Sent> {
    let mut sent = Sent::default();
    let mut count = |result: io::Result<usize>| match result {
        Ok(_) => sent.sent += 1,
        Err(error) => sent.errors.push(error.to_string()),
    };
    if let Some(source) = args.source {
        send_as(args, source, count)?;
        return Ok(sent);
    }
    if args.unprivileged {
        give_up_rights()?;
    }
    // One for IPv6 reaches an IPv4 address that is written as a mapped one.
    let any = if args.target.is_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    };
    let socket = UdpSocket::bind((any, args.source_port)).context("no socket")?;
    if args.connected {
        match socket.connect(args.target) {
            Ok(()) => args.hex.iter().for_each(|bytes| count(socket.send(bytes))),
            Err(error) => count(Err(error)),
        }
    } else {
        args.hex.iter().for_each(|bytes| count(socket.send_to(bytes, args.target)));
    }
    Ok(sent)
}

fn send_as(args: &Send, source: Ipv4Addr, mut count: impl FnMut(io::Result<usize>)) -> Result<()> {
    ensure!(flood::is_lab_client(), "only the lab's client sends in the name of others");
    let SocketAddr::V4(target) = args.target else { bail!("only IPv4") };
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    if let Some(interface) = &args.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    for bytes in &args.hex {
        let length = 8 + bytes.len() as u16;
        let mut packet = vec![0x45, 0];
        packet.extend((20 + length).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        packet.extend(source.octets());
        packet.extend(target.ip().octets());
        for word in [args.source_port, target.port(), length, 0] {
            packet.extend(word.to_be_bytes());
        }
        packet.extend(bytes);
        count(socket.send_to(&packet, &args.target.into()));
    }
    Ok(())
}

/// What comes to a port, until the standard input ends.
pub(crate) fn listen(args: &Listen) -> Result<Heard> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, args.port)).context("no socket")?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Whatever comes of it, that is the end.
            let _ = io::stdin().read_to_end(&mut Vec::new());
            enough.store(true, SeqCst);
        });
        let mut heard = Heard::default();
        loop {
            match socket.recv(&mut [0; 2048]) {
                Ok(_) => heard.datagrams += 1,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if enough.load(SeqCst) {
                        return Ok(heard);
                    }
                }
                Err(error) => return Err(error).context("cannot listen"),
            }
        }
    })
}

fn give_up_rights() -> Result<()> {
    // SAFETY: these calls take numbers, and a list without members.
    let failed = unsafe {
        libc::setgroups(0, std::ptr::null()) != 0 || libc::setgid(NOBODY) != 0 || libc::setuid(NOBODY) != 0
    };
    if failed { Err(io::Error::last_os_error()).context("cannot become nobody") } else { Ok(()) }
}

fn bytes(hex: &str) -> Result<Bytes> {
    ensure!(hex.is_ascii() && hex.len().is_multiple_of(2), "two digits for each byte");
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).context("no hexadecimal digits");
    (0..hex.len()).step_by(2).map(byte).collect()
}
