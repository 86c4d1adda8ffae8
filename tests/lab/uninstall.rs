//! Giving the nodes back: nothing of the mesh is left, and the kernel is as it was before.

use std::{collections::BTreeSet, fs, sync::OnceLock, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use mesh_common::maps;
use mesh_tests::{
    client::At,
    cmd::Cmd,
    lab::{Lab, Node},
    mesh,
    service::{Service, Spec},
    wait,
};
use serde_json::Value;

use crate::{
    Scenario,
    support::{PATIENCE, get, get_at, live},
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
    let service = serving(lab)?;
    let programs = programs(lab)?;
    mesh::withdraw(lab)?;
    for node in &lab.nodes {
        get(node, 8801, 10).with_context(|| format!("through {}", node.name))?;
        get_at(At::Node(node), "127.0.0.1:8801", 10).with_context(|| format!("on {}", node.name))?;
    }
    lab.on_every_node(mesh::uninstall_without_agent)?;
    service.remove()?;
    let clean = no_trace(lab, &programs);
    // The next one wants a mesh.
    clean.and(mesh::deploy(lab))
}

fn uninstall_leaves_no_trace(lab: &Lab) -> Result<()> {
    let service = serving(lab)?;
    let programs = programs(lab)?;
    lab.on_every_node(|node| mesh::agent(node, &["uninstall"])?.read().map(drop))?;
    // Agents that still run leave new containers alone.
    service.scale(6)?;
    service.wait_for(6)?;
    thread::sleep(Duration::from_millis(500));
    lab.on_every_node(|node| {
        let attached = node.network_command("bpftool").args(["net", "show"]).quiet().read()?;
        let put_back = programs.iter().find(|program| attached.contains(program.as_str()));
        ensure!(put_back.is_none(), "an agent has put a program back on {}: {attached}", node.name);
        Ok(())
    })?;
    mesh::withdraw(lab)?;
    service.remove()?;
    no_trace(lab, &programs)
}

/// A service that has been used from everywhere.
fn serving(lab: &Lab) -> Result<Service<'_>> {
    let service = Spec::workload("last").replicas(2).publish("8801:8080").create(lab)?;
    live(lab, "last", 2)?;
    for node in &lab.nodes {
        get(node, 8801, 2)?;
        get_at(At::Node(node), "127.0.0.1:8801", 2)?;
    }
    Ok(service)
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
    Ok(traces)
}

/// What comes with a container: its cable, and the link-local addresses of bridges that are first used.
fn passing(line: &str) -> bool {
    ["veth", "fe80::", "ff00::"].iter().any(|part| line.contains(part))
}
