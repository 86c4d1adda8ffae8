//! The agent itself: it can go away without anybody noticing, and keeps to its memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    images::AGENT,
    lab::{Lab, Node},
    mesh, wait,
};
use serde_json::Value;

use crate::{
    Scenario, canary,
    load::{Callers, under_load},
    support::{PATIENCE, Undo, live, live_on},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("agents that are killed interrupt no connection and no request", killed_agents),
    ("agents that are killed in turn interrupt no connection and no request", killed_in_turn),
    (
        "restarts, another image and other table sizes of the agent interrupt no connection and no request",
        exchanged,
    ),
    ("an agent keeps to its memory limit", memory),
];

fn killed_agents(lab: &Lab) -> Result<()> {
    canary::exchanges_agents();
    let nodes: Vec<&Node> = lab.nodes.iter().collect();
    let (outcome, _) = under_load(lab, 4, &nodes, Callers::EverywhereAndTask, |service| {
        let before = lab.on_every_node(mesh::agent_container)?;
        lab.on_every_node(|node| {
            let agent = mesh::agent_container(node)?;
            node.docker(["kill", &agent]).quiet().read()
        })?;
        nodes.iter().zip(&before).try_for_each(|(node, old)| replaced(node, old))?;
        // The new ones hold the reins.
        service.scale(2)?;
        live_on(&nodes, service.name(), 2, Duration::from_secs(5))
    })?;
    outcome.nothing_failed()?;
    outcome.nothing_broke()
}

fn killed_in_turn(lab: &Lab) -> Result<()> {
    canary::exchanges_agents();
    let (outcome, _) =
        under_load(lab, 4, &lab.nodes.iter().collect::<Vec<_>>(), Callers::OutsideAndTask, |service| {
            for node in &lab.nodes {
                let old = mesh::agent_container(node)?;
                node.docker(["kill", "--signal", "KILL", &old]).quiet().read()?;
                replaced(node, &old)?;
            }
            service.scale(6)?;
            service.wait_for(6)?;
            live(lab, service.name(), 6)
        })?;
    outcome.nothing_failed()?;
    outcome.nothing_broke()
}

/// Another tag of the same build: to the Swarm a new image. Another version is exchanged in `upgrade.rs`.
const OTHER_BUILD: &str = "mesh-agent:other";

fn exchanged(lab: &Lab) -> Result<()> {
    canary::exchanges_agents();
    lab.on_every_node(|node| node.docker(["tag", AGENT, OTHER_BUILD]).quiet().read())?;
    let (outcome, _) =
        under_load(lab, 4, &lab.nodes.iter().collect::<Vec<_>>(), Callers::OutsideAndTask, |service| {
            let _as_deployed = Undo::at_the_end(|| {
                let options = ["--image", AGENT, "--env-rm", "MESH_FLOWS", "--update-monitor", "1s"];
                let _ = update(lab, mesh::SERVICE, &[&options[..], &["--update-parallelism", "1"]].concat());
            });
            exchange(
                lab,
                mesh::SERVICE,
                &["--force", "--update-monitor", "500ms", "--rollback-monitor", "500ms"],
            )
            .context("restarted in turn")?;
            exchange(lab, mesh::SERVICE, &["--image", OTHER_BUILD, "--update-parallelism", "3"])
                .context("another image, all at once")?;
            // Tables of another size are new tables.
            exchange(lab, mesh::SERVICE, &["--env-add", "MESH_FLOWS=65536"]).context("smaller tables")?;
            exchange(lab, mesh::SERVICE, &["--image", AGENT, "--env-rm", "MESH_FLOWS"])
                .context("and back")?;
            service.scale(6)?;
            service.wait_for(6)?;
            live(lab, service.name(), 6)
        })?;
    outcome.nothing_failed()?;
    outcome.nothing_broke()
}

/// Updates the agents' service, and waits until all nodes have an agent that it made and that answers.
fn exchange(lab: &Lab, service: &str, options: &[&str]) -> Result<()> {
    let before = lab.on_every_node(mesh::agent_container)?;
    update(lab, service, options)?;
    let nodes = lab.nodes.iter().zip(&before);
    nodes.into_iter().try_for_each(|(node, old)| replaced(node, old))
}

fn update(lab: &Lab, service: &str, options: &[&str]) -> Result<()> {
    let update = ["service", "update", "--quiet", "--detach", "--no-resolve-image"];
    lab.docker(update).args(options).arg(service).read().map(drop)
}

/// Waits until another agent than that one serves.
fn replaced(node: &Node, old: &str) -> Result<()> {
    wait::for_up_to(PATIENCE, &format!("a new agent of {} serves", node.name), || {
        ensure!(mesh::agent_container(node)? != old, "the old one runs");
        mesh::serves(node)
    })
}

fn memory(lab: &Lab) -> Result<()> {
    const MEBIBYTE: u64 = 1 << 20;
    for node in &lab.nodes {
        let agent = mesh::agent_container(node)?;
        let inspect = ["inspect", "--format", "{{.HostConfig.Memory}}", &agent];
        let limit: u64 = node.docker(inspect).quiet().read()?.parse()?;
        ensure!(limit == 320 * MEBIBYTE, "the agent of {} may use {limit} bytes", node.name);
        let (used, peak) = used_memory(lab, &node.name, &agent)?;
        println!("      {}: {} MiB, at most {} MiB", node.name, used / MEBIBYTE, peak / MEBIBYTE);
        ensure!(used < limit * 3 / 4, "the agent of {} uses {used} of {limit} bytes", node.name);
    }
    Ok(())
}

/// What the cgroup of a container uses, and the most it has used, from the Docker API.
fn used_memory(lab: &Lab, node: &str, container: &str) -> Result<(u64, u64)> {
    let socket = lab.node(node)?.docker_socket();
    let url = format!("http://docker/containers/{container}/stats?stream=false&one-shot=true");
    let curl = mesh_tests::cmd::Cmd::new("curl").args(["--silent", "--fail", "--unix-socket"]);
    let text = curl.arg(socket).arg(url).quiet().read()?;
    let stats: Value = serde_json::from_str(&text).with_context(|| format!("Docker said {text}"))?;
    let memory = &stats["memory_stats"];
    let used = memory["usage"].as_u64().with_context(|| format!("no use in {memory}"))?;
    // cgroup2 keeps no maximum.
    Ok((used, memory["max_usage"].as_u64().unwrap_or(used)))
}
