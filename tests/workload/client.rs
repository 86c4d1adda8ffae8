//! Clients that never give up on an error but count it: what the tests judge is the whole report.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, UdpSocket},
    sync::{
        Mutex,
        mpsc::{Receiver, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::Value;

use crate::{Dial, dial::Http, end_of_input};

#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    #[command(flatten)]
    dial: Dial,
    #[arg(long, default_value = "/")]
    path: String,
    /// Requests in all, unless a duration ends them
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Milliseconds to go on for, in place of a count
    #[arg(long)]
    duration: Option<u64>,
    #[arg(long, default_value_t = 1)]
    concurrency: u64,
    /// Milliseconds between two requests of the same thread
    #[arg(long, default_value_t = 0)]
    interval: u64,
    /// Sends all requests of a thread on one connection
    #[arg(long)]
    keep_alive: bool,
}

/// What became of a number of attempts.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    ok: u64,
    failed: u64,
    errors: BTreeMap<String, u64>,
    tasks: BTreeMap<String, u64>,
    versions: BTreeMap<String, u64>,
    /// The client's addresses as the servers saw them; without ports.
    peers: BTreeMap<String, u64>,
    /// The answering tasks in order, the first thousand.
    sequence: Vec<String>,
    /// The last address and port that a server saw.
    last_peer: Option<String>,
    slowest_ms: f64,
    /// The longest time without an answer.
    longest_gap_ms: f64,
    /// From which addresses datagrams came back.
    sources: BTreeMap<String, u64>,
    /// What `getpeername` says of a connected socket for datagrams.
    connected_to: Option<String>,
}

impl Report {
    fn add(&mut self, begin: Instant, answer: io::Result<Answer>) {
        self.slowest_ms = self.slowest_ms.max(begin.elapsed().as_secs_f64() * 1000.0);
        match answer {
            Ok(answer) => {
                self.ok += 1;
                if self.sequence.len() < 1000 {
                    self.sequence.push(answer.task.clone());
                }
                count(&mut self.tasks, answer.task);
                if let Some(version) = answer.version {
                    count(&mut self.versions, version);
                }
                if let Some(peer) = answer.peer.as_ref().and_then(|peer| peer.parse::<SocketAddr>().ok()) {
                    count(&mut self.peers, peer.ip().to_string());
                }
                self.last_peer = answer.peer.or(self.last_peer.take());
            }
            Err(error) => {
                self.failed += 1;
                count(&mut self.errors, error.to_string());
            }
        }
    }
}

fn count(counts: &mut BTreeMap<String, u64>, key: String) {
    *counts.entry(key).or_default() += 1;
}

/// Who answered, and whom they saw.
pub(crate) struct Answer {
    pub(crate) task: String,
    pub(crate) version: Option<String>,
    peer: Option<String>,
}

impl Answer {
    /// From the identity that our server answers, or else whatever text came.
    pub(crate) fn from(text: &str, header: Option<String>) -> Self {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let field = |name: &str| value[name].as_str().map(String::from);
        let task = field("task").or(header).unwrap_or_else(|| text.lines().next().unwrap_or_default().into());
        Self { task, version: field("version"), peer: field("peer") }
    }
}

pub(crate) fn get(args: &Get) -> Report {
    let report = Mutex::new(Report::default());
    let deadline = args.duration.map(|ms| Instant::now() + Duration::from_millis(ms));
    thread::scope(|scope| {
        for index in 0..args.concurrency.max(1) {
            let share = args.count / args.concurrency + u64::from(index < args.count % args.concurrency);
            let report = &report;
            scope.spawn(move || {
                let mut connection = None;
                let mut done = 0;
                while deadline.map_or(done < share, |deadline| Instant::now() < deadline) {
                    let begin = Instant::now();
                    let answer = request(args, &mut connection);
                    if let Ok(mut report) = report.lock() {
                        report.add(begin, answer);
                    }
                    done += 1;
                    thread::sleep(Duration::from_millis(args.interval));
                }
            });
        }
    });
    report.into_inner().unwrap_or_default()
}

/// Whether `/health` says so, within a second.
pub(crate) fn is_healthy(target: SocketAddr) -> bool {
    let dial = Dial { target, source_port: 0, source_address: None, timeout: 1000 };
    let ask = || -> io::Result<u16> {
        let mut http = Http::connect(&dial)?;
        http.send("/health", None, false)?;
        Ok(http.head()?.status)
    };
    ask().is_ok_and(|status| status == 200)
}

fn request(args: &Get, connection: &mut Option<Http>) -> io::Result<Answer> {
    let mut http = match connection.take() {
        Some(http) => http,
        None => Http::connect(&args.dial)?,
    };
    http.send(&args.path, None, args.keep_alive)?;
    let head = http.head()?;
    let mut text = String::new();
    http.body(&head).read_to_string(&mut text)?;
    if text.len() as u64 != head.length {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut short"));
    }
    if head.status != 200 {
        return Err(io::Error::other(format!("status {}", head.status)));
    }
    if args.keep_alive && !head.close {
        *connection = Some(http);
    }
    Ok(Answer::from(&text, head.task))
}

#[derive(Debug, clap::Args)]
pub(crate) struct Tcp {
    #[command(flatten)]
    dial: Dial,
    /// Lines to send and get back
    #[arg(long, default_value_t = 1)]
    lines: u64,
    /// Milliseconds between two lines
    #[arg(long, default_value_t = 0)]
    interval: u64,
}

/// One conversation: how far it came, and with whom.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Conversation {
    identity: Option<Value>,
    /// What `getpeername` says.
    connected_to: Option<String>,
    echoed: u64,
    error: Option<String>,
    seconds: f64,
}

pub(crate) fn tcp(args: &Tcp) -> Conversation {
    let begin = Instant::now();
    let mut conversation = Conversation::default();
    if let Err(error) = talk(args, &mut conversation) {
        conversation.error = Some(error.to_string());
    }
    conversation.seconds = begin.elapsed().as_secs_f64();
    conversation
}

fn talk(args: &Tcp, conversation: &mut Conversation) -> io::Result<()> {
    let stream = args.dial.tcp()?;
    conversation.connected_to = stream.peer_addr().ok().map(|address| address.to_string());
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    conversation.identity = serde_json::from_str(&line).ok();
    for number in 0..args.lines {
        let sent = format!("line {number}\n");
        reader.get_mut().write_all(sent.as_bytes())?;
        line.clear();
        reader.read_line(&mut line)?;
        if line != sent {
            return Err(io::Error::other(format!("sent {sent:?}, got {line:?}")));
        }
        conversation.echoed += 1;
        thread::sleep(Duration::from_millis(args.interval));
    }
    Ok(())
}

#[derive(Debug, clap::Args)]
pub(crate) struct Udp {
    #[command(flatten)]
    dial: Dial,
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Milliseconds between two datagrams
    #[arg(long, default_value_t = 0)]
    interval: u64,
    /// Bytes in each
    #[arg(long, default_value_t = 32)]
    size: usize,
    /// Takes answers from anywhere, and tells from where they came
    #[arg(long)]
    unconnected: bool,
    /// Goes on until its standard input ends, whatever the count
    #[arg(long)]
    hold: bool,
}

pub(crate) fn udp(args: &Udp) -> Report {
    let mut report = Report::default();
    let begin = Instant::now();
    let socket = match if args.unconnected { args.dial.open_udp() } else { args.dial.udp() } {
        Ok(socket) => socket,
        Err(error) => {
            report.add(begin, Err(error));
            return report;
        }
    };
    report.connected_to = socket.peer_addr().ok().map(|address| address.to_string());
    let mut buffer = vec![0; 65_536];
    let mut answered = Instant::now();
    let ends = args.hold.then(end_of_input);
    let mut numbers = 0..if args.hold { u64::MAX } else { args.count };
    while let Some(number) = numbers.next().filter(|_| goes_on(ends.as_ref())) {
        let begin = Instant::now();
        let answer = exchange(args, &socket, number, &mut buffer).map(|(answer, source)| {
            count(&mut report.sources, source.to_string());
            answer
        });
        report.longest_gap_ms = report.longest_gap_ms.max(answered.elapsed().as_secs_f64() * 1000.0);
        if answer.is_ok() {
            answered = Instant::now();
        }
        report.add(begin, answer);
        thread::sleep(Duration::from_millis(args.interval));
    }
    report
}

fn goes_on(ends: Option<&Receiver<()>>) -> bool {
    ends.is_none_or(|ends| ends.try_recv() == Err(TryRecvError::Empty))
}

/// One datagram there and one back.
fn exchange(
    args: &Udp,
    socket: &UdpSocket,
    number: u64,
    buffer: &mut [u8],
) -> io::Result<(Answer, SocketAddr)> {
    let mut payload = format!("datagram {number} ").into_bytes();
    payload.resize(args.size.max(payload.len()), b'.');
    if args.unconnected {
        socket.send_to(&payload, args.dial.target)?;
    } else {
        socket.send(&payload)?;
    }
    let (length, source) = socket.recv_from(buffer)?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    let (identity, echoed) = text.split_once('\n').unwrap_or_default();
    if echoed.as_bytes() != payload {
        return Err(io::Error::other("another payload came back"));
    }
    Ok((Answer::from(identity, None), source))
}
