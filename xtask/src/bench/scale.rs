//! What a large Swarm costs the agent: from a snapshot to the kernel's tables, in memory, and per packet. The work is done
//! by `tests/scale` in a process of its own for each size, with the agent's own code and real tables.

use anyhow::{Context, Result};
use mesh_tests::cmd::Cmd;
use serde_json::{Value, json};

use super::{machine, plot, results};

const TASKS: usize = 10;
/// On which containers of the node are, so that it serves their virtual addresses and names.
const NETWORKS_HERE: usize = 10;

pub(super) fn run(quick: bool) -> Result<()> {
    let (sizes, changes) = if quick { ([1, 100, 1_000], 100) } else { ([1, 1_000, 10_000], 1_000) };
    let mut results = Vec::new();
    for services in sizes {
        eprintln!("{services} services with {TASKS} tasks each");
        results.push(measure(services, changes)?);
    }
    show(&results);
    save(&results)
}

fn measure(services: usize, changes: usize) -> Result<Value> {
    let numbers = [services, TASKS, NETWORKS_HERE.min(services.div_ceil(100)), changes];
    let bench = ["--quiet", "--package", "mesh-tests", "--bench", "scale", "--"];
    let cargo = Cmd::cargo("bench").args(bench);
    let text = cargo.args(numbers.map(|number| number.to_string())).quiet().read()?;
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("not understood: {text}"))
}

fn show(results: &[Value]) {
    println!(
        "{:>8} {:>9} {:>11} {:>14} {:>13} {:>9} {:>15} {:>10}",
        "SERVICES",
        "BACKENDS",
        "FULL ms",
        "CHANGE p50 ms",
        "CHANGE p99 ms",
        "MEMORY MB",
        "ESTABLISHED ns",
        "NEW ns"
    );
    for result in results {
        println!(
            "{:8} {:9} {:11.1} {:14.2} {:13.2} {:9.0} {:15} {:10}",
            result["services"].as_u64().unwrap_or(0),
            result["backends"].as_u64().unwrap_or(0),
            number(&result["full"]["to_tables_ms"]),
            change(result, 50),
            change(result, 99),
            megabytes(result),
            number(&result["packets"]["established_ns"]),
            number(&result["packets"]["new_ns"]),
        );
    }
    println!(
        "FULL is from the first snapshot to the last write of a table, CHANGE the same for a task that gives way to another.\n\
         MEMORY is the process's, with the Swarm itself; the kernel's tables are not in it. Packets are timed one by one,\n\
         with what the kernel needs to run a program once: compare them with each other only."
    );
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Of the times from a change to the tables, the smallest that so many in a hundred do not exceed.
fn change(result: &Value, percent: usize) -> f64 {
    let rounds = result["changes"].as_array().map_or(&[][..], Vec::as_slice);
    let mut times: Vec<f64> = rounds.iter().map(|round| number(&round["to_tables_ms"])).collect();
    times.sort_unstable_by(f64::total_cmp);
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or(f64::NAN)
}

fn megabytes(result: &Value) -> f64 {
    number(&result["memory_bytes"]["after_changes"]) / f64::from(1 << 20)
}

fn save(results: &[Value]) -> Result<()> {
    let machine = machine::describe();
    let rows: Vec<_> = results
        .iter()
        .map(|result| (format!("mesh: {} services", result["services"]), change(result, 99)))
        .collect();
    let plot = plot::bars("From one change to the tables, 99th percentile", &machine, "ms", &rows);
    let result = json!({ "machine": machine, "sizes": results });
    results::save([("scale.json", serde_json::to_string_pretty(&result)?), ("scale.svg", plot)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_time_to_the_tables() {
        let rounds: Vec<_> = (1..=100).map(|time| json!({ "to_tables_ms": time })).collect();
        let result = json!({ "changes": rounds });
        assert_eq!([change(&result, 50).to_string(), change(&result, 99).to_string()], ["50", "99"]);
        assert!(change(&json!({}), 50).is_nan());
    }
}
