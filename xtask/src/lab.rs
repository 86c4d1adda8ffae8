//! `cargo xtask lab`: a real Swarm on this machine (`tests/harness/lab`).

use std::{process::exit, time::Instant};

use anyhow::{Result, bail};
use clap::Subcommand;
use mesh_tests::{
    cmd::Cmd,
    lab::{Docker, FABRIC, Lab, Lock, Shape},
    mesh,
};

use crate::setup::{self, Set, docker};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts it: node1… at 10.99.0.1…, the client at 10.99.0.254 in the namespace `fabric`
    Up {
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        #[arg(long, default_value_t = 1)]
        managers: usize,
        /// The nodes' Docker; the newest that can be had when none is named
        #[arg(long, value_enum)]
        docker: Option<Docker>,
        /// Builds the agent and deploys it on the lab
        #[arg(long)]
        mesh: bool,
        /// Serves published ports by native XDP, on packets with complete checksums as on a wire
        #[arg(long, requires = "mesh")]
        xdp: bool,
    },
    /// Loads the images of the workloads on all nodes: mesh-lab/nginx, mesh-lab/redis, and mesh-lab/workload:v1, :v2, :health
    Load,
    /// Removes it and all its traces
    Down,
    /// Shows its nodes and services
    Status,
    /// Runs a command on a node, or at the client (`fabric`)
    Exec {
        node: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Runs the docker client against a node's dockerd
    Docker {
        node: String,
        #[arg(last = true, required = true)]
        arguments: Vec<String>,
    },
}

pub(crate) fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Up { nodes, managers, docker, mesh, xdp } => {
            setup::ensure(if mesh { &[Set::Lab, Set::Build] } else { &[Set::Lab] })?;
            up(Shape { nodes, managers, docker: docker::chosen(docker)? }, mesh, xdp)
        }
        Command::Load => {
            setup::ensure(&[Set::Lab, Set::Build])?;
            mesh::load(&Lab::open()?, &mesh::build_workloads()?)
        }
        Command::Down => {
            let _lock = Lock::take()?;
            Lab::down()
        }
        Command::Status => status(),
        Command::Exec { node, command } => exec(&node, &command),
        Command::Docker { node, arguments } => leave_with(Lab::open()?.node(&node)?.docker(arguments)),
    }
}

fn up(shape: Shape, with_mesh: bool, with_xdp: bool) -> Result<()> {
    let _lock = Lock::take()?;
    let images = if with_mesh { mesh::build_all()? } else { Vec::new() };
    let begin = Instant::now();
    let lab = Lab::up(shape)?;
    let (nodes, version) = (lab.nodes.len(), lab.docker_version()?);
    println!("{nodes} nodes with Docker {version}, up in {:.1} s", begin.elapsed().as_secs_f64());
    if with_mesh {
        mesh::load(&lab, &images)?;
        mesh::deploy(&lab)?;
    }
    if with_xdp {
        mesh::with_xdp(&lab)?;
    }
    for node in &lab.nodes {
        let role = if node.manager { "manager" } else { "worker" };
        println!(
            "  {}  {}  {role:7}  DOCKER_HOST=unix://{}",
            node.name,
            node.address,
            node.docker_socket().display()
        );
    }
    println!("  client at 10.99.0.254: ip netns exec {FABRIC} curl http://10.99.0.1/");
    Ok(())
}

fn status() -> Result<()> {
    let lab = Lab::open()?;
    for node in &lab.nodes {
        let state = match (node.is_alive(), node.docker_answers()) {
            (true, true) => "up",
            (true, false) => "dockerd does not answer",
            (false, _) => "gone",
        };
        println!("{}  {}  {state}", node.name, node.address);
    }
    if !lab.is_whole() {
        bail!("the lab is broken: `cargo xtask lab up` makes a new one");
    }
    println!("Docker {}", lab.docker_version()?);
    lab.docker(["service", "ls"]).quiet().run()
}

fn exec(node: &str, command: &[String]) -> Result<()> {
    let (program, arguments) = command.split_first().map_or(("true", &[][..]), |(p, a)| (p.as_str(), a));
    let cmd = match node {
        "client" | FABRIC => Lab::client(program),
        node => Lab::open()?.node(node)?.command(program),
    };
    leave_with(cmd.args(arguments))
}

/// Ends as the command does, without words of our own.
fn leave_with(cmd: Cmd) -> Result<()> {
    let status = cmd.quiet().status()?;
    exit(status.code().unwrap_or(1))
}
