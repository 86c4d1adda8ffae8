//! Questions about names as fast as they are answered. Many of them go in one system call and come back in one, so that it is
//! the resolver whose speed shows: a client that sends them one by one and wakes up for each answer takes twice as long for
//! itself as a fast resolver does.

use std::{
    io,
    mem::zeroed,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;

use crate::resolve;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// ADDRESS:PORT of the resolver
    #[arg(value_parser = resolve)]
    target: SocketAddr,
    /// What to ask for, in turn; each name's A, then its AAAA
    #[arg(required = true)]
    names: Vec<String>,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Each with sockets of its own
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Connected ones, for each thread
    #[arg(long, default_value_t = 4)]
    sockets: usize,
    /// Questions on their way at once, for each socket
    #[arg(long, default_value_t = 16)]
    window: usize,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Answers {
    /// With NOERROR.
    answered: u64,
    /// With anything else.
    refused: u64,
    /// Not within a second.
    lost: u64,
    seconds: f64,
}

/// A question that is answered later than this counts as lost.
const PATIENCE: Duration = Duration::from_secs(1);
const LONGEST: usize = 512;

pub(crate) fn run(args: &Args) -> Result<Answers> {
    let questions = questions(&args.names)?;
    let began = Instant::now();
    let until = began + Duration::from_secs(args.seconds);
    let mut sum = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..args.threads).map(|_| scope.spawn(|| ask(args, &questions, until))).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        joined.collect::<Result<Vec<Answers>>>()
    })?
    .into_iter()
    .fold(Answers::default(), |sum, one| Answers {
        answered: sum.answered + one.answered,
        refused: sum.refused + one.refused,
        lost: sum.lost + one.lost,
        seconds: 0.0,
    });
    sum.seconds = began.elapsed().as_secs_f64();
    Ok(sum)
}

fn ask(args: &Args, questions: &[Vec<u8>], until: Instant) -> Result<Answers> {
    let mut sockets = (0..args.sockets).map(|_| Asker::new(args)).collect::<Result<Vec<_>>>()?;
    let mut turn = questions.iter().cycle();
    let mut answers = Answers::default();
    while Instant::now() < until {
        let mut heard = 0;
        for socket in &mut sockets {
            socket.send(&mut turn)?;
            heard += socket.receive(&mut answers)?;
        }
        if heard == 0 {
            wait(&sockets)?;
            answers.lost += sockets.iter_mut().map(Asker::give_up).sum::<u64>();
        }
    }
    Ok(answers)
}

/// Until one of them has an answer, or some time has passed.
fn wait(sockets: &[Asker]) -> Result<()> {
    let poll =
        |socket: &Asker| libc::pollfd { fd: socket.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut polled: Vec<_> = sockets.iter().map(poll).collect();
    // SAFETY: there are as many as it says.
    let result = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 100) };
    ensure!(result >= 0, "cannot wait: {}", io::Error::last_os_error());
    Ok(())
}

/// A socket, and room for what goes through it at once.
struct Asker {
    socket: UdpSocket,
    window: usize,
    on_their_way: usize,
    heard: Instant,
    next_id: u16,
    messages: Vec<Vec<u8>>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Asker {
    fn new(args: &Args) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("open a socket")?;
        socket.connect(args.target).with_context(|| format!("connect to {}", args.target))?;
        socket.set_nonblocking(true)?;
        // SAFETY: these are structs of integers and pointers that may be null.
        let (part, header) = unsafe { (zeroed(), zeroed()) };
        Ok(Self {
            socket,
            window: args.window,
            on_their_way: 0,
            heard: Instant::now(),
            next_id: 0,
            messages: vec![Vec::with_capacity(LONGEST); args.window],
            parts: vec![part; args.window],
            headers: vec![header; args.window],
        })
    }

    /// As many as may be on their way.
    fn send<'a>(&mut self, questions: &mut impl Iterator<Item = &'a Vec<u8>>) -> Result<()> {
        let count = self.window - self.on_their_way;
        for message in &mut self.messages[..count] {
            message.clear();
            message.extend_from_slice(questions.next().context("no question")?);
            message[..2].copy_from_slice(&self.next_id.to_be_bytes());
            self.next_id = self.next_id.wrapping_add(1);
        }
        self.point(count);
        // SAFETY: the headers point to messages that live through the call.
        let sent = unsafe {
            libc::sendmmsg(self.socket.as_raw_fd(), self.headers.as_mut_ptr(), count as libc::c_uint, 0)
        };
        match usize::try_from(sent) {
            Ok(sent) => self.on_their_way += sent,
            Err(_) => ensure_passing(&io::Error::last_os_error())?,
        }
        Ok(())
    }

    /// What is there. Returns how many that were.
    fn receive(&mut self, answers: &mut Answers) -> Result<usize> {
        self.messages.iter_mut().for_each(|message| message.resize(LONGEST, 0));
        self.point(self.window);
        // SAFETY: the headers point to room that lives through the call, and is as long as they say.
        let received = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.window as libc::c_uint,
                0,
                std::ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            ensure_passing(&io::Error::last_os_error())?;
            return Ok(0);
        };
        for (message, header) in self.messages.iter().zip(&self.headers).take(received) {
            let is_answer = header.msg_len >= 12 && message[2] & 0x80 != 0;
            ensure!(is_answer, "no answer: {:?}", &message[..header.msg_len as usize]);
            let code = message[3] % 16;
            *if code == 0 { &mut answers.answered } else { &mut answers.refused } += 1;
        }
        if received > 0 {
            self.heard = Instant::now();
            self.on_their_way = self.on_their_way.saturating_sub(received);
        }
        Ok(received)
    }

    /// Gives up on all that are on their way, if there was no answer for long.
    fn give_up(&mut self) -> u64 {
        if self.heard.elapsed() < PATIENCE {
            return 0;
        }
        self.heard = Instant::now();
        std::mem::take(&mut self.on_their_way) as u64
    }

    /// The headers at the first messages, with their lengths.
    fn point(&mut self, count: usize) {
        for place in 0..count {
            let message = &mut self.messages[place];
            self.parts[place] = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() };
            self.headers[place].msg_hdr.msg_iov = &raw mut self.parts[place];
            self.headers[place].msg_hdr.msg_iovlen = 1;
        }
    }
}

/// There is nothing to read or no room to send, or an earlier question was told that nobody is there.
fn ensure_passing(error: &io::Error) -> Result<()> {
    let passing = [libc::EAGAIN, libc::ECONNREFUSED, libc::EINTR];
    ensure!(error.raw_os_error().is_some_and(|code| passing.contains(&code)), "the socket says {error}");
    Ok(())
}

/// RFC 1035 §4.1, with recursion desired; the id is filled in later.
fn questions(names: &[String]) -> Result<Vec<Vec<u8>>> {
    const A: u8 = 1;
    const AAAA: u8 = 28;

    let mut questions = Vec::new();
    for name in names {
        for kind in [A, AAAA] {
            let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            for label in name.split('.') {
                let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
                message.push(length.with_context(|| format!("{name} is no name"))?);
                message.extend_from_slice(label.as_bytes());
            }
            message.extend_from_slice(&[0, 0, kind, 0, 1]);
            ensure!(message.len() <= LONGEST, "{name} is too long");
            questions.push(message);
        }
    }
    Ok(questions)
}
