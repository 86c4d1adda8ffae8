//! Who is told what, and who is not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::authority::{Authority, Issue};
use super::snapshots::{numbered, with_many_tasks};
use crate::peers::certificates::Certificates;
use crate::peers::client::Client;
use crate::peers::reporter::Reporter;
use crate::peers::server;
use crate::swarm::snapshot::{Condition, ContainerNames, LocalContainer, LocalView, Network, Snapshot, Task};
use crate::swarm::status::StatusBoard;

type Snapshots = watch::Sender<Option<Arc<Snapshot>>>;

pub(super) const ONE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[tokio::test]
async fn a_snapshot_and_its_changes_arrive() {
    let cluster = Authority::new("a");
    let manager = Manager::start(ONE, 0, cluster.issue(&Issue::manager("manager-1")));
    manager.publish(numbered(1));
    let mut worker = Worker::start(manager.port, &[ONE], cluster.issue(&Issue::worker("worker-1")));
    worker.expect(&numbered(1)).await;
    manager.publish(numbered(2));
    worker.expect(&numbered(2)).await;
    let large = with_many_tasks(5000);
    manager.publish(large.clone());
    worker.expect(&large).await;
    assert_eq!(worker.board.read().connected_to, Some(format!("127.0.0.1:{}", manager.port)));
    assert_eq!(manager.board.read().subscribers.keys().collect::<Vec<_>>(), ["worker-1"]);
    worker.stop();
    eventually(|| manager.board.read().subscribers.is_empty()).await;
}

#[tokio::test]
async fn a_manager_that_has_not_read_the_swarm_yet_says_so_and_is_asked_again() {
    let cluster = Authority::new("a");
    let manager = Manager::start(ONE, 0, cluster.issue(&Issue::manager("manager-1")));
    let mut worker = Worker::start(manager.port, &[ONE], cluster.issue(&Issue::worker("worker-1")));
    worker.expect_error("has not read the Swarm yet").await;
    assert_eq!(*worker.snapshot.borrow(), None);
    manager.publish(numbered(1));
    worker.expect(&numbered(1)).await;
}

#[tokio::test]
async fn a_node_whose_certificate_has_expired_is_told_nothing_and_told_so() {
    let cluster = Authority::new("a");
    let manager = Manager::start(ONE, 0, cluster.issue(&Issue::manager("manager-1")));
    manager.publish(numbered(1));
    let expired = Issue { is_expired: true, ..Issue::worker("worker-1") };
    let worker = Worker::start(manager.port, &[ONE], cluster.issue(&expired));
    worker.expect_error("refused this node's certificate: CertificateExpired").await;
    assert_eq!(*worker.snapshot.borrow(), None);
    assert!(manager.board.read().subscribers.is_empty());
}

#[tokio::test]
async fn a_node_that_was_removed_from_the_swarm_is_told_no_more() {
    let cluster = Authority::new("a");
    let manager = Manager::start(ONE, 0, cluster.issue(&Issue::manager("manager-1")));
    manager.publish(numbered(1));
    let mut worker = Worker::start(manager.port, &[ONE], cluster.issue(&Issue::worker("worker-1")));
    worker.expect(&numbered(1)).await;
    let mut without = Arc::unwrap_or_clone(numbered(2));
    without.nodes.remove("worker-1");
    manager.publish(Arc::new(without));
    worker.expect_error("not in the Swarm").await;
    assert_eq!(*worker.snapshot.borrow(), Some(numbered(1)));
}

#[tokio::test]
async fn the_client_trusts_nobody_but_a_manager_of_its_own_cluster() {
    let (cluster, foreign) = (Authority::new("a"), Authority::new("b"));
    let expired = Issue { is_expired: true, ..Issue::manager("manager-1") };
    let elsewhere = Issue { cluster_id: Some("b".into()), ..Issue::manager("manager-1") };
    for (node, why) in [
        (cluster.issue(&Issue::worker("worker-2")), "not a manager's"),
        (cluster.issue(&expired), "has expired"),
        (cluster.issue(&elsewhere), "of another cluster"),
        (foreign.issue(&Issue::manager("manager-1")), "not issued by this cluster"),
    ] {
        let impostor = Manager::start(ONE, 0, node);
        impostor.publish(numbered(6));
        let worker = Worker::start(impostor.port, &[ONE], cluster.issue(&Issue::worker("worker-1")));
        worker.expect_error(why).await;
        worker.expect_error("CN=").await;
        assert_eq!(*worker.snapshot.borrow(), None);
    }
}

#[tokio::test]
async fn renewed_certificates_count_for_the_next_connection() {
    let cluster = Authority::new("a");
    let manager_state = cluster.issue(&Issue { is_expired: true, ..Issue::manager("manager-1") });
    let worker_state = cluster.issue(&Issue { is_expired: true, ..Issue::worker("worker-1") });
    let (manager_path, worker_path) = (manager_state.path().to_owned(), worker_state.path().to_owned());
    let manager = Manager::start(ONE, 0, manager_state);
    manager.publish(numbered(1));
    let mut worker = Worker::start(manager.port, &[ONE], worker_state);
    worker.expect_error("has expired").await;
    cluster.issue_into(&manager_path, &Issue::manager("manager-1"));
    worker.expect_error("CertificateExpired").await;
    cluster.issue_into(&worker_path, &Issue::worker("worker-1"));
    worker.expect(&numbered(1)).await;
}

#[tokio::test]
async fn when_a_manager_is_lost_the_next_one_is_followed_and_the_last_snapshot_stays_meanwhile() {
    let cluster = Authority::new("a");
    let first = Manager::start(ONE, 0, cluster.issue(&Issue::manager("manager-1")));
    let second = Manager::start(TWO, first.port, cluster.issue(&Issue::manager("manager-2")));
    first.publish(numbered(1));
    second.publish(numbered(1));
    let mut worker = Worker::start(first.port, &[ONE, TWO], cluster.issue(&Issue::worker("worker-1")));
    worker.expect(&numbered(1)).await;
    let followed = worker.board.read().connected_to.unwrap();
    let (lost, left) = if followed.starts_with("127.0.0.1") { (first, second) } else { (second, first) };
    lost.stop();
    left.publish(numbered(2));
    assert!(worker.snapshot.borrow().is_some());
    worker.expect(&numbered(2)).await;
    assert_ne!(worker.board.read().connected_to.unwrap(), followed);
}

#[tokio::test]
async fn a_port_that_is_taken_is_reported_and_tried_again() {
    let cluster = Authority::new("a");
    let blocker = TcpListener::bind((ONE, 0)).await.unwrap();
    let port = blocker.local_addr().unwrap().port();
    let manager = Manager::start(ONE, port, cluster.issue(&Issue::manager("manager-1")));
    manager.publish(numbered(1));
    eventually(|| {
        manager.board.read().peers.last_error.is_some_and(|error| error.contains("see --peer-port"))
    })
    .await;
    drop(blocker);
    let mut worker = Worker::start(port, &[ONE], cluster.issue(&Issue::worker("worker-1")));
    worker.expect(&numbered(1)).await;
}

#[tokio::test]
async fn what_a_node_sees_of_its_own_tasks_reaches_every_other_node() {
    let cluster = Authority::new("a");
    let manager = Manager::start(ONE, 0, cluster.issue(&Issue::manager("manager-1")));
    let mut swarm = Arc::unwrap_or_clone(with_many_tasks(3));
    for task in ["task000000", "task000001"] {
        swarm.tasks.get_mut(task).unwrap().node_id = "worker-1".into();
    }
    let swarm = Arc::new(swarm);
    manager.publish(swarm.clone());
    let mut other = Worker::start(manager.port, &[ONE], cluster.issue(&Issue::manager("manager-2")));

    let mut local = LocalView::default();
    for (task, draining) in [("task000000", false), ("task000001", true), ("task000002", true)] {
        let container = LocalContainer { task_id: task.into(), draining, ..LocalContainer::default() };
        local.containers.insert(task.into(), container);
    }
    let node = Node::start(manager.port, cluster.issue(&Issue::worker("worker-1")), local.clone());
    let mut expected = Arc::unwrap_or_clone(swarm);
    expected.conditions.insert("task000001".into(), Condition::Draining);
    // The third task is another node's.
    other.expect(&Arc::new(expected.clone())).await;

    local.containers.remove("task000000");
    node.local.send_replace(Some(Arc::new(local)));
    expected.conditions.insert("task000000".into(), Condition::Ended);
    other.expect(&Arc::new(expected.clone())).await;
    assert_eq!(*manager.published.borrow(), Some(Arc::new(expected)), "the manager's own tables follow too");
}

#[tokio::test]
async fn what_a_nodes_own_containers_are_called_reaches_every_other_node_until_they_are_gone() {
    let cluster = Authority::new("a");
    let manager = Manager::start(ONE, 0, cluster.issue(&Issue::manager("manager-1")));
    let mut swarm = Arc::unwrap_or_clone(numbered(1));
    swarm.networks.insert("net1".into(), Network::default());
    let by_hand = Task { node_id: "worker-1".into(), container_id: Some("c1".into()), ..Task::default() };
    swarm.tasks.insert("by-hand".into(), by_hand);
    let swarm = Arc::new(swarm);
    manager.publish(swarm.clone());
    let mut other = Worker::start(manager.port, &[ONE], cluster.issue(&Issue::manager("manager-2")));

    let container = LocalContainer {
        name: "by-hand".into(),
        addresses: [("net1".into(), [10, 0, 1, 9].into())].into(),
        ..LocalContainer::default()
    };
    let local = LocalView { containers: [("c1".into(), container)].into(), ..LocalView::default() };
    let node = Node::start(manager.port, cluster.issue(&Issue::worker("worker-1")), local);
    node.snapshot.send_replace(Some(swarm.clone()));
    let names = ContainerNames { name: "by-hand".into(), ..ContainerNames::default() };
    let mut expected = Arc::unwrap_or_clone(swarm.clone());
    expected.attached.insert("worker-1".into(), [("c1".into(), names)].into());
    other.expect(&Arc::new(expected)).await;

    node.local.send_replace(Some(Arc::default()));
    other.expect(&swarm).await;
}

/// A node that reports.
struct Node {
    local: watch::Sender<Option<Arc<LocalView>>>,
    _managers: watch::Sender<Vec<IpAddr>>,
    snapshot: Snapshots,
    _state: TempDir,
}

impl Node {
    fn start(peer_port: u16, state: TempDir, local: LocalView) -> Self {
        let (local, view) = watch::channel(Some(Arc::new(local)));
        let (managers, told_managers) = watch::channel(vec![IpAddr::V4(ONE)]);
        let (sender, snapshot) = watch::channel(None);
        let reporter = Reporter {
            peer_port,
            certificates: Arc::new(Certificates::in_swarm_state(state.path())),
            managers: told_managers,
            snapshot,
            local: view,
        };
        tokio::spawn(async { match reporter.run().await {} });
        Self { local, _managers: managers, snapshot: sender, _state: state }
    }
}

pub(super) struct Manager {
    pub(super) port: u16,
    board: StatusBoard,
    snapshots: Snapshots,
    pub(super) published: watch::Receiver<Option<Arc<Snapshot>>>,
    server: JoinHandle<()>,
    _state: TempDir,
}

impl Manager {
    /// With port 0, at a free port.
    pub(super) fn start(address: Ipv4Addr, port: u16, state: TempDir) -> Self {
        let port = if port == 0 { free_port() } else { port };
        let (snapshots, receiver) = watch::channel(None);
        let board = StatusBoard::default();
        let certificates = Arc::new(Certificates::in_swarm_state(state.path()));
        let (publish, published) = watch::channel(None);
        let on_board = board.clone();
        let server = tokio::spawn(async move {
            let address = SocketAddr::from((address, port));
            match server::serve(address, certificates, receiver, &publish, on_board).await {}
        });
        Self { port, board, snapshots, published, server, _state: state }
    }

    pub(super) fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshots.send_replace(Some(snapshot));
    }

    fn stop(self) {
        self.server.abort();
    }
}

pub(super) struct Worker {
    board: StatusBoard,
    snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    client: JoinHandle<()>,
}

impl Worker {
    pub(super) fn start(peer_port: u16, managers: &[Ipv4Addr], state: TempDir) -> Self {
        let board = StatusBoard::default();
        let (sender, snapshot) = watch::channel(None);
        let (_, managers) = watch::channel(managers.iter().copied().map(IpAddr::V4).collect());
        let on_board = board.clone();
        let client = tokio::spawn(async move {
            let certificates = Certificates::in_swarm_state(state.path());
            let client = Client {
                peer_port,
                certificates: &certificates,
                managers,
                snapshot: &sender,
                board: &on_board,
            };
            match client.run().await {}
        });
        Self { board, snapshot, client }
    }

    pub(super) async fn expect(&mut self, expected: &Arc<Snapshot>) {
        let arrival = self.snapshot.wait_for(|snapshot| snapshot.as_ref() == Some(expected));
        let arrived = timeout(Duration::from_secs(10), arrival).await;
        assert!(matches!(arrived, Ok(Ok(_))), "not arrived; {:?}", self.board.read());
    }

    async fn expect_error(&self, text: &str) {
        let shows = || self.board.read().swarm.last_error.is_some_and(|error| error.contains(text));
        let outcome = timeout(Duration::from_secs(10), eventually(shows)).await;
        assert!(outcome.is_ok(), "not {text:?} but {:?}", self.board.read().swarm.last_error);
    }

    fn stop(self) {
        self.client.abort();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind((ONE, 0)).unwrap().local_addr().unwrap().port()
}

async fn eventually(is_so: impl Fn() -> bool) {
    while !is_so() {
        sleep(Duration::from_millis(10)).await;
    }
}
