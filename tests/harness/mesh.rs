//! The mesh on the lab: its images on every node, the agent deployed as users deploy it, and what it says of itself.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    cmd::Cmd,
    images,
    lab::{Lab, Node, text},
    paths::{self, stack_file},
    wait,
};

/// The stack's name.
pub const STACK: &str = "mesh";
/// The service's, which is named for its stack.
pub const SERVICE: &str = "mesh_agent";

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

/// Deploys the stack, or exchanges the agents of one that is there, and waits until every node's agent serves.
pub fn deploy(lab: &Lab) -> Result<()> {
    deploy_with(lab, "auto")
}

/// [`deploy`] and [`with_xdp`] at once.
pub fn deploy_with_xdp(lab: &Lab) -> Result<()> {
    lab.on_every_node(|node| node.make_wire(true))?;
    deploy_with(lab, "native")?;
    xdp_is(lab, true)
}

fn deploy_with(lab: &Lab, xdp: &str) -> Result<()> {
    let deployed = is_deployed(lab);
    let deploy = ["stack", "deploy", "--resolve-image", "never", "--compose-file"];
    lab.docker(deploy).arg(prompt(&stack_file())?).arg(STACK).env("MESH_XDP", xdp).read()?;
    if deployed {
        // The tag names another image, which the Swarm cannot know.
        lab.docker(["service", "update", "--quiet", "--force", "--no-resolve-image", SERVICE]).read()?;
    }
    answers(lab)
}

/// A copy of a stack file by which agents are exchanged faster. Docker waits a whole interval before the first look at a
/// container's health, and the Swarm as long again before it goes on to the next node.
pub fn prompt(file: &Path) -> Result<PathBuf> {
    let written = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let name = file.file_name().context("a stack file has a name")?;
    let copy = paths::target().join("prompt");
    fs::create_dir_all(&copy).with_context(|| format!("cannot make {}", copy.display()))?;
    let copy = copy.join(name);
    let prompt = written.replace(" interval: 10s", " interval: 2s").replace("monitor: 10s", "monitor: 1s");
    fs::write(&copy, prompt).with_context(|| format!("cannot write {}", copy.display()))?;
    Ok(copy)
}

/// Whether there is a stack, whatever its agents do.
pub fn is_deployed(lab: &Lab) -> bool {
    lab.docker(["service", "inspect", SERVICE]).succeeds()
}

/// Waits until every node's agent serves.
pub fn answers(lab: &Lab) -> Result<()> {
    let answers = wait::for_up_to(Duration::from_mins(1), "an agent serves on every node", || {
        lab.on_every_node(serves).map(drop)
    });
    answers.with_context(|| logs(lab))
}

/// Has the agents attach XDP to every node's uplink, natively, which they would not do to a veth of themselves.
pub fn with_xdp(lab: &Lab) -> Result<()> {
    lab.on_every_node(|node| node.make_wire(true))?;
    exchange(lab, &["--env-add", "MESH_XDP=native", "--update-parallelism", "0"])?;
    xdp_is(lab, true)
}

/// Puts back what [`with_xdp`] has done.
pub fn without_xdp(lab: &Lab) -> Result<()> {
    exchange(lab, &["--env-add", "MESH_XDP=auto", "--update-parallelism", "1"])?;
    xdp_is(lab, false)?;
    lab.on_every_node(|node| node.make_wire(false)).map(drop)
}

fn exchange(lab: &Lab, options: &[&str]) -> Result<()> {
    let update = ["service", "update", "--quiet", "--detach", "--no-resolve-image"];
    lab.docker(update).args(options).arg(SERVICE).read().map(drop)
}

/// Exchanges the agents of all nodes for some with another setting.
pub fn set(lab: &Lab, setting: &str) -> Result<()> {
    set_all(lab, &[setting])
}

/// [`set`] for several settings at once.
pub fn set_all(lab: &Lab, settings: &[&str]) -> Result<()> {
    let before = lab.on_every_node(agent_container)?;
    let options: Vec<&str> = settings.iter().flat_map(|setting| ["--env-add", setting]).collect();
    exchange(lab, &options)?;
    wait::for_up_to(2 * REPLACED, "agents with the setting serve", || {
        let now = lab.on_every_node(|node| serves(node).and_then(|()| agent_container(node)))?;
        ensure!(now.iter().all(|agent| !before.contains(agent)), "the old ones still run");
        Ok(())
    })
}

/// Ends a node's agent, and waits until the one with which the Swarm replaces it serves.
pub fn restart(node: &Node) -> Result<()> {
    let old = agent_container(node)?;
    node.docker(["kill", &old]).quiet().read()?;
    wait::for_up_to(REPLACED, "another agent serves", || {
        ensure!(agent_container(node)? != old, "it is the old one");
        serves(node)
    })
}

/// [`restart`] as on a node that the agent has not served before.
pub fn start_afresh(node: &Node) -> Result<()> {
    agent(node, &["uninstall"])?.read()?;
    restart(node)
}

/// Within what time the Swarm replaces an agent.
const REPLACED: Duration = Duration::from_secs(40);

/// Waits until every node's agent says so.
fn xdp_is(lab: &Lab, wanted: bool) -> Result<()> {
    let what = if wanted { "XDP is on every node" } else { "XDP is on no node" };
    let told = |node: &Node| {
        let status = status(node)?;
        let rows = status["dataplane"]["attachments"].as_array().context("no attachments")?;
        let interface = |hooks: &[&str]| {
            rows.iter().any(|row| row["interface"] == "eth0" && hooks.iter().any(|hook| row["hook"] == *hook))
        };
        // The second before Linux 6.6.
        ensure!(interface(&["tcx-ingress", "clsact-ingress"]), "{} has no programs yet", node.name);
        ensure!(interface(&["xdp-native"]) == wanted, "{}: {}", node.name, status["dataplane"]);
        Ok(())
    };
    wait::for_up_to(Duration::from_mins(1), what, || lab.on_every_node(told).map(drop))
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

/// `mesh-agent uninstall` on a node where no agent runs any more.
pub fn uninstall_without_agent(node: &Node) -> Result<()> {
    let run = ["run", "--rm", "--network=host", "--cap-add=NET_ADMIN", "--cap-add=SYS_ADMIN"];
    let pins = ["--volume=/sys/fs/bpf:/bpf", "--env=MESH_BPFFS=/bpf", images::AGENT, "uninstall"];
    node.docker(run).args(pins).quiet().read().map(drop)
}

/// Gives the nodes back to Docker, and removes the stack.
pub fn uninstall(lab: &Lab) -> Result<()> {
    lab.on_every_node(|node| agent(node, &["uninstall"])?.read().map(drop))?;
    withdraw(lab)
}

/// What `mesh-agent status --format json` says on a node, asked of the agent itself: Docker is neither needed nor disturbed.
pub fn status(node: &Node) -> Result<Value> {
    socket(node).and_then(|socket| report(&socket)).with_context(|| format!("the agent of {}", node.name))
}

/// Whether a node's agent answers and has read the Swarm, which it does a moment later.
pub fn serves(node: &Node) -> Result<()> {
    let source = &status(node)?["source"];
    ensure!(
        source["swarm"]["age_seconds"].is_number(),
        "the agent of {} is without a view: {source}",
        node.name
    );
    Ok(())
}

/// [`status`] of the agent with this socket.
pub fn report(socket: &Path) -> Result<Value> {
    let said = ask(socket, r#"{"command":"report"}"#)?;
    let mut answer: Value = serde_json::from_str(&said).with_context(|| format!("it said {said}"))?;
    answer.get_mut("report").map(Value::take).with_context(|| format!("it sent no report: {answer}"))
}

/// What `mesh-agent check` says on a node, asked of the agent itself.
pub fn differences(node: &Node) -> Result<Vec<String>> {
    let said = socket(node).and_then(|socket| ask(&socket, r#"{"command":"check"}"#));
    let said = said.with_context(|| format!("the agent of {}", node.name))?;
    let answer: Answer = serde_json::from_str(&said).with_context(|| format!("{} said {said}", node.name))?;
    Ok(answer.differences)
}

#[derive(Deserialize)]
struct Answer {
    differences: Vec<String>,
}

fn socket(node: &Node) -> Result<PathBuf> {
    let agent = node.processes(&["mesh-agent", "run"])?.into_iter().next();
    let agent = agent.context("it does not run")?;
    let files = Path::new("/proc").join(agent.to_string()).join("root");
    Ok(files.join("run/mesh-agent/agent.sock"))
}

/// One line to an agent's socket, and one from it, as its own command line does it (`mesh-agent/src/status/server.rs`).
fn ask(socket: &Path, question: &str) -> Result<String> {
    let mut socket = UnixStream::connect(socket)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(format!("{question}\n").as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// As long as the agent's own command line has.
const PATIENCE: Duration = Duration::from_secs(10);

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
        let filter = format!("label=com.docker.swarm.service.name={SERVICE}");
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
    let containers = node.containers_of(SERVICE)?;
    let container = containers.first().with_context(|| format!("{} runs no agent", node.name))?;
    Ok(text(container, "/Id").to_owned())
}
