//! In the virtual machine: a lab, a published nginx, and requests through a node that has no task of it. First Docker's own
//! mesh serves them, then ours by TC, then Docker's after it was uninstalled, then ours by XDP, and at the end Docker's. What
//! the same requests cost without any mesh is measured before all that: no mesh can do better. `--quick` leaves encrypted
//! networks out, whose tasks take a minute to start.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    cmd::{Cmd, said},
    images::{AGENT, NGINX},
    lab::{Lab, Node, Shape},
    mesh, paths,
    service::Spec,
    wait,
};
use serde_json::{Value, json};

use super::{
    ab::{self, Connections},
    encrypted,
};
use crate::bench::machine;

const NAME: &str = "bench-vm";
const PORT: u16 = 8392;
/// The node through which clients come; it has no task.
const ENTRY: &str = "node2";
/// A node with tasks, and with the nginx that is dialled directly.
const HOME: &str = "node3";
/// An emulated processor is about so many times as slow.
const PATIENCE: u32 = 10;
/// Requests that tell whose mesh serves.
const PROOF: usize = 20;

/// What Docker, its own mesh, and programs on a clsact qdisc need of the kernel.
const MODULES: &str = "ip_vs ip_vs_rr xt_ipvs vxlan bridge veth br_netfilter overlay iptable_nat iptable_filter \
     iptable_mangle xt_conntrack xt_MASQUERADE xt_addrtype xt_mark xt_nat xt_REDIRECT xt_tcpudp nft_compat sch_ingress \
     cls_bpf act_bpf";

/// All of the agent's but the overlays': of TC, of the cgroup, and of XDP.
const PROGRAMS: &[&str] = &[
    "uplink_in",
    "uplink_out",
    "bridge_in",
    "connect4",
    "connect6",
    "sendmsg4",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "uplink_xdp",
];
/// Loaded when there is a task on a network.
const OVERLAY_PROGRAMS: &[&str] = &["overlay_in", "overlay_out"];

/// How much is done.
struct Extent {
    tasks: usize,
    requests: usize,
    rounds: usize,
    /// Whether an encrypted network is tried, whose tasks take a minute to start.
    encrypted: bool,
}

const FULL: Extent = Extent { tasks: 4, requests: 2000, rounds: 3, encrypted: true };
const QUICK: Extent = Extent { tasks: 2, requests: 500, rounds: 1, encrypted: false };

pub(super) fn run(quick: bool) -> Result<Value> {
    let begin = Instant::now();
    let extent = if quick { QUICK } else { FULL };
    let step = |text: &str| println!("[{:4.0} s] {text}", begin.elapsed().as_secs_f64());
    wait::be_patient(PATIENCE);
    let machine = machine::describe();
    step(&machine);
    prepare()?;
    step("a Swarm of three nodes");
    let lab = Lab::fresh(Shape::default())?;
    step("the images, on all nodes");
    let mut images = vec!["mesh-lab-nginx.tar", "mesh-agent.tar"];
    images.extend(extent.encrypted.then_some("mesh-lab-workload.tar"));
    mesh::load(&lab, &images.into_iter().map(|name| paths::target().join(name)).collect::<Vec<_>>())?;
    step("a published nginx, with no task on the node that is dialled");
    let spec = Spec::nginx(NAME).replicas(extent.tasks).publish(&format!("{PORT}:80"));
    let service = spec.option(&format!("--constraint=node.hostname!={ENTRY}")).create(&lab)?;
    let entry = lab.node(ENTRY)?;
    let bench = Bench { lab: &lab, entry, begin, extent };
    let mut result = bench.all()?;
    result["machine"] = json!(machine);
    step("done");
    service.remove()?;
    Lab::down()?;
    Ok(result)
}

/// Whose mesh serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mesh {
    Dockers,
    Ours,
    /// Nobody's: an nginx in a node's own namespace is dialled at that node.
    None,
}

struct Bench<'a> {
    lab: &'a Lab,
    entry: &'a Node,
    begin: Instant,
    extent: Extent,
}

impl Bench<'_> {
    fn all(&self) -> Result<Value> {
        let mut checks = Vec::new();
        let mut check = |text: &str| {
            self.step(&format!("checked: {text}"));
            checks.push(text.to_owned());
        };
        let direct = self.without_mesh()?;
        self.serves(Mesh::Dockers)?;
        check("Docker's mesh serves before there are agents");
        let mut docker = self.measure("Docker's mesh", Mesh::Dockers)?;

        self.step("the agents, by clsact and without XDP");
        mesh::deploy(self.lab)?;
        self.serves(Mesh::Ours)?;
        check("ours serves when the agents are deployed");
        let ours = self.measure("mesh by TC", Mesh::Ours)?;
        let mut programs = programs_of_the_kernel()?;
        if self.extent.encrypted {
            programs.extend(encrypted::check(self.lab, programs_of_the_kernel)?);
            check("tasks reach a service on an encrypted network, by its name and its virtual address");
        }
        self.lab.on_every_node(|node| mesh::agent(node, &["uninstall"])?.quiet().read())?;
        self.serves(Mesh::Dockers)?;
        check("Docker's serves after `mesh-agent uninstall`, with the agents still running");
        mesh::withdraw(self.lab)?;
        self.serves(Mesh::Dockers)?;
        check("Docker's serves after their service is removed");

        self.step("the agents again, with XDP");
        mesh::deploy_with_xdp(self.lab)?;
        self.serves(Mesh::Ours)?;
        let by_xdp = self.measure("mesh by XDP", Mesh::Ours)?;
        programs.extend(programs_of_the_kernel()?);
        mesh::withdraw(self.lab)?;
        self.serves(Mesh::Ours)?;
        check("ours serves on after their service is removed");
        let image = ["run", "--rm", "--network=host", "--cap-add=NET_ADMIN", "--cap-add=SYS_ADMIN"];
        let pins = ["--volume=/sys/fs/bpf:/sys/fs/bpf", AGENT, "uninstall"];
        self.lab.on_every_node(|node| node.docker(image).args(pins).quiet().read())?;
        self.lab.on_every_node(|node| node.make_wire(false))?;
        self.serves(Mesh::Dockers)?;
        check("Docker's serves after `mesh-agent uninstall`, without any agent");
        for (key, again) in self.measure("Docker's mesh again", Mesh::Dockers)? {
            docker.entry(key).or_default().extend(again);
        }
        let overlays = if self.extent.encrypted { OVERLAY_PROGRAMS } else { &[] };
        let missing: Vec<_> =
            PROGRAMS.iter().chain(overlays).filter(|name| !programs.contains(**name)).collect();
        ensure!(missing.is_empty(), "these programs were not loaded: {missing:?}");
        let but = if overlays.is_empty() { " but those for overlays" } else { "" };
        check(&format!("all programs{but} were loaded by this kernel"));
        Ok(json!({
            "meshes": { "docker": docker, "mesh_tc": ours, "mesh_xdp": by_xdp, "none": direct },
            "programs": programs,
            "checks": checks,
        }))
    }
}

impl Bench<'_> {
    fn step(&self, text: &str) {
        println!("[{:4.0} s] {text}", self.begin.elapsed().as_secs_f64());
    }

    fn url(&self, mesh: Mesh) -> Result<String> {
        Ok(match mesh {
            Mesh::Dockers | Mesh::Ours => format!("http://{}:{PORT}/quiet", self.entry.address),
            Mesh::None => format!("http://{}/quiet", self.lab.node(HOME)?.address),
        })
    }

    fn without_mesh(&self) -> Result<Samples> {
        let home = self.lab.node(HOME)?;
        let name = format!("{NAME}-direct");
        home.docker(["run", "--detach", "--network=host", "--name", &name, NGINX]).quiet().read()?;
        self.serves(Mesh::None)?;
        let samples = self.measure("no mesh", Mesh::None)?;
        home.docker(["rm", "--force", &name]).quiet().read()?;
        Ok(samples)
    }

    /// Some requests without and with connections of their own, after a few that are not counted.
    fn measure(&self, label: &str, mesh: Mesh) -> Result<Samples> {
        let mut samples = Samples::new();
        for connections in Connections::ALL {
            self.load(PROOF, connections, mesh)?;
            for _ in 0..self.extent.rounds {
                let sample = self.load(self.extent.requests, connections, mesh)?;
                let number = |key: &str| sample[key].as_f64().unwrap_or(f64::NAN);
                self.step(&format!(
                    "{label}, {}: {:.0} requests/s, p50 {:.1} ms, p99 {:.1} ms",
                    connections.label(),
                    number("per_second"),
                    number("p50_ms"),
                    number("p99_ms")
                ));
                samples.entry(connections.key()).or_default().push(sample);
            }
        }
        Ok(samples)
    }

    /// Requests that this mesh must serve, and no other: Docker's balances with IPVS, and counts each connection.
    fn load(&self, requests: usize, connections: Connections, mesh: Mesh) -> Result<Value> {
        let before = ipvs_connections(self.entry)?;
        let sample = ab::load(&self.url(mesh)?, requests, connections, Path::new("/run/mesh-vm-times.csv"))?;
        let by_ipvs = ipvs_connections(self.entry)? - before;
        match (mesh, connections) {
            (Mesh::Ours | Mesh::None, _) => {
                ensure!(by_ipvs == 0, "{by_ipvs} of {requests} connections went by Docker's mesh");
            }
            (Mesh::Dockers, Connections::New) => {
                // A client's port that is used again finds the connection that it had: Docker sets `conn_reuse_mode` to 0.
                ensure!(
                    by_ipvs * 2 > requests as u64,
                    "only {by_ipvs} of {requests} connections went by Docker's mesh"
                );
            }
            (Mesh::Dockers, Connections::Kept) => ensure!(by_ipvs > 0, "none went by Docker's mesh"),
        }
        Ok(sample)
    }

    /// Waits until a row of requests is served by this mesh.
    fn serves(&self, mesh: Mesh) -> Result<()> {
        let what = match mesh {
            Mesh::Dockers => "Docker's own mesh serves",
            Mesh::Ours => "the mesh serves",
            Mesh::None => "nginx itself serves",
        };
        let served =
            wait::for_up_to(Duration::from_secs(10), what, || self.load(PROOF, Connections::New, mesh));
        served.map(drop).with_context(|| match mesh {
            Mesh::Dockers | Mesh::None => String::new(),
            Mesh::Ours => mesh::evidence(self.lab),
        })
    }
}

/// What each repetition came to, by whether connections are new or kept.
type Samples = BTreeMap<&'static str, Vec<Value>>;

/// Makes the kernel what it is where Docker runs on the machine itself.
fn prepare() -> Result<()> {
    // dockerd sets it for its own namespace; the one in which Docker's mesh forwards inherits it from the first one.
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot forward")?;
    let loaded = Cmd::new("modprobe")
        .arg("--all")
        .args(MODULES.split_whitespace())
        .args(encrypted::MODULES.split_whitespace())
        .quiet()
        .output()?;
    if !loaded.status.success() {
        println!("not all modules were loaded: {}", said(&loaded));
    }
    Ok(())
}

/// The names of the BPF programs that the kernel holds.
fn programs_of_the_kernel() -> Result<BTreeSet<String>> {
    let text = Cmd::new("bpftool").args(["--json", "prog", "show"]).quiet().read()?;
    let list: Value = serde_json::from_str(&text).with_context(|| format!("bpftool said {text}"))?;
    let names = list.as_array().into_iter().flatten().filter_map(|program| program["name"].as_str());
    let ours = |name: &&str| PROGRAMS.contains(name) || OVERLAY_PROGRAMS.contains(name);
    Ok(names.filter(ours).map(String::from).collect())
}

/// How many connections Docker's own mesh has balanced on a node so far.
fn ipvs_connections(node: &Node) -> Result<u64> {
    let sandbox: PathBuf = node.path("/run/docker/netns/ingress_sbox");
    let net = format!("--net={}", sandbox.display());
    let text = Cmd::new("nsenter").arg(net).args(["cat", "/proc/net/ip_vs_stats_percpu"]).quiet().read()?;
    connections_in(&text).with_context(|| format!("not understood: {text}"))
}

/// Of `/proc/net/ip_vs_stats_percpu` (Linux, `net/netfilter/ipvs/ip_vs_ctl.c`): two lines of titles, then a line for each
/// processor, with the connections in its second column, then totals that are two seconds old. All is in base 16.
fn connections_in(text: &str) -> Option<u64> {
    let rows = text.lines().skip(2).take_while(|line| !line.trim_start().starts_with('~'));
    rows.map(|row| u64::from_str_radix(row.split_whitespace().nth(1)?, 16).ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_of_all_processors_are_added() {
        let text = "       Total Incoming Outgoing         Incoming         Outgoing\n\
                    CPU    Conns  Packets  Packets            Bytes            Bytes\n\
                    \x20 0       1A        0        0                0                0\n\
                    \x20 1        6        0        0                0                0\n\
                    \x20 ~       11        0        0                0                0\n\
                    \n     Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n";
        assert_eq!(connections_in(text), Some(32));
        assert_eq!(connections_in("a\nb\nnonsense\n"), None);
    }
}
