//! The daemon's end of the Unix socket: one JSON line asks, one JSON line answers.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::report::Report;
use crate::health::Health;

/// The agent's core, which knows everything that is in a report.
pub trait ReportSource: Send + Sync {
    fn health(&self) -> Health;

    fn report(&self) -> BoxFuture<'_, Report>;

    /// What the kernel's tables and the resolver's answers have that the Swarm has not, and the other way round.
    fn differences(&self) -> BoxFuture<'_, Vec<String>>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(super) enum Request {
    Report,
    Check,
    Health,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Report(Box<Report>),
    Differences(Vec<String>),
    Health { is_well: bool, sentence: String },
    Error(String),
}

#[derive(Debug, Error)]
pub enum StatusServerError {
    #[error("another agent runs here: it answers at {}; stop it first, or give this one another --socket", path.display())]
    AnotherAgent { path: PathBuf },
    #[error("cannot listen at {}, which exists and is no socket; remove it or give another --socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("cannot listen at {}: {source}; is the folder writable? --socket names another place", path.display())]
    Unusable { path: PathBuf, source: io::Error },
}

/// Runs until dropped, and removes the socket then.
pub async fn serve(path: &Path, source: Arc<dyn ReportSource>) -> Result<Infallible, StatusServerError> {
    let listener = listen(path).await?;
    let _socket = Socket(path.to_owned());
    info!(path = %path.display(), "answering `mesh-agent status`");
    let mut conversations = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                conversations.spawn(timeout(PATIENCE, converse(stream, source.clone())));
            }
            Err(error) => {
                // Out of file descriptors, for example.
                debug!("cannot accept a connection at {}: {error}", path.display());
                sleep(Duration::from_millis(100)).await;
            }
        }
        while conversations.try_join_next().is_some() {}
    }
}

/// For one question and its answer.
const PATIENCE: Duration = Duration::from_secs(10);

const REQUEST_BYTES: u64 = 4096;

async fn listen(path: &Path) -> Result<UnixListener, StatusServerError> {
    let unusable = |source| StatusServerError::Unusable { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(unusable)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(StatusServerError::NotASocket { path: path.to_owned() });
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            return Err(StatusServerError::AnotherAgent { path: path.to_owned() });
        }
        // Left behind by an agent that was killed.
        Ok(_) => std::fs::remove_file(path).map_err(unusable)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(unusable)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(unusable)?;
    Ok(listener)
}

async fn converse(mut stream: UnixStream, source: Arc<dyn ReportSource>) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    BufReader::new(reader.take(REQUEST_BYTES)).read_line(&mut line).await?;
    if line.is_empty() {
        // Somebody only wanted to know whether we are here.
        return Ok(());
    }
    let answer = match serde_json::from_str(&line) {
        Ok(Request::Report) => Answer::Report(Box::new(source.report().await)),
        Ok(Request::Health) => {
            let Health { is_well, sentence } = source.health();
            Answer::Health { is_well, sentence }
        }
        Ok(Request::Check) => Answer::Differences(source.differences().await),
        Err(error) => Answer::Error(format!("the request is not understood: {error}")),
    };
    let mut answer = serde_json::to_vec(&answer)?;
    answer.push(b'\n');
    writer.write_all(&answer).await
}

struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
