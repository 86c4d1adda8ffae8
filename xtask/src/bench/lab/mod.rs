//! The same service through an entry node that has no task of it: the mesh's, with XDP and with TC alone; one with nftables; one
//! with a proxy (`haproxy`); and a task's node dialled directly. All cables of the lab are like wires meanwhile.

mod line;
mod load;
mod report;
mod rival;

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_tests::{
    client::{At, Report as Answers},
    cmd::Cmd,
    interrupt,
    lab::{CLIENT, FAR_CLIENT, Lab, Node},
    mesh,
    service::{Service, Spec},
    terminal::Progress,
    wait,
};

use self::{
    line::{Destination, End, Line},
    load::Connections,
    report::{Report, Round, Way},
    rival::Rival,
};
use crate::bpf;

const UDP: &str = "bench-lab-udp";
const NGINX: &str = "bench-lab-nginx";
/// Published by the mesh on every node, and by Docker on the nodes that have a task.
const MESH_TCP: u16 = 8393;
const MESH_UDP: u16 = 8397;
const HOST_TCP: u16 = 8396;
const HOST_UDP: u16 = 8398;

/// How long and how often.
struct Extent {
    rounds: usize,
    packets: Duration,
    repetitions: usize,
    requests: Duration,
}

const FULL: Extent = Extent {
    rounds: 9,
    packets: Duration::from_millis(500),
    repetitions: 2,
    requests: Duration::from_secs(4),
};
const QUICK: Extent = Extent {
    rounds: 3,
    packets: Duration::from_millis(300),
    repetitions: 1,
    requests: Duration::from_secs(2),
};

pub(super) fn run(lab: &Lab, quick: bool) -> Result<()> {
    let objects = bpf::build()?;
    let (entry, homes) = lab.nodes.split_last().context("no nodes")?;
    let homes: Vec<&Node> = homes.iter().collect();
    ensure!(!homes.is_empty(), "this takes a lab of two nodes or more");
    let _as_before = AsBefore::remember(lab, entry)?;
    let _services = services(lab, entry, homes.len())?;
    let (rival, no_haproxy) = Rival::start(&homes)?;
    let ip = |node: &Node| node.network_command("ip");
    let mut stage = Stage {
        lab,
        line: Line::new(&objects)?,
        mesh: destination(&entry.name, &entry.address, ip(entry), MESH_UDP)?,
        nftables: destination(
            rival::NAME,
            &rival.machine.address,
            rival.machine.command("ip"),
            rival::NFT_UDP,
        )?,
        direct: format!("{}:{HOST_TCP}", homes[0].address),
        tasks: homes.len(),
        rival,
        extent: if quick { QUICK } else { FULL },
        report: Report::default(),
    };
    if let Some(why) = no_haproxy {
        stage.report.add_missing(Way::HaProxy, why);
    }
    // Drivers of network cards do it, and a veth without a program takes XDP's frames only if it does.
    entry.network_command("ethtool").args(["-K", "eth0", "gro", "on"]).quiet().read()?;

    mesh::without_xdp(lab)?;
    lab.on_every_node(|node| node.make_wire(true))?;
    stage.measure(Way::Tc)?;
    mesh::with_xdp(lab)?;
    stage.measure(Way::Xdp)?;
    stage.report.show();
    stage.report.save()
}

/// On every node but the entry node: an echo of datagrams, and nginx.
fn services<'a>(lab: &'a Lab, entry: &Node, tasks: usize) -> Result<[Service<'a>; 2]> {
    let elsewhere = |spec: Spec| {
        spec.replicas(tasks)
            .option(&format!("--constraint=node.hostname!={}", entry.name))
            .option("--replicas-max-per-node=1")
    };
    let udp = elsewhere(Spec::workload(UDP))
        .publish(&format!("{MESH_UDP}:9000/udp"))
        .publish(&format!("published={HOST_UDP},target=9000,protocol=udp,mode=host"))
        .create(lab)?;
    let nginx = elsewhere(Spec::nginx(NGINX))
        .publish(&format!("{MESH_TCP}:80"))
        .publish(&format!("published={HOST_TCP},target=80,mode=host"))
        .create(lab)?;
    Ok([udp, nginx])
}

/// All that is compared.
struct Stage<'a> {
    lab: &'a Lab,
    line: Line,
    mesh: Destination,
    nftables: Destination,
    /// A task by its own node.
    direct: String,
    tasks: usize,
    rival: Rival,
    extent: Extent,
    report: Report,
}

impl Stage<'_> {
    /// Everything but the mesh's other way, so that what is compared was measured at the same time.
    fn measure(&mut self, way: Way) -> Result<()> {
        datagrams_come_back(&self.mesh)?;
        datagrams_come_back(&self.nftables)?;
        let rounds = self.rounds(way)?;
        self.report.add_rounds(way, rounds);
        let entry = self.lab.nodes.last().context("no nodes")?;
        let rival = &self.rival.machine.address;
        let mut ways = vec![
            (way, format!("{}:{MESH_TCP}", entry.address)),
            (Way::Nftables, format!("{rival}:{}", rival::NFT_TCP)),
            (Way::Direct, self.direct.clone()),
        ];
        if self.rival.has_haproxy() {
            ways.push((Way::HaProxy, format!("{rival}:{}", rival::HAPROXY_TCP)));
        }
        for (who, target) in &ways {
            tasks_answer(target, client(*who), if *who == Way::Direct { 1 } else { self.tasks })?;
        }
        let mut progress = Progress::new();
        for number in 1..=self.extent.repetitions {
            for connections in [Connections::New, Connections::Kept] {
                for (who, target) in &ways {
                    let of = self.extent.repetitions;
                    progress.show(&format!("{number} of {of}: requests, {}", who.label()));
                    ensure!(!interrupt::happened(), "interrupted");
                    let load = load::run(target, client(*who), connections, self.extent.requests)?;
                    self.report.add_load(*who, connections, load);
                }
            }
        }
        Ok(())
    }

    /// The first one fills tables and caches, and does not count.
    fn rounds(&mut self, way: Way) -> Result<Vec<Round>> {
        let time = self.extent.packets;
        let end = if way == Way::Xdp { End::Xdp } else { End::Tc };
        let mut rounds = Vec::new();
        let mut progress = Progress::new();
        for number in 0..=self.extent.rounds {
            progress.show(&format!("{number} of {}: packets, {}", self.extent.rounds, way.label()));
            let round = Round {
                sending: self.line.short(&self.mesh, time)?,
                nftables: self.line.through(&self.nftables, End::Tc, time)?,
                mesh: self.line.through(&self.mesh, end, time)?,
                floor: self.line.floor(&self.rival.machine, &self.nftables, end, time)?,
            };
            if number > 0 {
                rounds.push(round);
            }
        }
        Ok(rounds)
    }
}

fn datagrams_come_back(to: &Destination) -> Result<()> {
    let target = format!("{}:{}", Ipv4Addr::from(to.address), to.port);
    wait::for_up_to(Duration::from_secs(10), &format!("{target} answers"), || {
        let report: Answers = At::Client.run(&["udp", &target, "--count", "4"])?;
        ensure!(report.failed == 0 && report.ok > 0, "{report:?}");
        Ok(())
    })
}

/// The client's address. A task sees the mesh's clients as they are, and those of its node's own port too: the same port of the
/// same client by both ways would be one connection to it.
const fn client(way: Way) -> &'static str {
    match way {
        Way::Direct => FAR_CLIENT,
        Way::Xdp | Way::Tc | Way::Nftables | Way::HaProxy => CLIENT,
    }
}

/// By lot, one may not be asked for a while.
fn tasks_answer(target: &str, client: &str, tasks: usize) -> Result<()> {
    wait::for_up_to(Duration::from_secs(10), &format!("{tasks} tasks answer at {target}"), || {
        let get = ["get", target, "--count", "20", "--source-address", client];
        let report: Answers = At::Client.run(&get)?;
        ensure!(report.failed == 0 && report.tasks.len() == tasks, "{report:?}");
        Ok(())
    })
}

/// The `eth0` of a machine, where `ip` is run.
fn destination(machine: &str, address: &str, ip: Cmd, port: u16) -> Result<Destination> {
    let link = ip.args(["-o", "link", "show", "eth0"]).quiet().read()?;
    let mac =
        link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).context("no address")?;
    let bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>()?;
    let mac = bytes.try_into().map_err(|_| anyhow!("{mac} is no hardware address"))?;
    Ok(Destination { machine: machine.into(), mac, address: address.parse::<Ipv4Addr>()?.octets(), port })
}

/// Puts the lab back as it was when this is dropped.
struct AsBefore<'a> {
    lab: &'a Lab,
    entry: &'a Node,
    had_xdp: bool,
    had_gro: bool,
}

impl<'a> AsBefore<'a> {
    fn remember(lab: &'a Lab, entry: &'a Node) -> Result<Self> {
        let status = mesh::status(entry)?;
        let rows = status["dataplane"]["attachments"].as_array().context("no attachments")?;
        let had_xdp = rows.iter().any(|row| row["hook"] == "xdp-native");
        let features = entry.network_command("ethtool").args(["-k", "eth0"]).quiet().read()?;
        Ok(Self { lab, entry, had_xdp, had_gro: features.contains("generic-receive-offload: on") })
    }
}

impl Drop for AsBefore<'_> {
    fn drop(&mut self) {
        let done = if self.had_xdp { mesh::with_xdp(self.lab) } else { mesh::without_xdp(self.lab) };
        if let Err(error) = done {
            // After a Ctrl-C it was asked for, and nobody waits for it.
            eprintln!("the agents may still change to what they were: {error:#}");
        }
        let _ = self.lab.on_every_node(|node| node.make_wire(self.had_xdp));
        if !self.had_gro {
            self.entry.network_command("ethtool").args(["-K", "eth0", "gro", "off"]).succeeds();
        }
    }
}
