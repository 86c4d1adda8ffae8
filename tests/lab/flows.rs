//! Conversations: who is whose, from whichever port and to whichever address.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Conversation, Report},
    lab::{CLIENT, Lab},
    service::Spec,
};

use crate::{
    Scenario,
    support::{all_ok, live, only_on, target},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("datagrams keep to their task, and the client's address and the dialled one are kept", datagrams),
    ("datagrams from different ports go to different tasks in turn", datagrams_in_turn),
    ("one client port can talk to one task through two nodes at once", one_port_through_two_nodes),
    ("one client port can talk to one task through two published ports at once", one_port_to_two_ports),
    ("a datagram for a port where the task does not listen is refused", nobody_listens),
];

fn datagrams(lab: &Lab) -> Result<()> {
    let _service = Spec::workload("udp").replicas(3).publish("8201:9000/udp").create(lab)?;
    live(lab, "udp", 3)?;
    for (node, port) in lab.nodes.iter().zip(["30201", "30202", "30203"]) {
        let target = target(node, 8201);
        for extra in [&["--size", "32"][..], &["--unconnected"], &["--source-port", port]] {
            let datagrams = [&["udp", &target, "--count", "10"][..], extra].concat();
            let report: Report = At::Client.run(&datagrams)?;
            let report = all_ok(report).with_context(|| format!("{datagrams:?}"))?;
            ensure!(report.tasks.len() == 1, "they went to {:?}", report.tasks);
            ensure!(report.peers.keys().eq([CLIENT]), "the tasks saw {:?}", report.peers);
            ensure!(report.sources.keys().eq([&target]), "answers came from {:?}", report.sources);
            if extra.contains(&port) {
                let seen = report.last_peer.as_deref();
                ensure!(seen == Some(&format!("{CLIENT}:{port}")), "the task saw {seen:?}");
            }
        }
    }
    Ok(())
}

fn datagrams_in_turn(lab: &Lab) -> Result<()> {
    let _service = Spec::workload("datagrams").replicas(3).publish("8202:9000/udp").create(lab)?;
    live(lab, "datagrams", 3)?;
    for node in &lab.nodes {
        let target = target(node, 8202);
        let mut tasks = BTreeMap::<String, usize>::new();
        for port in 31_000..31_009 {
            let report: Report =
                At::Client.run(&["udp", &target, "--count", "2", "--source-port", &port.to_string()])?;
            let report = all_ok(report)?;
            ensure!(report.tasks.len() == 1, "one port's datagrams went to {:?}", report.tasks);
            *tasks.entry(report.sequence[0].clone()).or_default() += 1;
        }
        ensure!(tasks.len() == 3 && tasks.values().all(|count| *count == 3), "{}: {tasks:?}", node.name);
    }
    Ok(())
}

fn one_port_through_two_nodes(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("twonodes").publish("8203:9000").publish("8203:9000/udp");
    let _service = spec.option(&only_on(&lab.nodes[0])).create(lab)?;
    live(lab, "twonodes", 1)?;
    let at = |index: usize| target(&lab.nodes[index], 8203);
    // Both through the tunnel; one through it and one not.
    both_converse("32000", &at(1), &at(2))?;
    both_converse("32000", &at(0), &at(1))?;
    both_converse("32000", &at(2), &at(0))
}

fn one_port_to_two_ports(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("twoports").publish("8204:9000").publish("8205:9000");
    let spec = spec.publish("8204:9000/udp").publish("8205:9000/udp");
    let _service = spec.option(&only_on(&lab.nodes[0])).create(lab)?;
    live(lab, "twoports", 1)?;
    for node in &lab.nodes {
        both_converse("32001", &target(node, 8204), &target(node, 8205))?;
    }
    Ok(())
}

/// Two TCP conversations at the same time from the same address and port, then two of datagrams.
fn both_converse(source_port: &str, one: &str, other: &str) -> Result<()> {
    let source = ["--source-address", CLIENT, "--source-port", source_port, "--interval", "50"];
    // The one begins before the other and ends before it, so that neither has the task to itself.
    let tcp =
        |target, lines| At::Client.start(&[&["tcp", target, "--lines", lines][..], &source[..]].concat());
    let (first, second) = (tcp(one, "20")?, tcp(other, "30")?);
    for (running, target, lines) in [(first, one, 20), (second, other, 30)] {
        let talk: Conversation = running.report()?;
        ensure!(talk.error.is_none() && talk.echoed == lines, "TCP with {target}: {talk:?}");
        let identity = talk.identity.as_ref().context("the task said nothing of itself")?;
        ensure!(identity.peer.starts_with(CLIENT), "the task saw {}", identity.peer);
    }

    let udp =
        |target, count| At::Client.start(&[&["udp", target, "--count", count][..], &source[..]].concat());
    let (first, second) = (udp(one, "20")?, udp(other, "30")?);
    for (running, target) in [(first, one), (second, other)] {
        let report: Report = all_ok(running.report()?).with_context(|| format!("UDP with {target}"))?;
        ensure!(report.sources.keys().eq([target]), "answers came from {:?}", report.sources);
        ensure!(report.peers.keys().eq([CLIENT]), "the task saw {:?}", report.peers);
    }
    Ok(())
}

fn nobody_listens(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("deaf").publish("8206:9999/udp").publish("8207:9000/udp");
    let _service = spec.option(&only_on(&lab.nodes[0])).create(lab)?;
    live(lab, "deaf", 1)?;
    for node in &lab.nodes {
        all_ok(At::Client.run(&["udp", &target(node, 8207)])?).context("the port where it listens")?;
        let report: Report = At::Client.run(&["udp", &target(node, 8206), "--timeout", "1000"])?;
        let refused = report.errors.keys().all(|error| error.contains("Connection refused"));
        ensure!(report.failed == 1 && refused, "through {}: {report:?}", node.name);
    }
    Ok(())
}
