//! From the virtual machine's samples to a table, goals and files.

use anyhow::Result;
use serde_json::{Value, json};

use super::ab::Connections;
use crate::bench::{median::median, plot, results};

/// Keys of the results, and what they are called.
const MESHES: [(&str, &str); 4] =
    [("docker", "Docker's own"), ("mesh_tc", "mesh, TC"), ("mesh_xdp", "mesh, XDP"), ("none", "no mesh")];
/// Design §10, with a new connection for each request, against Docker's own mesh.
const MORE_REQUESTS: f64 = 3.0;
const SHORTER_P99: f64 = 1.0 / 3.0;

/// What the virtual machine has left.
pub(super) struct Report(pub(super) Value);

impl Report {
    pub(super) fn show(&self) {
        println!(
            "{:14} {:16} {:>10} {:>9} {:>8} {:>8} {:>9}",
            "MESH", "CONNECTIONS", "REQUESTS/S", "TO DOCKER", "P50 ms", "P99 ms", "TO DOCKER"
        );
        for connections in Connections::ALL {
            for (mesh, label) in MESHES {
                let of = |key: &str| self.median(mesh, connections, key);
                println!(
                    "{label:14} {:16} {:10.0} {:8.2}x {:8.1} {:8.1} {:8.2}x",
                    connections.label(),
                    of("per_second"),
                    self.to_docker(mesh, connections, "per_second"),
                    of("p50_ms"),
                    of("p99_ms"),
                    self.to_docker(mesh, connections, "p99_ms")
                );
            }
        }
        println!(
            "ab with ten clients at once, through a node without a task; client, nodes and tasks share two emulated\n\
             processors, so compare the rows with each other only. Medians of {} repetitions (Docker's: {}). Without a mesh\n\
             nginx runs on the node that is dialled, outside of containers' networks: no mesh can do better.",
            self.samples("mesh_tc", Connections::New).count(),
            self.samples("docker", Connections::New).count()
        );
        for goal in self.goals() {
            println!("{goal}");
        }
        println!("{}", self.machine());
    }

    pub(super) fn save(&self) -> Result<()> {
        let machine = self.machine();
        let plot = |title: &str, key: &str, unit: &str| {
            let rows = Connections::ALL.into_iter().flat_map(|connections| {
                MESHES.map(|(mesh, label)| {
                    (format!("{label}, {}", connections.label()), self.median(mesh, connections, key))
                })
            });
            plot::bars(title, machine, unit, &rows.collect::<Vec<_>>())
        };
        let mut all = self.0.clone();
        all["goals"] = json!(self.goals());
        results::save([
            ("vm.json", serde_json::to_string_pretty(&all)?),
            ("vm.svg", plot("Requests through an entry node, in a virtual machine", "per_second", "1/s")),
            ("vm-p99.svg", plot("99th percentile of a request, in a virtual machine", "p99_ms", "ms")),
        ])
    }

    fn goals(&self) -> [String; 2] {
        let requests = self.to_docker("mesh_tc", Connections::New, "per_second");
        let p99 = self.to_docker("mesh_tc", Connections::New, "p99_ms");
        let word = |met: bool| if met { "met" } else { "missed" };
        [
            format!(
                "Requests/s with new connections, by TC: {requests:.2}x Docker's (goal: {MORE_REQUESTS:.0}x or more): {}",
                word(requests >= MORE_REQUESTS)
            ),
            format!(
                "Their 99th percentile, by TC: {p99:.2}x Docker's (goal: {SHORTER_P99:.2}x or less): {}",
                word(p99 <= SHORTER_P99)
            ),
        ]
    }

    fn to_docker(&self, mesh: &str, connections: Connections, key: &str) -> f64 {
        self.median(mesh, connections, key) / self.median("docker", connections, key)
    }

    fn median(&self, mesh: &str, connections: Connections, key: &str) -> f64 {
        median(self.samples(mesh, connections).filter_map(|sample| sample[key].as_f64()))
    }

    fn samples(&self, mesh: &str, connections: Connections) -> impl Iterator<Item = &Value> {
        self.0["meshes"][mesh][connections.key()].as_array().into_iter().flatten()
    }

    fn machine(&self) -> &str {
        self.0["machine"].as_str().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_about_medians_of_new_connections() {
        let samples = |rate: [f64; 3], p99: f64| {
            let sample = |rate| json!({ "per_second": rate, "p99_ms": p99 });
            json!({ "new_connection": rate.map(sample), "keep_alive": [] })
        };
        let of = |p99| {
            let meshes = json!({
                "docker": samples([90.0, 100.0, 900.0], 30.0), "mesh_tc": samples([10.0, 310.0, 320.0], p99)
            });
            Report(json!({ "meshes": meshes })).goals()
        };
        let [requests, p99] = of(9.0);
        assert!(requests.contains("3.10x") && requests.ends_with(": met"), "{requests}");
        assert!(p99.contains("0.30x") && p99.ends_with(": met"), "{p99}");
        assert!(of(11.0)[1].ends_with(": missed"));
    }

    #[test]
    fn a_mesh_without_samples_has_no_figure() {
        assert!(Report(json!({})).median("docker", Connections::Kept, "p50_ms").is_nan());
    }
}
