//! One agent per node. An abstract Unix socket is the lock: its name belongs to the node's network namespace, whatever
//! container an agent is in, and it is free again the moment its holder is gone.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a predecessor may take to end.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Held for as long as the agent runs.
#[derive(Debug)]
pub struct Single {
    _listener: UnixListener,
}

#[derive(Debug, thiserror::Error)]
pub enum SingleError {
    #[error(
        "another agent runs on this node already; stop it first (`docker ps` and `pgrep -a mesh-agent` show it)"
    )]
    Taken,
    #[error("cannot find out whether another agent runs on this node: {0}")]
    Socket(#[from] std::io::Error),
}

impl Single {
    /// Gives another agent a moment to end: Docker may start a successor before it has stopped the one before.
    pub async fn take() -> Result<Self, SingleError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::try_take() {
                Err(SingleError::Taken) if Instant::now() < deadline => sleep(PAUSE).await,
                outcome => return outcome,
            }
        }
    }

    /// Without any patience.
    pub fn try_take() -> Result<Self, SingleError> {
        let address = SocketAddr::from_abstract_name("mesh-agent")?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Self { _listener: listener }),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(SingleError::Taken),
            Err(error) => Err(error.into()),
        }
    }
}
