//! Operators' filters where Docker's own mesh obeys them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Report},
    filters::{self, RULES, Rule},
    mesh,
    vm::{self, Mesh},
    wait,
};

use crate::swarm::{PORT, Swarm, Tc, Xdp};

/// A node with a filter leaves published ports to Docker, for all three kinds of rule, until it is told to pass them by.
pub(crate) fn hold(swarm: &Swarm) -> Result<()> {
    swarm.without_agents()?;
    let entry = swarm.entry()?;
    for (number, rule) in RULES.iter().enumerate() {
        let _filter = rule.on(entry)?;
        if number == 0 {
            swarm.with_agents(Tc::Auto, Xdp::Off)?;
        } else {
            mesh::start_afresh(entry)?;
        }
        stays_dockers(swarm, rule).context(rule.text)?;
        if number + 1 == RULES.len() {
            mesh::set(swarm.lab, "MESH_FIREWALL=bypass")?;
            swarm.serves(Mesh::Ours, PORT)?;
            let (fails, line) = filters::preflight(entry)?;
            ensure!(!fails && line.contains(rule.text), "{line}");
        }
    }
    // The next agents obey filters again.
    swarm.without_agents()
}

/// The rule is named; it holds for the client that it is about, and Docker's own mesh serves all others.
fn stays_dockers(swarm: &Swarm, rule: &Rule) -> Result<()> {
    let entry = swarm.entry()?;
    wait::for_up_to(Duration::from_secs(10), "status names the rule", || {
        let warnings = filters::warnings(entry)?;
        ensure!(warnings.contains(rule.text) && warnings.contains("stay Docker's"), "{warnings}");
        Ok(())
    })?;
    let (fails, line) = filters::preflight(entry)?;
    ensure!(fails && line.contains(rule.text), "{line}");
    let target = format!("{}:{PORT}", entry.address);
    let report: Report = At::Client.run(&["get", &target, "--timeout", "3000"])?;
    ensure!(report.ok == 0, "the filter is passed by: {report:?}");
    wait::for_up_to(Duration::from_secs(10), "others are served by Docker's own mesh", || {
        let before = vm::ipvs_connections(entry)?;
        let report: Report = At::Node(swarm.lab.node("node1")?).run(&["get", &target, "--count", "6"])?;
        ensure!(report.ok == 6 && report.failed == 0, "{report:?}");
        let by_ipvs = vm::ipvs_connections(entry)? - before;
        ensure!(by_ipvs == 6, "IPVS saw {by_ipvs} of 6 connections");
        Ok(())
    })
}
