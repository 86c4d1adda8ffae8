//! Every scenario proves more than its sentence: whatever it was about, afterwards the lab is as it was, each node's tables agree
//! with the Swarm, no agent has warned of anything, and no packet has ended in a way that nobody should see. What a scenario
//! causes on purpose it says beforehand.
//!
//! Several scenarios run at a time. What is found has a time, and fails each that ran then; what has none fails all of them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    lab::{Lab, Node, text},
    mesh::{self, SERVICE},
    wait,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Within what time what a scenario has removed must be gone, and the tables must agree with the Swarm.
const SETTLED: Duration = Duration::from_secs(15);

/// How a packet must not end: the beginnings of outcomes' names. `unknown_task` and `unknown_reset` are not among them: wherever
/// tasks end, their clients' last packets may still be on their way.
const BAD_OUTCOMES: &[&str] = &[
    "malformed",
    "not_changeable",
    "no_free_port",
    "flow_table_full",
    "unknown_answer",
    "unknown_fragment",
    "too_big_dropped",
    "congested",
    "forged_source",
    "rejection_limited",
];

/// What a scenario causes on purpose.
#[derive(Debug, Default, Clone)]
pub(crate) struct Announced {
    /// Parts of what agents warn of.
    warnings: Vec<&'static str>,
    /// Beginnings of outcomes' names.
    outcomes: Vec<&'static str>,
    /// Agents are exchanged, or end.
    agents: bool,
    /// There is no mesh afterwards.
    no_mesh: bool,
}

thread_local! {
    static ANNOUNCED: RefCell<Announced> = RefCell::default();
}

/// Agents will warn of this.
pub(crate) fn warns(of: &'static str) {
    ANNOUNCED.with_borrow_mut(|announced| announced.warnings.push(of));
}

/// Packets will end so: the beginning of an outcome's name.
pub(crate) fn packets_end(so: &'static str) {
    ANNOUNCED.with_borrow_mut(|announced| announced.outcomes.push(so));
}

/// Agents will be exchanged for others, so that some do not hear a manager's for a moment.
pub(crate) fn exchanges_agents() {
    ANNOUNCED.with_borrow_mut(|announced| {
        announced.agents = true;
        announced.warnings.extend(UNHEARD);
    });
}

/// What agents say that do not hear a manager's.
const UNHEARD: [&str; 2] =
    ["the state of the Swarm cannot be read", "what happens on this node reaches others only as fast"];

/// Nodes, or managers' Dockers, will be away for a while, and their agents too.
pub(crate) fn loses_nodes() {
    exchanges_agents();
    ANNOUNCED.with_borrow_mut(|announced| announced.warnings.extend(LOST));
}

/// What agents say of other nodes, and of a Docker that does not answer.
const LOST: [&str; 4] = [
    "the node's dataplane has fallen silent",
    "this node's containers cannot be read",
    "the agents of other nodes cannot be served",
    "changes of the Swarm are not pushed",
];

/// The mesh will be gone.
pub(crate) fn removes_the_mesh() {
    ANNOUNCED.with_borrow_mut(|announced| announced.no_mesh = true);
}

/// What scenarios have announced that ran as a part of this thread's: it causes that too.
pub(crate) fn also(announced: &Announced) {
    ANNOUNCED.with_borrow_mut(|whole| {
        whole.warnings.extend(&announced.warnings);
        whole.outcomes.extend(&announced.outcomes);
        whole.agents |= announced.agents;
        whole.no_mesh |= announced.no_mesh;
    });
}

/// What this thread's scenario has announced; the next one begins with nothing.
pub(crate) fn take() -> Announced {
    ANNOUNCED.take()
}

/// A scenario as this judge sees it.
pub(crate) struct Ran<'a> {
    pub(crate) begin: SystemTime,
    pub(crate) end: SystemTime,
    pub(crate) announced: &'a Announced,
    /// What it left or caused is added here.
    pub(crate) findings: Vec<String>,
}

impl Ran<'_> {
    fn ran_at(&self, time: SystemTime) -> bool {
        self.begin <= time && time <= self.end + SETTLED
    }
}

/// The lab before a scenario, or before some that run side by side.
#[derive(Debug)]
pub(crate) struct Canary {
    since: SystemTime,
    /// Each node's place in the Swarm, and its addresses.
    nodes: BTreeMap<String, String>,
    agents: BTreeSet<String>,
    outcomes: BTreeMap<String, u64>,
}

/// Something that is there and has a time.
type Dated = (SystemTime, String);

impl Canary {
    pub(crate) fn look(lab: &Lab) -> Result<Self> {
        Ok(Self {
            since: SystemTime::now(),
            nodes: nodes(lab)?,
            agents: wait::for_up_to(SETTLED, "the agents run that the Swarm wants", || agents(lab))?,
            outcomes: outcomes(lab)?,
        })
    }

    /// Adds to each scenario what it has left or caused.
    pub(crate) fn judge(&self, lab: &Lab, batch: &mut [Ran<'_>]) {
        self.settled(lab, batch);
        match warnings(lab, self.since) {
            Ok(warnings) => warnings.into_iter().for_each(|(time, line)| {
                let announced = |ran: &Ran<'_>| {
                    ran.ran_at(time) && ran.announced.warnings.iter().any(|part| line.contains(part))
                };
                if !batch.iter().any(announced) {
                    blame(batch, Some(time), &format!("an agent warned: {line}"));
                }
            }),
            Err(error) => blame(batch, None, &format!("the agents' logs: {error:#}")),
        }
        if batch.iter().any(|ran| ran.announced.no_mesh) {
            return;
        }
        match outcomes(lab) {
            Ok(now) => self.judge_outcomes(&now, batch),
            Err(error) => blame(batch, None, &format!("how packets ended: {error:#}")),
        }
    }

    /// What is removed takes a moment to go.
    fn settled(&self, lab: &Lab, batch: &mut [Ran<'_>]) {
        let mut strays: Vec<Dated> = Vec::new();
        let agents_change = batch.iter().any(|ran| ran.announced.agents || ran.announced.no_mesh);
        let no_mesh = batch.iter().any(|ran| ran.announced.no_mesh);
        let settled = wait::for_up_to(SETTLED, "the lab is as it was", || {
            strays = left_behind(lab)?;
            // What an earlier one left behind has failed that one.
            strays.retain(|(created, _)| *created >= self.since);
            let names: Vec<&String> = strays.iter().map(|(_, name)| name).collect();
            ensure!(names.is_empty(), "left behind: {names:?}");
            let now = nodes(lab)?;
            ensure!(now == self.nodes, "the nodes were {:?} and are {now:?}", self.nodes);
            if no_mesh {
                return Ok(());
            }
            let now = agents(lab)?;
            ensure!(agents_change || now == self.agents, "agents were exchanged: {:?}, {now:?}", self.agents);
            for node in &lab.nodes {
                let differences = mesh::differences(node)?;
                ensure!(differences.is_empty(), "`check` on {}: {differences:?}", node.name);
            }
            Ok(())
        });
        match settled {
            Err(_) if !strays.is_empty() => strays
                .iter()
                .for_each(|(time, name)| blame(batch, Some(*time), &format!("left behind: {name}"))),
            Err(error) => blame(batch, None, &format!("{error:#}")),
            Ok(()) => {}
        }
    }

    fn judge_outcomes(&self, now: &BTreeMap<String, u64>, batch: &mut [Ran<'_>]) {
        for (name, count) in now {
            let before = self.outcomes.get(name).copied().unwrap_or_default();
            // Those of another version of the agent begin anew.
            let more = count.saturating_sub(before);
            let announced = |ran: &Ran<'_>| ran.announced.outcomes.iter().any(|part| name.contains(part));
            if more > 0 && !batch.iter().any(announced) {
                blame(batch, None, &format!("{more} packets ended as {name}"));
            }
        }
    }
}

/// Adds it to those that ran at that time, or to all if it has none or nobody did.
fn blame(batch: &mut [Ran<'_>], time: Option<SystemTime>, finding: &str) {
    let anybody = batch.iter().any(|ran| time.is_some_and(|time| ran.ran_at(time)));
    for ran in batch {
        if !anybody || time.is_some_and(|time| ran.ran_at(time)) {
            ran.findings.push(finding.to_owned());
        }
    }
}

/// Services, networks and containers that are not the mesh's or Docker's own.
fn left_behind(lab: &Lab) -> Result<Vec<Dated>> {
    let mut found = Vec::new();
    let manager = lab.manager();
    for service in manager.list("/services", &[])? {
        let name = text(&service, "/Spec/Name");
        if name != SERVICE {
            found.push((parse(text(&service, "/CreatedAt"))?, format!("service {name}")));
        }
    }
    for network in manager.list("/networks", &[("driver", "overlay")])? {
        let name = text(&network, "/Name");
        if name != "ingress" {
            found.push((parse(text(&network, "/Created"))?, format!("network {name}")));
        }
    }
    for containers in lab.on_every_node(strange_containers)? {
        found.extend(containers);
    }
    Ok(found)
}

/// Containers that run, and stopped ones that no service will forget by itself.
fn strange_containers(node: &Node) -> Result<Vec<Dated>> {
    let mut found = Vec::new();
    for container in node.list("/containers/json?all=1", &[])? {
        let service = container["Labels"]["com.docker.swarm.service.name"].as_str();
        let state = text(&container, "/State");
        if service == Some(SERVICE) || (service.is_some() && state != "running") {
            continue;
        }
        // In whole seconds: taken for the end of that one, it is not an earlier scenario's.
        let created = container["Created"].as_u64().context("a container has a beginning")? + 1;
        let name = text(&container, "/Names/0").trim_start_matches('/');
        found.push((
            UNIX_EPOCH + Duration::from_secs(created),
            format!("container {name} ({state}) on {}", node.name),
        ));
    }
    Ok(found)
}

fn parse(time: &str) -> Result<SystemTime> {
    Ok(OffsetDateTime::parse(time, &Rfc3339).with_context(|| format!("{time:?} is no time"))?.into())
}

/// The nodes as the Swarm sees them, with the addresses of their uplinks and whether those carry anything.
fn nodes(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let mut nodes = BTreeMap::new();
    for node in lab.manager().list("/nodes", &[])? {
        let manager = if node["ManagerStatus"].is_object() { "manager" } else { "worker" };
        let state =
            format!("{} {} {manager}", text(&node, "/Status/State"), text(&node, "/Spec/Availability"));
        let twice = nodes.insert(text(&node, "/Description/Hostname").to_owned(), state);
        ensure!(twice.is_none(), "a node is there twice: {node}");
    }
    let addresses = lab.on_every_node(|node| {
        let list = ["-brief", "-4", "address", "show", "dev", "eth0"];
        node.network_command("ip").args(list).quiet().read()
    })?;
    for (node, addresses) in lab.nodes.iter().zip(addresses) {
        let words: Vec<&str> = addresses.split_whitespace().collect();
        let state = nodes.entry(node.name.clone()).or_default();
        *state = format!("{state}; {}", words.join(" "));
    }
    Ok(nodes)
}

/// The containers of the agents: those that run, which are to be those that the Swarm wants. A node that was away for a
/// while serves by the agent that it has, until the Swarm exchanges that for another.
fn agents(lab: &Lab) -> Result<BTreeSet<String>> {
    let running: BTreeSet<String> = lab.on_every_node(mesh::agent_container)?.into_iter().collect();
    let tasks = lab.manager().list("/tasks", &[("service", SERVICE), ("desired-state", "running")])?;
    let up = tasks.iter().filter(|task| text(task, "/Status/State") == "running");
    let wanted: BTreeSet<String> =
        up.map(|task| text(task, "/Status/ContainerStatus/ContainerID").to_owned()).collect();
    ensure!(
        wanted == running && tasks.len() == running.len(),
        "{running:?} run, and of {} agents that the Swarm wants {wanted:?} are up",
        tasks.len()
    );
    Ok(running)
}

/// How many packets have ended badly, by node and outcome.
fn outcomes(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let of_node = |node: &Node| {
        let status = mesh::status(node)?;
        let outcomes = status["dataplane"]["outcomes"].as_object().context("a report has outcomes")?;
        let is_bad = |name: &str| BAD_OUTCOMES.iter().any(|begin| name.starts_with(begin));
        let bad = outcomes.iter().filter(|(name, _)| is_bad(name));
        Ok(bad
            .map(|(name, count)| (format!("{name} on {}", node.name), count.as_u64().unwrap_or_default()))
            .collect::<Vec<_>>())
    };
    Ok(lab.on_every_node(of_node)?.into_iter().flatten().collect())
}

/// What agents have warned of since, those that have ended too.
fn warnings(lab: &Lab, since: SystemTime) -> Result<Vec<Dated>> {
    let seconds = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let of_node = |node: &Node| {
        let mut found = Vec::new();
        let label = format!("com.docker.swarm.service.name={SERVICE}");
        for container in node.list("/containers/json?all=1", &[("label", &label)])? {
            // One that has just been forgotten has no log.
            let Ok(said) = node.logs_since(text(&container, "/Id"), seconds) else { continue };
            for line in said.lines().filter(|line| is_warning(line)) {
                let Some((time, words)) = line.split_once(' ') else { continue };
                let time = parse(time)?;
                if time >= since {
                    found.push((time, format!("{}: {words}", node.name)));
                }
            }
        }
        Ok(found)
    };
    Ok(lab.on_every_node(of_node)?.into_iter().flatten().collect())
}

fn is_warning(line: &str) -> bool {
    [" WARN ", " ERROR "].iter().any(|level| line.contains(level))
}
