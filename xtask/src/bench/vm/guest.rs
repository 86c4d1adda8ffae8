//! In the virtual machine: a lab, a published nginx, and requests through a node that has no task of it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    cmd::{Cmd, find, said},
    lab::{Lab, Node, Shape},
    mesh, paths,
    service::Spec,
    wait,
};
use serde_json::{Value, json};

use super::{
    PROGRAMS,
    ab::{self, Connections},
};
use crate::bench::machine;

const NAME: &str = "bench-vm";
const PORT: u16 = 8392;
/// The node through which clients come; it has no task.
const ENTRY: &str = "node2";
/// An emulated processor is about so many times as slow.
const PATIENCE: u32 = 10;

/// What Docker, its own mesh, and programs on a clsact qdisc need of the kernel.
const MODULES: &[&str] = &[
    "ip_vs",
    "ip_vs_rr",
    "xt_ipvs",
    "vxlan",
    "bridge",
    "veth",
    "br_netfilter",
    "overlay",
    "iptable_nat",
    "iptable_filter",
    "iptable_mangle",
    "xt_conntrack",
    "xt_MASQUERADE",
    "xt_addrtype",
    "xt_mark",
    "xt_nat",
    "nft_compat",
    "xt_REDIRECT",
    "xt_tcpudp",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
];

/// Programs that are started often or are large; the files of the machine outside are slow to read.
const FREQUENT: &[&str] = &[
    "dockerd",
    "docker",
    "docker-init",
    "docker-proxy",
    "containerd",
    "containerd-shim-runc-v2",
    "runc",
    "iptables",
    "ip6tables",
    "nsenter",
    "ab",
    "curl",
    "ip",
    "sh",
    "modprobe",
];

pub(super) fn run(quick: bool) -> Result<Value> {
    let begin = Instant::now();
    let step = |text: &str| println!("[{:5.0} s] {text}", begin.elapsed().as_secs_f64());
    wait::be_patient(PATIENCE);
    step(&machine::describe());
    prepare()?;
    step("three nodes");
    let lab = Lab::fresh(Shape::default())?;
    step("the image, on all nodes");
    mesh::load(&lab, &[paths::target().join("mesh-lab-nginx.tar")])?;
    step("a service, with no task on the node that is dialled");
    let spec = Spec::nginx(NAME).replicas(4).publish(&format!("{PORT}:80"));
    let service = spec.option(&format!("--constraint=node.hostname!={ENTRY}")).create(&lab)?;
    let entry = lab.node(ENTRY)?;
    let url = format!("http://{}:{PORT}/quiet", entry.address);
    wait::for_up_to(std::time::Duration::from_secs(10), "Docker's mesh answers", || {
        Lab::client("curl").args(["-sf", "--max-time", "10", &url]).quiet().read()
    })?;
    let requests = if quick { 500 } else { 2000 };
    let mut docker = json!({});
    for connections in Connections::ALL {
        step(&format!("Docker's mesh, {}", connections.label()));
        let before = ipvs_connections(entry)?;
        let result = ab::load(&url, requests, connections, Path::new("/tmp/ab.csv"))?;
        step(&format!("{result}, by IPVS {}", ipvs_connections(entry)? - before));
        docker[connections.key()] = result;
    }
    service.remove()?;
    step("down");
    Lab::down()?;
    Ok(json!({ "docker": docker }))
}

/// Modules, file systems, and copies of programs in memory.
fn prepare() -> Result<()> {
    let loaded = Cmd::new("modprobe").arg("--all").args(MODULES).quiet().output()?;
    if !loaded.status.success() {
        println!("not all modules were loaded: {}", said(&loaded));
    }
    fs::create_dir_all(PROGRAMS)?;
    for program in FREQUENT {
        if let Some(file) = find(program) {
            fs::copy(&file, Path::new(PROGRAMS).join(program))
                .with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    Ok(())
}

/// How many connections Docker's own mesh has balanced on a node so far.
fn ipvs_connections(node: &Node) -> Result<u64> {
    let sandbox: PathBuf = node.path("/run/docker/netns/ingress_sbox");
    ensure!(sandbox.exists(), "{} has no ingress network", node.name);
    let net = format!("--net={}", sandbox.display());
    let text = Cmd::new("nsenter").arg(net).args(["cat", "/proc/net/ip_vs_stats"]).quiet().read()?;
    connections_in(&text).with_context(|| format!("not understood: {text}"))
}

/// Of `/proc/net/ip_vs_stats` (Linux, net/netfilter/ipvs/ip_vs_ctl.c): two lines of titles, then totals in base 16.
fn connections_in(text: &str) -> Option<u64> {
    let totals = text.lines().nth(2)?;
    u64::from_str_radix(totals.split_whitespace().next()?, 16).ok()
}
