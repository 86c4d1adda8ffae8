//! Operators' filters: where a rule of the node would be passed by, published ports stay Docker's until that is understood.

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    filters::{RULES, Rule, preflight, warnings},
    lab::{Lab, Node},
    mesh,
    service::Spec,
    wait,
};

use crate::{
    Scenario, canary,
    support::{PATIENCE, Undo, get, live_on, service_row, silent, target},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a stock node has no firewall rule that counts", nothing_on_stock),
    ("a node with a filter on published ports leaves them to Docker until told otherwise", filtered),
    ("a filter that comes while the mesh serves is said and moves nothing", later),
];

fn nothing_on_stock(lab: &Lab) -> Result<()> {
    let service = Spec::workload("plain").replicas(1).publish("8851:8080").create(lab)?;
    let nodes: Vec<_> = lab.nodes.iter().collect();
    live_on(&nodes, "plain", 1, PATIENCE)?;
    for node in &lab.nodes {
        let (fails, line) = preflight(node)?;
        ensure!(!fails, "{}: {line}", node.name);
        let warnings = warnings(node)?;
        ensure!(!warnings.contains("firewall rule"), "{}: {warnings}", node.name);
    }
    service.remove()
}

fn filtered(lab: &Lab) -> Result<()> {
    canary::loses_nodes();
    canary::warns("firewall rule");
    let service = Spec::workload("guarded").replicas(2).publish("8852:8080").create(lab)?;
    let nodes: Vec<_> = lab.nodes.iter().collect();
    live_on(&nodes, "guarded", 2, PATIENCE)?;
    let node = &lab.nodes[2];
    for rule in &RULES {
        let filter = rule.on(node)?;
        mesh::start_afresh(node)?;
        stays_dockers(node, rule).context(rule.text)?;
        drop(filter);
    }
    // Without it, from the start.
    mesh::start_afresh(node)?;
    live_on(&[node], "guarded", 2, PATIENCE)?;
    get(node, 8852, 2)?;

    let rule = &RULES[0];
    // The rule is dropped first: agents that start while it is there leave the ports to Docker until they are started again.
    let _respect = Undo::at_the_end(|| {
        let _ = mesh::set(lab, "MESH_FIREWALL=respect");
    });
    let _filter = rule.on(node)?;
    mesh::start_afresh(node)?;
    stays_dockers(node, rule)?;
    mesh::set(lab, "MESH_FIREWALL=bypass")?;
    wait::for_up_to(PATIENCE, "the node serves past the rule", || get(node, 8852, 2).map(drop))?;
    let (fails, line) = preflight(node)?;
    ensure!(!fails && line.contains(rule.text), "{line}");
    service.remove()
}

/// The rule is named, the port is not answered by the mesh, and the rest of the node is served.
fn stays_dockers(node: &Node, rule: &Rule) -> Result<()> {
    wait::for_up_to(PATIENCE, "status names the rule", || {
        let warnings = warnings(node)?;
        ensure!(warnings.contains(rule.text) && warnings.contains("stay Docker's"), "{warnings}");
        let row = service_row(node, "guarded")?;
        ensure!(row["left_to_docker"].to_string().contains("firewall rule"), "{row}");
        Ok(())
    })?;
    let (fails, line) = preflight(node)?;
    ensure!(fails && line.contains(rule.text), "{line}");
    silent(&target(node, 8852))
}

fn later(lab: &Lab) -> Result<()> {
    canary::exchanges_agents();
    canary::warns("firewall rule");
    let service = Spec::workload("served").replicas(2).publish("8853:8080").create(lab)?;
    let nodes: Vec<_> = lab.nodes.iter().collect();
    live_on(&nodes, "served", 2, PATIENCE)?;
    let (node, rule) = (&lab.nodes[1], &RULES[0]);
    let _filter = rule.on(node)?;
    let is_said = || {
        let warnings = warnings(node)?;
        ensure!(warnings.contains(rule.text) && warnings.contains("past it"), "{warnings}");
        Ok(())
    };
    wait::for_up_to(PATIENCE, "status names the rule", is_said)?;
    get(node, 8853, 4)?;
    // As an upgrade does: the agent that was there has served.
    mesh::restart(node)?;
    wait::for_up_to(PATIENCE, "status names the rule again", is_said)?;
    get(node, 8853, 4)?;
    service.remove()
}
