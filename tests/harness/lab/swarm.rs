//! Making one Swarm out of the nodes.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Lab, Node, in_parallel};
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

impl Lab {
    /// Makes a worker leave the Swarm; its tasks and its agent end with that.
    pub fn leave(&self, node: &Node) -> Result<()> {
        node.docker(["swarm", "leave"]).read().map(drop)
    }

    /// Makes a node that has left a worker again, under another id, and has the Swarm forget the old one.
    pub fn rejoin(&self, node: &Node) -> Result<()> {
        let token = self.docker(["swarm", "join-token", "--quiet", "worker"]).quiet().read()?;
        let endpoint = format!("{}:2377", self.manager().address);
        let join = ["swarm", "join", "--token", &token, "--advertise-addr", &node.address, &endpoint];
        node.docker(join).quiet().read()?;
        let known = || {
            let filter = format!("name={}", node.name);
            let list = ["node", "ls", "--filter", &filter, "--format", "{{.ID}} {{.Status}}"];
            node_list(self.docker(list))
        };
        let what = format!("{} is ready", node.name);
        wait::until(&what, Duration::from_secs(30), Duration::from_millis(50), || {
            let known = known()?;
            ensure!(known.iter().any(|line| line.ends_with(" Ready")), "{known:?}");
            Ok(())
        })?;
        // The old one is not forgotten before the Swarm has seen that it is down.
        let what = format!("the old {} is forgotten", node.name);
        wait::until(&what, Duration::from_secs(30), Duration::from_millis(200), || {
            let known = known()?;
            for line in known.iter().filter(|line| !line.ends_with(" Ready")) {
                let id = line.split(' ').next().unwrap_or_default();
                self.docker(["node", "rm", "--force", id]).quiet().read()?;
            }
            ensure!(known.len() == 1, "{known:?}");
            Ok(())
        })
    }
}

fn node_list(cmd: Cmd) -> Result<Vec<String>> {
    Ok(cmd.quiet().read()?.lines().map(String::from).collect())
}
