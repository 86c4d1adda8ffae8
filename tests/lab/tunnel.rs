//! Between nodes: full-size packets, nothing bigger than the cable takes, and the way back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    capture::{self, Capture},
    client::{At, Report, Transfer},
    cmd::Cmd,
    lab::{Lab, Node},
    mesh,
    service::Spec,
    wait,
};

use crate::{
    Scenario, canary,
    support::{Undo, all_ok, get, live, only_on, target},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a hundred megabytes go each way through the tunnel intact", a_hundred_megabytes),
    ("without offloads the tunnel sends full packets, none too big and none in fragments", without_offloads),
    ("a way that takes less than its ends know is found out, and large transfers complete", narrow_way),
    ("datagrams of every size arrive, whole or in fragments", datagrams_of_every_size),
    ("answers come back through the tunnel, or straight to the client when the service wants it", way_back),
];

const MTU: u64 = 1500;
const ETHERNET: u64 = 14;
/// Any packet of the tunnel; probes and their answers have none inside.
const TUNNEL: &str = "udp port 4799 and ip[46:2] & 6 = 0";
/// A fragment, or a fragment inside of the tunnel. A probe and its answer have no packet inside.
const FRAGMENT: &str =
    "(ip[6:2] & 0x3fff != 0) or (udp port 4799 and ip[46:2] & 6 = 0 and ip[56:2] & 0x3fff != 0)";

fn a_hundred_megabytes(lab: &Lab) -> Result<()> {
    let [home, entry, ..] = &lab.nodes[..] else { anyhow::bail!("the lab is too small") };
    let _service = Spec::workload("bulk").publish("8401:8080").option(&only_on(home)).create(lab)?;
    live(lab, "bulk", 1)?;
    for node in [entry, home] {
        for direction in ["download", "upload"] {
            let moved = transfer(node, 8401, direction, "100000000")?;
            println!("      {direction} through {}: {}", node.name, speed(&moved));
        }
    }
    Ok(())
}

fn without_offloads(lab: &Lab) -> Result<()> {
    let [home, entry, ..] = &lab.nodes[..] else { anyhow::bail!("the lab is too small") };
    let _service = Spec::workload("plain").publish("8402:8080").option(&only_on(home)).create(lab)?;
    live(lab, "plain", 1)?;
    let _restored = take_offloads_off(lab)?;

    for direction in ["download", "upload"] {
        let too_big = Capture::on_cable(entry, &format!("greater {}", MTU + ETHERNET + 1))?;
        let fragments = Capture::on_cable(entry, FRAGMENT)?;
        let (to_before, from_before) = capture::traffic(entry)?;
        let moved = transfer(entry, 8402, direction, "30000000")?;
        let (to_after, from_after) = capture::traffic(entry)?;
        let (too_big, fragments) = (too_big.stop(), fragments.stop());
        ensure!(too_big.is_empty(), "{direction}: {} too big, like {}", too_big.len(), too_big[0]);
        ensure!(fragments.is_empty(), "{direction}: {} fragments, like {}", fragments.len(), fragments[0]);

        // The data come to the entry node and leave it: without the tunnel at one side, with it at the other. Where
        // they meet the other way's acknowledgements, the average says nothing.
        let (to, from) = (to_after - to_before, from_after - from_before);
        println!(
            "      {direction}: {}, {} bytes per packet to {}, {} from it",
            speed(&moved),
            to.bytes_per_packet(),
            entry.name,
            from.bytes_per_packet()
        );
        // 1400 bytes of payload in each data packet, and an acknowledgement for every second one, both ways.
        let packets = moved.bytes / 1398;
        for (way, traffic) in [("to", to), ("from", from)] {
            let limit = packets * 22 / 10;
            ensure!(
                traffic.packets < limit,
                "{direction}: {} packets {way} {} for {packets} of full size",
                traffic.packets,
                entry.name
            );
        }
    }
    Ok(())
}

/// The nodes' cables carry what networks do, one packet at a time, until the value is dropped.
fn take_offloads_off(lab: &Lab) -> Result<Undo<impl FnMut()>> {
    let cables: Vec<Cable<'_>> = lab.nodes.iter().flat_map(Cable::ends_of).collect();
    let saved = cables.iter().map(Cable::offloads).collect::<Result<Vec<_>>>()?;
    for cable in &cables {
        cable.set(&Cable::FEATURES.map(|feature| (feature, false)))?;
    }
    Ok(Undo::at_the_end(move || {
        for (cable, offloads) in cables.iter().zip(&saved) {
            let _ = cable.set(offloads);
        }
    }))
}

/// Between the two nodes is something that takes 1,400 bytes, and says nothing of what it drops: another provider's network, or a
/// tunnel around ours.
fn narrow_way(lab: &Lab) -> Result<()> {
    const RULE: &str = "add rule bridge narrow between udp dport 4799 meta length > 1400 drop";

    let [home, entry, third] = &lab.nodes[..] else { anyhow::bail!("the lab has other nodes") };
    let _service = Spec::workload("narrow").publish("8406:8080").option(&only_on(home)).create(lab)?;
    live(lab, "narrow", 1)?;
    let _restored = take_offloads_off(lab)?;
    ensure!(inner_mtu(entry, home)? == 1450 && inner_mtu(home, entry)? == 1450, "it is narrow already");

    canary::warns("do not get there and back");
    let widen = Undo::at_the_end(|| drop(nft("delete table bridge narrow")));
    nft("add table bridge narrow")?;
    nft("add chain bridge narrow between { type filter hook forward priority 0; policy accept; }")?;
    for (from, to) in [(home, entry), (entry, home)] {
        nft(&RULE.replace("udp", &format!("iifname {} oifname {} udp", from.name, to.name)))?;
    }
    for (node, other) in [(entry, home), (home, entry)] {
        wait::for_up_to(FOUND, &format!("{} knows the way to {}", node.name, other.name), || {
            let mtu = inner_mtu(node, other)?;
            ensure!(mtu == 1350, "{mtu} bytes");
            Ok(())
        })?;
    }
    ensure!(inner_mtu(entry, third)? == 1450, "the way to {} is as wide as before", third.name);
    for direction in ["download", "upload"] {
        let moved = transfer(entry, 8406, direction, "10000000")?;
        println!("      {direction} over the narrow way: {}", speed(&moved));
    }
    drop(widen);
    wait::for_up_to(FOUND, "the way is as wide as before", || {
        let mtus = (inner_mtu(entry, home)?, inner_mtu(home, entry)?);
        ensure!(mtus == (1450, 1450), "{mtus:?} bytes");
        Ok(())
    })
}

/// Each node is asked every 10 s.
const FOUND: Duration = Duration::from_secs(30);

/// What the tunnel of `node` carries to another one, as `status nodes` says.
fn inner_mtu(node: &Node, other: &Node) -> Result<u64> {
    let status = mesh::status(node)?;
    let rows = status["nodes"].as_array().with_context(|| format!("no nodes in {status}"))?;
    let row = rows.iter().find(|row| row["address"] == other.address.as_str());
    let row = row.with_context(|| format!("{} is not among {rows:?}", other.name))?;
    row["inner_mtu"].as_u64().with_context(|| format!("no size in {row}"))
}

/// In the namespace of the fabric, which is the client's.
fn nft(command: &str) -> Result<()> {
    Lab::client("nft").args([command]).quiet().read().map(drop)
}

fn transfer(node: &Node, port: u16, direction: &str, bytes: &str) -> Result<Transfer> {
    let moved: Transfer = At::Client.run(&[direction, &target(node, port), "--bytes", bytes])?;
    ensure!(moved.intact, "{direction} through {}: {moved:?}", node.name);
    Ok(moved)
}

fn speed(moved: &Transfer) -> String {
    format!("{:.0} MB/s", moved.bytes as f64 / 1e6 / moved.seconds)
}

/// One end of a node's cable.
enum Cable<'a> {
    Node(&'a Node),
    Fabric(&'a Node),
}

impl<'a> Cable<'a> {
    const FEATURES: [&'static str; 4] = [
        "tcp-segmentation-offload",
        "generic-segmentation-offload",
        "generic-receive-offload",
        "tx-udp_tnl-segmentation",
    ];

    fn ends_of(node: &'a Node) -> [Self; 2] {
        [Self::Node(node), Self::Fabric(node)]
    }

    fn ethtool(&self, option: &str) -> Cmd {
        match self {
            Self::Node(node) => node.network_command("ethtool").args([option, "eth0"]),
            Self::Fabric(node) => Lab::client("ethtool").args([option, &node.name]),
        }
    }

    /// What is on and what is off.
    fn offloads(&self) -> Result<Vec<(&'static str, bool)>> {
        let text = self.ethtool("--show-features").quiet().read()?;
        let state = |feature: &'static str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(&format!("{feature}:")))?;
            Some((feature, line.contains(": on")))
        };
        Ok(Self::FEATURES.into_iter().filter_map(state).collect())
    }

    fn set(&self, offloads: &[(&str, bool)]) -> Result<()> {
        let settings = offloads.iter().flat_map(|(name, on)| [*name, if *on { "on" } else { "off" }]);
        self.ethtool("--features").args(settings).quiet().read().map(drop)
    }
}

fn datagrams_of_every_size(lab: &Lab) -> Result<()> {
    let [home, entry, ..] = &lab.nodes[..] else { anyhow::bail!("the lab is too small") };
    let _service = Spec::workload("sizes").publish("8403:9000/udp").option(&only_on(home)).create(lab)?;
    live(lab, "sizes", 1)?;
    for node in [home, entry] {
        // What earlier datagrams taught the client of the way's MTU is forgotten.
        Lab::client("ip").args(["route", "flush", "cache"]).quiet().read()?;
        for size in [1000, 1399, 1400, 1422, 1423, 1450, 1471, 1472, 1473, 4000, 20_000] {
            let bytes = size.to_string();
            let send = ["udp", &target(node, 8403), "--count", "4", "--size", &bytes, "--timeout", "1000"];
            let report: Report = At::Client.run(&send)?;
            // The first that is too big for the tunnel, by its headers, and not too big for the cable, may be lost: its sender is
            // told (EMSGSIZE), and sends smaller ones then.
            let may_be_lost = node.name != home.name && (1423..=1472).contains(&size);
            let told = report.errors.keys().all(|error| error.contains("os error 90"));
            let arrived = if may_be_lost { report.ok >= 3 && told } else { report.ok == 4 };
            ensure!(arrived, "{size} bytes through {}: {report:?}", node.name);
        }
    }
    Ok(())
}

fn way_back(lab: &Lab) -> Result<()> {
    let [home, entry, ..] = &lab.nodes[..] else { anyhow::bail!("the lab is too small") };
    let from_home = format!("{TUNNEL} and src host {}", home.address);
    for (name, label, port, tunnelled) in
        [("back", "mesh.return=tunnel", 8404, true), ("direct", "mesh.return=direct", 8405, false)]
    {
        let spec = Spec::workload(name).publish(&format!("{port}:8080")).publish(&format!("{port}:9000/udp"));
        let _service = spec.option(&format!("--label={label}")).option(&only_on(home)).create(lab)?;
        live(lab, name, 1)?;
        let replies = Capture::on_cable(home, &from_home)?;
        let direct =
            Capture::on_cable(home, &format!("tcp and src host {} and src port {port}", entry.address))?;
        get(entry, port, 5).context(label)?;
        all_ok(At::Client.run(&["udp", &target(entry, port), "--count", "5"])?).context(label)?;
        let (replies, direct) = (replies.stop().len(), direct.stop().len());
        ensure!((replies > 0) == tunnelled, "{label}: {replies} packets came out of {}'s tunnel", home.name);
        ensure!((direct > 0) != tunnelled, "{label}: {direct} packets went straight from {}", home.name);
        let moved = transfer(entry, port, "download", "10000000").context(label)?;
        println!("      {label}: {}", speed(&moved));
    }
    Ok(())
}
