//! The mesh on the lab: its images on every node, the agent deployed as users deploy it, and what it says of itself.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    cmd::Cmd,
    images,
    lab::{Lab, Node},
    paths::stack_file,
    wait,
};

/// The stack's name, so that the service is `mesh_agent`.
pub const STACK: &str = "mesh";

/// Builds the images of the workloads.
pub fn build_workloads() -> Result<Vec<PathBuf>> {
    Ok(vec![images::nginx()?, images::redis()?, images::workload()?])
}

/// Builds the agent's image and those of the workloads.
pub fn build_all() -> Result<Vec<PathBuf>> {
    let mut archives = build_workloads()?;
    archives.push(images::agent()?);
    Ok(archives)
}

/// Loads images on every node.
pub fn load(lab: &Lab, archives: &[PathBuf]) -> Result<()> {
    lab.on_every_node(|node| {
        for archive in archives {
            node.docker(["load", "--quiet", "--input"]).arg(archive).quiet().read()?;
        }
        Ok(())
    })
    .map(drop)
}

/// Deploys the stack, or exchanges the agents of one that is there, and waits until every node's agent answers.
pub fn deploy(lab: &Lab) -> Result<()> {
    let service = format!("{STACK}_agent");
    let deployed = lab.docker(["service", "inspect", &service]).succeeds();
    let deploy = ["stack", "deploy", "--resolve-image", "never", "--compose-file"];
    lab.docker(deploy).arg(stack_file()).arg(STACK).read()?;
    if deployed {
        // The tag names another image, which the Swarm cannot know.
        lab.docker(["service", "update", "--quiet", "--force", "--no-resolve-image", &service]).read()?;
    }
    let answers = wait::for_up_to(Duration::from_mins(1), "an agent answers on every node", || {
        lab.on_every_node(status).map(drop)
    });
    answers.with_context(|| logs(lab))
}

/// Removes the stack, but nothing that the agents left in the kernel.
pub fn withdraw(lab: &Lab) -> Result<()> {
    lab.docker(["stack", "rm", STACK]).read()?;
    wait::for_up_to(Duration::from_mins(1), "the agents end", || {
        for node in &lab.nodes {
            ensure!(agent_container(node).is_err(), "{} still has one", node.name);
        }
        Ok(())
    })
}

/// `mesh-agent status --format json` on a node.
pub fn status(node: &Node) -> Result<Value> {
    let text = agent(node, &["status", "--format", "json"])?.quiet().read()?;
    serde_json::from_str(&text).with_context(|| format!("the status of {} is not JSON: {text}", node.name))
}

/// A command of the agent, run in its container.
pub fn agent(node: &Node, arguments: &[&str]) -> Result<Cmd> {
    let container = agent_container(node)?;
    Ok(node.docker(["exec", &container, "mesh-agent"]).args(arguments))
}

/// What to look at after a failure: how packets left the programs, and what the agents have logged.
pub fn evidence(lab: &Lab) -> String {
    let outcomes = |node: &Node| {
        let outcomes = match status(node) {
            Ok(status) => status["dataplane"]["outcomes"].to_string(),
            Err(error) => format!("{error:#}"),
        };
        format!("--- outcomes on {}: {outcomes}\n", node.name)
    };
    lab.nodes.iter().map(outcomes).collect::<String>() + &logs(lab)
}

/// What the agents have logged, node by node.
pub fn logs(lab: &Lab) -> String {
    let log = |node: &Node| {
        let filter = format!("label=com.docker.swarm.service.name={STACK}_agent");
        let all =
            node.docker(["ps", "--all", "--quiet", "--filter", &filter]).quiet().read().unwrap_or_default();
        let said =
            all.lines().filter_map(|id| node.docker(["logs", "--tail", "100", id]).quiet().output().ok());
        let text: Vec<String> = said.map(|output| crate::cmd::said(&output)).collect();
        format!("--- agent of {}\n{}\n", node.name, text.join("\n-\n"))
    };
    lab.nodes.iter().map(log).collect()
}

/// The container in which a node's agent runs.
pub fn agent_container(node: &Node) -> Result<String> {
    let filter = format!("label=com.docker.swarm.service.name={STACK}_agent");
    let ids = node.docker(["ps", "--quiet", "--filter", &filter]).quiet().read()?;
    let id = ids.lines().next().with_context(|| format!("{} runs no agent", node.name))?;
    Ok(id.to_owned())
}
