//! `--source file:PATH`: a YAML file instead of a Swarm, for use without Docker and for tests. Changes of the file take
//! effect within half a second; a file with a mistake in it is reported and the last good one stays in force.
//!
//! ```yaml
//! node: one                          # which of the nodes this is; the host's name if absent
//! nodes:
//!   one: { address: 10.99.0.1, role: manager }
//!   two: { address: 10.99.0.2, labels: { mesh.zone: b } }   # also: state: ready|down, availability: active|drain
//! services:
//!   web:
//!     ports: ["80:8080", "53:53/udp"]                       # PUBLISHED:TARGET[/PROTOCOL]
//!     labels: { mesh.policy: maglev }
//!     backends:
//!       - { node: one, address: 10.0.0.5, bridge: 172.18.0.3 }
//!       - { node: two, address: 10.0.0.6, state: draining } # active (default), draining, down
//! ```
//!
//! A backend's `address` is its identity: its address on the network `ingress`. Backends on this node also need `bridge`,
//! their address on `docker_gwbridge`, and `mac`, their MAC there, unless it is `02:42:` and the address. For virtual
//! addresses: `networks: {NAME: {subnet: CIDR, vni: NUMBER}}` (the overlay's VXLAN network identifier), in the service `virtual-addresses: {NETWORK: ADDRESS}` (or
//! `endpoint-mode: dnsrr`), in the backend `addresses: {NETWORK: ADDRESS}`.

mod description;
mod views;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

use self::description::Description;
use super::snapshot::{LocalView, Snapshot};
use super::status::{Part, StatusBoard};

#[derive(Debug, Error)]
pub enum FileError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} is not understood: {source}", path.display())]
    Malformed { path: PathBuf, source: serde_yaml_ng::Error },
    #[error("{} contradicts itself: {reason}", path.display())]
    Inconsistent { path: PathBuf, reason: String },
}

/// Reads the file once.
pub fn read(path: &Path) -> Result<(Snapshot, LocalView), FileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| FileError::Unreadable { path: path.to_owned(), source })?;
    let description: Description = serde_yaml_ng::from_str(&text)
        .map_err(|source| FileError::Malformed { path: path.to_owned(), source })?;
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    description
        .into_views(hostname.trim())
        .map_err(|reason| FileError::Inconsistent { path: path.to_owned(), reason })
}

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs until dropped.
pub(super) async fn run(
    path: &Path,
    snapshot: &watch::Sender<Option<Arc<Snapshot>>>,
    view: &watch::Sender<Option<Arc<LocalView>>>,
    board: &StatusBoard,
) -> Infallible {
    let mut last = None;
    loop {
        let stamp = stamp(path);
        if stamp.is_none() || stamp != last {
            last = stamp;
            match read(path) {
                Ok((new_snapshot, new_view)) => {
                    info!(path = %path.display(), services = new_snapshot.services.len(), "file read");
                    board.connected_to(&path.to_string_lossy());
                    board.succeeded(Part::Swarm);
                    board.succeeded(Part::Local);
                    replace(view, new_view);
                    replace(snapshot, new_snapshot);
                }
                Err(error) => board.failed(Part::Swarm, &error),
            }
        } else if board.read().swarm.last_error.is_none() {
            board.succeeded(Part::Swarm);
            board.succeeded(Part::Local);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Changes whenever the file does.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn replace<T: PartialEq>(sender: &watch::Sender<Option<Arc<T>>>, value: T) {
    sender.send_if_modified(|current| {
        let is_news = current.as_deref() != Some(&value);
        *current = Some(Arc::new(value));
        is_news
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "node: one\nnodes:\n  one: { address: 10.99.0.1 }\nservices:\n  web: {}\n";

    #[tokio::test]
    async fn a_bad_edit_keeps_the_last_good_file_in_force_until_it_is_mended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("swarm.yaml");
        std::fs::write(&path, GOOD).unwrap();
        let (snapshot, mut snapshots) = watch::channel(None);
        let (view, _views) = watch::channel(None);
        let board = StatusBoard::default();
        let running = run(&path, &snapshot, &view, &board);
        let script = async {
            snapshots.changed().await.unwrap();
            let services = |current: &Option<Arc<Snapshot>>| current.as_ref().unwrap().services.len();
            assert_eq!(services(&snapshots.borrow_and_update()), 1);
            std::fs::write(&path, "services: [").unwrap();
            while board.read().swarm.last_error.is_none() {
                sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(services(&snapshots.borrow_and_update()), 1);
            std::fs::write(&path, format!("{GOOD}  empty: {{}}\n")).unwrap();
            snapshots.changed().await.unwrap();
            assert_eq!(services(&snapshots.borrow_and_update()), 2);
            assert_eq!(board.read().swarm.last_error, None);
        };
        tokio::select! {
            _ = running => {}
            () = script => {}
        }
    }
}
