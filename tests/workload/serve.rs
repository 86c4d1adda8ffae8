//! The server's life: slow to start, slow or abrupt to stop, as its environment says.

use std::{
    io, iter,
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    process::{ExitCode, exit},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use socket2::SockRef;

use crate::{client, echo, http, identity::Identity};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long, env = "WORKLOAD_HTTP", default_value_t = 8080)]
    http: u16,
    /// The port of TCP echo and of UDP echo
    #[arg(long, env = "WORKLOAD_ECHO", default_value_t = 9000)]
    echo: u16,
    /// Milliseconds before it listens
    #[arg(long, env = "WORKLOAD_START_DELAY", default_value_t = 0)]
    start_delay: u64,
    /// Milliseconds from SIGTERM to its end
    #[arg(long, env = "WORKLOAD_STOP_DELAY", default_value_t = 0)]
    stop_delay: u64,
    #[arg(long, env = "WORKLOAD_STOP", value_enum, default_value = "graceful")]
    stop: Stop,
}

/// What SIGTERM does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stop {
    /// Serves on for the delay, asks clients to close, and waits for requests that are under way
    Graceful,
    /// Closes its listeners at once, and ends after the delay
    Refuse,
    /// Serves on for the delay and ends in the middle of whatever is under way
    Abrupt,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) identity: Identity,
    pub(crate) requests: AtomicU64,
    pub(crate) under_way: AtomicU64,
    pub(crate) healthy: AtomicBool,
    pub(crate) stopping: AtomicBool,
    listeners: [TcpListener; 2],
}

impl State {
    /// Closes the listeners, and opens them again after that time.
    pub(crate) fn refuse(&self, time: Duration) -> io::Result<()> {
        self.close()?;
        let listeners = [self.listeners[0].try_clone()?, self.listeners[1].try_clone()?];
        thread::spawn(move || {
            thread::sleep(time);
            for listener in listeners {
                // It is still bound, so it only has to listen again.
                let _ = SockRef::from(&listener).listen(BACKLOG);
            }
        });
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.listeners.iter().try_for_each(|listener| SockRef::from(listener).shutdown(Shutdown::Both))
    }
}

const BACKLOG: i32 = 1024;

/// The connections to a listener, for as long as the process lives.
pub(crate) fn accepted(listener: &TcpListener) -> impl Iterator<Item = TcpStream> {
    let accept = || {
        let accepted = listener.accept().ok();
        if accepted.is_none() {
            // It is closed, perhaps only for a while.
            thread::sleep(Duration::from_millis(2));
        }
        Some(accepted)
    };
    iter::from_fn(accept).flatten().map(|(stream, _)| stream)
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let signals = block_signals();
    if args.start_delay > 0 {
        thread::spawn(move || {
            // Told to end before it began: nothing is under way.
            wait_for(&signals);
            exit(0)
        });
        thread::sleep(Duration::from_millis(args.start_delay));
    }
    let web = listen(args.http)?;
    let tcp = listen(args.echo)?;
    let udp = UdpSocket::bind(("::", args.echo)).or_else(|_| UdpSocket::bind(("0.0.0.0", args.echo)));
    let udp = udp.with_context(|| format!("cannot bind UDP port {}", args.echo))?;
    let state = Arc::new(State {
        identity: Identity::from_environment(),
        requests: AtomicU64::new(0),
        under_way: AtomicU64::new(0),
        healthy: AtomicBool::new(true),
        stopping: AtomicBool::new(false),
        listeners: [web.try_clone()?, tcp.try_clone()?],
    });
    spawn(&state, move |state| http::serve(&web, state));
    spawn(&state, move |state| echo::serve_tcp(&tcp, state));
    spawn(&state, move |state| echo::serve_udp(&udp, state));
    eprintln!("serving: {:?}", state.identity);
    if args.start_delay == 0 {
        wait_for(&signals);
    } else {
        // The thread from above has the signals; it ends the process at once.
        loop {
            thread::park();
        }
    }
    end(args, &state)
}

/// Fails when the server does not answer, or answers that it is not well.
pub(crate) fn healthcheck(args: &Args) -> ExitCode {
    let target = std::net::SocketAddr::from(([127, 0, 0, 1], args.http));
    if client::is_healthy(target) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn end(args: &Args, state: &State) -> Result<()> {
    state.stopping.store(true, Ordering::SeqCst);
    if args.stop == Stop::Refuse {
        state.close()?;
    }
    thread::sleep(Duration::from_millis(args.stop_delay));
    while args.stop == Stop::Graceful && state.under_way.load(Ordering::SeqCst) > 0 {
        thread::sleep(Duration::from_millis(5));
    }
    exit(0)
}

fn listen(port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
    listener.with_context(|| format!("cannot listen on TCP port {port}"))
}

fn spawn(state: &Arc<State>, serve: impl FnOnce(&Arc<State>) + Send + 'static) {
    let state = Arc::clone(state);
    thread::spawn(move || serve(&state));
}

/// Process 1 of a container has no default action for signals, so they are waited for.
fn block_signals() -> libc::sigset_t {
    // SAFETY: the set is initialised by `sigemptyset` before it is read, and both pointers are valid for the calls.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    }
}

fn wait_for(signals: &libc::sigset_t) {
    let mut signal = 0;
    // SAFETY: both pointers are valid for the call.
    unsafe { libc::sigwait(signals, &raw mut signal) };
}
