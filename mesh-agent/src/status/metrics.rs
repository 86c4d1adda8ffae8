//! Counters for Prometheus: made from the same report that `status` shows. Pure.

use std::fmt::{Display, Write};

use mesh_common::outcome::Outcome;

use super::report::{BackendRow, BackendState, FlowTableRow, Report};

/// The report in Prometheus' text format.
pub fn render(report: &Report) -> String {
    let mut page = Page::default();
    backends(&mut page, report);
    packets(&mut page, report);
    source(&mut page, report);
    names(&mut page, report);
    page.text
}

/// Name, help, and where the value is.
type Counter = (&'static str, &'static str, fn(&BackendRow) -> u64);

fn backends(page: &mut Page, report: &Report) {
    page.family("mesh_backends", "gauge", "Backends by state");
    for state in [BackendState::Active, BackendState::Draining, BackendState::Down] {
        let count = report.backends.iter().filter(|row| row.state == state).count();
        page.sample("mesh_backends", &[("state", &state)], count as f64);
    }
    let counters: [Counter; 3] = [
        ("mesh_connections_total", "Flows given to a backend by this node", |row| row.connections_total),
        ("mesh_packets_total", "Packets from clients to a backend", |row| row.packets_total),
        ("mesh_bytes_total", "Bytes from clients to a backend, IP headers included", |row| row.bytes_total),
    ];
    for (name, help, value) in counters {
        page.family(name, "counter", help);
        for row in &report.backends {
            let (port, protocol) = published(&row.frontend);
            let labels: [(&str, &dyn Display); 6] = [
                ("service_name", &row.service),
                ("frontend", &row.frontend),
                ("published_port", &port),
                ("protocol", &protocol),
                ("node", &row.node),
                ("task", &row.task),
            ];
            page.sample(name, &labels, value(row) as f64);
        }
    }
}

/// `:80/tcp` in its two parts; a virtual address has neither.
fn published(frontend: &str) -> (&str, &str) {
    frontend.strip_prefix(':').and_then(|rest| rest.split_once('/')).unwrap_or(("", ""))
}

type Figure = fn(&FlowTableRow) -> u64;

fn packets(page: &mut Page, report: &Report) {
    let dataplane = &report.dataplane;
    page.family("mesh_outcomes_total", "counter", "Packets and calls of this node, by how they ended");
    for (outcome, count) in &dataplane.outcomes {
        page.sample("mesh_outcomes_total", &[("outcome", outcome)], *count as f64);
    }
    page.family("mesh_drops_total", "counter", "Packets that were dropped, by reason");
    for outcome in Outcome::ALL.iter().filter(|outcome| outcome.is_drop()) {
        let count = dataplane.outcomes.get(outcome.as_str()).copied().unwrap_or(0);
        page.sample("mesh_drops_total", &[("reason", &outcome.as_str())], count as f64);
    }
    let figures: [(&str, &str, Figure); 3] = [
        ("mesh_flows", "Entries of a table of flows", |row| row.entries),
        ("mesh_flows_max", "Entries that a table of flows has room for", |row| row.capacity),
        ("mesh_flow_bytes", "Memory that the kernel accounts for a table of flows", |row| row.bytes),
    ];
    for (name, help, figure) in figures {
        page.family(name, "gauge", help);
        for row in &dataplane.flow_tables {
            page.sample(name, &[("table", &row.table)], figure(row) as f64);
        }
    }
    page.family("mesh_map_update_seconds", "gauge", "How long the last change of the kernel's tables took");
    page.sample("mesh_map_update_seconds", &[], dataplane.update_seconds);
}

fn source(page: &mut Page, report: &Report) {
    let parts =
        [("swarm", &report.source.swarm), ("local", &report.source.local), ("peers", &report.source.peers)];
    page.family(
        "mesh_sync_age_seconds",
        "gauge",
        "Seconds since a part of the Swarm's state was last heard of",
    );
    for (part, health) in parts {
        if let Some(age) = health.age_seconds {
            page.sample("mesh_sync_age_seconds", &[("part", &part)], age);
        }
    }
    page.family("mesh_api_errors_total", "counter", "Failures to learn a part of the Swarm's state");
    for (part, health) in parts {
        page.sample("mesh_api_errors_total", &[("part", &part)], health.errors_total as f64);
    }
}

fn names(page: &mut Page, report: &Report) {
    page.family("mesh_dns_queries_total", "counter", "Queries that were answered");
    for row in &report.dns.queries {
        let labels: [(&str, &dyn Display); 3] =
            [("type", &row.kind), ("rcode", &row.code), ("source", &row.source)];
        page.sample("mesh_dns_queries_total", &labels, row.count as f64);
    }
    page.family("mesh_dns_seconds", "histogram", "How long answers took");
    for row in &report.dns.latencies {
        let mut below = 0;
        for bucket in &row.buckets {
            below += bucket.count;
            let end = bucket.up_to_seconds.map_or_else(|| "+Inf".to_owned(), |end| end.to_string());
            page.sample("mesh_dns_seconds_bucket", &[("source", &row.source), ("le", &end)], below as f64);
        }
        page.sample("mesh_dns_seconds_sum", &[("source", &row.source)], row.seconds);
        page.sample("mesh_dns_seconds_count", &[("source", &row.source)], row.count as f64);
    }
}

/// Text in Prometheus' exposition format.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: f64) {
        self.text.push_str(name);
        for (place, (label, text)) in labels.iter().enumerate() {
            let text = text.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let before = if place == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{text}\"");
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{after} {value}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::status::report::DataplaneReport;

    #[test]
    fn a_report_becomes_samples_with_labels() {
        let report = Report {
            backends: vec![BackendRow {
                service: "we\"b".into(),
                frontend: ":80/tcp".into(),
                task: "web.1".into(),
                node: "node1".into(),
                state: BackendState::Active,
                connections_total: 7,
                ..BackendRow::default()
            }],
            dataplane: DataplaneReport {
                flow_tables: vec![FlowTableRow {
                    table: "opening".into(),
                    entries: 5,
                    capacity: 8,
                    bytes: 4096,
                }],
                outcomes: BTreeMap::from([("unknown_peer".into(), 3)]),
                ..DataplaneReport::default()
            },
            ..Report::default()
        };
        let text = render(&report);
        for line in [
            "# TYPE mesh_connections_total counter",
            "mesh_connections_total{service_name=\"we\\\"b\",frontend=\":80/tcp\",published_port=\"80\",protocol=\"tcp\",node=\"node1\",task=\"web.1\"} 7",
            "mesh_backends{state=\"active\"} 1",
            "mesh_backends{state=\"down\"} 0",
            "mesh_drops_total{reason=\"unknown_peer\"} 3",
            "mesh_flows{table=\"opening\"} 5",
            "mesh_flows_max{table=\"opening\"} 8",
            "mesh_flow_bytes{table=\"opening\"} 4096",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
        }
    }
}
