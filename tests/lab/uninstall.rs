//! Giving the nodes back: nothing of the mesh is left, and the kernel is as it was before.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use mesh_agent::node::namespaces;
use mesh_common::maps;
use mesh_tests::{
    client::{At, Report},
    cmd::Cmd,
    inside::{Inside, Network},
    lab::{Lab, Node},
    mesh,
    service::{Service, Spec},
    wait,
};
use serde_json::Value;

use crate::{
    Scenario, canary,
    load::network,
    support::{PATIENCE, all_ok, get, get_at, live},
    vip::have_programs,
};

/// To be run at the very end: there is no mesh afterwards.
pub(crate) const SCENARIOS: &[Scenario] = &[
    ("without any agent the nodes serve on, until somebody uninstalls the mesh", without_any_agent),
    ("`mesh-agent uninstall` leaves no trace on any node", uninstall_leaves_no_trace),
];

static BEFORE: OnceLock<Vec<BTreeSet<String>>> = OnceLock::new();

/// Looks at the nodes before there is a mesh on them.
pub(crate) fn remember(lab: &Lab) -> Result<()> {
    // docker_gwbridge comes a moment after the node, and its addresses and routes bit by bit.
    let whole = |node: &Node| {
        let traces = traces(node)?;
        let bridge = traces.iter().any(|t| t.starts_with("route") && t.contains("dev docker_gwbridge"));
        ensure!(bridge, "docker_gwbridge has no address");
        thread::sleep(Duration::from_millis(500));
        ensure!(traces == self::traces(node)?, "it is still changing");
        Ok(traces)
    };
    let patiently = |node: &Node| wait::for_up_to(PATIENCE, "docker_gwbridge is up", || whole(node));
    let before = lab.on_every_node(patiently)?;
    let _ = BEFORE.set(before);
    Ok(())
}

fn without_any_agent(lab: &Lab) -> Result<()> {
    canary::exchanges_agents();
    let site = Site::used(lab)?;
    let programs = programs(lab)?;
    mesh::withdraw(lab)?;
    for node in &lab.nodes {
        get(node, 8801, 10).with_context(|| format!("through {}", node.name))?;
        get_at(At::Node(node), "127.0.0.1:8801", 10).with_context(|| format!("on {}", node.name))?;
    }
    site.calls(10)?;
    lab.on_every_node(mesh::uninstall_without_agent)?;
    lab.on_every_node(|node| is_bare(node, &programs))?;
    drop(site);
    let clean = no_trace(lab, &programs);
    // The next one wants a mesh.
    clean.and(mesh::deploy(lab))
}

fn uninstall_leaves_no_trace(lab: &Lab) -> Result<()> {
    canary::removes_the_mesh();
    let site = Site::used(lab)?;
    let programs = programs(lab)?;
    lab.on_every_node(|node| mesh::agent(node, &["uninstall"])?.read().map(drop))?;
    lab.on_every_node(|node| is_bare(node, &programs))?;
    // Agents that still run leave new containers alone.
    site.service.scale(6)?;
    site.service.wait_for(6)?;
    thread::sleep(LOOKS_AGAIN + Duration::from_secs(1));
    lab.on_every_node(|node| is_bare(node, &programs).context("an agent has put a program back"))?;
    mesh::withdraw(lab)?;
    drop(site);
    no_trace(lab, &programs)
}

/// How often an agent looks whether its programs are where they belong.
const LOOKS_AGAIN: Duration = Duration::from_secs(5);

/// Everything that the mesh serves: a published port, and a virtual address with callers on every node.
struct Site<'a> {
    lab: &'a Lab,
    service: Service<'a>,
    callers: Service<'a>,
    network: Network<'a>,
}

impl<'a> Site<'a> {
    /// It has been used from everywhere, and the programs that serve it are where they should be.
    fn used(lab: &'a Lab) -> Result<Self> {
        let network = network(lab, "last")?;
        let callers = Spec::workload("last-caller").global().option(&network.option()).create(lab)?;
        let spec = Spec::workload("last").replicas(2).publish("8801:8080").option(&network.option());
        let site = Self { lab, service: spec.create(lab)?, callers, network };
        live(lab, "last", 2)?;
        have_programs(&site.network, &Inside::tasks(lab, &site.callers)?)?;
        for node in &lab.nodes {
            get(node, 8801, 2)?;
            get_at(At::Node(node), "127.0.0.1:8801", 2)?;
            let attached = attached(node)?;
            ensure!(
                attached.contains("overlay_in"),
                "no program in an overlay of {}: {attached:?}",
                node.name
            );
            ensure!(attached.contains("uplink_in"), "no program at an uplink of {}: {attached:?}", node.name);
        }
        site.calls(2)?;
        Ok(site)
    }

    /// Each caller reaches the service at its virtual address.
    fn calls(&self, count: usize) -> Result<()> {
        let target = format!("{}:8080", self.service.vip(&self.network.name)?);
        for caller in Inside::tasks(self.lab, &self.callers)? {
            let report: Report = caller.run(&["get", &target, "--count", &count.to_string()])?;
            all_ok(report).with_context(|| format!("from {}", caller.node.name))?;
        }
        Ok(())
    }
}

/// No program of the mesh is attached anywhere on a node, also at the ports of what runs there.
fn is_bare(node: &Node, programs: &BTreeSet<String>) -> Result<()> {
    let attached = attached(node)?;
    let left: Vec<&String> = programs.intersection(&attached).collect();
    ensure!(left.is_empty(), "{} has {left:?}", node.name);
    Ok(())
}

/// The names of the programs that are attached in the node's namespace, and in all that Docker has made. `bpftool` of Debian knows
/// no tcx.
fn attached(node: &Node) -> Result<BTreeSet<String>> {
    let docker = node.processes(&["dockerd"])?.into_iter().next().context("the node has no dockerd")?;
    let mut places = vec![PathBuf::from(format!("/proc/{docker}/ns/net"))];
    let folder = node.path("/run/docker/netns");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    places.extend(entries.flatten().map(|entry| entry.path()));
    let mut found = BTreeSet::new();
    for place in places {
        let visitor = thread::spawn(move || attached_in(&place));
        found.extend(visitor.join().map_err(|_| anyhow!("a visitor panicked"))??);
    }
    Ok(found)
}

/// Moves the thread there for good.
fn attached_in(namespace: &Path) -> Result<BTreeSet<String>> {
    // A file that Docker has left lying about is no namespace.
    if namespaces::enter(namespace).is_err() {
        return Ok(BTreeSet::new());
    }
    let mut found = BTreeSet::new();
    let links = Cmd::new("ip").args(["-oneline", "link", "show"]).quiet().read()?;
    let names = links.lines().filter_map(|line| line.split(": ").nth(1));
    for interface in names.filter_map(|name| name.split('@').next()) {
        for (hook, direction) in [(TcAttachType::Ingress, "ingress"), (TcAttachType::Egress, "egress")] {
            // It may have gone meanwhile; before Linux 6.6 there is no tcx.
            if let Ok((_, programs)) = SchedClassifier::query_tcx(interface, hook) {
                found.extend(programs.iter().filter_map(|program| program.name_as_str()).map(str::to_owned));
            }
            let filters =
                Cmd::new("tc").args(["filter", "show", "dev", interface, direction]).quiet().output()?;
            let text = String::from_utf8_lossy(&filters.stdout).into_owned();
            found.extend(text.split_whitespace().map(str::to_owned));
        }
    }
    Ok(found)
}

/// The names of all programs that the agents have attached.
fn programs(lab: &Lab) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for node in &lab.nodes {
        let status = mesh::status(node)?;
        let attached = status["dataplane"]["attachments"].as_array().into_iter().flatten();
        names.extend(attached.filter_map(|row| row["program"].as_str()).map(String::from));
    }
    let known = objects(&names)?;
    for name in &names {
        let there = known.iter().any(|object| object.name == *name);
        ensure!(there, "the kernel knows no program {name}, which should be attached: {known:#?}");
    }
    ensure!(names.contains("uplink_in"), "nothing is attached to the uplinks: {names:?}");
    Ok(names)
}

fn no_trace(lab: &Lab, programs: &BTreeSet<String>) -> Result<()> {
    let Some(before) = BEFORE.get() else { bail!("nobody looked at the nodes before the mesh came") };
    for (node, before) in lab.nodes.iter().zip(before) {
        wait::for_up_to(Duration::from_secs(5), &format!("{} is as before", node.name), || {
            let now = traces(node)?;
            let left: Vec<&String> = now.difference(before).collect();
            let lost: Vec<&String> = before.difference(&now).collect();
            ensure!(left.is_empty() && lost.is_empty(), "left behind: {left:#?}, lost: {lost:#?}");
            Ok(())
        })?;
    }
    // Programs and maps that nothing holds go a moment later.
    wait::for_up_to(Duration::from_secs(10), "no BPF object of the mesh is left on this machine", || {
        let left = abandoned(programs)?;
        ensure!(left.is_empty(), "left are {left:#?}");
        Ok(())
    })
}

/// A program or map in this machine's kernel.
#[derive(Debug)]
struct Object {
    kind: &'static str,
    id: u64,
    name: String,
    /// The maps of a program.
    maps: Vec<u64>,
}

/// Every program and map of the mesh on this machine.
fn objects(programs: &BTreeSet<String>) -> Result<Vec<Object>> {
    let mut found = Vec::new();
    for kind in ["prog", "map"] {
        let text = Cmd::new("bpftool").args(["--json", kind, "show"]).quiet().read()?;
        let list: Value = serde_json::from_str(&text).with_context(|| format!("bpftool said {text}"))?;
        for object in list.as_array().into_iter().flatten() {
            let name = object["name"].as_str().unwrap_or_default().to_owned();
            let maps = object["map_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
            if programs.contains(&name) || maps::NAMES.contains(&name.as_str()) {
                found.push(Object { kind, id: object["id"].as_u64().unwrap_or(0), name, maps });
            }
        }
    }
    Ok(found)
}

/// [`objects`] without those that some process holds: a test of the programs, for example. They end with it.
fn abandoned(programs: &BTreeSet<String>) -> Result<Vec<Object>> {
    let held = held()?;
    let mut objects = objects(programs)?;
    let maps: BTreeSet<u64> = objects
        .iter()
        .filter(|object| object.kind == "prog" && held.contains(&("prog", object.id)))
        .flat_map(|program| program.maps.iter().copied())
        .collect();
    let by_a_program = |object: &Object| object.kind == "map" && maps.contains(&object.id);
    objects.retain(|object| !(held.contains(&(object.kind, object.id)) || by_a_program(object)));
    Ok(objects)
}

/// The programs and maps that processes of this machine have open.
fn held() -> Result<BTreeSet<(&'static str, u64)>> {
    let mut held = BTreeSet::new();
    for process in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        for descriptor in fs::read_dir(process.path().join("fdinfo")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(descriptor.path()).unwrap_or_default();
            for line in text.lines() {
                let id = |key| line.strip_prefix(key).and_then(|id: &str| id.trim().parse().ok());
                held.extend(id("prog_id:").map(|id| ("prog", id)));
                held.extend(id("map_id:").map(|id| ("map", id)));
            }
        }
    }
    Ok(held)
}

/// Programs for sockets in the node's cgroups.
const SOCKET_HOOKS: &str = r#"root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
bpftool cgroup tree "$root" | grep -E 'connect|sendmsg|recvmsg|getpeername' || true"#;

/// Places for programs in the namespaces that Docker makes.
const QDISCS_INSIDE: &str = r#"for namespace in /run/docker/netns/*; do
nsenter --net="$namespace" tc qdisc show | grep -E 'clsact|ingress'; done || true"#;

/// All that a mesh could leave on a node, apart from what comes and goes with containers.
fn traces(node: &Node) -> Result<BTreeSet<String>> {
    let mut traces = BTreeSet::new();
    let mut see = |what: &str, cmd: Cmd| -> Result<()> {
        let text = cmd.quiet().read()?;
        let lines = text.lines().map(str::trim_end).filter(|line| !passing(line));
        traces.extend(lines.map(|line| format!("{what}: {line}")));
        Ok(())
    };
    let net = |program: &str, args: &str| node.network_command(program).args(args.split(' '));
    let inside = |script: &str| node.command("sh").args(["-c", script]);
    see("rule", net("ip", "rule show"))?;
    see("rule", net("ip", "-6 rule show"))?;
    // The state of a link follows the containers.
    let routes = "ip route show table all; ip -6 route show table all";
    see("route", net("sh", "-c").arg(format!("({routes}) | sed -e 's/ linkdown//' -e 's/ expires.*//'")))?;
    see("link", inside("ls /sys/class/net"))?;
    for interface in ["eth0", "docker_gwbridge", "lo"] {
        see("qdisc", net("tc", &format!("qdisc show dev {interface}")))?;
        for direction in ["ingress", "egress"] {
            see("filter", net("tc", &format!("filter show dev {interface} {direction}")))?;
        }
    }
    see("attached", net("bpftool", "net show"))?;
    see("cgroup", inside(SOCKET_HOOKS))?;
    see("qdisc inside", inside(QDISCS_INSIDE))?;
    see("pinned", inside("find /sys/fs/bpf"))?;
    // Some cannot be read.
    let settings = "sysctl net.ipv4.conf net.ipv6.conf.eth0 2>/dev/null; true";
    see("sysctl", net("sh", "-c").arg(settings))?;
    see("running", inside("ls /run/mesh-agent"))?;
    traces.extend(attached(node)?.into_iter().map(|word| format!("attached: {word}")));
    Ok(traces)
}

/// What comes with a container: its cable, and the link-local addresses of bridges that are first used.
fn passing(line: &str) -> bool {
    ["veth", "fe80::", "ff00::"].iter().any(|part| line.contains(part))
}
