//! The lab's client: it runs `mesh-workload` at a place in the lab and reads its report.

use std::{
    collections::BTreeMap,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    cmd::{Cmd, said},
    deadline::finish,
    lab::{Lab, Node},
    paths::static_binary,
};

/// Where a client runs.
#[derive(Debug, Clone, Copy)]
pub enum At<'a> {
    /// Outside of all nodes.
    Client,
    /// As a process of a node's host.
    Node(&'a Node),
}

impl At<'_> {
    /// Runs the client with these arguments and returns its report.
    pub fn run<T: DeserializeOwned>(self, arguments: &[&str]) -> Result<T> {
        self.start(arguments)?.report()
    }

    /// Starts the client and leaves it running.
    pub fn start(self, arguments: &[&str]) -> Result<Running> {
        let cmd = self.command("mesh-workload", &static_binary("mesh-workload")).args(arguments);
        Running::begin(cmd)
    }

    /// `curl`, for the plainest proof there is.
    pub fn curl(self, url: &str) -> Result<String> {
        let curl = ["--silent", "--show-error", "--fail", "--max-time", "3", url];
        self.command("curl", "curl".as_ref()).args(curl).quiet().read()
    }

    fn command(self, name: &str, program: &std::path::Path) -> Cmd {
        let program = program.to_string_lossy();
        let cmd = match self {
            At::Client => Lab::client(&program),
            // In the node's cgroup too: that is where the hooks for sockets are.
            At::Node(node) => node.command(&program),
        };
        let place = match self {
            At::Client => "client",
            At::Node(node) => &node.name,
        };
        cmd.shown_as(format!("{place}: {name}"))
    }
}

/// How long a client may take whose end is waited for.
const LIMIT: Duration = Duration::from_mins(5);

/// A client under way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
}

impl Running {
    /// Its standard input stays open until somebody has had enough: clients without an end of their own wait for that.
    pub(crate) fn begin(cmd: Cmd) -> Result<Self> {
        let line = cmd.line();
        let mut command = cmd.into_inner();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self { child: command.spawn().with_context(|| format!("cannot start `{line}`"))?, line })
    }

    /// Tells a client that goes on until then to come to its end.
    pub fn enough(&mut self) {
        self.child.stdin.take();
    }

    /// Waits for its end and returns its report; implies [`Running::enough`].
    pub fn report<T: DeserializeOwned>(self) -> Result<T> {
        let output = finish(self.child, Some(LIMIT), &self.line)?;
        if !output.status.success() {
            bail!("`{}` ended with {}\n{}", self.line, output.status, said(&output));
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`{}` said {}", self.line, said(&output)))
    }
}

/// What became of a number of requests or datagrams.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Report {
    pub ok: u64,
    pub failed: u64,
    pub errors: BTreeMap<String, u64>,
    /// Answers by task.
    pub tasks: BTreeMap<String, u64>,
    pub versions: BTreeMap<String, u64>,
    /// The client's addresses as the servers saw them.
    pub peers: BTreeMap<String, u64>,
    /// The answering tasks in order, the first thousand.
    pub sequence: Vec<String>,
    /// The last address and port that a server saw.
    pub last_peer: Option<String>,
    pub slowest_ms: f64,
    /// The longest time without an answer to a datagram.
    pub longest_gap_ms: f64,
    /// From which addresses datagrams came back.
    pub sources: BTreeMap<String, u64>,
    /// What `getpeername` says of a connected socket for datagrams.
    pub connected_to: Option<String>,
}

impl Report {
    /// Whether all of so many attempts were refused, and none was answered or lost.
    pub fn is_refused(&self, attempts: u64) -> bool {
        let refused = self.errors.iter().filter(|(error, _)| error.contains("refused"));
        self.ok == 0 && self.failed == attempts && refused.map(|(_, count)| count).sum::<u64>() == attempts
    }

    /// The difference between the busiest and the idlest of `tasks` tasks.
    pub fn imbalance(&self, tasks: usize) -> u64 {
        let most = self.tasks.values().max().copied().unwrap_or(0);
        let least =
            if self.tasks.len() < tasks { 0 } else { self.tasks.values().min().copied().unwrap_or(0) };
        most - least
    }
}

/// What became of constant load. Times are milliseconds since 1970.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Load {
    /// New connections with one request each, and how many of them had no answer.
    pub requests: u64,
    pub failed: u64,
    /// The first hundred.
    pub failures: Vec<Failure>,
    pub tasks: BTreeMap<String, u64>,
    pub versions: BTreeMap<String, u64>,
    /// Of the slowest request that was answered: how long it took, when it began, and who answered.
    pub slowest_ms: f64,
    pub slowest_at: u64,
    pub slowest_task: String,
    /// Requests that took longer than a fifth of a second.
    pub slow: u64,
    /// Connections that were held, those in place of broken ones included.
    pub held: u64,
    pub broken: Vec<Broken>,
    pub exchanges: u64,
    pub slowest_exchange_ms: f64,
}

/// A request without an answer, or a connection that was not made.
#[derive(Debug, Clone, Deserialize)]
pub struct Failure {
    /// When it began.
    pub at: u64,
    /// How long it took to fail.
    pub ms: u64,
    pub target: String,
    /// Whether there was a connection before it failed.
    pub connected: bool,
    /// The task, if its answer had begun.
    pub task: Option<String>,
    pub error: String,
}

/// A held connection that ended before the load did.
#[derive(Debug, Clone, Deserialize)]
pub struct Broken {
    pub at: u64,
    pub lasted_ms: u64,
    pub target: String,
    pub task: String,
    /// The task's id in the Swarm.
    pub id: String,
    pub error: String,
}

/// What questions about names came to.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Answers {
    pub answered: u64,
    pub refused: u64,
    pub lost: u64,
    pub seconds: f64,
}

/// What a flood came to.
#[derive(Debug, Clone, Deserialize)]
pub struct Flood {
    pub sent: u64,
    pub seconds: f64,
}

/// One TCP echo conversation.
#[derive(Debug, Clone, Deserialize)]
pub struct Conversation {
    pub identity: Option<Identity>,
    /// What `getpeername` says.
    pub connected_to: Option<String>,
    pub echoed: u64,
    pub error: Option<String>,
    pub seconds: f64,
}

/// What a task says of itself and of the client that asked.
#[derive(Debug, Clone, Deserialize)]
pub struct Identity {
    pub task: String,
    pub node: String,
    pub peer: String,
}

/// A checked transfer.
#[derive(Debug, Clone, Deserialize)]
pub struct Transfer {
    pub bytes: u64,
    pub intact: bool,
    pub seconds: f64,
}
