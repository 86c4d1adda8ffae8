//! The socket of a probe: it talks to one node's tunnel, and tells by which interface that node answers.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;

use socket2::{MaybeUninitSlice, MsgHdrMut, SockRef};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::SharedAllowlist;

/// A connected socket that the programs let through.
#[derive(Debug)]
pub(super) struct ProbeSocket {
    socket: UdpSocket,
    cookie: u64,
    allowlist: SharedAllowlist,
}

/// What has come, and by which interface, if the kernel says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) length: usize,
    pub(super) interface: Option<u32>,
}

/// What the kernel reported while an answer was waited for. An error is no answer: whoever can guess a socket's port can make
/// one (ICMP), and the answer may still come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Errors {
    pub(super) count: u32,
    pub(super) refused: bool,
}

impl Errors {
    /// So many errors of one question are a socket that does not work.
    const MOST: u32 = 64;

    /// Fails with the error that is one too many.
    pub(super) fn add(&mut self, error: io::Error) -> io::Result<()> {
        self.count += 1;
        self.refused |= error.kind() == io::ErrorKind::ConnectionRefused;
        if self.count < Self::MOST { Ok(()) } else { Err(error) }
    }
}

impl ProbeSocket {
    pub(super) async fn open(
        from: Ipv4Addr,
        node: SocketAddrV4,
        allowlist: &SharedAllowlist,
    ) -> io::Result<Self> {
        let mut socket = UdpSocket::bind(SocketAddrV4::new(from, 0)).await?;
        // No dataplane answers what comes from the tunnel's port, which may be one that sockets are given.
        while socket.local_addr()?.port() == node.port() {
            socket = UdpSocket::bind(SocketAddrV4::new(from, 0)).await?;
        }
        tell_interfaces(&socket)?;
        let cookie = SockRef::from(&socket).cookie()?;
        allowlist.allow(cookie);
        let allowed = Self { socket, cookie, allowlist: allowlist.clone() };
        allowed.socket.connect(node).await?;
        Ok(allowed)
    }

    /// From now on the kernel sends what it is given in one packet, or not at all, whatever it thinks of the path (ip(7)).
    pub(super) fn forbid_fragments(&self) -> io::Result<()> {
        set(&self.socket, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    }

    pub(super) async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send(datagram).await.map(drop)
    }

    pub(super) async fn receive(&self, datagram: &mut [u8]) -> io::Result<Received> {
        self.socket.async_io(Interest::READABLE, || receive(&self.socket, datagram)).await
    }
}

#[cfg(test)]
impl ProbeSocket {
    /// Another handle of the same socket.
    pub(super) fn twin(&self) -> std::net::UdpSocket {
        use std::os::fd::AsFd;

        self.socket.as_fd().try_clone_to_owned().unwrap().into()
    }
}

impl Drop for ProbeSocket {
    fn drop(&mut self) {
        self.allowlist.revoke(self.cookie);
    }
}

/// From now on each datagram comes with the interface that it came in by.
fn tell_interfaces(socket: &UdpSocket) -> io::Result<()> {
    set(socket, libc::IP_PKTINFO, 1)
}

/// Sets an option of the IP layer that is an int.
fn set(socket: &UdpSocket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option is an int, and the size says so.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn receive(socket: &UdpSocket, datagram: &mut [u8]) -> io::Result<Received> {
    /// Room for one message with `struct in_pktinfo`, and to spare.
    const ROOM: usize = 64;

    let mut bytes = [MaybeUninit::new(0); 256];
    let mut control = [MaybeUninit::new(0); ROOM];
    let mut buffers = [MaybeUninitSlice::new(&mut bytes)];
    let mut message = MsgHdrMut::new().with_buffers(&mut buffers).with_control(&mut control);
    let length = SockRef::from(socket).recvmsg(&mut message, 0)?.min(datagram.len());
    // SAFETY: all of them were zero, and the kernel has written over some; so for the next ones.
    let (bytes, control) =
        unsafe { (bytes.map(|byte| byte.assume_init()), control.map(|byte| byte.assume_init())) };
    datagram[..length].copy_from_slice(&bytes[..length]);
    Ok(Received { length, interface: interface_of(&control) })
}

/// The interface in a control message (cmsg(3)): its length, level and kind, then `struct in_pktinfo` (ip(7)), which begins with
/// the interface's index.
fn interface_of(control: &[u8]) -> Option<u32> {
    const LEVEL: usize = size_of::<usize>();
    const KIND: usize = LEVEL + size_of::<libc::c_int>();
    const INDEX: usize = KIND + size_of::<libc::c_int>();

    let number = |at: usize| Some(i32::from_ne_bytes(control.get(at..at + 4)?.try_into().ok()?));
    if number(LEVEL)? != libc::IPPROTO_IP || number(KIND)? != libc::IP_PKTINFO {
        return None;
    }
    u32::try_from(number(INDEX)?).ok().filter(|index| *index != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::tests::Allowed;

    #[tokio::test]
    async fn a_datagram_tells_its_interface_and_a_socket_is_let_through_while_it_is_there() {
        let node = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, node.local_addr().unwrap().port());
        let allowed = Allowed::default();
        let socket = ProbeSocket::open(Ipv4Addr::LOCALHOST, address, &allowed.allowlist()).await.unwrap();
        assert_eq!(allowed.cookies(), [socket.cookie]);
        socket.send(b"question").await.unwrap();
        let mut buffer = [0; 16];
        let (length, from) = node.recv_from(&mut buffer).await.unwrap();
        node.send_to(&buffer[..length], from).await.unwrap();
        let received = socket.receive(&mut buffer).await.unwrap();
        assert_eq!((received.length, &buffer[..8]), (8, &b"question"[..]));
        // That of `lo`.
        assert_eq!(received.interface, Some(1));
        drop(socket);
        assert!(allowed.cookies().is_empty());
    }

    #[test]
    fn errors_are_passed_over_until_there_are_too_many() {
        let mut errors = Errors::default();
        let error = |kind| io::Error::from(kind);
        errors.add(error(io::ErrorKind::HostUnreachable)).unwrap();
        assert!(!errors.refused);
        errors.add(error(io::ErrorKind::ConnectionRefused)).unwrap();
        assert!(errors.refused);
        assert!((0..64).any(|_| errors.add(error(io::ErrorKind::ConnectionRefused)).is_err()));
    }

    #[test]
    fn other_control_messages_tell_no_interface() {
        assert_eq!(interface_of(&[0; 64]), None);
        assert_eq!(interface_of(&[]), None);
    }
}
