//! Making one Swarm out of the nodes.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Lab, in_parallel};
use crate::{cmd::Cmd, wait};

pub(super) fn form(lab: &Lab) -> Result<()> {
    let first = lab.manager();
    let endpoint = format!("{}:2377", first.address);
    // A node that becomes a manager later gets a snapshot and a short log then. With a long log it would take minutes to
    // catch up, in which two managers can agree on nothing.
    let init = ["swarm", "init", "--snapshot-interval", "100", "--advertise-addr", &first.address];
    first.docker(init).quiet().read()?;
    let token = |role| first.docker(["swarm", "join-token", "--quiet", role]).quiet().read();
    let (manager, worker) = (token("manager")?, token("worker")?);
    let join = |token: &str, address: &str| -> Vec<String> {
        ["swarm", "join", "--token", token, "--advertise-addr", address, &endpoint].map(String::from).into()
    };
    // Managers join one by one: each changes the quorum.
    for node in lab.nodes.iter().skip(1).filter(|node| node.manager) {
        node.docker(join(&manager, &node.address)).quiet().read()?;
    }
    let workers: Vec<_> = lab.workers().collect();
    in_parallel(&workers, |node| node.docker(join(&worker, &node.address)).quiet().read())?;
    wait::until("all nodes ready", Duration::from_secs(30), Duration::from_millis(50), || {
        let ready = node_list(first.docker(["node", "ls", "--format", "{{.Hostname}} {{.Status}}"]))?;
        let count = ready.iter().filter(|line| line.ends_with(" Ready")).count();
        ensure!(count == lab.nodes.len(), "{count} of {} nodes are ready", lab.nodes.len());
        Ok(())
    })
}

fn node_list(cmd: Cmd) -> Result<Vec<String>> {
    Ok(cmd.quiet().read()?.lines().map(String::from).collect())
}
