//! What one node may tell, and how much of it counts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::http::uri::PathAndQuery;
use tempfile::TempDir;
use tokio::time::sleep;
use tonic_prost::ProstCodec;

use super::authority::{Authority, Issue};
use super::exchange::{Manager, ONE, Worker};
use super::snapshots::{numbered, with_many_tasks};
use crate::peers::certificates::Certificates;
use crate::peers::client;
use crate::peers::messages::{Conditions, REPORT, ReportEnd};
use crate::peers::tls::Witness;
use crate::swarm::snapshot::{Condition, ContainerNames};

#[tokio::test]
async fn a_report_that_is_too_long_or_speaks_of_strange_containers_stops_nobody() {
    let cluster = Authority::new("a");
    let manager = Manager::start(ONE, 0, cluster.issue(&Issue::manager("manager-1")));
    manager.publish(numbered(1));
    let mut other = Worker::start(manager.port, &[ONE], cluster.issue(&Issue::manager("manager-2")));
    other.expect(&numbered(1)).await;

    let stranger = cluster.issue(&Issue::worker("worker-1"));
    let containers = |count: usize| {
        let all = (0..count).map(|number| (format!("{number:x}"), ContainerNames::default()));
        let all: BTreeMap<_, _> = all.collect();
        Bytes::from(serde_json::to_vec(&all).unwrap())
    };
    // Just below what gRPC takes by itself.
    let long = Conditions { attached: containers(80_000), ..from_worker() };
    assert!((3 << 20..4 << 20).contains(&prost::Message::encoded_len(&long)));
    let error = tell(manager.port, &stranger, vec![long]).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::OutOfRange, "{error}");

    // As much as is taken, all of it invented.
    let invented = Conditions { attached: containers(4_000), ..from_worker() };
    tell(manager.port, &stranger, vec![invented.clone(), invented]).await.unwrap();
    manager.publish(numbered(2));
    other.expect(&numbered(2)).await;
    assert_eq!(*manager.published.borrow(), Some(numbered(2)));
}

#[tokio::test]
async fn of_many_changes_that_a_node_tells_in_no_time_the_last_one_counts() {
    let cluster = Authority::new("a");
    let manager = Manager::start(ONE, 0, cluster.issue(&Issue::manager("manager-1")));
    let mut swarm = Arc::unwrap_or_clone(with_many_tasks(1));
    swarm.tasks.get_mut("task000000").unwrap().node_id = "worker-1".into();
    let swarm = Arc::new(swarm);
    manager.publish(swarm.clone());
    let draining = Conditions { draining: vec!["task000000".into()], ..from_worker() };
    let mut reports: Vec<_> = (0..1000).flat_map(|_| [draining.clone(), from_worker()]).collect();
    reports.push(Conditions { ended: vec!["task000000".into()], ..from_worker() });
    tell(manager.port, &cluster.issue(&Issue::worker("worker-1")), reports).await.unwrap();
    let mut expected = Arc::unwrap_or_clone(swarm);
    expected.conditions.insert("task000000".into(), Condition::Ended);
    let mut other = Worker::start(manager.port, &[ONE], cluster.issue(&Issue::manager("manager-2")));
    other.expect(&Arc::new(expected)).await;
}

fn from_worker() -> Conditions {
    Conditions { node_id: "worker-1".into(), ..Conditions::default() }
}

/// Reports by hand, with a node's certificate.
async fn tell(port: u16, state: &TempDir, reports: Vec<Conditions>) -> Result<(), tonic::Status> {
    let identity = Certificates::in_swarm_state(state.path()).identity().unwrap();
    let manager = SocketAddr::from((ONE, port));
    let stream = loop {
        match client::connect(manager, &identity, &Witness::default()).await {
            Ok(stream) => break stream,
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    };
    let mut grpc = client::grpc_over(manager, stream).await.unwrap();
    let codec = ProstCodec::<Conditions, ReportEnd>::default();
    let path = PathAndQuery::from_static(REPORT);
    let reports = tonic::Request::new(futures::stream::iter(reports));
    grpc.client_streaming(reports, path, codec).await.map(drop)
}
