//! Asking one node's dataplane for a sign of life.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use mesh_common::net::{Address, Port};
use mesh_common::tunnel::{self, PROBE_KNOWN, TunnelAddress, TunnelFields, TunnelHeader, flags, known};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

use super::SharedAllowlist;
use super::pulse::Sign;
use super::socket::ProbeSocket;

/// How often each node is asked.
const INTERVAL: Duration = Duration::from_millis(500);

/// The way from this node to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// This node's address in the Swarm: a dataplane answers nobody else.
    pub from: Ipv4Addr,
    pub tunnel_port: u16,
    pub vni: u32,
}

/// One node that is asked again and again.
#[derive(Debug)]
pub(super) struct Probe {
    way: Way,
    node: Ipv4Addr,
    allowlist: SharedAllowlist,
    socket: Option<ProbeSocket>,
    due: Instant,
    number: u64,
}

/// What became of one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) sign: Sign,
    /// By which interface the answer came, if it came the way of the node's other packets: a dataplane that does not know the
    /// answer's flag sends it back to where the question came from.
    pub(super) interface: Option<u32>,
}

/// What the kernel reported while an answer was waited for. An error is no answer: whoever can guess a socket's port can make
/// one (ICMP), and the answer may still come.
#[derive(Clone, Copy, Debug, Default)]
struct Errors {
    count: u32,
    refused: bool,
}

impl Probe {
    pub(super) fn new(way: Way, node: Ipv4Addr, allowlist: SharedAllowlist) -> Self {
        // Nodes are not all asked at the same moment.
        let due = Instant::now() + INTERVAL.mul_f64(fastrand::f64());
        Self { way, node, allowlist, socket: None, due, number: fastrand::u64(..) }
    }

    /// Asks when it is time to, and waits for the answer until it is time for the next question.
    pub(super) async fn ask(&mut self) -> Outcome {
        sleep_until(self.due).await;
        self.due = Instant::now() + INTERVAL;
        self.number = self.number.wrapping_add(1);
        let question = question(&self.way, self.number);
        let mut errors = Errors::default();
        let outcome = match timeout_at(self.due, self.exchange(&question, &mut errors)).await {
            Ok(Ok(interface)) => Outcome { sign: Sign::Answered, interface },
            Ok(Err(error)) => {
                debug!(node = %self.node, "cannot ask for a sign of life: {error}");
                self.socket = None;
                Outcome { sign: Sign::Nothing, interface: None }
            }
            Err(_) if errors.refused => Outcome { sign: Sign::Refused, interface: None },
            Err(_) => Outcome { sign: Sign::Nothing, interface: None },
        };
        if errors.count > 0 {
            // Whoever has found its port has to look for another one.
            self.socket = None;
        }
        outcome
    }

    async fn exchange(&mut self, question: &[u8], errors: &mut Errors) -> io::Result<Option<u32>> {
        let known = self.socket.take();
        let socket = self.socket.insert(if let Some(socket) = known { socket } else { self.open().await? });
        send(socket, question).await?;
        let mut answer = [0; 128];
        loop {
            match socket.receive(&mut answer).await {
                // A late answer to an earlier question is none to this one.
                Ok(received) => match answer_flag(question, &answer[..received.length]) {
                    Some(flags::PROBE_ANSWER) => return Ok(received.interface),
                    Some(_) => return Ok(None),
                    None => {}
                },
                Err(error) => errors.add(error)?,
            }
        }
    }

    async fn open(&self) -> io::Result<ProbeSocket> {
        let node = SocketAddrV4::new(self.node, self.way.tunnel_port);
        ProbeSocket::open(self.way.from, node, &self.allowlist).await
    }
}

impl Errors {
    /// So many errors of one question are a socket that does not work.
    const MOST: u32 = 64;

    fn add(&mut self, error: io::Error) -> io::Result<()> {
        self.count += 1;
        self.refused |= error.kind() == io::ErrorKind::ConnectionRefused;
        if self.count < Self::MOST { Ok(()) } else { Err(error) }
    }
}

/// An error that waits at the socket is reported in place of sending: it is about an earlier question.
async fn send(socket: &ProbeSocket, question: &[u8]) -> io::Result<()> {
    const ATTEMPTS: usize = 4;

    for _ in 1..ATTEMPTS {
        if socket.send(question).await.is_ok() {
            return Ok(());
        }
    }
    socket.send(question).await
}

/// Where the VXLAN header stands, behind outer IP and UDP headers, which the kernel makes.
const VXLAN: usize = 28;
/// Where the flags stand in a datagram.
const FLAGS: usize = tunnel::OVERHEAD - VXLAN - 4;

/// A VXLAN header, an Ethernet header with the flag of a probe, a number, and what this agent knows.
fn question(way: &Way, number: u64) -> Vec<u8> {
    let header = TunnelHeader::new(&TunnelFields {
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        port: Port::new(way.tunnel_port),
        vni: way.vni,
        hash: 0,
        inner_length: 0,
        traffic_class: 0,
        address: TunnelAddress { flags: flags::PROBE, ..TunnelAddress::default() },
    });
    let mut question = header.bytes()[VXLAN..].to_vec();
    let payload = question.len();
    question.extend(number.to_be_bytes());
    // As long as the smallest packet that the tunnel carries, for receivers that look at the length first.
    question.resize(payload + 20, 0);
    question[payload + PROBE_KNOWN] = known::PROBE_ANSWER;
    question
}

/// The flag of what came, if it is the answer: the question with the answer's flag, or as it was, from a dataplane that does
/// not know the flag.
fn answer_flag(question: &[u8], answer: &[u8]) -> Option<u16> {
    let is_with = |flag: &u16| {
        let mut expected = question.to_vec();
        expected[FLAGS..FLAGS + 2].copy_from_slice(&flag.to_be_bytes());
        answer == expected
    };
    [flags::PROBE_ANSWER, flags::PROBE].into_iter().find(is_with)
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;
    use crate::reach::tests::Allowed;

    const NODE: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const WAY: Way = Way { from: NODE, tunnel_port: 4799, vni: 0x6d_6573 };

    fn probe(dataplane: &UdpSocket) -> Probe {
        let tunnel_port = dataplane.local_addr().unwrap().port();
        Probe::new(Way { from: NODE, tunnel_port, vni: 7 }, NODE, Allowed::default().allowlist())
    }

    /// The dataplane answers once, with the bytes that it is given changed.
    async fn answer_with(dataplane: &UdpSocket, change: impl FnOnce(&mut Vec<u8>)) {
        let mut buffer = [0; 128];
        let (length, from) = dataplane.recv_from(&mut buffer).await.unwrap();
        let mut answer = buffer[..length].to_vec();
        change(&mut answer);
        dataplane.send_to(&answer, from).await.unwrap();
    }

    #[test]
    fn a_question_is_a_tunnel_packet_with_the_flag_and_no_address() {
        let bytes = question(&WAY, 9);
        assert_eq!(bytes[..8], [8, 0, 0, 0, 0x6d, 0x65, 0x73, 0]);
        assert_eq!(bytes[8..14], [0x02, 0x42, 0, 0, 0, 0]);
        assert_eq!(bytes[14..20], [0x02, 0x6d, 0, 0, 0, 2]);
        assert_eq!(bytes[20..22], [0x08, 0]);
        assert_eq!(bytes[22..30], 9_u64.to_be_bytes());
        assert_eq!(bytes[30..], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(bytes.len() - 22 <= tunnel::MOST_PROBE_PAYLOAD);
    }

    #[test]
    fn an_answer_is_the_question_with_either_flag() {
        let question = question(&WAY, 9);
        let with = |place: usize, byte: u8| {
            let mut bytes = question.clone();
            bytes[place] = byte;
            bytes
        };
        assert_eq!(answer_flag(&question, &question), Some(2), "of a dataplane that knows no other");
        assert_eq!(answer_flag(&question, &with(19, 4)), Some(4));
        for other in [with(19, 0), with(19, 6), with(18, 4), with(29, 8), question[1..].to_vec()] {
            assert_eq!(answer_flag(&question, &other), None, "{other:02x?}");
        }
    }

    #[tokio::test]
    async fn either_answer_is_one_and_a_closed_port_a_refusal() {
        let dataplane = UdpSocket::bind((NODE, 0)).await.unwrap();
        let mut probe = probe(&dataplane);
        for (flag, interface) in [(2, None), (4, Some(1))] {
            let (outcome, ()) =
                tokio::join!(probe.ask(), answer_with(&dataplane, |answer| answer[FLAGS + 1] = flag));
            assert_eq!(outcome, Outcome { sign: Sign::Answered, interface });
        }
        drop(dataplane);
        assert_eq!(probe.ask().await.sign, Sign::Refused);
    }

    #[tokio::test]
    async fn silence_and_late_answers_are_no_answers() {
        let dataplane = UdpSocket::bind((NODE, 0)).await.unwrap();
        let mut probe = probe(&dataplane);
        assert_eq!(probe.ask().await.sign, Sign::Nothing);
        let (outcome, ()) = tokio::join!(probe.ask(), answer_with(&dataplane, |_| {}));
        assert_eq!(outcome.sign, Sign::Nothing, "that was the answer to the first question");
    }

    #[tokio::test]
    async fn a_refusal_is_none_if_the_answer_comes_too() {
        let dataplane = UdpSocket::bind((NODE, 0)).await.unwrap();
        let address = dataplane.local_addr().unwrap();
        let mut probe = probe(&dataplane);
        let socket = probe.socket.insert(probe.open().await.unwrap());
        let twin = socket.twin();
        let port = twin.local_addr().unwrap().port();
        let refuse_and_answer = async {
            let mut buffer = [0; 128];
            let (length, from) = dataplane.recv_from(&mut buffer).await.unwrap();
            drop(dataplane);
            twin.send(b"nobody is there").unwrap();
            let dataplane = UdpSocket::bind(address).await.unwrap();
            dataplane.send_to(&buffer[..length], from).await.unwrap();
            dataplane
        };
        let (outcome, dataplane) = tokio::join!(probe.ask(), refuse_and_answer);
        assert_eq!(outcome.sign, Sign::Answered);
        let mut buffer = [0; 128];
        let (_, (_, from)) =
            tokio::join!(probe.ask(), async { dataplane.recv_from(&mut buffer).await.unwrap() });
        assert_ne!(from.port(), port, "a refusal was heard: the next question is another socket's");
    }

    #[tokio::test]
    async fn an_error_that_waits_does_not_keep_a_question_from_being_sent() {
        let dataplane = UdpSocket::bind((NODE, 0)).await.unwrap();
        let address = dataplane.local_addr().unwrap();
        let mut probe = probe(&dataplane);
        drop(dataplane);
        let socket = probe.socket.insert(probe.open().await.unwrap());
        socket.twin().send(b"nobody is there").unwrap();
        let dataplane = UdpSocket::bind(address).await.unwrap();
        let (outcome, ()) = tokio::join!(probe.ask(), answer_with(&dataplane, |_| {}));
        assert_eq!(outcome.sign, Sign::Answered);
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
}
