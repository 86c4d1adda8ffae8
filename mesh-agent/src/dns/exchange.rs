//! One question put to one server, and its reply.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::relay::{Reply, outgoing};
use super::wire::Edns;

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Name, type and class.
    pub(super) bytes: Box<[u8]>,
    pub(super) flags: u16,
    pub(super) edns: Option<Edns>,
}

#[derive(Debug, Error)]
pub(super) enum ExchangeError {
    #[error("{0}")]
    Socket(#[from] std::io::Error),
    #[error("the reply by TCP is none to the question")]
    Garbled,
}

/// Asks by UDP, and by TCP for a reply that is too large for that.
pub(super) async fn exchange(server: SocketAddr, question: &Question) -> Result<Reply, ExchangeError> {
    let reply = by_udp(server, question).await?;
    if !reply.is_truncated() {
        return Ok(reply);
    }
    // A part of the reply is better than none.
    Ok(by_tcp(server, question).await.unwrap_or(reply))
}

/// A new socket has a new port, which with the id makes a reply hard to forge; being connected, it takes none from
/// elsewhere (RFC 5452).
async fn by_udp(server: SocketAddr, question: &Question) -> Result<Reply, ExchangeError> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let id = fastrand::u16(..);
    socket.send(&outgoing(id, question.flags, &question.bytes, question.edns)).await?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        buffer.clear();
        // Some servers send more than they were told to (moby #44575).
        buffer.reserve(65_536);
        socket.recv_buf(&mut buffer).await?;
        if let Some(reply) = Reply::read(buffer.as_slice().to_vec(), id, &question.bytes) {
            return Ok(reply);
        }
    }
}

async fn by_tcp(server: SocketAddr, question: &Question) -> Result<Reply, ExchangeError> {
    let mut stream = TcpStream::connect(server).await?;
    let id = fastrand::u16(..);
    let query = outgoing(id, question.flags, &question.bytes, question.edns);
    let mut message = (query.len() as u16).to_be_bytes().to_vec();
    message.extend_from_slice(&query);
    stream.write_all(&message).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    Reply::read(reply, id, &question.bytes).ok_or(ExchangeError::Garbled)
}
