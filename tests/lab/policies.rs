//! Policies: which backend a flow gets, and that a flow outlives the way it came.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Report},
    lab::{Lab, Node, text},
    mesh,
    service::Spec,
    wait,
};
use serde_json::Value;

use crate::{
    Scenario, canary,
    load::{Ports, Pressure},
    support::{PROMPT, Undo, all_ok, get, live, service_row, target},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("connections outlive the move of a floating address to another node with maglev", floating_address),
    ("a client keeps its task with affinity, whichever way it comes in it keeps to one", affinity),
    ("a node's weight is its tasks' share of new connections", weights),
];

/// What keepalived would move.
const FLOATING: &str = "10.99.0.101";

fn floating_address(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("floating").publish("8341:8080").publish("8342:9000").replicas(5);
    let _service = spec.option("--label=mesh.policy=maglev").create(lab)?;
    live(lab, "floating", 5)?;
    let (one, two) = (&lab.nodes[0], &lab.nodes[1]);
    let _gone = Undo::at_the_end(|| {
        for node in [one, two] {
            let _ = address(node, "delete");
        }
        let _ = Lab::client("ip").args(["neighbour", "delete", FLOATING, "dev", "mesh-lab"]).quiet().read();
    });
    address(one, "add")?;
    let reached =
        || all_ok(At::Client.run::<Report>(&["get", &format!("{FLOATING}:8341"), "--timeout", "500"])?);
    wait::for_up_to(Duration::from_secs(2), "the address answers", || reached().map(drop))?;

    let mut pressure = Pressure::with(&["--held", "40", "--timeout", "5000"]);
    pressure.at("the client, to the floating address", FLOATING, Ports::new(8341, 8342))?;
    thread::sleep(Duration::from_secs(2));
    address(two, "add")?;
    address(one, "delete")?;
    // As the node that takes an address over announces it.
    let link = two.network_command("ip").args(["-json", "link", "show", "dev", "eth0"]).quiet().read()?;
    let link: Value = serde_json::from_str(&link).with_context(|| format!("`ip -json` said {link}"))?;
    let known = ["neighbour", "replace", FLOATING, "lladdr", text(&link[0], "/address"), "dev", "mesh-lab"];
    Lab::client("ip").args(known).quiet().read()?;
    thread::sleep(Duration::from_secs(3));
    let outcome = pressure.release()?;
    outcome.nothing_broke()?;
    outcome.nothing_failed()
}

fn address(node: &Node, verb: &str) -> Result<()> {
    let change = ["address", verb, &format!("{FLOATING}/24"), "dev", "eth0"];
    node.network_command("ip").args(change).quiet().read().map(drop)
}

fn affinity(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("faithful").publish("8343:8080").replicas(4);
    let service = spec.option("--label=mesh.affinity=client-ip").create(lab)?;
    live(lab, "faithful", 4)?;
    for node in &lab.nodes {
        let report = get(node, 8343, 20)?;
        ensure!(report.tasks.len() == 1, "through {}: {:?}", node.name, report.tasks);
    }
    service.update(&["--label-rm", "mesh.affinity"])?;
    wait::for_up_to(PROMPT, "the label is gone", || {
        let report = get(&lab.nodes[0], 8343, 8)?;
        ensure!(report.tasks.len() == 4, "{:?}", report.tasks);
        Ok(())
    })
}

fn weights(lab: &Lab) -> Result<()> {
    canary::warns("mesh.weight=much is ignored");
    let heavy = lab.nodes.last().context("a lab has nodes")?;
    let label = |change: &[&str]| {
        lab.docker(["node", "update"]).args(change).arg(&heavy.name).quiet().read().map(drop)
    };
    let _back = Undo::at_the_end(|| drop(label(&["--label-rm", "mesh.weight"])));
    let service = Spec::workload("heavy").global().publish("8344:8080").create(lab)?;
    live(lab, "heavy", lab.nodes.len())?;
    label(&["--label-add", "mesh.weight=3"])?;
    let tasks: BTreeSet<String> = service.tasks()?.into_iter().map(|task| task.node).collect();
    ensure!(tasks.len() == lab.nodes.len(), "{tasks:?}");
    wait::for_up_to(PROMPT, "the weight counts", || {
        // Three nodes with weights 1, 1 and 3: rounds of five.
        let rounds = 4;
        let total = (lab.nodes.len() - 1 + 3) * rounds;
        let report: Report =
            all_ok(At::Client.run(&["get", &target(&lab.nodes[0], 8344), "--count", &total.to_string()])?)?;
        let mut shares: Vec<u64> = report.tasks.values().copied().collect();
        shares.sort_unstable();
        let (most, others) = shares.split_last().context("nobody answered")?;
        ensure!(*most == 3 * rounds as u64, "{shares:?}");
        ensure!(others.iter().all(|share| *share == rounds as u64), "{shares:?}");
        Ok(())
    })?;
    let row = service_row(&lab.nodes[0], "heavy")?;
    ensure!(row["policy"] == "round-robin", "{row}");

    label(&["--label-add", "mesh.weight=much"])?;
    let warning = format!("node {}: label mesh.weight=much is ignored: ", heavy.name);
    wait::for_up_to(PROMPT, "every node says that a weight is not understood", || {
        for node in &lab.nodes {
            let status = mesh::status(node)?;
            let mut warnings = status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
            ensure!(warnings.any(|told| told.starts_with(&warning)), "{}: {}", node.name, status["warnings"]);
        }
        Ok(())
    })
}
