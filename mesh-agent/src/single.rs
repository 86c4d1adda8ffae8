//! One agent per node, whatever container it is in. The lock is the folder of pins in the BPF file system, which all agents of
//! a node share and only root can open.
//!
//! Agents up to 0.1.0 of November 2026 knew only an abstract Unix socket, whose name belongs to the node's network namespace.
//! It is held too, so that an old agent and a new one exclude each other while they are exchanged. Anybody in that namespace
//! may take its name, so of itself it stops nobody unless root holds it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::dataplane::pins::{Pins, is_bpffs};

/// How long a predecessor may take to end.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

const NAME: &str = "mesh-agent";

/// Held for as long as the agent runs.
#[derive(Debug)]
pub struct Single {
    /// None where the socket's name is somebody else's.
    _listener: Option<UnixListener>,
    /// None where there is no BPF file system, without which an agent does not get far.
    _folder: Option<File>,
}

#[derive(Debug, thiserror::Error)]
pub enum SingleError {
    #[error(
        "another agent runs on this node already; stop it first (`docker ps` and `pgrep -a mesh-agent` show it)"
    )]
    Taken,
    #[error("cannot find out whether another agent runs on this node: {0}")]
    Unknown(#[from] io::Error),
}

impl Single {
    /// Gives another agent a moment to end: Docker may start a successor before it has stopped the one before.
    pub async fn take(bpffs: &Path) -> Result<Self, SingleError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is_last = Instant::now() >= deadline;
            match Self::try_take(bpffs, is_last) {
                Err(SingleError::Taken) if !is_last => sleep(PAUSE).await,
                outcome => return outcome,
            }
        }
    }

    /// Looks at who holds the socket only if that decides: the question stays in its queue.
    fn try_take(bpffs: &Path, asks_who: bool) -> Result<Self, SingleError> {
        let folder = lock_folder(bpffs)?;
        let listener = match listen() {
            Ok(listener) => Some(listener),
            Err(SingleError::Taken) if asks_who && holder().is_some_and(|uid| uid != 0) => {
                warn!(
                    "a process that is not root's holds the abstract socket {NAME}; an agent does not need it"
                );
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { _listener: listener, _folder: folder })
    }
}

/// Whether an agent runs on this node. Leaves nothing behind.
pub fn is_held(bpffs: &Path) -> bool {
    let folder = File::open(Pins::under(bpffs).root());
    let is_locked = folder.is_ok_and(|folder| matches!(folder.try_lock(), Err(TryLockError::WouldBlock)));
    is_locked || matches!(listen(), Err(SingleError::Taken)) && holder().is_none_or(|uid| uid == 0)
}

fn lock_folder(bpffs: &Path) -> Result<Option<File>, SingleError> {
    let pins = Pins::under(bpffs);
    if !is_bpffs(bpffs) {
        return Ok(None);
    }
    pins.create_root().map_err(|error| io::Error::other(error.to_string()))?;
    let folder = File::open(pins.root())?;
    match folder.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(SingleError::Taken),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    // `uninstall` may have removed it in between, and another agent made another.
    let is_same = fs::metadata(pins.root()).is_ok_and(|there| {
        folder.metadata().is_ok_and(|held| (held.st_dev(), held.st_ino()) == (there.st_dev(), there.st_ino()))
    });
    if is_same { Ok(Some(folder)) } else { Err(SingleError::Taken) }
}

fn listen() -> Result<UnixListener, SingleError> {
    let address = SocketAddr::from_abstract_name(NAME)?;
    match UnixListener::bind_addr(&address) {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(SingleError::Taken),
        Err(error) => Err(error.into()),
    }
}

/// Whose process listens at the socket; `None` if it does not tell.
fn holder() -> Option<u32> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).ok()?;
    // Nobody accepts there: a queue that is full must not hold us up.
    socket.set_nonblocking(true).ok()?;
    socket.connect(&SockAddr::unix(format!("\0{NAME}")).ok()?).ok()?;
    let credentials = rustix::net::sockopt::socket_peercred(socket.as_fd()).ok()?;
    Some(credentials.uid.as_raw())
}
