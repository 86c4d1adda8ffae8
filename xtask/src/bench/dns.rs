//! The resolver against Docker's, dnsmasq and unbound: the same questions, from the same clients, for all of them.
//!
//! How many questions are answered is asked by a client of our own, which spends little time on itself (`mesh-workload
//! names`); and by dnsperf, whose threads take longer for a question than a fast resolver does. How long an answer takes is
//! told by dnsperf, at a thousand a second.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::Answers,
    inside::{Inside, Network},
    lab::{Lab, Node},
    mesh,
    service::Spec,
    wait,
};
use serde_json::{Value, json};

use super::{machine, plot, results};

const NAME: &str = "bench-dns";

pub(super) fn run(lab: &Lab, seconds: u64) -> Result<()> {
    let net = Network::create(lab, NAME, &[])?;
    let service = Spec::workload(NAME).replicas(3).option(&net.option()).create(lab)?;
    let task = service.tasks()?.into_iter().next().context("no task")?;
    let place = Inside::task(lab, &service, &task)?;
    let node = place.node;
    let directory = results::folder()?;
    let queries = directory.join("queries.txt");
    fs::write(&queries, format!("{NAME} A\n{NAME} AAAA\n{NAME}.{NAME} A\n{NAME}.{NAME} AAAA\n"))?;
    let queries = queries.to_string_lossy().into_owned();
    let measure = |server: &str| load(&place, server, &queries, seconds);

    let mut results = BTreeMap::new();
    answered_with(&place, |ttl| ttl < 600).context("the mesh does not answer")?;
    let agent = mesh::agent_container(node)?;
    results.insert("mesh", measure("127.0.0.11")?);
    let address = bridge_address(node)?;
    let records = place.address(NAME)?;
    results.insert("dnsmasq", other(node, &address, &dnsmasq(&address, &records), &measure)?);
    results.insert("unbound", other(node, &address, &unbound(&address, &records, &directory)?, &measure)?);
    // A stopped agent's heart does not beat, and the hooks let Docker's resolver have the queries.
    node.docker(["kill", "--signal", "STOP", &agent]).quiet().read()?;
    let docker = answered_with(&place, |ttl| ttl == 600).and_then(|()| measure("127.0.0.11"));
    node.docker(["kill", "--signal", "CONT", &agent]).quiet().read()?;
    results.insert("docker", docker?);

    show(&results);
    save(&results)
}

/// Waits until whoever answers gives its answers a time to live like this.
fn answered_with(place: &Inside<'_>, expected: impl Fn(u32) -> bool) -> Result<()> {
    wait::for_up_to(std::time::Duration::from_secs(10), "the right resolver answers", || {
        let dig = mesh_tests::dig::Dig::ask(place, &["+time=1", NAME])?;
        anyhow::ensure!(dig.answers.first().is_some_and(|record| expected(record.ttl)), "{dig:?}");
        Ok(())
    })
}

/// Asks from the task's namespace: as fast as the server answers, and then a thousand times a second.
fn load(place: &Inside<'_>, server: &str, queries: &str, seconds: u64) -> Result<Value> {
    let seconds = seconds.to_string();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let target = format!("{server}:53");
    let (name, qualified) = (NAME.to_owned(), format!("{NAME}.{NAME}"));
    let before = machine::seconds()?;
    let answers: Answers =
        place.run(&["names", &target, &name, &qualified, "--seconds", &seconds, "--threads", &threads])?;
    let used = machine::seconds()? - before;
    ensure!(answers.refused == 0 && answers.answered > 0, "{server} does not answer: {answers:?}");

    let dnsperf = || place.command("dnsperf").args(["-s", server, "-d", queries, "-c", "4", "-T", "1"]);
    let text = dnsperf().args(["-l", &seconds, "-q", "50"]).quiet().read()?;
    let line = text.lines().find(|line| line.trim_start().starts_with("Queries per second"));
    let rate = line.and_then(|line| line.split(':').nth(1)?.split_whitespace().next());
    let by_dnsperf: f64 = rate.with_context(|| format!("no rate in:\n{text}"))?.parse()?;
    // `-v` lists each query with its latency.
    let listed = dnsperf().args(["-l", "2", "-q", "4", "-Q", "1000", "-v"]).quiet().read()?;
    let mut latencies: Vec<f64> = listed.lines().filter_map(latency).collect();
    latencies.sort_unstable_by(f64::total_cmp);
    let at = |part: usize| latencies.get(latencies.len() * part / 100).map(|seconds| seconds * 1e6);
    let mean = latencies.iter().sum::<f64>() / latencies.len() as f64;
    Ok(json!({
        "per_second": answers.answered as f64 / answers.seconds,
        "lost": answers.lost,
        "by_dnsperf": by_dnsperf,
        "mean_us": mean * 1e6,
        "p50_us": at(50),
        "p99_us": at(99),
        "processor_us": used * 1e6 / answers.answered as f64,
    }))
}

/// From lines like `> NOERROR name A 0.000123`.
fn latency(line: &str) -> Option<f64> {
    line.strip_prefix("> NOERROR")?.split_whitespace().last()?.parse().ok()
}

fn other(
    node: &Node,
    address: &str,
    server: &[String],
    measure: &impl Fn(&str) -> Result<Value>,
) -> Result<Value> {
    let (program, arguments) = server.split_first().context("no server")?;
    let mut child = node.network_command(program).args(arguments).quiet().spawn()?;
    let ready = wait::for_up_to(std::time::Duration::from_secs(5), program, || {
        let server = format!("@{address}");
        let dig = node.network_command("dig").args([&server, "+short", "+tries=1", "+time=1", NAME]);
        anyhow::ensure!(!dig.quiet().read()?.is_empty(), "no answer");
        Ok(())
    });
    let result = ready.and_then(|()| measure(address));
    child.kill()?;
    child.wait()?;
    result
}

/// Of docker_gwbridge, where tasks reach their node.
fn bridge_address(node: &Node) -> Result<String> {
    let show =
        node.network_command("ip").args(["-4", "-o", "addr", "show", "docker_gwbridge"]).quiet().read()?;
    let address = show.split_whitespace().nth(3).and_then(|word| word.split('/').next());
    Ok(address.with_context(|| format!("no address in {show}"))?.into())
}

fn dnsmasq(address: &str, record: &str) -> Vec<String> {
    let names = format!("--host-record={NAME},{NAME}.{NAME},{record}");
    ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root"]
        .map(String::from)
        .into_iter()
        .chain(["--conf-file=/dev/null".into(), "--pid-file".into(), "--dns-forward-max=1000".into()])
        .chain([format!("--listen-address={address}"), "--except-interface=lo".into(), names])
        .chain([format!("--local=/{NAME}/")])
        .collect()
}

fn unbound(address: &str, record: &str, directory: &Path) -> Result<Vec<String>> {
    let file = directory.join("unbound.conf");
    fs::write(
        &file,
        format!(
            "server:\n interface: {address}\n access-control: 0.0.0.0/0 allow\n do-daemonize: no\n username: \"\"\n \
             chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n module-config: \"iterator\"\n local-zone: \".\" static\n \
             local-data: \"{NAME}. A {record}\"\n local-data: \"{NAME}.{NAME}. A {record}\"\n\
             remote-control:\n control-enable: no\n"
        ),
    )?;
    Ok(vec!["unbound".into(), "-d".into(), "-c".into(), file.to_string_lossy().into_owned()])
}

/// Design §10, against Docker's resolver.
const MORE_ANSWERS: f64 = 3.0;

/// A figure of a resolver.
fn figure(results: &BTreeMap<&str, Value>, resolver: &str, key: &str) -> f64 {
    results.get(resolver).and_then(|result| result[key].as_f64()).unwrap_or(f64::NAN)
}

fn goals(results: &BTreeMap<&str, Value>) -> [String; 2] {
    let word = |met: bool| if met { "met" } else { "missed" };
    let times = figure(results, "mesh", "per_second") / figure(results, "docker", "per_second");
    let (p99, mean) = (figure(results, "mesh", "p99_us"), figure(results, "docker", "mean_us"));
    [
        format!(
            "Answers a second: {times:.2}x Docker's (goal: {MORE_ANSWERS:.0}x or more): {}",
            word(times >= MORE_ANSWERS)
        ),
        format!(
            "99th percentile: {p99:.0} µs (goal: below Docker's mean of {mean:.0}): {}",
            word(p99 < mean)
        ),
    ]
}

fn show(results: &BTreeMap<&str, Value>) {
    println!(
        "{:8} {:>10} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8} {:>6} {:>9}",
        "RESOLVER",
        "ANSWERS/S",
        "TO DOCKER",
        "DNSPERF/S",
        "TO DOCKER",
        "MEAN µs",
        "P50 µs",
        "P99 µs",
        "LOST",
        "CPU µs/Q"
    );
    for name in results.keys() {
        let number = |key: &str| figure(results, name, key);
        let to_docker = |key: &str| number(key) / figure(results, "docker", key);
        println!(
            "{name:8} {:10.0} {:8.2}x {:9.0} {:8.2}x {:8.0} {:8.0} {:8.0} {:6.0} {:9.2}",
            number("per_second"),
            to_docker("per_second"),
            number("by_dnsperf"),
            to_docker("by_dnsperf"),
            number("mean_us"),
            number("p50_us"),
            number("p99_us"),
            number("lost"),
            number("processor_us"),
        );
    }
    println!(
        "ANSWERS/S to a client of our own that sends and reads many questions in one call, DNSPERF/S to dnsperf with one pair\n\
         of threads, LOST of the former. Latencies are dnsperf's at 1000 questions a second. CPU is the whole machine's for\n\
         an answer, the client of our own included."
    );
    for goal in goals(results) {
        println!("{goal}");
    }
}

fn save(servers: &BTreeMap<&str, Value>) -> Result<()> {
    const PLOTS: [(&str, &str, &str, &str); 3] = [
        ("dns.svg", "per_second", "Questions answered, client and resolver on one machine", "1/s"),
        ("dns-cpu.svg", "processor_us", "Processor time for an answer, client included", "µs"),
        (
            "dns-p99.svg",
            "p99_us",
            "99th percentile of the time to an answer, at 1000 questions a second",
            "µs",
        ),
    ];
    let machine = machine::describe();
    println!("{machine}");
    let all = json!({ "machine": machine, "resolvers": servers, "goals": goals(servers) });
    results::save([("dns.json", serde_json::to_string_pretty(&all)?)])?;
    results::save(PLOTS.map(|(name, key, title, unit)| {
        let rows: Vec<_> =
            servers.keys().map(|name| ((*name).to_owned(), figure(servers, name, key))).collect();
        (name, plot::bars(title, &machine, unit, &rows))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_compare_the_mesh_with_docker() {
        let of = |per_second: f64, p99: f64| {
            let mesh = json!({ "per_second": per_second, "p99_us": p99 });
            goals(&BTreeMap::from([
                ("mesh", mesh),
                ("docker", json!({ "per_second": 100.0, "mean_us": 60.0 })),
            ]))
        };
        assert!(of(300.0, 59.0).iter().all(|goal| goal.ends_with(": met")));
        assert!(of(299.0, 60.0).iter().all(|goal| goal.ends_with(": missed")));
    }
}
