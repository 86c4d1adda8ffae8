//! A report as tables in Docker's style. Pure.

use std::fmt::Write;

use crate::dns::report::DnsReport;

use super::report::{
    BackendRow, DataplaneReport, HealthReport, NetworkRow, NodeRow, Report, ServiceRow, SourceReport,
};

/// Everything, one table below the other.
pub fn whole(report: &Report) -> String {
    let sections =
        [summary(report), services(&report.services), backends(&report.backends), nodes(&report.nodes)];
    let mut text = sections.join("\n");
    if !report.networks.is_empty() {
        text.push('\n');
        text.push_str(&networks(&report.networks));
    }
    text
}

pub fn services(rows: &[ServiceRow]) -> String {
    let header = ["SERVICE", "FRONTENDS", "MODE", "POLICY", "BACKENDS", "STATUS"];
    let cells = |row: &ServiceRow| {
        [
            row.service.clone(),
            or_dash(&row.frontends.join(" ")),
            row.mode.clone(),
            row.policy.clone(),
            format!("{}/{}", row.backends_active, row.backends_total),
            service_status(row),
        ]
    };
    table(header, rows.iter().map(cells))
}

pub fn backends(rows: &[BackendRow]) -> String {
    let header = [
        "SERVICE", "FRONTEND", "MODE", "POLICY", "TASK", "NODE", "ADDRESS", "STATE", "WEIGHT", "CONNS",
        "NEW/S", "AGE", "TOTAL",
    ];
    let cells = |row: &BackendRow| {
        [
            row.service.clone(),
            row.frontend.clone(),
            row.mode.clone(),
            row.policy.clone(),
            row.task.clone(),
            row.node.clone(),
            row.address.clone(),
            row.state.to_string(),
            row.weight.to_string(),
            row.connections.to_string(),
            format!("{:.1}", row.new_per_second),
            age(row.age_seconds),
            row.connections_total.to_string(),
        ]
    };
    table(header, rows.iter().map(cells))
}

pub fn nodes(rows: &[NodeRow]) -> String {
    let header =
        ["NODE", "ROLE", "STATE", "AVAILABILITY", "ADDRESS", "BACKENDS", "AGENT", "DATAPLANE", "INNER MTU"];
    let cells = |row: &NodeRow| {
        let agent = match row.agent {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        [
            row.node.clone(),
            row.role.clone(),
            row.state.clone(),
            row.availability.clone(),
            or_dash(&row.address),
            row.backends.to_string(),
            agent.to_owned(),
            row.dataplane.clone().unwrap_or_else(|| "-".to_owned()),
            row.inner_mtu.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string()),
        ]
    };
    table(header, rows.iter().map(cells))
}

pub fn networks(rows: &[NetworkRow]) -> String {
    let header = ["NETWORK", "VNI", "SUBNETS", "VIPS", "PORTS", "STATUS"];
    let cells = |row: &NetworkRow| {
        let vips: Vec<_> = row.vips.iter().map(|(address, service)| format!("{address}={service}")).collect();
        [
            row.network.clone(),
            row.vni.to_string(),
            or_dash(&row.subnets.join(" ")),
            or_dash(&vips.join(" ")),
            or_dash(&row.ports.join(" ")),
            row.error.as_ref().map_or_else(|| "ok".to_owned(), |error| format!("error: {error}")),
        ]
    };
    table(header, rows.iter().map(cells))
}

/// Names, and who asked for them.
pub fn dns(report: &DnsReport) -> String {
    let mut text = String::new();
    let listening = report.listening.as_deref().unwrap_or("nowhere: Docker's resolver answers");
    // Writing to a string does not fail.
    let _ = writeln!(text, "Answered at {listening}, for {} containers", report.askers);
    let _ = writeln!(text, "In flight: {}, kept replies: {}", report.in_flight, report.kept);
    for (container, why) in &report.left_to_docker {
        let _ = writeln!(text, "Left to Docker: {container}: {why}");
    }
    let networks = report.networks.iter().map(|row| [row.network.clone(), row.names.to_string()]);
    let queries = report
        .queries
        .iter()
        .map(|row| [row.kind.clone(), row.code.clone(), row.source.clone(), row.count.to_string()]);
    let upstreams = report.upstreams.iter().map(|row| {
        let state = if row.avoided { "avoided" } else { "ok" };
        let round_trip = row.round_trip_seconds.map(|seconds| format!("{:.1}ms", seconds * 1000.0));
        [
            row.server.clone(),
            state.to_owned(),
            row.asked.to_string(),
            row.answered.to_string(),
            row.silent.to_string(),
            or_dash(&round_trip.unwrap_or_default()),
        ]
    });
    text.push('\n');
    text.push_str(&table(["NETWORK", "NAMES"], networks));
    text.push('\n');
    text.push_str(&table(["TYPE", "ANSWER", "SOURCE", "QUERIES"], queries));
    text.push('\n');
    text.push_str(&table(["UPSTREAM", "STATE", "ASKED", "ANSWERED", "SILENT", "ROUND-TRIP"], upstreams));
    text
}

/// How full the table of established flows is, what else is known, and what all tables cost.
fn flows(dataplane: &DataplaneReport) -> String {
    let used = format!("{} of {}", dataplane.flows_used, dataplane.flows_max);
    let tables = &dataplane.flow_tables;
    if tables.is_empty() {
        return used;
    }
    let others = tables.iter().filter(|row| row.table != "flows" && row.entries > 0);
    let parts: Vec<String> =
        std::iter::once(used).chain(others.map(|row| format!("{} {}", row.table, row.entries))).collect();
    let bytes: u64 = tables.iter().map(|row| row.bytes).sum();
    format!("{} ({} MiB)", parts.join(", "), bytes.div_ceil(1 << 20))
}

/// Who and how well, in a few lines, and what is wrong.
pub fn summary(report: &Report) -> String {
    let node = &report.node;
    let dataplane = &report.dataplane;
    // Of the bridge's ports there are as many as containers.
    let ports = dataplane.attachments.iter().filter(|row| row.is_port).count();
    let first_port = dataplane.attachments.iter().position(|row| row.is_port);
    let hooks = dataplane.attachments.iter().enumerate().filter_map(|(place, row)| {
        if row.is_port {
            (first_port == Some(place)).then(|| format!("{ports} of the bridge's ports"))
        } else {
            Some(format!("{} {}", row.interface, row.hook))
        }
    });
    let hooks: Vec<String> = hooks.collect();
    let mut lines = vec![
        ("Node", format!("{} {} (agent {})", node.hostname, or_dash(&node.address), report.agent_version)),
        ("Source", source(&report.source)),
        ("Dataplane", or_dash(&hooks.join(", "))),
    ];
    let without_xdp = dataplane.without_xdp.iter();
    lines.extend(without_xdp.map(|(uplink, why)| ("XDP", format!("{uplink} has TC alone: {why}"))));
    lines.push(("Flows", flows(dataplane)));
    let outcomes: Vec<String> = dataplane
        .outcomes
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(outcome, count)| format!("{outcome} {count}"))
        .collect();
    lines.push(("Packets", or_dash(&outcomes.join(", "))));
    let health =
        [("Swarm", &report.source.swarm), ("Local", &report.source.local), ("Peers", &report.source.peers)];
    for (what, health) in health {
        if let Some(error) = &health.error {
            lines.push(("Error", format!("{what}: {error}")));
        }
    }
    let warnings = report.warnings.iter().chain(&report.source.skipped);
    lines.extend(warnings.map(|warning| ("Warning", warning.clone())));
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:<11}{value}", format!("{name}:"));
        text
    })
}

fn source(source: &SourceReport) -> String {
    let via = source.connected_to.as_deref().map(|via| format!(" via {via}")).unwrap_or_default();
    let changes = match (source.changes.as_str(), &source.changes_error) {
        ("", _) => String::new(),
        (changes, None) => format!(", changes {changes}"),
        (changes, Some(why)) => format!(", changes {changes} ({why})"),
    };
    format!("{}{via}{changes}, {}", source.role, freshness(&source.swarm))
}

fn freshness(health: &HealthReport) -> String {
    match health.age_seconds {
        Some(seconds) => format!("last heard {seconds:.1}s ago"),
        None => "nothing heard yet".into(),
    }
}

fn service_status(row: &ServiceRow) -> String {
    let error = row.error.iter().map(|error| format!("error: {error}"));
    let left = row.left_to_docker.iter().map(|why| format!("left to Docker: {why}"));
    let warnings = row.warnings.iter().map(|warning| format!("warning: {warning}"));
    let all: Vec<String> = error.chain(left).chain(warnings).collect();
    if all.is_empty() { "ok".into() } else { all.join("; ") }
}

/// Two digits are enough: `90s`, `45m`, `7h`, `3d`.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..=119 => format!("{seconds}s"),
        _ if minutes < 120 => format!("{minutes}m"),
        _ if hours < 48 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.to_owned() }
}

/// Columns as wide as their widest cell, three spaces apart.
fn table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) -> String {
    let rows: Vec<[String; COLUMNS]> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    let width = |text: &str| text.chars().count();
    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, widest) in row.iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', widest - width(cell) + 3));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::example;

    #[test]
    fn backends_look_like_this() {
        let expected = "\
SERVICE    FRONTEND   MODE      POLICY        TASK         NODE   ADDRESS         STATE      WEIGHT   CONNS   NEW/S   AGE   TOTAL
shop_web   :80/tcp    ingress   round-robin   shop_web.1   one    10.0.0.5:8080   active     1        3       0.5     90s   1204
shop_web   :80/tcp    ingress   round-robin   shop_web.2   two    10.0.0.6:8080   draining   1        0       0.0     3d    7
";
        assert_eq!(backends(&example().backends), expected);
    }

    #[test]
    fn services_look_like_this() {
        let expected = "\
SERVICE    FRONTENDS          MODE    POLICY        BACKENDS   STATUS
shop_web   :80/tcp :443/tcp   vip     round-robin   1/2        ok
worker     -                  dnsrr   round-robin   0/0        error: no room in the table; warning: label mesh.polcy is not known
";
        assert_eq!(services(&example().services), expected);
    }

    #[test]
    fn nodes_look_like_this() {
        let expected = "\
NODE   ROLE      STATE   AVAILABILITY   ADDRESS     BACKENDS   AGENT   DATAPLANE   INNER MTU
one    manager   ready   active         10.99.0.1   1          yes     -           -
two    worker    down    drain          -           1          no      silent      1350
";
        assert_eq!(nodes(&example().nodes), expected);
    }

    #[test]
    fn the_summary_ends_with_what_is_wrong() {
        let expected = "\
Node:      one 10.99.0.1 (agent 0.1.0)
Source:    manager via /var/run/docker.sock, last heard 0.4s ago
Dataplane: eth0 xdp-native, docker_gwbridge tcx-ingress, 2 of the bridge's ports
XDP:       bond0 has TC alone: XDP is for hardware, not for a bond
Flows:     12 of 131072, opening 7 (3 MiB)
Packets:   forwarded 1000
Error:     Swarm: Docker is away
Warning:   look here
";
        assert_eq!(summary(&example()), expected);
    }

    #[test]
    fn the_summary_says_how_changes_are_learned_of_and_why() {
        let mut report = example();
        report.source.changes = "polled".into();
        report.source.changes_error = Some("no control socket".into());
        let line = "Source:    manager via /var/run/docker.sock, changes polled (no control socket), last heard 0.4s ago\n";
        assert!(summary(&report).contains(line), "{}", summary(&report));
        report.source = SourceReport { changes: "pushed".into(), changes_error: None, ..report.source };
        assert!(summary(&report).contains(", changes pushed, last"));
    }

    #[test]
    fn a_table_without_rows_shows_its_header() {
        assert_eq!(
            nodes(&[]),
            "NODE   ROLE   STATE   AVAILABILITY   ADDRESS   BACKENDS   AGENT   DATAPLANE   INNER MTU\n"
        );
    }

    #[test]
    fn ages_are_short() {
        let ages = [0, 119, 120, 7199, 7200, 172_799, 172_800].map(age);
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    }
}
