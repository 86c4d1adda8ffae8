//! What the stack file gives the agent, and how a mesh comes from an older stack file to this one.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    lab::{Lab, Node},
    mesh,
    paths::{root, stack_file},
    wait,
};

use crate::{
    Scenario, canary,
    load::{Callers, under_load},
    support::{PATIENCE, Undo, agent_answers, live},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("the stack file of an older version with a newer image, and then its own, interrupt nothing", exchanged),
    ("an agent can write to nothing but the BPF file system and the folder of its socket", writable),
];

/// As fd87607 had it: the BPF file system at its usual place, and all of Docker's folders.
const OLDER: &str = "tests/fixtures/stack-fd87607.yml";

fn exchanged(lab: &Lab) -> Result<()> {
    canary::loses_nodes();
    let nodes: Vec<_> = lab.nodes.iter().collect();
    let (outcome, deaths) = under_load(lab, 4, &nodes, Callers::OutsideAndTask, |service| {
        let _as_deployed = Undo::at_the_end(|| {
            let deployed = mesh::deploy(lab);
            let _ = deployed.and_then(|()| nodes.iter().try_for_each(|node| agent_answers(node)));
        });
        deploy(lab, &root().join(OLDER)).context("the older file")?;
        service.scale(6)?;
        service.wait_for(6)?;
        live(lab, service.name(), 6).context("with the older file")?;
        deploy(lab, &stack_file()).context("this version's file")?;
        service.scale(4)?;
        service.wait_for(4)?;
        live(lab, service.name(), 4).context("with this version's file")
    })?;
    outcome.nothing_failed()?;
    outcome.only_the_dead_broke(&deaths)
}

/// Deploys the stack from another file, and waits until every node has an agent made from it that answers.
fn deploy(lab: &Lab, file: &Path) -> Result<()> {
    let before = lab.on_every_node(mesh::agent_container)?;
    let deploy = ["stack", "deploy", "--resolve-image", "never", "--compose-file"];
    lab.docker(deploy).arg(mesh::prompt(file)?).arg(mesh::STACK).read()?;
    wait::for_up_to(Duration::from_mins(2), "every node has a new agent", || {
        let now = lab.on_every_node(|node| mesh::status(node).and_then(|_| mesh::agent_container(node)))?;
        ensure!(now.iter().all(|agent| !before.contains(agent)), "the old ones run");
        Ok(())
    })
}

fn writable(lab: &Lab) -> Result<()> {
    let node = lab.manager();
    wait::for_up_to(PATIENCE, "the agent answers", || mesh::status(node).map(drop))?;
    let pid = node.container_process(&mesh::agent_container(node)?)?;
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).context("the agent's mounts")?;
    // Docker gives each container these; the socket is asked, whatever its mount says.
    let dockers = ["/proc", "/dev", "/etc/", "/var/run/docker.sock"];
    let is_expected = |path: &str| {
        ["/bpf", "/run/mesh-agent"].contains(&path) || dockers.iter().any(|place| path.starts_with(place))
    };
    let writable: Vec<&str> = mounts.lines().filter_map(writable_mount).collect();
    let unexpected: Vec<_> = writable.iter().filter(|path| !is_expected(path)).collect();
    ensure!(unexpected.is_empty(), "it can write to {unexpected:?}: {mounts}");
    ensure!(writable.contains(&"/bpf"), "it cannot pin anything: {mounts}");
    denied(node, &mounts)
}

/// Of what Docker keeps of the Swarm, the certificates alone are there.
fn denied(node: &Node, mounts: &str) -> Result<()> {
    let state = mounts.lines().filter(|line| line.contains("/docker/swarm")).collect::<Vec<_>>();
    let certificates = state.iter().all(|line| line.contains("/swarm/certificates "));
    ensure!(certificates && !state.is_empty(), "the agent of {} sees {state:#?}", node.name);
    Ok(())
}

/// Where a line of `mountinfo` says that something is mounted, if it may be written to (`proc_pid_mountinfo(5)`).
fn writable_mount(line: &str) -> Option<&str> {
    let mut fields = line.split(' ').skip(4);
    let (path, options) = (fields.next()?, fields.next()?);
    options.split(',').any(|option| option == "rw").then_some(path)
}
