//! Asking one node's dataplane for a sign of life.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use mesh_common::net::{Address, Port};
use mesh_common::tunnel::{TunnelAddress, TunnelFields, TunnelHeader, flags};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

use super::pulse::Sign;

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
    socket: Option<UdpSocket>,
    due: Instant,
    number: u64,
}

impl Probe {
    pub(super) fn new(way: Way, node: Ipv4Addr) -> Self {
        // Nodes are not all asked at the same moment.
        let due = Instant::now() + INTERVAL.mul_f64(fastrand::f64());
        Self { way, node, socket: None, due, number: fastrand::u64(..) }
    }

    /// Asks when it is time to, and waits for the answer until it is time for the next question.
    pub(super) async fn ask(&mut self) -> Sign {
        sleep_until(self.due).await;
        self.due = Instant::now() + INTERVAL;
        self.number = self.number.wrapping_add(1);
        let question = question(&self.way, self.number);
        match timeout_at(self.due, self.exchange(&question)).await {
            Ok(Ok(())) => Sign::Answered,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Sign::Refused,
            Ok(Err(error)) => {
                debug!(node = %self.node, "cannot ask for a sign of life: {error}");
                self.socket = None;
                Sign::Nothing
            }
            Err(_) => Sign::Nothing,
        }
    }

    async fn open(&self) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddrV4::new(self.way.from, 0)).await?;
        socket.connect(SocketAddrV4::new(self.node, self.way.tunnel_port)).await?;
        Ok(socket)
    }

    async fn exchange(&mut self, question: &[u8]) -> io::Result<()> {
        let known = self.socket.take();
        let socket = self.socket.insert(if let Some(socket) = known { socket } else { self.open().await? });
        socket.send(question).await?;
        let mut answer = [0; 128];
        loop {
            let length = socket.recv(&mut answer).await?;
            // A late answer to an earlier question is none to this one.
            if &answer[..length] == question {
                return Ok(());
            }
        }
    }
}

/// What the dataplane sends back as it came: a VXLAN header, an Ethernet header with the flag of a probe, and a number.
fn question(way: &Way, number: u64) -> Vec<u8> {
    /// Where the VXLAN header stands, behind outer IP and UDP headers, which the kernel makes.
    const VXLAN: usize = 28;

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
    question.extend(number.to_be_bytes());
    // As long as the smallest packet that the tunnel carries, for receivers that look at the length first.
    question.resize(header.bytes().len() - VXLAN + 20, 0);
    question
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Ipv4Addr = Ipv4Addr::LOCALHOST;

    fn way(socket: &UdpSocket) -> Way {
        let tunnel_port = socket.local_addr().unwrap().port();
        Way { from: NODE, tunnel_port, vni: 7 }
    }

    #[test]
    fn a_question_is_a_tunnel_packet_with_the_flag_and_no_address() {
        let bytes = question(&Way { from: NODE, tunnel_port: 4799, vni: 0x6d_6573 }, 9);
        assert_eq!(bytes[..8], [8, 0, 0, 0, 0x6d, 0x65, 0x73, 0]);
        assert_eq!(bytes[8..14], [0x02, 0x42, 0, 0, 0, 0]);
        assert_eq!(bytes[14..20], [0x02, 0x6d, 0, 0, 0, 2]);
        assert_eq!(bytes[20..22], [0x08, 0]);
        assert_eq!(bytes[22..30], 9_u64.to_be_bytes());
    }

    #[tokio::test]
    async fn an_echo_is_an_answer_and_a_closed_port_a_refusal() {
        let dataplane = UdpSocket::bind((NODE, 0)).await.unwrap();
        let mut probe = Probe::new(way(&dataplane), NODE);
        let echo = async {
            let mut buffer = [0; 128];
            let (length, from) = dataplane.recv_from(&mut buffer).await.unwrap();
            dataplane.send_to(&buffer[..length], from).await.unwrap();
        };
        let (sign, ()) = tokio::join!(probe.ask(), echo);
        assert_eq!(sign, Sign::Answered);
        drop(dataplane);
        assert_eq!(probe.ask().await, Sign::Refused);
    }

    #[tokio::test]
    async fn silence_and_late_answers_are_no_answers() {
        let dataplane = UdpSocket::bind((NODE, 0)).await.unwrap();
        let mut probe = Probe::new(way(&dataplane), NODE);
        assert_eq!(probe.ask().await, Sign::Nothing);
        let echo_twice_late = async {
            let mut buffer = [0; 128];
            let (length, from) = dataplane.recv_from(&mut buffer).await.unwrap();
            dataplane.send_to(&buffer[..length], from).await.unwrap();
        };
        let (sign, ()) = tokio::join!(probe.ask(), echo_twice_late);
        assert_eq!(sign, Sign::Nothing, "that was the answer to the first question");
    }
}
