//! A netlink socket for questions to netfilter. It blocks: to be used where that does no harm.

use std::io::{self, Error, ErrorKind};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket as Netlink, SocketAddr};

use super::message::{DONE, ERROR, messages, request};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// The kernel's list has changed while it was told.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The kernel tells what comes in between of its own in one piece of at most 32 KiB.
const PIECE: usize = 64 << 10;
/// How long the kernel may think about an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// In the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    socket: Netlink,
    sequence: u32,
}

/// What the kernel has told.
#[derive(Debug, Default)]
pub struct Dump {
    /// Messages, one behind the other.
    pub bytes: Vec<u8>,
    /// Whether the list has changed meanwhile.
    pub is_interrupted: bool,
}

impl Socket {
    pub fn open() -> io::Result<Self> {
        let mut socket = Netlink::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_timeout(&socket)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Everything of a kind.
    pub fn dump(&mut self, kind: u16, family: u8, attributes: &[u8]) -> io::Result<Dump> {
        self.ask(kind, NLM_F_REQUEST | NLM_F_DUMP, family, attributes)
    }

    /// One answer.
    pub fn get(&mut self, kind: u16, family: u8, attributes: &[u8]) -> io::Result<Dump> {
        self.ask(kind, NLM_F_REQUEST | NLM_F_ACK, family, attributes)
    }

    fn ask(&mut self, kind: u16, flags: u16, family: u8, attributes: &[u8]) -> io::Result<Dump> {
        self.sequence += 1;
        self.socket.send(&request(kind, flags, self.sequence, family, attributes), 0)?;
        let mut dump = Dump::default();
        let mut piece = Vec::with_capacity(PIECE);
        loop {
            piece.clear();
            self.socket.recv(&mut piece, 0)?;
            let ours = messages(&piece).filter(|message| message.sequence == self.sequence);
            for message in ours {
                dump.is_interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                if message.kind == ERROR || message.kind == DONE {
                    return match message.error() {
                        0 => Ok(dump),
                        error => Err(Error::from_raw_os_error(error.wrapping_neg())),
                    };
                }
            }
            if piece.is_empty() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            dump.bytes.extend(&piece);
        }
    }
}

/// Without it a thread could wait for ever.
fn set_timeout(socket: &Netlink) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let time = libc::timeval { tv_sec: PATIENCE.as_secs().cast_signed(), tv_usec: 0 };
    // SAFETY: the value is of the type that the option takes, and lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const time).cast(),
            size_of_val(&time) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
