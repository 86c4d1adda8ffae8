//! Sockets for clients: with a source of one's choice, and with a deadline on everything.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::Dial;

impl Dial {
    pub(crate) fn tcp(&self) -> io::Result<TcpStream> {
        let socket = self.socket(Type::STREAM, Protocol::TCP)?;
        socket.connect_timeout(&self.target.into(), self.deadline())?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket.into())
    }

    /// Connected, so that the kernel reports ICMP errors to it.
    pub(crate) fn udp(&self) -> io::Result<UdpSocket> {
        let socket = self.socket(Type::DGRAM, Protocol::UDP)?;
        socket.connect(&self.target.into())?;
        Ok(socket.into())
    }

    /// Not connected: it takes answers from anywhere.
    pub(crate) fn open_udp(&self) -> io::Result<UdpSocket> {
        Ok(self.socket(Type::DGRAM, Protocol::UDP)?.into())
    }

    fn deadline(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }

    fn socket(&self, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.target), kind, Some(protocol))?;
        socket.set_reuse_address(true)?;
        socket.set_read_timeout(Some(self.deadline()))?;
        socket.set_write_timeout(Some(self.deadline()))?;
        let any = if self.target.is_ipv4() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        if self.source_port != 0 {
            // The same port must be free again at once for the next conversation: end with a reset, without TIME_WAIT.
            if kind == Type::STREAM {
                socket.set_linger(Some(Duration::ZERO))?;
            }
        }
        if self.source_port != 0 || self.source_address.is_some() {
            socket.bind(&SocketAddr::new(self.source_address.unwrap_or(any), self.source_port).into())?;
        }
        Ok(socket)
    }
}

/// An answer's head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) length: u64,
    pub(crate) task: Option<String>,
    pub(crate) close: bool,
}

/// One end of an HTTP conversation.
pub(crate) struct Http {
    reader: BufReader<TcpStream>,
}

impl Http {
    pub(crate) fn connect(dial: &Dial) -> io::Result<Self> {
        Ok(Self { reader: BufReader::with_capacity(65_536, dial.tcp()?) })
    }

    /// Sends a request, with a body of `length` bytes when there is one.
    pub(crate) fn send(
        &mut self,
        path: &str,
        body: Option<(u64, &mut dyn Read)>,
        keep: bool,
    ) -> io::Result<()> {
        let method = if body.is_some() { "POST" } else { "GET" };
        let connection = if keep { "keep-alive" } else { "close" };
        let length = body.as_ref().map(|(n, _)| format!("Content-Length: {n}\r\n")).unwrap_or_default();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: lab\r\nConnection: {connection}\r\n{length}\r\n");
        let stream = self.reader.get_mut();
        stream.write_all(head.as_bytes())?;
        if let Some((_, source)) = body {
            io::copy(source, stream)?;
        }
        Ok(())
    }

    pub(crate) fn head(&mut self) -> io::Result<Head> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"));
        }
        let status = line.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let mut head = Head { status, length: 0, task: None, close: false };
        loop {
            line.clear();
            self.reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(head) };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = value.parse().unwrap_or(0),
                "connection" => head.close = value.eq_ignore_ascii_case("close"),
                "x-task" => head.task = Some(value.into()),
                _ => {}
            }
        }
    }

    /// The body that this head announced.
    pub(crate) fn body(&mut self, head: &Head) -> impl Read {
        self.reader.by_ref().take(head.length)
    }
}
