//! A real Docker Swarm on one machine: a dockerd per node, each in namespaces of its own.
//!
//! ```text
//!   namespace fabric:  client 10.99.0.254 ── bridge ──┬── veth ── node1 10.99.0.1  dockerd, agent, tasks
//!                                                     ├── veth ── node2 10.99.0.2
//!                                                     └── veth ── node3 10.99.0.3
//! ```
//!
//! To the host a node is a directory `/run/mesh-lab/nodeN` (docker.sock, logs), a cgroup `mesh-lab/nodeN` and a tree of
//! processes. Inside, a node looks like a machine of its own: /run, /etc, /sys, the process numbers and Docker's folders
//! are private and at their usual places, so one stack file fits all nodes. A Docker on the host is never spoken to.

mod api;
mod cgroups;
mod docker;
mod fabric;
mod lock;
mod node;
mod pass;
mod stranger;
mod swarm;

use std::{fs, io::ErrorKind, path::Path, thread};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

pub use self::{
    api::text,
    docker::Docker,
    fabric::{CLIENT, FABRIC, FAR_CLIENT, SECOND_ADDRESS, SECOND_CLIENT},
    lock::Lock,
    node::Node,
    pass::FarEnd,
    stranger::Stranger,
};
use crate::{cmd::Cmd, wait};

pub(crate) const BASE: &str = "/run/mesh-lab";
const STATE: &str = "/run/mesh-lab/lab.json";
const DOCKER_STATE: &str = "/var/lib/docker";
const MADE_DOCKER_STATE: &str = "/run/mesh-lab/made-var-lib-docker";

/// What shape the lab has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub nodes: usize,
    pub managers: usize,
    pub docker: Docker,
}

impl Default for Shape {
    /// One manager, so that the way of the workers is travelled too.
    fn default() -> Self {
        Self { nodes: 3, managers: 1, docker: Docker::default() }
    }
}

/// A lab that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lab {
    pub shape: Shape,
    pub nodes: Vec<Node>,
}

impl Lab {
    /// The lab in this shape: the one that is up if it has that shape and is whole, else a fresh one.
    pub fn up(shape: Shape) -> Result<Self> {
        match Self::open() {
            Ok(lab) if lab.shape == shape && lab.is_whole() => Ok(lab),
            _ => Self::fresh(shape),
        }
    }

    /// A new lab; whatever was left of another one is removed first.
    pub fn fresh(shape: Shape) -> Result<Self> {
        ensure!((1..=50).contains(&shape.nodes), "a lab has 1 to 50 nodes");
        ensure!(
            (1..=shape.nodes).contains(&shape.managers),
            "of {} nodes, 1 to all are managers",
            shape.nodes
        );
        node::check_machine()?;
        shape.docker.is_there()?;
        Self::down()?;
        fs::create_dir_all(BASE).with_context(|| format!("cannot make {BASE}"))?;
        Self::prepare_mount_point()?;
        let built = Self::build(shape);
        if built.is_err() {
            // The first error is the one that counts.
            let _ = Self::down();
        }
        built
    }

    /// The lab that is up.
    pub fn open() -> Result<Self> {
        let text = match fs::read_to_string(STATE) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("no lab is up: run `cargo xtask lab up`")
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {STATE}")),
        };
        serde_json::from_str(&text).with_context(|| format!("{STATE} is not what `lab up` writes"))
    }

    /// Removes all of the lab: processes, namespaces, mounts, cgroups, files. No lab is fine too.
    pub fn down() -> Result<()> {
        cgroups::remove()?;
        fabric::remove()?;
        if Path::new(MADE_DOCKER_STATE).exists() {
            let _ = fs::remove_dir(DOCKER_STATE);
        }
        match fs::remove_dir_all(BASE) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {BASE}"))
            }
            _ => Ok(()),
        }
    }

    /// The first node, which is a manager.
    pub fn manager(&self) -> &Node {
        &self.nodes[0]
    }

    pub fn workers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.manager)
    }

    pub fn node(&self, name: &str) -> Result<&Node> {
        let names = || self.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.nodes.iter().find(|node| node.name == name);
        found.ok_or_else(|| anyhow!("the lab has no node `{name}`, only {}", names()))
    }

    /// Takes away what [`Node::lay_second_cable`] has laid.
    pub fn remove_second_cable() -> Result<()> {
        fabric::remove_second_cable()
    }

    /// A command at the client, outside of all nodes.
    pub fn client(program: &str) -> Cmd {
        Cmd::new("nsenter")
            .arg(format!("--net=/run/netns/{FABRIC}"))
            .args(["--", program])
            .shown_as(format!("client: {program}"))
    }

    /// The docker client at the first manager.
    pub fn docker<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        self.manager().docker(args)
    }

    /// The version that the first node's dockerd says it is.
    pub fn docker_version(&self) -> Result<String> {
        Ok(text(&self.manager().ask("/version")?, "/Version").to_owned())
    }

    /// Has XDP do this with what arrives at the fabric's end of a machine's cable, which is called like the machine.
    pub fn far_end(machine: &str, program: FarEnd<'_>) -> Result<()> {
        fabric::far_end(machine, program)
    }

    /// Does something on every node at once.
    pub fn on_every_node<T: Send>(&self, act: impl Fn(&Node) -> Result<T> + Sync) -> Result<Vec<T>> {
        in_parallel(&self.nodes, act)
    }

    /// Whether every node is there and its dockerd answers.
    pub fn is_whole(&self) -> bool {
        self.nodes.iter().all(|node| node.is_alive() && node.docker_answers())
    }

    fn build(shape: Shape) -> Result<Self> {
        fabric::create()?;
        let indices: Vec<usize> = (1..=shape.nodes).collect();
        let boot = |index: &usize| {
            let node = Node::boot(*index, *index <= shape.managers, shape.docker)?;
            node.wait_for_docker()?;
            Ok(node)
        };
        // dockerd gives up when its containerd is not there within 15 s, however patient we are.
        let nodes = if wait::is_patient() {
            indices.iter().map(boot).collect::<Result<_>>()?
        } else {
            in_parallel(&indices, boot)?
        };
        let lab = Self { shape, nodes };
        swarm::form(&lab)?;
        fs::write(STATE, serde_json::to_string_pretty(&lab)?)
            .with_context(|| format!("cannot write {STATE}"))?;
        Ok(lab)
    }

    /// Each node mounts its own folder over this one, which must exist for that.
    fn prepare_mount_point() -> Result<()> {
        if !Path::new(DOCKER_STATE).exists() {
            fs::create_dir_all(DOCKER_STATE).with_context(|| format!("cannot make {DOCKER_STATE}"))?;
            fs::write(MADE_DOCKER_STATE, "")?;
        }
        Ok(())
    }
}

/// Runs `act` for all items at the same time; the first error wins.
fn in_parallel<I: Sync, T: Send>(items: &[I], act: impl Fn(&I) -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let act = &act;
        let running: Vec<_> = items.iter().map(|item| scope.spawn(move || act(item))).collect();
        running.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?).collect()
    })
}
