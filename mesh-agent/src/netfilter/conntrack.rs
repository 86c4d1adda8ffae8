//! Connections that the kernel's connection tracking translates (`linux/netfilter/nfnetlink_conntrack.h)`: those that Docker's
//! mesh carries are among them.

use std::io;
use std::net::Ipv4Addr;

use mesh_common::net::protocol;

use super::Socket;
use super::message::{Attributes, attributes, messages};

const NEW: u16 = 1 << 8;
const GET: u16 = (1 << 8) | 1;

/// A connection whose destination is translated, as its client began it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Translated {
    pub protocol: u8,
    pub client: Ipv4Addr,
    pub client_port: u16,
    pub destination: Ipv4Addr,
    pub port: u16,
}

/// All of the calling thread's network namespace; none where the kernel does not track connections.
pub fn translated() -> io::Result<Vec<Translated>> {
    match Socket::open().and_then(|mut socket| socket.dump(GET, libc::AF_INET as u8, &[])) {
        Ok(dump) => Ok(parse(&dump.bytes)),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EPROTONOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP)
            ) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// What the messages of a dump say.
pub fn parse(bytes: &[u8]) -> Vec<Translated> {
    messages(bytes)
        .filter(|message| message.kind == NEW)
        .filter_map(|message| connection(&message.attributes()))
        .collect()
}

/// `None` for what is not translated, and for what nobody has answered: only that can be somebody's conversation.
fn connection(told: &Attributes<'_>) -> Option<Translated> {
    const ORIGINAL: u16 = 1;
    const STATUS: u16 = 3;
    const IP: u16 = 1;
    const PROTOCOL: u16 = 2;
    /// `IPS_SEEN_REPLY` and `IPS_DST_NAT`.
    const ANSWERED: u32 = 2;
    const TRANSLATED: u32 = 32;

    let status = told.u32(STATUS)?;
    let original = told.nested(ORIGINAL);
    let (addresses, ports) = (original.nested(IP), original.nested(PROTOCOL));
    let connection = Translated {
        protocol: ports.u8(1)?,
        client: addresses.u32(1)?.into(),
        client_port: ports.u16(2)?,
        destination: addresses.u32(2)?.into(),
        port: ports.u16(3)?,
    };
    // The answer to a SYN may be on its way.
    let is_answered = status & ANSWERED != 0 || connection.protocol == protocol::TCP;
    (status & TRANSLATED != 0 && is_answered && !has_been_reset(told)).then_some(connection)
}

fn has_been_reset(told: &Attributes<'_>) -> bool {
    const PROTOCOL_INFO: u16 = 4;
    const TCP: u16 = 1;
    const STATE: u16 = 1;
    /// `TCP_CONNTRACK_CLOSE`.
    const CLOSE: u8 = 8;

    let state = attributes(told.nested(PROTOCOL_INFO).get(TCP).unwrap_or_default()).u8(STATE);
    state == Some(CLOSE)
}
