//! Daemon and command against each other over a real socket.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::client::{self, fetch, rendered};
use super::report::{
    AttachmentRow, BackendRow, BackendState, DataplaneReport, FlowTableRow, HealthReport, NetworkRow,
    NodeRow, Report, ServiceRow, SourceReport, ThisNodeReport,
};
use super::server::{ReportSource, StatusServerError, serve};
use crate::args::{Section, StatusArguments, StatusFormat};
use crate::dns::report::DnsReport;
use crate::health::Health;

#[tokio::test]
async fn a_check_fails_where_something_differs_and_where_nobody_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let failure = format!("{:?}", ExitCode::FAILURE);
    assert_eq!(format!("{:?}", client::check(&path).await), failure);
    let daemon = start(&path).await;
    assert_eq!(format!("{:?}", client::check(&path).await), failure);
    daemon.abort();
}

#[tokio::test]
async fn health_fails_where_nobody_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let code = client::health(&path).await;
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
    let daemon = start(&path).await;
    assert_eq!(format!("{:?}", client::health(&path).await), format!("{:?}", ExitCode::SUCCESS));
    daemon.abort();
}

#[tokio::test]
async fn the_command_gets_the_daemons_report_and_only_root_may_ask() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deeper/agent.sock");
    let daemon = start(&path).await;
    assert_eq!(fetch(&path).await.unwrap(), example());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    daemon.abort();
    while path.exists() {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn without_a_daemon_the_command_fails_and_says_where_it_looked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let error = fetch(&path).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("no agent answers at {}: ", path.display())), "{error}");
    assert!(error.ends_with("is it running?"), "{error}");
    let code = client::run(&arguments(&path, None, StatusFormat::Table)).await;
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_a_dead_ones_socket_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "left behind by a dead daemon");
    let _daemon = start(&path).await;
    let second = serve(&path, Arc::new(Example)).await.unwrap_err();
    assert!(matches!(second, StatusServerError::AnotherAgent { .. }), "{second}");
    assert!(second.to_string().starts_with("another agent runs here"), "{second}");
    assert!(fetch(&path).await.is_ok(), "the first one still answers");
}

#[tokio::test]
async fn a_file_of_another_kind_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let error = serve(&path, Arc::new(Example)).await.unwrap_err();
    assert!(matches!(error, StatusServerError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[tokio::test]
async fn a_request_that_is_not_understood_gets_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let _daemon = start(&path).await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"{\"command\":\"dance\"}\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("{\"error\":\"the request is not understood: unknown variant `dance`"),
        "{answer}"
    );
}

#[test]
fn json_has_the_section_that_was_asked_for_or_everything() {
    let json = |section| {
        let text = rendered(&arguments(Path::new("x"), section, StatusFormat::Json), &example());
        serde_json::from_str::<BTreeMap<String, serde_json::Value>>(&text).unwrap()
    };
    let backends = json(Some(Section::Backends));
    assert_eq!(backends.keys().collect::<Vec<_>>(), ["backends"]);
    let first = &backends["backends"][0];
    assert_eq!((&first["task"], &first["state"]), (&"shop_web.1".into(), &"active".into()));
    assert_eq!(json(Some(Section::Services)).keys().collect::<Vec<_>>(), ["services"]);
    assert_eq!(json(Some(Section::Networks)).keys().collect::<Vec<_>>(), ["networks"]);
    assert_eq!(json(Some(Section::Nodes)).keys().collect::<Vec<_>>(), ["nodes"]);
    let all = json(None);
    for section in ["services", "backends", "nodes", "source", "dataplane", "warnings"] {
        assert!(all.contains_key(section), "{section}");
    }
}

fn attachments() -> Vec<AttachmentRow> {
    let row = |interface: &str, hook: &str| AttachmentRow {
        interface: interface.into(),
        hook: hook.into(),
        program: "mesh".into(),
        is_port: interface.starts_with("veth"),
    };
    let ports = ["veth2", "veth4"].map(|port| row(port, "tcx-ingress"));
    [row("eth0", "xdp-native"), row("docker_gwbridge", "tcx-ingress")].into_iter().chain(ports).collect()
}

pub(super) fn example() -> Report {
    let backend = |slot: u64, node: &str| BackendRow {
        service: "shop_web".into(),
        frontend: ":80/tcp".into(),
        mode: "ingress".into(),
        policy: "round-robin".into(),
        task: format!("shop_web.{slot}"),
        node: node.into(),
        address: format!("10.0.0.{}:8080", slot + 4),
        state: BackendState::Active,
        weight: 1,
        ..BackendRow::default()
    };
    let numbers = |row, connections, connections_total, new_per_second, age_seconds| BackendRow {
        connections,
        connections_total,
        new_per_second,
        age_seconds,
        ..row
    };
    let draining = BackendRow { state: BackendState::Draining, ..backend(2, "two") };
    let node = |name: &str, role: &str, state: &str, availability: &str, address: &str, agent| NodeRow {
        node: name.into(),
        id: format!("id-of-{name}"),
        role: role.into(),
        state: state.into(),
        availability: availability.into(),
        address: address.into(),
        backends: 1,
        agent: Some(agent),
        dataplane: (!agent).then(|| "silent".to_owned()),
        inner_mtu: (!agent).then_some(1_350),
    };
    Report {
        dns: DnsReport { listening: Some("172.18.0.1:4796".into()), askers: 2, ..DnsReport::default() },
        networks: vec![NetworkRow {
            network: "shop_default".into(),
            vni: 4097,
            subnets: vec!["10.0.1.0/24".into()],
            vips: BTreeMap::from([("10.0.1.2".into(), "shop_web".into())]),
            ports: vec!["veth1".into()],
            ..NetworkRow::default()
        }],
        agent_version: "0.1.0".into(),
        node: ThisNodeReport {
            hostname: "one".into(),
            address: "10.99.0.1".into(),
            ..ThisNodeReport::default()
        },
        source: SourceReport {
            role: "manager".into(),
            connected_to: Some("/var/run/docker.sock".into()),
            swarm: HealthReport {
                age_seconds: Some(0.4),
                error: Some("Docker is away".into()),
                errors_total: 1,
            },
            ..SourceReport::default()
        },
        services: vec![
            ServiceRow {
                service: "shop_web".into(),
                frontends: vec![":80/tcp".into(), ":443/tcp".into()],
                mode: "vip".into(),
                policy: "round-robin".into(),
                backends_active: 1,
                backends_total: 2,
                ..ServiceRow::default()
            },
            ServiceRow {
                service: "worker".into(),
                mode: "dnsrr".into(),
                policy: "round-robin".into(),
                error: Some("no room in the table".into()),
                warnings: vec!["label mesh.polcy is not known".into()],
                ..ServiceRow::default()
            },
        ],
        backends: vec![numbers(backend(1, "one"), 3, 1204, 0.5, 90), numbers(draining, 0, 7, 0.0, 259_200)],
        nodes: vec![
            node("one", "manager", "ready", "active", "10.99.0.1", true),
            node("two", "worker", "down", "drain", "", false),
        ],
        warnings: vec!["look here".into()],
        dataplane: DataplaneReport {
            update_seconds: 0.001,
            attachments: attachments(),
            without_xdp: BTreeMap::from([("bond0".into(), "XDP is for hardware, not for a bond".into())]),
            flows_used: 12,
            flows_max: 131_072,
            flow_tables: vec![flow_table("flows", 12), flow_table("opening", 7), flow_table("udp_flows", 0)],
            outcomes: BTreeMap::from([("forwarded".into(), 1000), ("dropped".into(), 0)]),
        },
    }
}

fn flow_table(name: &str, entries: u64) -> FlowTableRow {
    FlowTableRow { table: name.into(), entries, capacity: 131_072, bytes: 1 << 20 }
}

struct Example;

impl ReportSource for Example {
    fn health(&self) -> Health {
        Health { is_well: true, sentence: "serving".into() }
    }

    fn report(&self) -> BoxFuture<'_, Report> {
        async { example() }.boxed()
    }

    fn differences(&self) -> BoxFuture<'_, Vec<String>> {
        async { vec!["the kernel lacks: something".to_owned()] }.boxed()
    }
}

async fn start(path: &Path) -> JoinHandle<()> {
    let socket = path.to_owned();
    let daemon = tokio::spawn(async move {
        match serve(&socket, Arc::new(Example)).await {
            Ok(never) => match never {},
            Err(error) => panic!("{error}"),
        }
    });
    while fetch(path).await.is_err() {
        sleep(Duration::from_millis(5)).await;
    }
    daemon
}

fn arguments(socket: &Path, section: Option<Section>, format: StatusFormat) -> StatusArguments {
    StatusArguments { section, format, watch: false, socket: PathBuf::from(socket) }
}
