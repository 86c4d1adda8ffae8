//! `mesh-agent status`: asks the daemon and shows the answer.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::report::Report;
use super::server::{Answer, Request};
use super::table;
use crate::args::{Section, StatusArguments, StatusFormat};
use crate::health::Health;

#[derive(Debug, Error)]
pub enum StatusError {
    #[error("no agent answers at {}: {source}; is it running?", path.display())]
    NoAgent { path: PathBuf, source: io::Error },
    #[error("the agent at {} did not answer within {} s", path.display(), PATIENCE.as_secs())]
    Silent { path: PathBuf },
    #[error("the agent at {} answered with an error: {message}", path.display())]
    Refused { path: PathBuf, message: String },
    #[error("the answer of the agent at {} is not understood: {source}; is it of another version?", path.display())]
    NotUnderstood { path: PathBuf, source: serde_json::Error },
}

/// Shows the status once, or every second with `--watch`.
pub async fn run(arguments: &StatusArguments) -> ExitCode {
    loop {
        let outcome = fetch(&arguments.socket).await;
        let code = match show(arguments, &outcome) {
            Ok(()) if outcome.is_ok() => ExitCode::SUCCESS,
            Ok(()) => ExitCode::FAILURE,
            // Whoever read our output has seen enough.
            Err(_) => return ExitCode::SUCCESS,
        };
        if !arguments.watch {
            return code;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Asks the daemon for its report.
pub async fn fetch(socket: &Path) -> Result<Report, StatusError> {
    let path = socket.to_owned();
    match request(socket, Request::Report).await? {
        Answer::Report(report) => Ok(*report),
        Answer::Error(message) => Err(StatusError::Refused { path, message }),
        Answer::Differences(_) | Answer::Health { .. } => {
            Err(StatusError::Refused { path, message: "it sent no report".into() })
        }
    }
}

/// `mesh-agent check`: asks the daemon to compare what the Swarm says with what is in the kernel and what its resolver
/// answers. Prints the differences; fails if there are any.
pub async fn check(socket: &Path) -> ExitCode {
    let (text, code) = match fetch_differences(socket).await {
        Ok(differences) if differences.is_empty() => {
            ("the Swarm, the kernel's tables and the names agree\n".to_owned(), ExitCode::SUCCESS)
        }
        Ok(differences) => (differences.join("\n") + "\n", ExitCode::FAILURE),
        Err(error) => {
            // Nobody to tell if standard error is closed.
            let _ = writeln!(io::stderr(), "mesh-agent: {error}");
            return ExitCode::FAILURE;
        }
    };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

async fn fetch_differences(socket: &Path) -> Result<Vec<String>, StatusError> {
    let path = socket.to_owned();
    match request(socket, Request::Check).await? {
        Answer::Differences(differences) => Ok(differences),
        Answer::Error(message) => Err(StatusError::Refused { path, message }),
        Answer::Report(_) | Answer::Health { .. } => {
            Err(StatusError::Refused { path, message: "it sent no differences".into() })
        }
    }
}

/// `mesh-agent health`: says how the agent is; fails if a restart could help, or if nobody answers.
pub async fn health(socket: &Path) -> ExitCode {
    let (sentence, code) = match fetch_health(socket).await {
        Ok(Health { is_well: true, sentence }) => (sentence, ExitCode::SUCCESS),
        Ok(Health { is_well: false, sentence }) => (sentence, ExitCode::FAILURE),
        Err(error) => (error.to_string(), ExitCode::FAILURE),
    };
    // What Docker keeps of a health check is its output; the exit code is what counts.
    let _ = writeln!(io::stdout(), "{sentence}");
    code
}

async fn fetch_health(socket: &Path) -> Result<Health, StatusError> {
    let path = socket.to_owned();
    match request(socket, Request::Health).await? {
        Answer::Health { is_well, sentence } => Ok(Health { is_well, sentence }),
        Answer::Error(message) => Err(StatusError::Refused { path, message }),
        Answer::Report(_) | Answer::Differences(_) => {
            Err(StatusError::Refused { path, message: "it did not say how it is".into() })
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

async fn request(socket: &Path, request: Request) -> Result<Answer, StatusError> {
    let path = socket.to_owned();
    let answer = match timeout(PATIENCE, ask(socket, request)).await {
        Err(_) => return Err(StatusError::Silent { path }),
        Ok(Err(source)) => return Err(StatusError::NoAgent { path, source }),
        Ok(Ok(answer)) => answer,
    };
    serde_json::from_slice(&answer).map_err(|source| StatusError::NotUnderstood { path, source })
}

async fn ask(socket: &Path, request: Request) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut request = serde_json::to_vec(&request)?;
    request.push(b'\n');
    stream.write_all(&request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

fn show(arguments: &StatusArguments, outcome: &Result<Report, StatusError>) -> io::Result<()> {
    let mut output = io::stdout().lock();
    if arguments.watch && arguments.format == StatusFormat::Table && output.is_terminal() {
        // Cursor home, clear the screen.
        output.write_all(b"\x1b[H\x1b[2J")?;
    }
    match outcome {
        Ok(report) => output.write_all(rendered(arguments, report).as_bytes())?,
        Err(error) => writeln!(io::stderr(), "mesh-agent: {error}")?,
    }
    output.flush()
}

/// What goes to standard output.
pub(super) fn rendered(arguments: &StatusArguments, report: &Report) -> String {
    match arguments.format {
        StatusFormat::Table => match arguments.section {
            None => table::whole(report),
            Some(Section::Services) => table::services(&report.services),
            Some(Section::Backends) => table::backends(&report.backends),
            Some(Section::Nodes) => table::nodes(&report.nodes),
            Some(Section::Networks) => table::networks(&report.networks),
            Some(Section::Dns) => table::dns(&report.dns),
        },
        StatusFormat::Json => {
            let value = match arguments.section {
                None => json!(report),
                Some(Section::Services) => json!({ "services": report.services }),
                Some(Section::Backends) => json!({ "backends": report.backends }),
                Some(Section::Nodes) => json!({ "nodes": report.nodes }),
                Some(Section::Networks) => json!({ "networks": report.networks }),
                Some(Section::Dns) => json!({ "dns": report.dns }),
            };
            format!("{value:#}\n")
        }
    }
}
