//! `cargo xtask bench`: how fast it is, against what it replaces, on the lab that is up.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use clap::Subcommand;
use mesh_tests::{
    inside::{Inside, Network},
    lab::{Lab, Lock, Node},
    mesh, paths,
    service::Spec,
    wait,
};
use serde_json::{Value, json};

use crate::setup::{self, Set};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Queries per second and latencies of the resolver, against Docker's, dnsmasq and unbound
    Dns {
        /// Seconds for each server
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Set::Lab, Set::Bench])?;
    let _lock = Lock::take()?;
    let Command::Dns { seconds } = args.command;
    dns(&Lab::open()?, seconds)
}

const NAME: &str = "bench-dns";

fn dns(lab: &Lab, seconds: u64) -> Result<()> {
    let net = Network::create(lab, NAME, &[])?;
    let service = Spec::workload(NAME).replicas(3).option(&net.option()).create(lab)?;
    let task = service.tasks()?.into_iter().next().context("no task")?;
    let place = Inside::task(lab, &service, &task)?;
    let node = place.node;
    let directory = paths::target().join("bench");
    fs::create_dir_all(&directory)?;
    let queries = directory.join("queries.txt");
    fs::write(&queries, format!("{NAME} A\n{NAME} AAAA\n{NAME}.{NAME} A\n"))?;
    let queries = queries.to_string_lossy().into_owned();
    let measure = |server: &str| load(&place, server, &queries, seconds);

    let mut results = BTreeMap::new();
    answered_with(&place, |ttl| ttl < 600)
        .context("the mesh does not answer; deploy it with `lab up --mesh`")?;
    results.insert("mesh", measure("127.0.0.11")?);
    let address = bridge_address(node)?;
    let records = place.address(NAME)?;
    results.insert("dnsmasq", other(node, &address, &dnsmasq(&address, &records), &measure)?);
    results.insert("unbound", other(node, &address, &unbound(&address, &records, &directory)?, &measure)?);
    // A stopped agent's heart does not beat, and the hooks let Docker's resolver have the queries.
    let agent = mesh::agent_container(node)?;
    node.docker(["kill", "--signal", "STOP", &agent]).quiet().read()?;
    let docker = answered_with(&place, |ttl| ttl == 600).and_then(|()| measure("127.0.0.11"));
    node.docker(["kill", "--signal", "CONT", &agent]).quiet().read()?;
    results.insert("docker", docker?);

    show(&results);
    let file = directory.join("dns.json");
    fs::write(&file, serde_json::to_string_pretty(&results)?)?;
    println!("written to {}", file.strip_prefix(paths::root()).unwrap_or(&file).display());
    Ok(())
}

/// Waits until whoever answers gives its answers a time to live like this.
fn answered_with(place: &Inside<'_>, expected: impl Fn(u32) -> bool) -> Result<()> {
    wait::for_up_to(std::time::Duration::from_secs(10), "the right resolver answers", || {
        let dig = mesh_tests::dig::Dig::ask(place, &["+time=1", NAME])?;
        anyhow::ensure!(dig.answers.first().is_some_and(|record| expected(record.ttl)), "{dig:?}");
        Ok(())
    })
}

/// Asks as fast as the server answers, from the task's namespace.
fn load(place: &Inside<'_>, server: &str, queries: &str, seconds: u64) -> Result<Value> {
    let seconds = seconds.to_string();
    let dnsperf =
        place.command("dnsperf").args(["-s", server, "-d", queries, "-l", &seconds, "-c", "4", "-T", "1"]);
    // `-v` lists each query with its latency; half of the queries' time would go into that, so it is a run of its own.
    let text = dnsperf.args(["-q", "50"]).quiet().read()?;
    let number = |label: &str| -> Result<f64> {
        let line = text.lines().find(|line| line.trim_start().starts_with(label));
        let word = line.and_then(|line| line.split(':').nth(1)?.split_whitespace().next());
        Ok(word.with_context(|| format!("no {label} in:\n{text}"))?.parse()?)
    };
    let (rate, lost) = (number("Queries per second")?, number("Queries lost")?);
    let each = place.command("dnsperf").args(["-s", server, "-d", queries, "-l", "2", "-c", "4", "-T", "1"]);
    let listed = each.args(["-q", "4", "-Q", "1000", "-v"]).quiet().read()?;
    let mut latencies: Vec<f64> = listed.lines().filter_map(latency).collect();
    latencies.sort_unstable_by(f64::total_cmp);
    let at = |part: usize| latencies.get(latencies.len() * part / 100).map(|seconds| seconds * 1e6);
    Ok(json!({ "per_second": rate, "lost": lost, "p50_us": at(50), "p99_us": at(99) }))
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

fn unbound(address: &str, record: &str, directory: &std::path::Path) -> Result<Vec<String>> {
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
    let docker = results["docker"]["per_second"].as_f64().unwrap_or(1.0);
    println!(
        "{:10} {:>12} {:>10} {:>10} {:>8} {:>12}",
        "RESOLVER", "QUERIES/S", "P50 µs", "P99 µs", "LOST", "TO DOCKER'S"
    );
    for (name, result) in results {
        let number = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
        println!(
            "{name:10} {:12.0} {:10.0} {:10.0} {:8.0} {:11.2}x",
            number("per_second"),
            number("p50_us"),
            number("p99_us"),
            number("lost"),
            number("per_second") / docker
        );
    }
}
