//! Operators' filters: where a rule of the node would be passed by, published ports stay Docker's until that is understood.

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    lab::{Lab, Node},
    mesh,
    service::Spec,
    wait,
};

use crate::{
    Scenario,
    support::{PATIENCE, Undo, agent_answers, get, live_on, service_row, silent, target},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a stock node has no firewall rule that counts", nothing_on_stock),
    ("a node with a filter on published ports leaves them to Docker until told otherwise", filtered),
    ("a filter that comes while the mesh serves is said and moves nothing", later),
];

/// How to make a rule, how to take it back, and what of it an operator is told.
struct Rule {
    add: &'static str,
    delete: &'static str,
    text: &'static str,
}

/// In DOCKER-USER, in an nftables base chain at forward, and before connection tracking.
const RULES: [Rule; 3] = [
    Rule {
        add: "iptables -I DOCKER-USER -s 10.99.0.254 -j DROP",
        delete: "iptables -D DOCKER-USER -s 10.99.0.254 -j DROP",
        text: "-t filter -A DOCKER-USER -s 10.99.0.254/32 -j DROP",
    },
    Rule {
        add: "nft 'table inet guard { chain forward { type filter hook forward priority 0; ip saddr 10.99.0.254 drop; }; }'",
        delete: "nft delete table inet guard",
        text: "nft table inet guard, chain forward: ip saddr 10.99.0.254 drop",
    },
    Rule {
        add: "iptables -t raw -I PREROUTING -s 10.99.0.254 -j DROP",
        delete: "iptables -t raw -D PREROUTING -s 10.99.0.254 -j DROP",
        text: "-t raw -A PREROUTING -s 10.99.0.254/32 -j DROP",
    },
];

fn shell(node: &Node, line: &str) -> Result<()> {
    node.network_command("sh").args(["-c", line]).read().map(drop)
}

fn preflight(node: &Node) -> Result<(bool, String)> {
    let output = mesh::agent(node, &["preflight"])?.quiet().output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains(" firewall ")).context("no line about the firewall")?;
    Ok((line.starts_with("FAIL"), line.to_owned()))
}

fn warnings(node: &Node) -> Result<String> {
    Ok(mesh::status(node)?["warnings"].to_string())
}

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
    let service = Spec::workload("guarded").replicas(2).publish("8852:8080").create(lab)?;
    let nodes: Vec<_> = lab.nodes.iter().collect();
    live_on(&nodes, "guarded", 2, PATIENCE)?;
    let node = &lab.nodes[2];
    for rule in &RULES {
        let undo = Undo::at_the_end(|| {
            let _ = shell(node, rule.delete);
        });
        shell(node, rule.add)?;
        afresh(node)?;
        stays_dockers(node, rule).with_context(|| rule.add)?;
        drop(undo);
    }
    // Without it, from the start.
    afresh(node)?;
    live_on(&[node], "guarded", 2, PATIENCE)?;
    get(node, 8852, 2)?;

    let rule = &RULES[0];
    // In this order: agents that start while the rule is there leave the ports to Docker until they are started again.
    let _stock = Undo::at_the_end(|| {
        let _ = shell(node, rule.delete);
        let _ = set(lab, "respect");
    });
    shell(node, rule.add)?;
    afresh(node)?;
    stays_dockers(node, rule)?;
    set(lab, "bypass")?;
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
    let service = Spec::workload("served").replicas(2).publish("8853:8080").create(lab)?;
    let nodes: Vec<_> = lab.nodes.iter().collect();
    live_on(&nodes, "served", 2, PATIENCE)?;
    let (node, rule) = (&lab.nodes[1], &RULES[0]);
    let _rule = Undo::at_the_end(|| {
        let _ = shell(node, rule.delete);
    });
    shell(node, rule.add)?;
    let is_said = || {
        let warnings = warnings(node)?;
        ensure!(warnings.contains(rule.text) && warnings.contains("past it"), "{warnings}");
        Ok(())
    };
    wait::for_up_to(PATIENCE, "status names the rule", is_said)?;
    get(node, 8853, 4)?;
    // As an upgrade does: the agent that was there has served.
    restart(node)?;
    wait::for_up_to(PATIENCE, "status names the rule again", is_said)?;
    get(node, 8853, 4)?;
    service.remove()
}

/// The agent starts as on a node that it has not served before.
fn afresh(node: &Node) -> Result<()> {
    mesh::agent(node, &["uninstall"])?.read()?;
    restart(node)
}

/// Ends the node's agent, which the Swarm replaces.
fn restart(node: &Node) -> Result<()> {
    let old = mesh::agent_container(node)?;
    node.docker(["kill", &old]).quiet().read()?;
    wait::for_up_to(PATIENCE, "another agent runs", || {
        ensure!(mesh::agent_container(node)? != old, "it is the old one");
        Ok(())
    })?;
    agent_answers(node)
}

fn set(lab: &Lab, mode: &str) -> Result<()> {
    let update = ["service", "update", "--quiet", "--detach", "--no-resolve-image", "--update-monitor", "1s"];
    let setting = format!("MESH_FIREWALL={mode}");
    let service = format!("{}_agent", mesh::STACK);
    let before = lab.on_every_node(mesh::agent_container)?;
    lab.docker(update).args(["--env-add", &setting, &service]).read()?;
    wait::for_up_to(PATIENCE * 2, "agents with the setting answer", || {
        let now = lab.on_every_node(|node| mesh::status(node).and_then(|_| mesh::agent_container(node)))?;
        ensure!(now.iter().all(|agent| !before.contains(agent)), "the old ones still run");
        Ok(())
    })
}
