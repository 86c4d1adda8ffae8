//! What the scenarios have in common.

use std::{fmt, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Report},
    lab::{Lab, Node},
    mesh, wait,
};
use serde_json::Value;

use crate::tables::Tables;

/// Within what time all nodes' tables follow a change of the Swarm together, on a machine that all of them share with their load.
pub(crate) const PROMPT_TABLES: Duration = Duration::from_secs(2);

/// Within what time whatever else follows a change must have followed.
pub(crate) const PROMPT: Duration = Duration::from_secs(3);

/// Within what time whatever else a scenario waits for must have happened.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Waits until the tables of every node hold so many active backends for each frontend of a service.
pub(crate) fn live(lab: &Lab, service: &str, count: usize) -> Result<()> {
    live_on(&lab.nodes.iter().collect::<Vec<_>>(), service, count, PROMPT_TABLES)
}

/// [`live`] for some nodes, with a limit of one's own, which all of them have together.
pub(crate) fn live_on(nodes: &[&Node], service: &str, count: usize, limit: Duration) -> Result<()> {
    let what = format!("the tables hold {count} active backends of {service}");
    wait::for_up_to(limit, &what, || {
        nodes.iter().try_for_each(|node| holds(node, service, count).with_context(|| node.name.clone()))
    })
}

/// Whether a node's tables hold so many, by what the agent says and by what the kernel has.
pub(crate) fn holds(node: &Node, service: &str, count: usize) -> Result<()> {
    let rows = backends(node, service)?;
    let mut frontends: Vec<&str> = rows.iter().filter_map(|row| row["frontend"].as_str()).collect();
    frontends.sort_unstable();
    frontends.dedup();
    ensure!(count == 0 || !frontends.is_empty(), "they do not know the service");
    let tables = Tables::of(node)?;
    for frontend in frontends {
        let active = rows.iter().filter(|row| row["frontend"] == frontend && is_active(row)).count();
        ensure!(active == count, "the agent has {active} for {frontend}: {}", Value::from(rows.clone()));
        let found = tables.active(frontend)?;
        ensure!(found == count, "the kernel has {found} for {frontend}, and the agent {active}");
    }
    Ok(())
}

/// The rows of a service in a node's `status backends`.
pub(crate) fn backends(node: &Node, service: &str) -> Result<Vec<Value>> {
    let status = mesh::status(node)?;
    let rows = status["backends"].as_array().with_context(|| format!("no backends in {status}"))?;
    Ok(rows.iter().filter(|row| row["service"] == service).cloned().collect())
}

pub(crate) fn is_active(row: &Value) -> bool {
    row["state"] == "active"
}

/// The service's row in a node's `status services`.
pub(crate) fn service_row(node: &Node, service: &str) -> Result<Value> {
    let status = mesh::status(node)?;
    let rows = status["services"].as_array().with_context(|| format!("no services in {status}"))?;
    Ok(rows.iter().find(|row| row["service"] == service).cloned().unwrap_or_default())
}

/// Requests from the client through one node, all of which must be answered.
pub(crate) fn get(node: &Node, port: u16, count: usize) -> Result<Report> {
    get_at(At::Client, &target(node, port), count)
}

/// Requests that must all be answered.
pub(crate) fn get_at(place: At<'_>, target: &str, count: usize) -> Result<Report> {
    all_ok(place.run(&["get", target, "--count", &count.to_string()])?)
        .with_context(|| format!("{count} requests to {target}"))
}

/// Passes a report on in which nothing failed.
pub(crate) fn all_ok(report: Report) -> Result<Report> {
    ensure!(
        report.ok > 0 && report.failed == 0,
        "{} of {} failed: {report:?}",
        report.failed,
        report.ok + report.failed
    );
    Ok(report)
}

/// Through every node: as many requests as make `rounds` rounds over the tasks, spread without any remainder.
pub(crate) fn exact_through_every_node(lab: &Lab, port: u16, tasks: usize, rounds: usize) -> Result<()> {
    for node in &lab.nodes {
        all_get_flows(node, port, tasks, tasks)?;
        let report = get(node, port, tasks * rounds).with_context(|| format!("through {}", node.name))?;
        exact(&report, tasks).with_context(|| format!("through {}", node.name))?;
    }
    Ok(())
}

/// So many requests through a node reach all of so many tasks, now or in a moment.
pub(crate) fn all_get_flows(node: &Node, port: u16, requests: usize, tasks: usize) -> Result<()> {
    /// A task that has left a SYN unanswered, as on a busy machine, gets no new flows of a node for a second.
    const AVOIDED: Duration = Duration::from_secs(2);

    wait::for_up_to(AVOIDED, &format!("every task gets new flows through {}", node.name), || {
        let report = get(node, port, requests)?;
        ensure!(report.tasks.len() == tasks, "{:?}", report.tasks);
        Ok(())
    })
}

/// Every one of so many tasks has answered as often as every other one.
pub(crate) fn exact(report: &Report, tasks: usize) -> Result<()> {
    ensure!(report.tasks.len() == tasks, "{tasks} tasks were to answer: {:?}", report.tasks);
    ensure!(report.imbalance(tasks) == 0, "not an exact round: {:?}", report.sequence);
    Ok(())
}

/// Nothing answers there, or refuses, within a moment.
pub(crate) fn silent(target: &str) -> Result<()> {
    let report: Report = At::Client.run(&["get", target, "--timeout", "500"])?;
    ensure!(report.ok == 0, "{target} answers: {report:?}");
    Ok(())
}

pub(crate) fn target(node: &Node, port: u16) -> String {
    format!("{}:{port}", node.address)
}

/// The option of `docker service create` that puts all tasks on one node.
pub(crate) fn only_on(node: &Node) -> String {
    format!("--constraint=node.hostname=={}", node.name)
}

/// Waits until a node's agent serves.
pub(crate) fn agent_answers(node: &Node) -> Result<()> {
    wait::for_up_to(PATIENCE, &format!("the agent of {} serves", node.name), || mesh::serves(node))
}

/// Undoes something at the end of a scope, however that is left.
pub(crate) struct Undo<F: FnMut()>(F);

impl<F: FnMut()> Undo<F> {
    pub(crate) fn at_the_end(undo: F) -> Self {
        Self(undo)
    }
}

impl<F: FnMut()> fmt::Debug for Undo<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Undo")
    }
}

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
