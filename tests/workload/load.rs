//! Constant load, until somebody says that it is enough: requests on new connections at a fixed rate, and connections
//! that are held and exchange a few bytes over and over. Whatever goes wrong is reported with its time and its task.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Scope},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use serde_json::Value;

use crate::{Dial, client::Answer, dial::Http, end_of_input, resolve};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// ADDRESS:PORT that is asked over HTTP, each time on a new connection; may be given several times
    #[arg(long, value_parser = resolve)]
    web: Vec<SocketAddr>,
    /// ADDRESS:PORT of a TCP echo to which connections are held; may be given several times
    #[arg(long, value_parser = resolve)]
    echo: Vec<SocketAddr>,
    /// Requests per second to each
    #[arg(long, default_value_t = 25)]
    rate: u64,
    #[arg(long, default_value = "/")]
    path: String,
    /// Connections held to each
    #[arg(long, default_value_t = 4)]
    held: u64,
    /// Milliseconds between two exchanges on a held connection
    #[arg(long, default_value_t = 100)]
    every: u64,
    /// Milliseconds to wait for a connection or an answer
    #[arg(long, default_value_t = 3000)]
    timeout: u64,
    /// Milliseconds after which it ends although its standard input is still open
    #[arg(long, default_value_t = 300_000)]
    limit: u64,
}

/// What became of it. Times are milliseconds since 1970.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Load {
    requests: u64,
    failed: u64,
    failures: Vec<Failure>,
    tasks: BTreeMap<String, u64>,
    versions: BTreeMap<String, u64>,
    slowest_ms: f64,
    /// When the slowest request that was answered began, and who answered it.
    slowest_at: u64,
    slowest_task: String,
    /// Requests that took longer than a fifth of a second.
    slow: u64,
    /// Connections that were held, those in place of broken ones included.
    held: u64,
    broken: Vec<Broken>,
    exchanges: u64,
    slowest_exchange_ms: f64,
}

/// A request without an answer, or a connection that was not made.
#[derive(Debug, Serialize)]
struct Failure {
    /// When it began.
    at: u64,
    /// How long it took to fail.
    ms: u64,
    target: SocketAddr,
    /// Whether there was a connection: what follows can only be this one task's fault.
    connected: bool,
    /// The task, if the answer began.
    task: Option<String>,
    error: String,
}

/// A held connection that ended before the load did.
#[derive(Debug, Serialize)]
struct Broken {
    at: u64,
    /// How long it lasted.
    lasted_ms: u64,
    target: SocketAddr,
    /// The task, and its id in the Swarm.
    task: String,
    id: String,
    error: String,
}

/// Threads per HTTP target, so that a slow answer does not lower the rate.
const ASKERS: u64 = 4;
/// Thousands of held connections have a thread each.
const STACK: usize = 64 * 1024;

struct Shared<'a> {
    args: &'a Args,
    load: Mutex<Load>,
    over: AtomicBool,
}

pub(crate) fn run(args: &Args) -> io::Result<Load> {
    let shared = Shared { args, load: Mutex::default(), over: AtomicBool::new(false) };
    let ends = end_of_input();
    thread::scope(|scope| {
        let started = shared.start(scope);
        if started.is_ok() {
            let _ = ends.recv_timeout(Duration::from_millis(args.limit));
        }
        shared.over.store(true, Ordering::SeqCst);
        started
    })?;
    Ok(shared.load.into_inner().unwrap_or_default())
}

impl Shared<'_> {
    fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> io::Result<()> {
        let thread = || thread::Builder::new().stack_size(STACK);
        for target in &self.args.web {
            for index in 0..ASKERS {
                thread().spawn_scoped(scope, move || self.ask(*target, index))?;
            }
        }
        for target in &self.args.echo {
            for _ in 0..self.args.held {
                thread().spawn_scoped(scope, move || self.hold(*target))?;
            }
        }
        Ok(())
    }

    /// Every `ASKERS`-th request to one target.
    fn ask(&self, target: SocketAddr, index: u64) {
        let step = Duration::from_secs(1) / u32::try_from(self.args.rate.max(1)).unwrap_or(u32::MAX);
        let mut next = Instant::now() + step * index as u32;
        while self.sleeps_until(next) {
            let (at, begin) = (unix_ms(), Instant::now());
            let mut reached = Reached::default();
            let answer = self.request(target, &mut reached);
            let took = begin.elapsed();
            self.add(at, took, target, answer, reached);
            next = (next + step * ASKERS as u32).max(begin);
        }
    }

    fn request(&self, target: SocketAddr, reached: &mut Reached) -> io::Result<Answer> {
        let mut http = Http::connect(&self.dial(target))?;
        reached.connected = true;
        http.send(&self.args.path, None, false)?;
        let head = http.head()?;
        reached.task.clone_from(&head.task);
        let mut text = String::new();
        http.body(&head).read_to_string(&mut text)?;
        if head.status != 200 || text.len() as u64 != head.length {
            return Err(io::Error::other(format!("status {}, {} bytes", head.status, text.len())));
        }
        Ok(Answer::from(&text, head.task))
    }

    fn add(&self, at: u64, took: Duration, target: SocketAddr, answer: io::Result<Answer>, reached: Reached) {
        let Ok(mut load) = self.load.lock() else { return };
        let ms = took.as_secs_f64() * 1000.0;
        load.requests += 1;
        load.slow += u64::from(took > Duration::from_millis(200));
        match answer {
            Ok(answer) => {
                if ms > load.slowest_ms {
                    (load.slowest_ms, load.slowest_at) = (ms, at);
                    load.slowest_task.clone_from(&answer.task);
                }
                *load.tasks.entry(answer.task).or_default() += 1;
                if let Some(version) = answer.version {
                    *load.versions.entry(version).or_default() += 1;
                }
            }
            Err(error) => {
                let Reached { connected, task } = reached;
                let ms = took.as_millis() as u64;
                load.fail(Failure { at, ms, target, connected, task, error: error.to_string() });
            }
        }
    }

    /// One connection at a time, a new one as soon as the last one has ended.
    fn hold(&self, target: SocketAddr) {
        while !self.is_over() {
            let (at, begin) = (unix_ms(), Instant::now());
            let mut connected = false;
            let mut open = || -> io::Result<(BufReader<TcpStream>, Value)> {
                let stream = self.dial(target).tcp()?;
                connected = true;
                let mut reader = BufReader::with_capacity(2048, stream);
                let mut greeting = String::new();
                reader.read_line(&mut greeting)?;
                Ok((reader, serde_json::from_str(&greeting)?))
            };
            match open() {
                Ok((reader, identity)) => self.converse(reader, &identity, target, begin),
                Err(error) if !self.is_over() => {
                    let ms = begin.elapsed().as_millis() as u64;
                    let error = format!("to be held: {error}");
                    if let Ok(mut load) = self.load.lock() {
                        load.fail(Failure { at, ms, target, connected, task: None, error });
                    }
                    thread::sleep(Duration::from_millis(50));
                }
                Err(_) => {}
            }
        }
    }

    fn converse(
        &self,
        mut reader: BufReader<TcpStream>,
        identity: &Value,
        target: SocketAddr,
        begin: Instant,
    ) {
        if let Ok(mut load) = self.load.lock() {
            load.held += 1;
        }
        let every = Duration::from_millis(self.args.every);
        let mut next = Instant::now() + every;
        let mut number = 0;
        while self.sleeps_until(next) {
            let sent = Instant::now();
            let exchanged = exchange(&mut reader, number);
            let Ok(mut load) = self.load.lock() else { return };
            if let Err(error) = exchanged {
                let field = |name: &str| identity[name].as_str().unwrap_or_default().to_owned();
                let (task, id) = (field("task"), field("id"));
                let lasted_ms = begin.elapsed().as_millis() as u64;
                load.broken.push(Broken {
                    at: unix_ms(),
                    lasted_ms,
                    target,
                    task,
                    id,
                    error: error.to_string(),
                });
                return;
            }
            load.exchanges += 1;
            load.slowest_exchange_ms = load.slowest_exchange_ms.max(sent.elapsed().as_secs_f64() * 1000.0);
            drop(load);
            number += 1;
            next = (next + every).max(sent);
        }
    }

    fn dial(&self, target: SocketAddr) -> Dial {
        Dial { target, source_port: 0, source_address: None, timeout: self.args.timeout }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether there is still something to do then.
    fn sleeps_until(&self, moment: Instant) -> bool {
        loop {
            let left = moment.saturating_duration_since(Instant::now());
            if self.is_over() || left.is_zero() {
                return !self.is_over();
            }
            thread::sleep(left.min(Duration::from_millis(200)));
        }
    }
}

impl Load {
    fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        self.failures.push(failure);
    }
}

/// How far a request came.
#[derive(Debug, Default)]
struct Reached {
    connected: bool,
    task: Option<String>,
}

fn exchange(reader: &mut BufReader<TcpStream>, number: u64) -> io::Result<()> {
    let sent = format!("{number}\n");
    reader.get_mut().write_all(sent.as_bytes())?;
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the task"));
    }
    if line != sent {
        return Err(io::Error::other(format!("sent {sent:?}, got {line:?}")));
    }
    Ok(())
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
