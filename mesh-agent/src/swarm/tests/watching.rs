//! What is told of changes that a manager pushes, when the stream breaks, and what is made of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::agent::{Agent, RARELY, free_port};
use super::docker_api::DockerApi;
use super::swarm_manager::{Asked, SwarmManager};
use crate::peers::certificates::Certificates;
use crate::peers::tests::authority::{Authority, Issue};
use crate::status::report::{Report, SourceReport};
use crate::status::table;
use crate::swarm::control::{Control, Told};
use crate::swarm::control_wire::{
    EVERY_ACTION, Endpoint, Meta, Node, Object, PortConfig, REMOVE, Task, TaskStatus, Version, WatchEntry,
    WatchRequest,
};
use crate::swarm::snapshot::TaskState;
use crate::swarm::status::StatusBoard;
use crate::swarm::store::{Change, Kind, Pushed};

#[tokio::test]
async fn a_first_stream_tells_of_the_gap_then_of_every_tasks_ports_then_of_changes() {
    let cluster = Authority::new("a");
    let mut watch = Watch::of(&cluster);
    let manager = watch.manager(&cluster, &Issue::manager("one"));
    manager.set_tasks(&[task("t1", 3, 8080)]);
    watch.start();
    watch.expect(Told::Watching { is_gap: true }).await;
    assert_eq!(watch.task().await, ("t1".into(), 3, 8080));
    assert_eq!(manager.asked(), [everything(None), Asked::Tasks]);
    assert_eq!(watch.error(), None);

    manager.push(7, UPDATE, Object { task: Some(task("t1", 7, 8081)), ..Object::default() });
    assert_eq!(watch.task().await, ("t1".into(), 7, 8081));
    manager.push(8, REMOVE, Object { task: Some(task("t1", 7, 8081)), ..Object::default() });
    let removed = Change::Removed { kind: Kind::Task, id: "t1".into(), version: 7 };
    watch.expect(Told::Changes(vec![removed])).await;
}

#[tokio::test]
async fn a_stream_that_ends_is_resumed_after_the_last_change_and_nothing_is_missed() {
    let cluster = Authority::new("a");
    let mut watch = Watch::of(&cluster);
    let manager = watch.manager(&cluster, &Issue::manager("one"));
    watch.start();
    watch.expect(Told::Watching { is_gap: true }).await;
    manager.push(7, UPDATE, Object { task: Some(task("t1", 7, 80)), ..Object::default() });
    assert_eq!(watch.task().await.1, 7);

    manager.interrupt();
    watch.expect(Told::Ended).await;
    let error = watch.error().unwrap();
    assert!(error.starts_with("the manager does not tell: ") && error.contains("interrupted"), "{error}");
    manager.push(9, UPDATE, Object { task: Some(task("t1", 9, 80)), ..Object::default() });
    watch.expect(Told::Watching { is_gap: false }).await;
    assert_eq!(watch.task().await.1, 9);
    assert_eq!(watch.error(), None);
    assert_eq!(manager.asked(), [everything(None), Asked::Tasks, everything(Some(7))]);
}

#[tokio::test]
async fn where_nothing_can_be_resumed_a_stream_begins_anew_and_tells_of_the_gap() {
    let cluster = Authority::new("a");
    let mut watch = Watch::of(&cluster);
    let manager = watch.manager(&cluster, &Issue::manager("one"));
    watch.start();
    watch.expect(Told::Watching { is_gap: true }).await;
    manager.push(7, UPDATE, Object { task: Some(task("t1", 7, 80)), ..Object::default() });
    assert_eq!(watch.task().await.1, 7);

    manager.forget();
    manager.set_tasks(&[task("t1", 9, 81)]);
    manager.interrupt();
    watch.expect(Told::Ended).await;
    watch.expect(Told::Ended).await;
    watch.expect(Told::Watching { is_gap: true }).await;
    assert_eq!(watch.task().await, ("t1".into(), 9, 81));
    let again = [everything(Some(7)), everything(None), Asked::Tasks];
    assert_eq!(manager.asked(), [vec![everything(None), Asked::Tasks], again.to_vec()].concat());
}

#[tokio::test]
async fn the_socket_may_appear_later_and_go_and_come_back() {
    let cluster = Authority::new("a");
    let mut watch = Watch::of(&cluster);
    watch.start();
    watch.expect(Told::Ended).await;
    let error = watch.error().unwrap();
    assert!(
        error.starts_with(&format!("cannot connect to {}: No such file", watch.socket.display())),
        "{error}"
    );
    assert!(error.ends_with("mount Docker's folder of run-time state (--docker-run)"), "{error}");

    let manager = watch.manager(&cluster, &Issue::manager("one"));
    watch.expect_after_ends(Told::Watching { is_gap: true }).await;
    drop(manager);
    watch.expect(Told::Ended).await;
    assert!(watch.error().is_some());

    let manager = watch.manager(&cluster, &Issue::manager("one"));
    watch.expect_after_ends(Told::Watching { is_gap: true }).await;
    assert_eq!(manager.asked()[0], everything(None), "there was no change to resume after");
}

#[tokio::test]
async fn a_server_that_is_not_our_swarms_manager_is_asked_nothing() {
    let cluster = Authority::new("a");
    let stranger = Authority::new("b");
    let renamed = Issue { cluster_id: Some("b".into()), ..Issue::manager("one") };
    let expired = Issue { is_expired: true, ..Issue::manager("one") };
    for (authority, issue, reason) in [
        (&cluster, Issue::worker("two"), "its certificate is not a manager's"),
        (&stranger, Issue::manager("one"), "its certificate was not issued by this cluster"),
        (&cluster, renamed, "it is of another cluster than \"a\""),
        (&cluster, expired, "its certificate has expired"),
    ] {
        let mut watch = Watch::of(&cluster);
        let manager = watch.manager(authority, &issue);
        watch.start();
        watch.expect(Told::Ended).await;
        let error = watch.error().unwrap();
        let begin = format!("the manager at {} is not to be trusted: {reason} (", watch.socket.display());
        assert!(error.starts_with(&begin), "{error}");
        assert!(error.contains(&issue.node_id), "{error}");
        assert_eq!(manager.asked(), []);
    }
}

#[tokio::test]
async fn changes_show_without_a_list_while_they_are_pushed_and_lists_are_due_when_they_no_longer_are() {
    let (agent, api, state) = agent_whose_docker_refuses();
    let first = "manager, changes polled (cannot connect to ";
    agent.eventually(|agent| source_line(agent).contains(first)).await;
    assert!(source_line(&agent).ends_with("), nothing heard yet"), "{}", source_line(&agent));
    let manager = SwarmManager::start(&state.join("control.sock"), &state);
    manager.set_tasks(&[task("running", 77, 8080)]);
    agent.eventually(|agent| source_line(agent).contains(", changes pushed, ")).await;
    api.set("/services", 200, include_str!("../testdata/services.json"));
    agent.eventually(|agent| agent.snapshot().is_some()).await;
    let own = agent.snapshot().unwrap().tasks["running"].ports.clone();
    assert_eq!(own.unwrap()[0].target, 8080, "only the manager's own list tells");

    agent.eventually(|_| api.listeners() == 2).await;
    let before = lists(&api);
    manager.push(100, UPDATE, Object { task: Some(task("new", 100, 80)), ..Object::default() });
    agent.eventually(|agent| agent.snapshot().unwrap().tasks.contains_key("new")).await;
    api.set("/services", 200, "[]");
    api.event("service", "remove", "web", &json!({}));
    sleep(Duration::from_millis(500)).await;
    assert_eq!(lists(&api), before, "what is not pushed has not happened");

    drop(manager);
    agent.eventually(|agent| agent.snapshot().unwrap().services.is_empty()).await;
    agent.eventually(|agent| source_line(agent).contains(", changes polled (")).await;
    assert!(source_line(&agent).contains("), last heard "), "{}", source_line(&agent));
}

#[tokio::test]
async fn a_node_that_is_pushed_makes_a_list_due_because_only_lists_tell_managers_addresses() {
    let (agent, api, state) = agent_whose_docker_refuses();
    let manager = SwarmManager::start(&state.join("control.sock"), &state);
    agent.eventually(|agent| source_line(agent).contains(", changes pushed, ")).await;
    api.set("/services", 200, include_str!("../testdata/services.json"));
    agent.eventually(|agent| agent.snapshot().is_some()).await;
    let before = lists(&api);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(lists(&api), before);
    let node = Node { id: "node9".into(), meta: Some(meta(50)), ..Node::default() };
    manager.push(50, CREATE, Object { node: Some(node), ..Object::default() });
    agent.eventually(|_| lists(&api) > before).await;
}

/// Lists that succeed before changes are pushed would make the agent look more often for ten seconds.
fn agent_whose_docker_refuses() -> (Agent, DockerApi, PathBuf) {
    let api = DockerApi::start();
    api.set("/services", 503, "{}");
    let folder = Authority::new("a").issue(&Issue::manager("node1"));
    let state = PathBuf::from(folder.path());
    let agent = Agent::start_with(&api, RARELY, free_port(), folder);
    (agent, api, state)
}

const CREATE: i32 = 1;
const UPDATE: i32 = 2;

/// As the agent asks to be told of everything.
fn everything(resume_from: Option<u64>) -> Asked {
    let kinds = ["task", "service", "node", "network"];
    let entries = kinds.map(|kind| WatchEntry { kind: kind.into(), action: EVERY_ACTION });
    let resume_from = resume_from.map(|index| Version { index });
    Asked::Watch(WatchRequest { entries: entries.to_vec(), resume_from })
}

fn meta(version: u64) -> Meta {
    Meta { version: Some(Version { index: version }) }
}

/// One that runs, made when its service published 80 for a target port.
fn task(id: &str, version: u64, target_port: u32) -> Task {
    let port = PortConfig { target_port, published_port: 80, ..PortConfig::default() };
    let endpoint = Endpoint { ports: vec![port], ..Endpoint::default() };
    let running = 512;
    Task {
        id: id.into(),
        meta: Some(meta(version)),
        node_id: "node1".into(),
        status: Some(TaskStatus { state: running, ..TaskStatus::default() }),
        desired_state: running,
        endpoint: Some(endpoint),
        ..Task::default()
    }
}

/// How often the services were listed.
fn lists(api: &DockerApi) -> usize {
    api.requests().iter().filter(|path| *path == "/services").count()
}

/// As `status` shows it.
fn source_line(agent: &Agent) -> String {
    let source = SourceReport::new(&agent.board.read(), Instant::now());
    let summary = table::summary(&Report { source, ..Report::default() });
    summary.lines().find(|line| line.starts_with("Source:")).unwrap().to_owned()
}

/// The watch on its own, on a manager's node.
struct Watch {
    state: TempDir,
    socket: PathBuf,
    board: StatusBoard,
    sender: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
    running: Option<JoinHandle<()>>,
}

impl Watch {
    fn of(cluster: &Authority) -> Self {
        let state = cluster.issue(&Issue::manager("one"));
        let socket = state.path().join("control.sock");
        let (sender, told) = mpsc::channel(16);
        Self { state, socket, board: StatusBoard::default(), sender, told, running: None }
    }

    fn start(&mut self) {
        let (socket, board, sender) = (self.socket.clone(), self.board.clone(), self.sender.clone());
        let certificates = Certificates::in_swarm_state(self.state.path());
        self.running = Some(tokio::spawn(async move {
            let control = Control { socket: &socket, certificates: &certificates, board: &board };
            match control.run(sender).await {}
        }));
    }

    /// What listens on the socket, with a certificate of its own.
    fn manager(&self, authority: &Authority, issue: &Issue) -> SwarmManager {
        SwarmManager::start(&self.socket, authority.issue(issue).path())
    }

    /// What is told next, but for changes that are none.
    async fn next(&mut self) -> Told {
        loop {
            let told = timeout(Duration::from_secs(10), self.told.recv()).await;
            let told = told.unwrap_or_else(|_| panic!("nothing is told; {:?}", self.error())).unwrap();
            if told != Told::Changes(Vec::new()) {
                return told;
            }
        }
    }

    async fn expect(&mut self, expected: Told) {
        assert_eq!(self.next().await, expected, "{:?}", self.error());
    }

    /// Once the manager is reached.
    async fn expect_after_ends(&mut self, expected: Told) {
        for _ in 0..20 {
            let told = self.next().await;
            if told != Told::Ended {
                return assert_eq!(told, expected);
            }
        }
        panic!("the manager is not reached; {:?}", self.error());
    }

    /// The one task that is told of next: its id, its version, and the target of its port.
    async fn task(&mut self) -> (String, u64, u16) {
        let Told::Changes(changes) = self.next().await else { panic!("no changes") };
        let [Change::Set { version, object: Pushed::Task(task) }] = changes.as_slice() else {
            panic!("not one task: {changes:?}")
        };
        assert_eq!(task.state, TaskState::Running);
        (task.id.clone(), *version, task.ports.as_ref().unwrap()[0].target)
    }

    fn error(&self) -> Option<String> {
        self.board.read().watch.last_error
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}
