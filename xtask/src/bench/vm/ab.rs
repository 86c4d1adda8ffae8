//! `ab`: requests from the client of the lab, through a node.

use std::{fs, path::Path, str::FromStr};

use anyhow::{Context, Result, ensure};
use mesh_tests::lab::Lab;
use serde_json::{Value, json};

/// Clients at the same time.
const AT_ONCE: &str = "10";

/// Whether each request has a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connections {
    New,
    Kept,
}

impl Connections {
    pub(super) const ALL: [Self; 2] = [Self::New, Self::Kept];

    /// In the results.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::New => "new_connection",
            Self::Kept => "keep_alive",
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::New => "new connections",
            Self::Kept => "keep-alive",
        }
    }
}

/// Sends so many requests; one that fails is an error. `scratch` is a file to be written.
pub(super) fn load(url: &str, requests: usize, connections: Connections, scratch: &Path) -> Result<Value> {
    // `-l`: tasks' names, which they answer with, need not be of one length.
    let ab = Lab::client("ab").args(["-q", "-l", "-s", "60", "-c", AT_ONCE, "-n", &requests.to_string()]);
    let ab = if connections == Connections::Kept { ab.arg("-k") } else { ab };
    let said = ab.arg("-e").arg(scratch).arg(url).quiet().read()?;
    let table = fs::read_to_string(scratch).context("ab has written no times")?;
    let count = |label: &str| field::<usize>(&said, label);
    ensure!(
        count("Failed requests:")? == 0 && count("Complete requests:")? == requests,
        "requests failed:\n{said}"
    );
    ensure!(!said.contains("Non-2xx"), "answers are not what was asked for:\n{said}");
    if connections == Connections::Kept {
        ensure!(count("Keep-Alive requests:")? == requests, "connections were not kept:\n{said}");
    }
    Ok(json!({
        "requests": requests,
        "per_second": field::<f64>(&said, "Requests per second:")?,
        "p50_ms": at(&table, 50)?,
        "p99_ms": at(&table, 99)?,
    }))
}

/// The number after a label of ab's report.
fn field<T: FromStr>(said: &str, label: &str) -> Result<T> {
    let number =
        said.lines().find_map(|line| line.strip_prefix(label)?.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("no `{label}` in:\n{said}"))
}

/// Milliseconds in which so many in a hundred were served, from the table that `-e` writes.
fn at(table: &str, percent: usize) -> Result<f64> {
    let row = table.lines().find_map(|line| line.strip_prefix(&format!("{percent},")));
    Ok(row.with_context(|| format!("no {percent} % in:\n{table}"))?.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abs_report_and_its_table_are_read() {
        let said = "Complete requests:      2000\nRequests per second:    178.25 [#/sec] (mean)\n";
        assert!((field::<f64>(said, "Requests per second:").unwrap() - 178.25).abs() < 1e-9);
        assert!(field::<usize>(said, "Failed requests:").is_err());
        let table = "Percentage served,Time in ms\n5,9.1\n50,43.118\n99,209.5\n";
        assert!(
            (at(table, 50).unwrap() - 43.118).abs() < 1e-9 && (at(table, 99).unwrap() - 209.5).abs() < 1e-9
        );
        assert!(at(table, 98).is_err());
    }
}
