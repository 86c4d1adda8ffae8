//! Published ports: every node answers, evenly, and the client's address arrives.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Report},
    lab::{CLIENT, FAR_CLIENT, Lab, Node},
    service::Spec,
    wait,
};

use crate::{
    Scenario,
    support::{PROMPT, all_ok, exact_through_every_node, get, live, only_on, target},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("every node answers on a published port and spreads evenly over five tasks", every_node_spreads_evenly),
    ("a node without a task answers too", a_node_without_a_task_answers_too),
    ("a global service answers on every node with every task", a_global_service_answers),
    ("two services on two ports answer each for itself", two_services_on_two_ports),
    ("one service on two ports answers on both", one_service_on_two_ports),
    ("nginx logs the clients' own addresses, near and far", nginx_logs_the_clients_own_addresses),
    ("what goes to and from a task passes docker_gwbridge by", past_the_bridge),
];

/// How many packets docker_gwbridge itself has seen, either way.
fn bridged(node: &Node) -> Result<u64> {
    let files =
        ["rx_packets", "tx_packets"].map(|file| format!("/sys/class/net/docker_gwbridge/statistics/{file}"));
    let text = node.command("cat").args(&files).quiet().read()?;
    text.split_whitespace().map(|count| Ok(count.parse::<u64>()?)).sum()
}

fn past_the_bridge(lab: &Lab) -> Result<()> {
    let [home, entry, ..] = &lab.nodes[..] else { anyhow::bail!("the lab is too small") };
    let _service = Spec::workload("past").publish("8082:8080").option(&only_on(home)).create(lab)?;
    live(lab, "past", 1)?;
    for node in [home, entry] {
        // The place of a task is known a moment before its port.
        wait::for_up_to(PROMPT, &format!("requests through {} go past the bridge", node.name), || {
            let before = bridged(home)?;
            get(node, 8082, 50)?;
            let passed = bridged(home)? - before;
            // Each request takes five packets each way; others' business on the bridge is names.
            ensure!(passed < 50, "{passed} packets passed docker_gwbridge on {} for 50 requests", home.name);
            Ok(())
        })?;
    }
    Ok(())
}

fn every_node_spreads_evenly(lab: &Lab) -> Result<()> {
    let _service = Spec::workload("even").replicas(5).publish("8081:8080").create(lab)?;
    live(lab, "even", 5)?;
    exact_through_every_node(lab, 8081, 5, 4)?;
    for node in &lab.nodes {
        let report = get(node, 8081, 5)?;
        ensure!(report.peers.keys().eq([CLIENT]), "the tasks saw {:?}", report.peers);
    }
    Ok(())
}

fn a_node_without_a_task_answers_too(lab: &Lab) -> Result<()> {
    let service = Spec::workload("pair").replicas(2).publish("8082:8080").create(lab)?;
    live(lab, "pair", 2)?;
    let tasks = service.tasks()?;
    let empty = lab.nodes.iter().find(|node| tasks.iter().all(|task| task.node != node.name));
    ensure!(empty.is_some(), "two tasks cover all nodes: {tasks:?}");
    exact_through_every_node(lab, 8082, 2, 5)
}

fn a_global_service_answers(lab: &Lab) -> Result<()> {
    let _service = Spec::workload("global").global().publish("8083:8080").create(lab)?;
    live(lab, "global", lab.nodes.len())?;
    exact_through_every_node(lab, 8083, lab.nodes.len(), 3)
}

fn two_services_on_two_ports(lab: &Lab) -> Result<()> {
    let _apples = Spec::workload("apples").replicas(2).publish("8084:8080").create(lab)?;
    let _pears = Spec::workload("pears").replicas(3).publish("8085:8080").create(lab)?;
    live(lab, "apples", 2)?;
    live(lab, "pears", 3)?;
    for (name, port, tasks) in [("apples", 8084, 2), ("pears", 8085, 3)] {
        exact_through_every_node(lab, port, tasks, 3)?;
        let report = get(lab.manager(), port, tasks)?;
        ensure!(report.tasks.keys().all(|task| task.starts_with(name)), "{port} is {:?}", report.tasks);
    }
    Ok(())
}

fn one_service_on_two_ports(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("doors").replicas(3).publish("8086:8080").publish("8087:8080");
    let _service = spec.create(lab)?;
    live(lab, "doors", 3)?;
    exact_through_every_node(lab, 8086, 3, 2)?;
    exact_through_every_node(lab, 8087, 3, 2)
}

fn nginx_logs_the_clients_own_addresses(lab: &Lab) -> Result<()> {
    const REQUESTS: u64 = 10;
    let service = Spec::nginx("nginx").replicas(4).publish("8088:80").create(lab)?;
    live(lab, "nginx", 4)?;
    for node in &lab.nodes {
        let target = target(node, 8088);
        for source in [CLIENT, FAR_CLIENT] {
            let count = REQUESTS.to_string();
            let report: Report =
                At::Client.run(&["get", &target, "--count", &count, "--source-address", source])?;
            all_ok(report).with_context(|| format!("from {source} to {target}"))?;
        }
    }
    let logs = service.logs()?;
    let requests: Vec<&str> = logs.lines().filter(|line| line.contains("\"GET ")).collect();
    let clients: BTreeSet<&str> = requests.iter().filter_map(|line| line.split(':').next()).collect();
    ensure!(clients == BTreeSet::from([CLIENT, FAR_CLIENT]), "nginx saw {clients:?}");
    let wanted = 2 * usize::try_from(REQUESTS)? * lab.nodes.len();
    ensure!(requests.len() == wanted, "nginx saw {} requests of {wanted}", requests.len());
    Ok(())
}
