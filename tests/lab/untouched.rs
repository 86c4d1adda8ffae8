//! What is none of the mesh's business stays as it is.

use std::{process::Child, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_common::outcome::Outcome;
use mesh_tests::{
    client::{At, Report},
    lab::{Lab, Node},
    mesh,
    paths::static_binary,
    service::Spec,
    wait,
};
use serde_json::Value;

use crate::{
    Scenario,
    support::{all_ok, backends, get, live, only_on, service_row, silent, target},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a port published with mode=host is left to its own node", mode_host),
    ("a port that nobody published is the node's own", an_unpublished_port),
    ("a service with mesh.enable=false is left alone", a_disabled_service),
];

fn mode_host(lab: &Lab) -> Result<()> {
    let [_, home, other, ..] = &lab.nodes[..] else { anyhow::bail!("the lab is too small") };
    let spec = Spec::workload("hostmode").publish("published=8501,target=8080,mode=host");
    let service = spec.publish("8502:8080").option(&only_on(home)).create(lab)?;
    live(lab, "hostmode", 1)?;
    let task = service.tasks()?.remove(0);
    wait::for_up_to(Duration::from_secs(5), "Docker serves the port", || {
        let report = get(home, 8501, 5)?;
        ensure!(report.tasks.keys().eq([&task.name]), "{:?} answer", report.tasks);
        Ok(())
    })?;
    let before = outcomes(home)?;
    get(home, 8501, 20)?;
    let report: Report = all_ok(At::Node(home).run(&["get", &target(home, 8501)])?)?;
    ensure!(report.tasks.keys().eq([&task.name]), "on its node {:?} answer", report.tasks);
    let after = outcomes(home)?;
    for outcome in [Outcome::Delivered, Outcome::Tunnelled, Outcome::SocketToTask, Outcome::SocketToNode] {
        let outcome = outcome.as_str();
        let (before, after) = (&before[outcome], &after[outcome]);
        ensure!(
            before.is_u64() && before == after,
            "{outcome} was {before} and is {after}: the mesh served a port of mode=host"
        );
    }
    silent(&target(other, 8501))?;
    for node in &lab.nodes {
        let rows = backends(node, "hostmode")?;
        let listed = rows.iter().any(|row| row["frontend"].as_str().is_some_and(|f| f.contains("8501")));
        ensure!(!listed, "{} lists it: {}", node.name, Value::from(rows));
        // The other port of the same service is published as usual.
        get(node, 8502, 3)?;
    }
    Ok(())
}

fn outcomes(node: &Node) -> Result<Value> {
    Ok(mesh::status(node)?["dataplane"]["outcomes"].clone())
}

fn an_unpublished_port(lab: &Lab) -> Result<()> {
    let _service = Spec::workload("neighbour").replicas(3).publish("8503:8080").create(lab)?;
    live(lab, "neighbour", 3)?;
    for node in &lab.nodes {
        let server = Server::start(node, 8504, 9504)?;
        let (web, echo) = (target(node, 8504), target(node, 9504));
        wait::for_up_to(Duration::from_secs(3), "the node's own server answers", || get(node, 8504, 1))?;
        for place in [At::Client, At::Node(node)] {
            let report: Report = all_ok(place.run(&["get", &web, "--count", "5"])?)?;
            ensure!(report.tasks.keys().eq(["own"]), "{web} is {:?}", report.tasks);
            let report: Report = all_ok(place.run(&["udp", &echo, "--count", "5"])?)?;
            ensure!(report.tasks.keys().eq(["own"]), "{echo} is {:?}", report.tasks);
        }
        drop(server);
        silent(&web)?;
    }
    Ok(())
}

/// The test server as a process of a node, until it is dropped.
struct Server(Child);

impl Server {
    fn start(node: &Node, http: u16, echo: u16) -> Result<Self> {
        let program = static_binary("mesh-workload");
        let ports = ["serve", "--http", &http.to_string(), "--echo", &echo.to_string()];
        let server =
            node.network_command(&program.to_string_lossy()).args(ports).env("WORKLOAD_TASK", "own").quiet();
        Ok(Self(server.spawn().context("the node's own server")?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_disabled_service(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("disabled").publish("8506:8080").option("--label=mesh.enable=false");
    let _service = spec.create(lab)?;
    let _served_beside = Spec::workload("enabled").publish("8505:8080").create(lab)?;
    live(lab, "enabled", 1)?;
    for node in &lab.nodes {
        wait::for_up_to(Duration::from_secs(3), "the service is known, and left alone", || {
            let row = service_row(node, "disabled")?;
            ensure!(
                row["left_to_docker"].to_string().contains("mesh.enable=false"),
                "{} shows {row}",
                node.name
            );
            let rows = backends(node, "disabled")?;
            ensure!(rows.is_empty(), "{} serves it: {}", node.name, Value::from(rows));
            Ok(())
        })?;
        // Docker's own mesh would serve it, but not on a kernel without IPVS.
        silent(&target(node, 8506))?;
    }
    Ok(())
}
