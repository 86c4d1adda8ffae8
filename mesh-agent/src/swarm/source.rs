//! One stream of snapshots whatever this node is: a manager asks Docker, a worker asks the managers' agents, a file
//! replaces both. Roles may change while the agent runs.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::info;

use super::control::Control;
use super::local::{Local, Standing};
use super::snapshot::{LocalView, Snapshot};
use super::status::{SourceRole, StatusBoard};
use super::{file, manager};
use crate::peers::certificates::Certificates;
use crate::peers::reporter::Reporter;
use crate::peers::{client, server};

#[derive(Clone, Debug)]
pub struct SourceSettings {
    pub source: Source,
    /// Docker's socket.
    pub docker_socket: PathBuf,
    /// Docker's folder with the files of network namespaces in it.
    pub docker_run: PathBuf,
    /// The socket of the Swarm's manager on this node, if there is one.
    pub control_socket: PathBuf,
    /// Docker's folder with the Swarm's certificates in it.
    pub swarm_state: PathBuf,
    /// The name of `docker_gwbridge`.
    pub bridge: String,
    /// How long a manager goes without a full list at most.
    pub resync: Duration,
    /// Where managers' agents serve the others, on every node.
    pub peer_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Swarm,
    File(PathBuf),
}

#[derive(Debug)]
pub struct SourceHandles {
    /// `None` until one complete view was seen; the last one stays for as long as there is no newer one.
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pub local: watch::Receiver<Option<Arc<LocalView>>>,
    pub status: StatusBoard,
}

/// Starts following. Ends when nobody holds `local` any more.
pub fn spawn(settings: SourceSettings) -> SourceHandles {
    let (snapshot_sender, snapshot) = watch::channel(None);
    let (local_sender, local) = watch::channel(None);
    let status = StatusBoard::default();
    let board = status.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = local_sender.closed() => {}
            _ = follow(&settings, LOCAL_RESYNC, &snapshot_sender, &local_sender, &board) => {}
        }
    });
    SourceHandles { snapshot, local, status }
}

/// Containers that no event told of, and a change of role, show after this time at the latest. Docker starts programs to
/// answer what a node is, so it is not asked more often.
const LOCAL_RESYNC: Duration = Duration::from_secs(5);

pub(super) async fn follow(
    settings: &SourceSettings,
    local_resync: Duration,
    snapshot: &watch::Sender<Option<Arc<Snapshot>>>,
    view: &watch::Sender<Option<Arc<LocalView>>>,
    board: &StatusBoard,
) -> Infallible {
    if let Source::File(path) = &settings.source {
        board.set_role(SourceRole::File);
        return file::run(path, snapshot, view, board).await;
    }
    let certificates = Arc::new(Certificates::in_swarm_state(&settings.swarm_state));
    let (standing_sender, standing) = watch::channel(None);
    let (managers_sender, managers) = watch::channel(Vec::new());
    let local = Local {
        socket: &settings.docker_socket,
        docker_run: &settings.docker_run,
        bridge: &settings.bridge,
        resync: local_resync,
        certificates: &certificates,
        board,
        view,
        standing: &standing_sender,
        managers: &managers_sender,
    };
    let reporter = Reporter {
        peer_port: settings.peer_port,
        certificates: certificates.clone(),
        managers: managers.clone(),
        snapshot: snapshot.subscribe(),
        local: view.subscribe(),
    };
    let supervisor = Supervisor { settings, certificates: &certificates, managers, snapshot, board };
    tokio::select! {
        never = local.run() => never,
        never = reporter.run() => never,
        never = supervisor.run(standing) => never,
    }
}

struct Supervisor<'a> {
    settings: &'a SourceSettings,
    certificates: &'a Arc<Certificates>,
    managers: watch::Receiver<Vec<IpAddr>>,
    snapshot: &'a watch::Sender<Option<Arc<Snapshot>>>,
    board: &'a StatusBoard,
}

impl Supervisor<'_> {
    async fn run(&self, mut standing: watch::Receiver<Option<Standing>>) -> Infallible {
        loop {
            let current = standing.borrow_and_update().clone();
            tokio::select! {
                never = self.live(current) => match never {},
                changed = standing.changed() => if changed.is_err() {
                    // The sender lives as long as this future.
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    async fn live(&self, standing: Option<Standing>) -> Infallible {
        match standing {
            None => std::future::pending().await,
            Some(Standing::NotInSwarm { why }) => {
                info!("waiting: {why}");
                self.board.set_role(SourceRole::NotInSwarm);
                std::future::pending().await
            }
            Some(Standing::Manager { node_id }) => {
                info!(node_id, "this node is a manager: reading the Swarm from Docker");
                self.board.set_role(SourceRole::Manager);
                let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.settings.peer_port));
                let control = Control {
                    socket: &self.settings.control_socket,
                    certificates: self.certificates,
                    board: self.board,
                };
                let socket = &self.settings.docker_socket;
                // What Docker knows; what the nodes report is added before anybody gets to see it.
                let (sender, swarm) = watch::channel(None);
                let (certificates, board) = (self.certificates.clone(), self.board.clone());
                tokio::select! {
                    never = manager::run(socket, self.settings.resync, control, &sender) => never,
                    never = server::serve(address, certificates, swarm, self.snapshot, board) => never,
                }
            }
            Some(Standing::Worker { node_id }) => {
                info!(node_id, "this node is a worker: reading the Swarm from the managers' agents");
                self.board.set_role(SourceRole::Worker);
                let client = client::Client {
                    peer_port: self.settings.peer_port,
                    certificates: self.certificates,
                    managers: self.managers.clone(),
                    snapshot: self.snapshot,
                    board: self.board,
                };
                client.run().await
            }
        }
    }
}
