//! Requests as fast as they are answered, by `ab` at the client, and what the whole machine spends on them.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{lab::Lab, paths};
use serde_json::{Value, json};

use crate::bench::machine;

/// Requests under way at once.
const CONCURRENCY: &str = "32";

/// Whether each request has a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connections {
    New,
    Kept,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// All processors', the client's and the tasks' work included, for one request.
    pub(super) processor_us: f64,
}

impl Load {
    pub(super) fn json(&self) -> Value {
        json!({
            "per_second": self.per_second,
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "processor_us": self.processor_us,
        })
    }
}

/// Asks `target`, an address with a port, from an address of the client's.
pub(super) fn run(target: &str, client: &str, connections: Connections, time: Duration) -> Result<Load> {
    let file = paths::target().join("bench/lab-latencies.csv");
    let seconds = time.as_secs().max(1).to_string();
    let url = format!("http://{target}/quiet");
    let mut ab = Lab::client("ab").args(["-q", "-l", "-t", &seconds, "-n", "10000000", "-c", CONCURRENCY]);
    ab = ab.args(["-B", client, "-e"]).arg(&file);
    if connections == Connections::Kept {
        ab = ab.arg("-k");
    }
    let before = machine::seconds()?;
    let said = ab.arg(&url).quiet().read()?;
    let used = machine::seconds()? - before;
    let latencies = fs::read_to_string(&file)?;
    let _ = fs::remove_file(&file);
    read(&said, &latencies, used).with_context(|| format!("requests to {target}: {said}"))
}

/// What `ab` has said and written, and the seconds that the machine has worked.
fn read(said: &str, latencies: &str, used: f64) -> Result<Load> {
    let number = |label: &str| -> Option<f64> {
        let line = said.lines().find_map(|line| line.strip_prefix(label))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let complete = number("Complete requests:").context("no requests")?;
    let failed = number("Failed requests:").unwrap_or_default();
    let others = number("Non-2xx responses:").unwrap_or_default();
    ensure!(complete > 0.0 && failed + others == 0.0, "of {complete} requests {} failed", failed + others);
    let at = |percent: &str| -> Result<f64> {
        let of =
            |line: &str| line.split_once(',').filter(|(key, _)| *key == percent).map(|(_, ms)| ms.to_owned());
        Ok(latencies
            .lines()
            .find_map(of)
            .with_context(|| format!("no {percent} % in {latencies}"))?
            .parse()?)
    };
    Ok(Load {
        per_second: number("Requests per second:").context("no rate")?,
        p50_ms: at("50")?,
        p99_ms: at("99")?,
        processor_us: used * 1e6 / complete,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Complete requests:      2000\nFailed requests:        0\nRequests per second:    512.25 [#/sec] (mean)\n";
    const LATENCIES: &str = "Percentage served,Time in ms\n0,0.1\n50,1.250\n99,9.5\n";

    #[test]
    fn what_ab_says_is_read() {
        let load = read(SAID, LATENCIES, 0.5).unwrap();
        assert_eq!(load, Load { per_second: 512.25, p50_ms: 1.25, p99_ms: 9.5, processor_us: 250.0 });
    }

    #[test]
    fn requests_that_fail_are_no_result() {
        assert!(read(&SAID.replace("        0", "        3"), LATENCIES, 0.5).is_err());
        assert!(read(&format!("{SAID}Non-2xx responses:      1\n"), LATENCIES, 0.5).is_err());
    }
}
