//! The resolver against Docker's, dnsmasq and unbound: the same queries, from the same client, for all of them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use mesh_tests::{
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
    fs::write(&queries, format!("{NAME} A\n{NAME} AAAA\n{NAME}.{NAME} A\n"))?;
    let queries = queries.to_string_lossy().into_owned();
    let measure = |server: &str, process: &Path| load(&place, server, process, &queries, seconds);

    let mut results = BTreeMap::new();
    answered_with(&place, |ttl| ttl < 600)
        .context("the mesh does not answer; deploy it with `lab up --mesh`")?;
    let agent = mesh::agent_container(node)?;
    let process = node.container_process(&agent)?;
    results.insert("mesh", measure("127.0.0.11", &PathBuf::from(format!("/proc/{process}")))?);
    let address = bridge_address(node)?;
    let records = place.address(NAME)?;
    results.insert("dnsmasq", other(node, &address, &dnsmasq(&address, &records), &measure)?);
    results.insert("unbound", other(node, &address, &unbound(&address, &records, &directory)?, &measure)?);
    let dockerd = fs::read_to_string(node.path("/run/docker.pid"))?;
    let dockerd = node.path(&format!("/proc/{}", dockerd.trim()));
    // A stopped agent's heart does not beat, and the hooks let Docker's resolver have the queries.
    node.docker(["kill", "--signal", "STOP", &agent]).quiet().read()?;
    let docker = answered_with(&place, |ttl| ttl == 600).and_then(|()| measure("127.0.0.11", &dockerd));
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

/// Asks as fast as the server answers, from the task's namespace. `process` is the server's folder in /proc.
fn load(place: &Inside<'_>, server: &str, process: &Path, queries: &str, seconds: u64) -> Result<Value> {
    let seconds = seconds.to_string();
    let dnsperf =
        place.command("dnsperf").args(["-s", server, "-d", queries, "-l", &seconds, "-c", "4", "-T", "1"]);
    let before = processor_seconds(process)?;
    // `-v` lists each query with its latency; half of the queries' time would go into that, so it is a run of its own.
    let text = dnsperf.args(["-q", "50"]).quiet().read()?;
    let used = processor_seconds(process)? - before;
    let number = |label: &str| -> Result<f64> {
        let line = text.lines().find(|line| line.trim_start().starts_with(label));
        let word = line.and_then(|line| line.split(':').nth(1)?.split_whitespace().next());
        Ok(word.with_context(|| format!("no {label} in:\n{text}"))?.parse()?)
    };
    let (rate, lost) = (number("Queries per second")?, number("Queries lost")?);
    let each_takes = used / number("Queries completed")?;
    let each = place.command("dnsperf").args(["-s", server, "-d", queries, "-l", "2", "-c", "4", "-T", "1"]);
    let listed = each.args(["-q", "4", "-Q", "1000", "-v"]).quiet().read()?;
    let mut latencies: Vec<f64> = listed.lines().filter_map(latency).collect();
    latencies.sort_unstable_by(f64::total_cmp);
    let at = |part: usize| latencies.get(latencies.len() * part / 100).map(|seconds| seconds * 1e6);
    let mean = latencies.iter().sum::<f64>() / latencies.len() as f64;
    Ok(json!({
        "per_second": rate,
        "lost": lost,
        "mean_us": mean * 1e6,
        "p50_us": at(50),
        "p99_us": at(99),
        "processor_us": each_takes * 1e6,
        "per_processor_second": 1.0 / each_takes,
    }))
}

/// What a process has used of all processors so far, for itself and in the kernel.
fn processor_seconds(process: &Path) -> Result<f64> {
    /// Of /proc, on every architecture.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(process.join("stat"))?;
    // Fields 14 and 15; the second is the program's name in brackets, with whatever is in it.
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.split_whitespace().skip(11).take(2));
    let ticks = fields.into_iter().flatten().map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / TICKS_PER_SECOND)
}

/// From lines like `> NOERROR name A 0.000123`.
fn latency(line: &str) -> Option<f64> {
    line.strip_prefix("> NOERROR")?.split_whitespace().last()?.parse().ok()
}

fn other(
    node: &Node,
    address: &str,
    server: &[String],
    measure: &impl Fn(&str, &Path) -> Result<Value>,
) -> Result<Value> {
    let (program, arguments) = server.split_first().context("no server")?;
    let mut child = node.network_command(program).args(arguments).quiet().spawn()?;
    let ready = wait::for_up_to(std::time::Duration::from_secs(5), program, || {
        let server = format!("@{address}");
        let dig = node.network_command("dig").args([&server, "+short", "+tries=1", "+time=1", NAME]);
        anyhow::ensure!(!dig.quiet().read()?.is_empty(), "no answer");
        Ok(())
    });
    let result = ready.and_then(|()| measure(address, &PathBuf::from(format!("/proc/{}", child.id()))));
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

fn show(results: &BTreeMap<&str, Value>) {
    println!(
        "{:8} {:>10} {:>9} {:>8} {:>8} {:>8} {:>6} {:>9} {:>11} {:>9}",
        "RESOLVER",
        "QUERIES/S",
        "TO DOCKER",
        "MEAN µs",
        "P50 µs",
        "P99 µs",
        "LOST",
        "CPU µs/Q",
        "Q/CPU-S",
        "TO DOCKER"
    );
    for (name, result) in results {
        let number = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
        let to_docker = |key: &str| number(key) / results["docker"][key].as_f64().unwrap_or(f64::NAN);
        println!(
            "{name:8} {:10.0} {:8.2}x {:8.0} {:8.0} {:8.0} {:6.0} {:9.2} {:11.0} {:8.2}x",
            number("per_second"),
            to_docker("per_second"),
            number("mean_us"),
            number("p50_us"),
            number("p99_us"),
            number("lost"),
            number("processor_us"),
            number("per_processor_second"),
            to_docker("per_processor_second")
        );
    }
}

fn save(servers: &BTreeMap<&str, Value>) -> Result<()> {
    const PLOTS: [(&str, &str, &str, &str); 3] = [
        ("dns.svg", "per_second", "Queries answered, one client on the same machine", "1/s"),
        (
            "dns-cpu.svg",
            "per_processor_second",
            "Queries for each second of the server's processor time",
            "1/s",
        ),
        ("dns-p99.svg", "p99_us", "99th percentile of the time to an answer, at 1000 queries a second", "µs"),
    ];
    let machine = machine::describe();
    println!("{machine}");
    let all = json!({ "machine": machine, "resolvers": servers });
    results::save([("dns.json", serde_json::to_string_pretty(&all)?)])?;
    results::save(PLOTS.map(|(name, key, title, unit)| {
        let value = |server: &Value| server[key].as_f64().unwrap_or(f64::NAN);
        let rows: Vec<_> = servers.iter().map(|(name, server)| ((*name).to_owned(), value(server))).collect();
        (name, plot::bars(title, &machine, unit, &rows))
    }))
}
