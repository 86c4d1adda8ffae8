//! What the README promises beside the main ways: health, pause, ports that change, what is left off, and what people look at.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Report},
    inside::Inside,
    lab::{Lab, Node},
    mesh,
    service::{Service, Spec},
    wait,
};
use serde_json::Value;

use crate::{
    Scenario, canary,
    load::{Ports, Pressure, network},
    support::{
        PATIENCE, PROMPT, Undo, all_ok, backends, exact_through_every_node, get, is_active, live, live_on,
        target,
    },
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a task that is not healthy gets nothing new, and its successor does", unhealthy),
    ("a paused task gets nothing new until it goes on", paused),
    ("a service moves to another port of its tasks without a failed request", another_target),
    ("a port that a service has given up serves the next one that takes it", taken_again),
    ("a service that joins a network is called there by its virtual address", joins_a_network),
    ("an update that fails is rolled back without a failed request", rolled_back),
    ("metrics tell of requests as they come", metrics),
    ("preflight finds nothing wrong with a node that serves", preflight),
    ("IPv6 from outside is left alone", ipv6),
    ("with --vip=off and --dns=off published ports are served, and the rest is Docker's", only_published),
    (
        "an autolocked manager's agent follows the Swarm after a restart, and the other nodes serve on",
        autolock,
    ),
];

const CHECKED: &str = "mesh-lab/workload:health";

fn unhealthy(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("checked").image(CHECKED).replicas(3).publish("8911:8080");
    let service = spec.env("WORKLOAD_STOP_DELAY=300").create(lab)?;
    live(lab, "checked", 3)?;
    let before = service.tasks()?;
    let mut pressure = Pressure::new();
    pressure.by_client(&lab.nodes.iter().collect::<Vec<_>>(), Ports { web: Some(8911), echo: None })?;
    At::Client.curl(&format!("http://{}/unhealthy", target(lab.manager(), 8911)))?;
    wait::for_up_to(PATIENCE, "the unhealthy task has a successor", || {
        let now = service.tasks()?;
        ensure!(now.len() == 3 && now != before, "{now:?}");
        Ok(())
    })?;
    live(lab, "checked", 3)?;
    let outcome = pressure.release()?;
    outcome.nothing_failed()?;
    exact_through_every_node(lab, 8911, 3, 2)
}

fn paused(lab: &Lab) -> Result<()> {
    let service = Spec::workload("paused").replicas(3).publish("8912:8080").create(lab)?;
    live(lab, "paused", 3)?;
    let task = service.tasks()?.remove(0);
    let (node, container) = (lab.node(&task.node)?, service.container(&task)?);
    let goes_on = Undo::at_the_end(|| {
        let _ = node.docker(["unpause", &container]).quiet().read();
    });
    node.docker(["pause", &container]).quiet().read()?;
    live(lab, "paused", 2)?;
    exact_through_every_node(lab, 8912, 2, 3)?;
    drop(goes_on);
    live(lab, "paused", 3)?;
    exact_through_every_node(lab, 8912, 3, 2)
}

/// As a new build of an application listens elsewhere: the published port stays.
fn another_target(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("moved").replicas(3).publish("8913:8080").env("WORKLOAD_STOP_DELAY=500");
    let service = spec.option("--update-order=start-first").create(lab)?;
    live(lab, "moved", 3)?;
    let mut pressure = Pressure::new();
    pressure.by_client(&lab.nodes.iter().collect::<Vec<_>>(), Ports { web: Some(8913), echo: None })?;
    let ports = ["--publish-rm", "8080", "--publish-add", "published=8913,target=8081"];
    service.update(&[&ports[..], &["--env-add", "WORKLOAD_HTTP=8081"]].concat())?;
    service.wait_for_update("completed")?;
    let outcome = pressure.release()?;
    outcome.nothing_failed()?;
    live(lab, "moved", 3)?;
    exact_through_every_node(lab, 8913, 3, 2)
}

fn taken_again(lab: &Lab) -> Result<()> {
    let first = Spec::workload("first-here").replicas(2).publish("8914:8080").create(lab)?;
    live(lab, "first-here", 2)?;
    get(lab.manager(), 8914, 4)?;
    first.remove()?;
    let _second = Spec::workload("second-here").replicas(2).publish("8914:8080").create(lab)?;
    live(lab, "second-here", 2)?;
    for node in &lab.nodes {
        let report = get(node, 8914, 8).with_context(|| format!("through {}", node.name))?;
        let strangers: Vec<&String> =
            report.tasks.keys().filter(|task| !task.starts_with("second-here")).collect();
        ensure!(strangers.is_empty(), "through {}: {strangers:?} answered", node.name);
    }
    Ok(())
}

fn joins_a_network(lab: &Lab) -> Result<()> {
    let network = network(lab, "joined")?;
    let callers = Spec::workload("joined-caller").option(&network.option()).create(lab)?;
    let spec = Spec::workload("joiner").replicas(2).publish("8915:8080").env("WORKLOAD_STOP_DELAY=500");
    let service = spec.option("--update-order=start-first").create(lab)?;
    live(lab, "joiner", 2)?;
    let mut pressure = Pressure::new();
    pressure.by_client(&[lab.manager()], Ports { web: Some(8915), echo: None })?;
    service.update(&["--network-add", &network.name])?;
    service.wait_for_update("completed")?;
    let caller = Inside::tasks(lab, &callers)?.remove(0);
    let target = format!("{}:8080", service.vip(&network.name)?);
    wait::for_up_to(PROMPT, "the service is called on its new network", || {
        let report: Report = caller.run(&["get", &target, "--count", "4", "--timeout", "1000"])?;
        ensure!(all_ok(report)?.tasks.len() == 2, "not both tasks answer");
        Ok(())
    })?;
    pressure.release()?.nothing_failed()?;
    service.update(&["--network-rm", &network.name])?;
    service.wait_for_update("completed")
}

fn rolled_back(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("bad-update").replicas(3).publish("8916:8080").env("WORKLOAD_STOP_DELAY=500");
    let spec = spec.option("--update-order=start-first").option("--update-failure-action=rollback");
    let service = spec.option("--update-monitor=2s").option("--rollback-order=start-first").create(lab)?;
    live(lab, "bad-update", 3)?;
    let mut pressure = Pressure::new();
    pressure.by_client(&lab.nodes.iter().collect::<Vec<_>>(), Ports { web: Some(8916), echo: None })?;
    // The server does not understand this, and ends.
    service.update(&["--env-add", "WORKLOAD_STOP=never"])?;
    service.wait_for_update("rollback_completed")?;
    pressure.release()?.nothing_failed()?;
    // Now and then Docker leaves a fourth task running (4/3 in `docker service ls`): the mesh has to follow it there too.
    let _ = wait::for_up_to(PATIENCE / 2, "as many tasks as are wanted", || {
        let tasks = service.tasks()?;
        ensure!(tasks.len() == 3, "{tasks:?}");
        Ok(())
    });
    let count = service.tasks()?.len();
    live_on(&lab.nodes.iter().collect::<Vec<_>>(), "bad-update", count, PATIENCE)?;
    exact_through_every_node(lab, 8916, count, 2)
}

fn metrics(lab: &Lab) -> Result<()> {
    let _service = Spec::workload("measured").replicas(2).publish("8917:8080").create(lab)?;
    live(lab, "measured", 2)?;
    for node in &lab.nodes {
        let connections = || -> Result<f64> {
            let text = At::Client.curl(&format!("http://{}:4797/metrics", node.address))?;
            let is_its = |line: &&str| {
                line.starts_with("mesh_connections_total{") && line.contains(r#"service_name="measured""#)
            };
            let values = text.lines().filter(is_its).filter_map(|line| line.rsplit_once(' '));
            Ok(values.filter_map(|(_, value)| value.parse::<f64>().ok()).sum())
        };
        let before = connections()?;
        get(node, 8917, 10)?;
        wait::for_up_to(PATIENCE, &format!("{} has counted ten connections", node.name), || {
            let more = connections()? - before;
            ensure!(more >= 10.0, "it has counted {more}");
            Ok(())
        })?;
        let text = At::Client.curl(&format!("http://{}:4797/metrics", node.address))?;
        for name in
            ["mesh_backends", "mesh_packets_total", "mesh_drops_total", "mesh_sync_age_seconds", "mesh_flows"]
        {
            ensure!(text.contains(name), "{} does not tell of {name}", node.name);
        }
        let health = At::Client.curl(&format!("http://{}:4797/healthz", node.address))?;
        ensure!(!health.is_empty(), "{} says nothing of its health", node.name);
    }
    Ok(())
}

fn preflight(lab: &Lab) -> Result<()> {
    lab.on_every_node(|node| {
        let said = mesh::agent(node, &["preflight"])?.quiet().read().with_context(|| node.name.clone())?;
        ensure!(!said.contains("FAIL"), "{}: {said}", node.name);
        ensure!(said.contains("the agent of this container"), "{} has tried the programs: {said}", node.name);
        Ok(())
    })
    .map(drop)
}

/// The mesh has no part in it; what the node's own stack makes of it is Docker's.
fn ipv6(lab: &Lab) -> Result<()> {
    let _service = Spec::workload("six").replicas(2).publish("8918:8080").create(lab)?;
    live(lab, "six", 2)?;
    for (number, node) in (1..).zip(&lab.nodes) {
        let before = by_the_mesh(node)?;
        let _: Report = At::Client.run(&["get", &format!("[fd99::{number:x}]:8918"), "--timeout", "500"])?;
        ensure!(by_the_mesh(node)? == before, "{} has sent a packet of it to a task", node.name);
        get(node, 8918, 4)?;
        ensure!(by_the_mesh(node)? > before, "{} counts none of IPv4 either", node.name);
    }
    Ok(())
}

/// Packets of clients that the node has sent to tasks.
fn by_the_mesh(node: &Node) -> Result<u64> {
    let status = mesh::status(node)?;
    let outcomes = &status["dataplane"]["outcomes"];
    let count =
        |name: &str| outcomes[name].as_u64().with_context(|| format!("no outcome {name}: {outcomes}"));
    Ok(count("delivered")? + count("tunnelled")?)
}

fn only_published(lab: &Lab) -> Result<()> {
    canary::exchanges_agents();
    let network = network(lab, "off")?;
    let spec = Spec::workload("off").replicas(2).publish("8919:8080").option(&network.option());
    let service = spec.create(lab)?;
    live(lab, "off", 2)?;
    let _on = Undo::at_the_end(|| {
        let _ = set(lab, "on");
    });
    set(lab, "off")?;
    live_on(&lab.nodes.iter().collect::<Vec<_>>(), "off", 2, PATIENCE)?;
    exact_through_every_node(lab, 8919, 2, 2)?;
    for node in &lab.nodes {
        let status = mesh::status(node)?;
        ensure!(status["networks"].as_array().is_some_and(Vec::is_empty), "{}", status["networks"]);
        let rows = backends(node, "off")?;
        let published =
            |row: &&Value| row["frontend"].as_str().is_some_and(|frontend| frontend.starts_with(':'));
        ensure!(
            rows.iter().filter(|row| is_active(row)).all(|row| published(&row)),
            "{}",
            Value::from(rows.clone())
        );
    }
    knows_by_docker(lab, &service, &network.name)
}

/// Names are answered, and the mesh's resolver has not been asked.
fn knows_by_docker(lab: &Lab, service: &Service<'_>, network: &str) -> Result<()> {
    let vip = service.vip(network)?;
    for place in Inside::tasks(lab, service)? {
        let said = place.getent(&["hosts", "off"])?;
        ensure!(said.contains(&vip), "{} is told {said:?}, not {vip}", place.node.name);
        let dns = mesh::status(place.node)?["dns"].to_string();
        ensure!(!dns.contains(r#""off""#), "{} has asked the mesh: {dns}", place.node.name);
    }
    Ok(())
}

fn set(lab: &Lab, state: &str) -> Result<()> {
    mesh::set_all(lab, &[&format!("MESH_VIP={state}"), &format!("MESH_DNS={state}")])
}

fn autolock(lab: &Lab) -> Result<()> {
    canary::loses_nodes();
    let service = Spec::workload("locked").replicas(2).publish("8920:8080").create(lab)?;
    live(lab, "locked", 2)?;
    let unlocked = Undo::at_the_end(|| {
        let _ = lab.docker(["swarm", "update", "--autolock=false"]).quiet().read();
    });
    lab.docker(["swarm", "update", "--autolock=true"]).quiet().read()?;
    mesh::restart(lab.manager())?;
    service.scale(4)?;
    service.wait_for(4)?;
    live_on(&[lab.manager()], "locked", 4, AUTOLOCKED)?;
    // The manager's key cannot be read, so that its agent tells the others nothing (issue 15).
    for node in &lab.nodes {
        get(node, 8920, 8)?;
    }
    drop(unlocked);
    live_on(&lab.nodes.iter().collect::<Vec<_>>(), "locked", 4, PATIENCE)
}

/// Changes may be polled where the certificate's key is locked.
const AUTOLOCKED: Duration = Duration::from_secs(10);
