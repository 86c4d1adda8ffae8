//! The same service through an entry node that has no task of it, by different means.

mod line;
mod rival;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Report},
    cmd::Cmd,
    interrupt,
    lab::{Lab, Node},
    mesh,
    service::{Service, Spec},
    wait,
};

use self::{
    line::{Destination, End, Line},
    rival::Rival,
};
use crate::bpf;

/// Published by the mesh at every node, and by Docker at the nodes that have a task.
const MESH_UDP: u16 = 8397;
const HOST_UDP: u16 = 8398;
const HOST_TCP: u16 = 8396;

pub(super) fn run(lab: &Lab, quick: bool) -> Result<()> {
    interrupt::catch();
    let objects = bpf::build()?;
    let (entry, others) = lab.nodes.split_last().context("no nodes")?;
    ensure!(!others.is_empty(), "this takes a lab of two nodes or more");
    let others: Vec<&Node> = others.iter().collect();
    let _as_before = AsBefore::remember(lab, entry)?;
    entry.network_command("ethtool").args(["-K", "eth0", "gro", "on"]).quiet().read()?;

    let elsewhere = format!("--constraint=node.hostname!={}", entry.name);
    let udp = Spec::workload("bench-lab-udp")
        .replicas(others.len())
        .option(&elsewhere)
        .option("--replicas-max-per-node=1")
        .publish(&format!("{MESH_UDP}:9000/udp"))
        .publish(&format!("published={HOST_UDP},target=9000,protocol=udp,mode=host"))
        .create(lab)?;
    let rival = Rival::start(&others)?;
    rival.machine.command("ethtool").args(["-K", "eth0", "gro", "on"]).quiet().read()?;
    let mut line = Line::new(&objects)?;
    let mesh = destination(&entry.name, &entry.address, entry.network_command("ip"), MESH_UDP)?;
    let nft = destination(rival::NAME, &rival.machine.address, rival.machine.command("ip"), rival::NFT_UDP)?;
    answers(&mesh)?;
    answers(&nft)?;

    mesh::without_xdp(lab)?;
    lab.on_every_node(|node| node.make_wire(true))?;
    phase(&mut line, "TC", &mesh, End::Tc, &nft, quick)?;
    mesh::with_xdp(lab)?;
    phase(&mut line, "XDP", &mesh, End::Xdp, &nft, quick)?;
    Ok(())
}

fn phase(
    line: &mut Line,
    name: &str,
    mesh: &Destination,
    end: End,
    nft: &Destination,
    _quick: bool,
) -> Result<()> {
    let time = Duration::from_millis(500);
    answers(mesh)?;
    for _ in 0..4 {
        let s = line.short(mesh, time)?;
        let n = line.through(nft, End::Tc, time)?;
        let m = line.through(mesh, end, time)?;
        println!(
            "short {:.0} ns lost {:.4}  nft {:.0} ns lost {:.4}  {name} {:.0} ns lost {:.4}",
            s.nanoseconds(),
            s.lost(),
            n.nanoseconds(),
            n.lost(),
            m.nanoseconds(),
            m.lost()
        );
    }
    Ok(())
}

/// Datagrams come back from every task.
fn answers(to: &Destination) -> Result<()> {
    let [a, b, c, d] = to.address;
    let target = format!("{a}.{b}.{c}.{d}:{}", to.port);
    wait::for_up_to(Duration::from_secs(10), &format!("{target} answers"), || {
        let report: Report = At::Client.run(&["udp", &target, "--count", "3"])?;
        ensure!(report.failed == 0 && report.ok > 0, "{report:?}");
        Ok(())
    })
}

fn destination(machine: &str, address: &str, ip: Cmd, port: u16) -> Result<Destination> {
    let link = ip.args(["-o", "link", "show", "eth0"]).quiet().read()?;
    let mac =
        link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).context("no address")?;
    let bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>()?;
    let mac = bytes.try_into().map_err(|_| anyhow::anyhow!("{mac} is no hardware address"))?;
    let address: std::net::Ipv4Addr = address.parse()?;
    Ok(Destination { machine: machine.into(), mac, address: address.octets(), port })
}

/// Puts the lab back as it was when this is dropped.
struct AsBefore<'a> {
    lab: &'a Lab,
    had_xdp: bool,
}

impl<'a> AsBefore<'a> {
    fn remember(lab: &'a Lab, entry: &'a Node) -> Result<Self> {
        let status =
            mesh::status(entry).context("the mesh does not answer; deploy it with `lab up --mesh`")?;
        let rows = status["dataplane"]["attachments"].as_array().context("no attachments")?;
        Ok(Self { lab, had_xdp: rows.iter().any(|row| row["hook"] == "xdp-native") })
    }
}

impl Drop for AsBefore<'_> {
    fn drop(&mut self) {
        if !self.had_xdp {
            let _ = mesh::without_xdp(self.lab);
            let _ = self.lab.on_every_node(|node| node.make_wire(false));
        }
    }
}
