//! Published ports with XDP before TC: all that holds with TC alone, and ways from one uplink to another one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_common::outcome::Outcome;
use mesh_tests::{
    client::{At, Report},
    lab::{Lab, Node, SECOND_ADDRESS, SECOND_CLIENT},
    mesh,
    service::Spec,
    wait,
};

use crate::{
    Scenario, balance, canary, change, deaths, flows, runner,
    support::{Undo, live, only_on},
    tunnel, untouched,
};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("published ports are served by XDP as they are by TC alone", as_by_tc_alone)];

/// What is about published ports, and about refusals, which XDP makes itself or leaves to TC.
const AGAIN: &[&[Scenario]] = &[
    balance::SCENARIOS,
    flows::SCENARIOS,
    untouched::SCENARIOS,
    tunnel::SCENARIOS,
    &[
        ("a service without tasks refuses at once and serves again when it has some", change::nobody_home),
        ("a task that refuses connections costs nobody a request while others do not", deaths::one_refuses),
        ("what comes in by one uplink goes out by another one", from_uplink_to_uplink),
    ],
];

fn as_by_tc_alone(lab: &Lab) -> Result<()> {
    let _as_before = Undo::at_the_end(|| {
        let _ = mesh::without_xdp(lab);
    });
    mesh::with_xdp(lab)?;
    let before = lab.on_every_node(by_uplink)?;
    let again: Vec<&Scenario> = AGAIN.iter().copied().flatten().collect();
    let outcomes = runner::run(&again, lab);
    // Each has taken what it announced; what it caused is in the whole's time, too.
    canary::exchanges_agents();
    for outcome in &outcomes {
        canary::also(&outcome.announced);
    }
    let failed: Vec<String> = outcomes
        .into_iter()
        .filter_map(|outcome| Some(format!("{}: {}", outcome.name, outcome.error?)))
        .collect();
    ensure!(failed.is_empty(), "with XDP, {} of {}: {}", failed.len(), again.len(), failed.join("\n"));
    for (node, before) in lab.nodes.iter().zip(before) {
        let (sent, all) = (node.sent_by_xdp()?, by_uplink(node)? - before);
        println!("      {} has sent {sent} of {all} packets by XDP", node.name);
        ensure!(sent > 500 && sent * 10 >= all * 9, "{} has sent {sent} of {all} packets by XDP", node.name);
    }
    Ok(())
}

/// How many packets a node has passed on that came in by an uplink and left by one, by XDP or by TC.
fn by_uplink(node: &Node) -> Result<u64> {
    let status = mesh::status(node)?;
    let outcomes = &status["dataplane"]["outcomes"];
    let of = |outcome: Outcome| outcomes[outcome.as_str()].as_u64().context("an outcome is not told");
    Ok(of(Outcome::Tunnelled)? + of(Outcome::RepliedFromTunnel)?)
}

/// The driver of the one hands packets over to that of the other; the kernel's network stack sees none of them.
fn from_uplink_to_uplink(lab: &Lab) -> Result<()> {
    const REQUESTS: u64 = 50;

    let [home, entry, ..] = &lab.nodes[..] else { anyhow::bail!("the lab is too small") };
    let _service = Spec::workload("across").publish("8421:8080").option(&only_on(home)).create(lab)?;
    live(lab, "across", 1)?;
    let _taken_away = Undo::at_the_end(|| {
        let _ = Lab::remove_second_cable();
    });
    entry.lay_second_cable()?;
    let target = format!("{SECOND_ADDRESS}:8421");
    let handed_over = || -> Result<[u64; 2]> {
        let [in_by_other, in_by_first] =
            ["eth1", "eth0"].map(|uplink| entry.counted_by_driver(uplink, "xdp_redirect"));
        Ok([in_by_other?, in_by_first?])
    };
    wait::for_up_to(Duration::from_secs(20), "both uplinks send what the other one takes in", || {
        let before = handed_over()?;
        let report: Report = At::Client.run(&["get", &target, "--count", &REQUESTS.to_string()])?;
        ensure!(report.ok == REQUESTS, "{report:?}");
        ensure!(report.peers.keys().eq([SECOND_CLIENT]), "the task saw {:?}", report.peers);
        let after = handed_over()?;
        // Of a request the client sends at least four packets, and gets three.
        let enough =
            |direction: usize, packets: u64| after[direction] >= before[direction] + packets * REQUESTS;
        ensure!(enough(0, 4) && enough(1, 3), "of {REQUESTS} requests: {before:?}, {after:?}");
        Ok(())
    })
}
