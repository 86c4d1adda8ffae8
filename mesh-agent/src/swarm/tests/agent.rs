//! The source of an agent against a Docker API and certificates of the test's own.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::docker_api::DockerApi;
use crate::peers::tests::authority::{Authority, Issue};
use crate::swarm::snapshot::{LocalView, Snapshot};
use crate::swarm::source::{Source, SourceSettings, follow};
use crate::swarm::status::StatusBoard;

/// Too rarely for a test to see it.
pub(super) const RARELY: Duration = Duration::from_mins(1);

pub(super) struct Agent {
    pub(super) board: StatusBoard,
    snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    view: watch::Receiver<Option<Arc<LocalView>>>,
    running: JoinHandle<()>,
}

impl Agent {
    pub(super) fn start(api: &DockerApi, resync: Duration) -> Self {
        let state = Authority::new("cluster-of-the-certificate").issue(&Issue::manager("node1"));
        Self::start_with(api, resync, free_port(), state)
    }

    pub(super) fn start_with(api: &DockerApi, resync: Duration, peer_port: u16, state: TempDir) -> Self {
        let settings = SourceSettings {
            source: Source::Swarm,
            docker_socket: api.socket(),
            docker_run: state.path().to_owned(),
            control_socket: state.path().join("control.sock"),
            swarm_state: PathBuf::from(state.path()),
            bridge: "docker_gwbridge".into(),
            resync,
            peer_port,
        };
        let board = StatusBoard::default();
        let (snapshot_sender, snapshot) = watch::channel(None);
        let (view_sender, view) = watch::channel(None);
        let on_board = board.clone();
        let running = tokio::spawn(async move {
            let _state = state;
            let local_resync = Duration::from_millis(500);
            match Box::pin(follow(&settings, local_resync, &snapshot_sender, &view_sender, &on_board)).await {}
        });
        Self { board, snapshot, view, running }
    }

    pub(super) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.borrow().clone()
    }

    pub(super) fn view(&self) -> Option<Arc<LocalView>> {
        self.view.borrow().clone()
    }

    pub(super) fn containers(&self) -> Vec<String> {
        self.view().map(|view| view.containers.keys().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn error(&self) -> String {
        self.board.read().swarm.last_error.unwrap_or_default()
    }

    pub(super) async fn eventually(&self, is_so: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !is_so(self) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let outcome = timeout(Duration::from_secs(10), waiting).await;
        assert!(outcome.is_ok(), "it never became so; {:#?}\n{:#?}", self.board.read(), self.view());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.running.abort();
    }
}

pub(super) fn free_port() -> u16 {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
