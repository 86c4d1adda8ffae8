//! What is published when Docker says what, and what stays when it says nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::agent::{Agent, RARELY, free_port};
use super::docker_api::DockerApi;
use crate::peers::tests::authority::{Authority, Issue};
use crate::swarm::status::SourceRole;

#[tokio::test]
async fn a_manager_publishes_the_whole_swarm_and_what_changes_soon_after_an_event() {
    let api = DockerApi::start();
    let agent = Agent::start(&api, RARELY);
    agent.eventually(|agent| agent.snapshot().is_some_and(|snapshot| snapshot.services.len() == 5)).await;
    let snapshot = agent.snapshot().unwrap();
    assert_eq!((snapshot.tasks.len(), snapshot.nodes.len(), snapshot.networks.len()), (3, 3, 3));
    let status = agent.board.read();
    assert_eq!(status.role, SourceRole::Manager);
    assert_eq!(status.connected_to, Some(api.socket().to_string_lossy().into_owned()));
    assert_eq!(status.skipped.len(), 4, "{:?}", status.skipped);
    // The first change makes the agent look more often for ten seconds; this test is about what comes after.
    sleep(Duration::from_millis(300)).await;
    agent.eventually(|_| api.listeners() == 2).await;
    api.set("/services", 200, "[]");
    api.event("service", "remove", "web", &json!({}));
    agent.eventually(|agent| agent.snapshot().is_some_and(|snapshot| snapshot.services.is_empty())).await;
}

#[tokio::test]
async fn a_view_with_a_part_missing_is_never_published_and_the_last_whole_one_stays() {
    let api = DockerApi::start();
    let refusal = r#"{"message":"The swarm does not have a leader."}"#;
    api.set("/tasks", 503, refusal);
    let agent = Agent::start(&api, Duration::from_millis(50));
    agent.eventually(|agent| agent.error().contains("503 when asked for tasks: The swarm does not")).await;
    assert_eq!(agent.snapshot(), None);
    api.set("/tasks", 200, include_str!("../testdata/tasks.json"));
    agent.eventually(|agent| agent.snapshot().is_some() && agent.error().is_empty()).await;

    let before = agent.snapshot();
    api.set("/services", 200, "[]");
    api.set("/nodes", 503, refusal);
    agent.eventually(|agent| agent.error().contains("503 when asked for nodes")).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(agent.snapshot(), before);
    assert!(agent.board.read().swarm.errors_total >= 2);
}

#[tokio::test]
async fn events_are_subscribed_to_with_those_of_the_moment_before_the_first_list() {
    let api = DockerApi::start();
    let agent = Agent::start(&api, RARELY);
    agent.eventually(|agent| agent.snapshot().is_some()).await;
    agent.eventually(|_| api.requests().iter().filter(|path| *path == "/events").count() == 2).await;
}

#[tokio::test]
async fn a_containers_death_shows_before_dockers_list_knows() {
    let api = DockerApi::start();
    let agent = Agent::start(&api, RARELY);
    agent.eventually(|agent| agent.containers() == ["host1", "paused1", "sick1", "web1"]).await;
    agent.eventually(|_| api.listeners() == 2).await;
    api.event("container", "die", "web1", &json!({"com.docker.swarm.task.id": "task1"}));
    agent.eventually(|agent| agent.containers() == ["host1", "paused1", "sick1"]).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(agent.containers(), ["host1", "paused1", "sick1"]);
}

#[tokio::test]
async fn a_new_container_shows_soon_after_its_start_and_with_its_place_on_the_bridge_once_it_has_one() {
    let api = DockerApi::start();
    api.set("/containers/json", 200, "[]");
    api.set("/networks/docker_gwbridge", 404, r#"{"message":"network docker_gwbridge not found"}"#);
    let agent = Agent::start(&api, RARELY);
    agent.eventually(|agent| agent.view().is_some() && api.listeners() == 2).await;
    assert!(agent.containers().is_empty());
    api.set("/containers/json", 200, include_str!("../testdata/containers.json"));
    api.event("container", "start", "web1", &json!({"com.docker.swarm.task.id": "task1"}));
    agent.eventually(|agent| agent.containers().len() == 4).await;
    assert_eq!(agent.view().unwrap().containers["web1"].bridge, None);
    api.set("/networks/docker_gwbridge", 200, include_str!("../testdata/docker_gwbridge.json"));
    agent.eventually(|agent| agent.view().unwrap().containers["web1"].bridge.is_some()).await;
}

#[tokio::test]
async fn a_container_drains_when_it_gets_the_signal_that_stops_it() {
    let api = DockerApi::start();
    let agent = Agent::start(&api, RARELY);
    agent.eventually(|agent| agent.containers().len() == 4 && api.listeners() == 2).await;
    let is_draining = |agent: &Agent| agent.view().unwrap().containers["web1"].draining;
    let signal = |signal: &str| json!({"com.docker.swarm.task.id": "task1", "signal": signal});
    api.event("container", "kill", "web1", &signal("1"));
    sleep(Duration::from_millis(200)).await;
    assert!(!is_draining(&agent), "SIGHUP is no reason to drain");
    api.event("container", "kill", "web1", &signal("3"));
    agent.eventually(is_draining).await;
}

#[tokio::test]
async fn roles_may_come_and_go_while_the_agent_runs() {
    let api = DockerApi::start();
    api.set("/info", 200, r#"{"Name":"one","Swarm":{"NodeID":"","LocalNodeState":"inactive"}}"#);
    let agent = Agent::start(&api, RARELY);
    agent.eventually(|agent| agent.board.read().role == SourceRole::NotInSwarm).await;
    assert_eq!(agent.snapshot(), None);
    assert_eq!(agent.view(), None);

    api.set("/info", 200, include_str!("../testdata/info_manager.json"));
    agent.eventually(|agent| agent.snapshot().is_some()).await;
    assert_eq!(agent.view().unwrap().node.cluster_id, "clusterid");

    api.set("/info", 200, include_str!("../testdata/info_worker.json"));
    agent.eventually(|agent| agent.board.read().role == SourceRole::Worker).await;
    agent.eventually(|agent| agent.view().unwrap().node.id == "node2").await;
    assert_eq!(agent.view().unwrap().node.cluster_id, "cluster-of-the-certificate");
    assert!(agent.snapshot().is_some(), "a change of role empties nothing");
}

#[tokio::test]
async fn a_worker_follows_its_manager_from_one_end_to_the_other() {
    let cluster = Authority::new("a");
    let peer_port = free_port();
    let managers_docker = DockerApi::start();
    // This node's certificate names a node of testdata/nodes.json.
    let manager_state = cluster.issue(&Issue::manager("node1"));
    let _manager = Agent::start_with(&managers_docker, RARELY, peer_port, manager_state);
    let workers_docker = DockerApi::start();
    let info =
        include_str!("../testdata/info_worker.json").replace("10.99.0.1:2377", "[::ffff:127.0.0.1]:2377");
    workers_docker.set("/info", 200, &info);
    workers_docker.set("/services", 503, r#"{"message":"This node is not a swarm manager."}"#);
    let worker_state = cluster.issue(&Issue::worker("node2"));
    let worker = Agent::start_with(&workers_docker, RARELY, peer_port, worker_state);
    worker.eventually(|worker| worker.snapshot().is_some_and(|snapshot| snapshot.services.len() == 5)).await;

    managers_docker.set("/services", 200, "[]");
    managers_docker.event("service", "remove", "web", &json!({}));
    worker.eventually(|worker| worker.snapshot().is_some_and(|snapshot| snapshot.services.is_empty())).await;
    let manager = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
    assert_eq!(worker.board.read().connected_to, Some(format!("[{manager}]:{peer_port}")));
}
