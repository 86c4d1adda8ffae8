//! Asking one node's dataplane for a sign of life.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use mesh_common::tunnel::flags;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

use super::SharedAllowlist;
use super::pulse::Sign;
use super::question::{self, Way, answer_flag};
use super::socket::{Errors, ProbeSocket};

/// How often each node is asked.
const INTERVAL: Duration = Duration::from_millis(500);

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
        let question = question::small(&self.way, self.number);
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
        let mut answer = [0; question::COMPARED];
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

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;
    use crate::reach::question::FLAGS;
    use crate::reach::tests::Allowed;

    const NODE: Ipv4Addr = Ipv4Addr::LOCALHOST;

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
}
