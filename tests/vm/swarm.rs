//! The Swarm that the checks are about, and the state that the agents on it are in.

use std::{cell::Cell, collections::BTreeSet, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_agent::dataplane::object::program;
use mesh_tests::{
    cmd::Cmd,
    lab::{Lab, Node, Shape},
    mesh::{self, STACK},
    paths,
    service::{Service, Spec},
    vm::Mesh,
    wait,
};
use serde_json::Value;

/// A port that both meshes can serve, and one whose service is none of ours.
pub(crate) const PORT: u16 = 8391;
pub(crate) const PORT_BESIDE: u16 = 8392;
/// A port of the first one's service for connections and datagrams that are held.
pub(crate) const ECHO: u16 = 8393;
/// Its overlay.
pub(crate) const NETWORK: &str = "vm-plain";
/// The node through which clients come; it has no task.
const ENTRY: &str = "node2";

/// How the agents attach programs of TC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tc {
    Auto,
    Clsact,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Xdp {
    Off,
    Native,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing of the mesh is there.
    None,
    Agents(Tc, Xdp),
    /// The agents run, but `mesh-agent uninstall` has taken away what they did.
    Uninstalled,
    /// What the agents did is there, but they are not.
    Withdrawn,
}

pub(crate) struct Swarm {
    pub(crate) lab: &'static Lab,
    /// Two tasks on the nodes that clients do not dial, on an overlay too.
    pub(crate) web: Service<'static>,
    /// A task on the same overlay, on the node that clients dial.
    pub(crate) caller: Service<'static>,
    _beside: Service<'static>,
    state: Cell<State>,
}

impl Swarm {
    /// Three nodes, and the services, which run before there is a mesh.
    pub(crate) fn up() -> Result<Self> {
        // It lasts as long as the machine.
        let lab: &'static Lab = Box::leak(Box::new(Lab::fresh(Shape::default())?));
        let archives = ["mesh-lab-workload.tar", "mesh-agent.tar"].map(|name| paths::target().join(name));
        mesh::load(lab, &archives)?;
        lab.docker(["network", "create", "--driver", "overlay", NETWORK]).quiet().read()?;
        let network = format!("--network={NETWORK}");
        let at_home = format!("--constraint=node.hostname!={ENTRY}");
        let web = Spec::workload("vm-web").replicas(2).publish(&format!("{PORT}:8080"));
        let web = web.publish(&format!("{ECHO}:9000")).publish(&format!("{ECHO}:9000/udp"));
        let web = web.option(&network).option(&at_home).create(lab)?;
        let caller = Spec::workload("vm-caller").option(&network);
        let caller = caller.option(&format!("--constraint=node.hostname=={ENTRY}")).create(lab)?;
        let beside = Spec::workload("vm-beside").publish(&format!("{PORT_BESIDE}:8080"));
        let beside = beside.option("--label=mesh.enable=false").option(&at_home).create(lab)?;
        Ok(Self { lab, web, caller, _beside: beside, state: Cell::new(State::None) })
    }

    /// Clients of the entry node are served by this mesh, on this port.
    pub(crate) fn serves(&self, mesh: Mesh, port: u16) -> Result<()> {
        mesh.serves(self.entry()?, port).map(drop)
    }

    /// The node that clients dial.
    pub(crate) fn entry(&self) -> Result<&'static Node> {
        self.lab.node(ENTRY)
    }

    /// Has agents run that attach programs in this way, new ones if they do it in another.
    pub(crate) fn with_agents(&self, tc: Tc, xdp: Xdp) -> Result<()> {
        if self.state.get() == State::Agents(tc, xdp) {
            return Ok(());
        }
        self.without_agents()?;
        self.lab.on_every_node(|node| node.make_wire(xdp == Xdp::Native))?;
        self.state.set(State::Agents(tc, xdp));
        deploy(self.lab, tc, xdp)
    }

    /// Has nothing of the mesh be there.
    pub(crate) fn without_agents(&self) -> Result<()> {
        match self.state.get() {
            State::None => return Ok(()),
            State::Agents(..) | State::Uninstalled => self.withdraw()?,
            State::Withdrawn => {}
        }
        self.lab.on_every_node(mesh::uninstall_without_agent)?;
        self.lab.on_every_node(|node| node.make_wire(false))?;
        self.state.set(State::None);
        Ok(())
    }

    /// Has what agents did be there, by XDP and clsact, but not the agents.
    pub(crate) fn withdrawn(&self) -> Result<()> {
        if self.state.get() == State::Withdrawn {
            return Ok(());
        }
        self.with_agents(Tc::Clsact, Xdp::Native)?;
        self.serves(Mesh::Ours, PORT)?;
        self.withdraw()
    }

    /// `mesh-agent uninstall` on every node, below running agents.
    pub(crate) fn uninstall(&self) -> Result<()> {
        self.lab.on_every_node(|node| mesh::agent(node, &["uninstall"])?.quiet().read())?;
        self.state.set(State::Uninstalled);
        Ok(())
    }

    /// Removes the agents' service, and nothing that they left in the kernel.
    fn withdraw(&self) -> Result<()> {
        mesh::withdraw(self.lab)?;
        self.state.set(State::Withdrawn);
        Ok(())
    }

    /// On every node's uplink there is a program at this hook, by what its agent says.
    pub(crate) fn is_attached(&self, hook: &str) -> Result<()> {
        for node in &self.lab.nodes {
            let rows = attachments(node)?;
            let there = rows.iter().any(|row| row["interface"] == "eth0" && row["hook"] == hook);
            ensure!(there, "nothing is at {hook} on {}: {rows:?}", node.name);
        }
        Ok(())
    }
}

/// The kernel says that a container's first process is held to docker-default.
pub(crate) fn is_confined(node: &Node, container: &str) -> Result<()> {
    let file = format!("/proc/{}/attr/current", node.container_process(container)?);
    let profile = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let profile = profile.trim_end_matches(['\n', '\0']);
    ensure!(profile == "docker-default (enforce)", "{container} on {} is `{profile}`", node.name);
    Ok(())
}

/// The kernel has all programs, those of overlays included, for which there is a task on one.
pub(crate) fn holds_programs(xdp: Xdp) -> Result<()> {
    let xdp = (xdp == Xdp::Native).then_some(program::UPLINK_XDP);
    let wanted = program::TC
        .into_iter()
        .chain(program::OVERLAY)
        .chain(program::NETWORK)
        .chain(program::CGROUP)
        .chain(xdp);
    let wanted: BTreeSet<&str> = wanted.collect();
    wait::for_up_to(Duration::from_secs(10), "the programs are loaded", || {
        let text = Cmd::new("bpftool").args(["--json", "prog", "show"]).quiet().read()?;
        let list: Value = serde_json::from_str(&text).with_context(|| format!("bpftool said {text}"))?;
        let loaded = list.as_array().into_iter().flatten().filter_map(|program| program["name"].as_str());
        let loaded: BTreeSet<&str> = loaded.collect();
        let missing: Vec<_> = wanted.difference(&loaded).collect();
        ensure!(missing.is_empty(), "this kernel does not hold {missing:?}");
        Ok(())
    })
}

/// Whether this kernel has tcx, which came with Linux 6.6.
pub(crate) fn has_tcx() -> Result<bool> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 6))
}

/// Deploys the stack file as it is, with settings beside it, and waits until every agent has attached its programs.
fn deploy(lab: &Lab, tc: Tc, xdp: Xdp) -> Result<()> {
    const BESIDE: &str = "/run/mesh-vm-stack.yml";
    let file = paths::stack_file();
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let version =
        text.lines().find(|line| line.starts_with("version:")).context("the stack has no version")?;
    let tc = if tc == Tc::Auto { "auto" } else { "clsact" };
    let xdp = if xdp == Xdp::Off { "auto" } else { "native" };
    let settings = format!("{{ MESH_TC: {tc}, MESH_XDP: {xdp} }}");
    // An emulated processor takes minutes to verify an overlay's programs, in which the check would end the agent.
    let agent = format!("{{ environment: {settings}, healthcheck: {{ test: [NONE] }} }}");
    fs::write(BESIDE, format!("{version}\nservices: {{ agent: {agent} }}\n"))?;
    let deploy = ["stack", "deploy", "--resolve-image", "never", "--compose-file"];
    lab.docker(deploy).arg(file).args(["--compose-file", BESIDE, STACK]).read()?;
    let attached = |node: &Node| {
        let there = attachments(node)?.iter().any(|row| row["interface"] == "eth0");
        ensure!(there, "{} has no programs yet", node.name);
        Ok(())
    };
    let done = wait::for_up_to(Duration::from_mins(1), "an agent serves on every node", || {
        lab.on_every_node(attached).map(drop)
    });
    done.with_context(|| mesh::logs(lab))
}

/// Which programs are where on a node, by what its agent says.
fn attachments(node: &Node) -> Result<Vec<Value>> {
    let status = mesh::status(node)?;
    status["dataplane"]["attachments"].as_array().cloned().context("the status has no attachments")
}
