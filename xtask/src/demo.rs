//! `cargo xtask demo`: from a bare machine to a published nginx on a three-node Swarm, served by the mesh.

use std::{
    process::exit,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use mesh_tests::{
    client::{At, Report},
    interrupt,
    lab::{CLIENT, Lab, Lock, Shape},
    mesh,
    service::{Service, Spec},
    wait,
};

use crate::setup::{self, Set, docker};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Ends after the checks, with 0 when all hold and 1 when one does not; else stays up until Ctrl-C
    #[arg(long)]
    once: bool,
}

const REPLICAS: usize = 5;
const REQUESTS: u64 = 20;

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Set::Build, Set::Lab])?;
    let _lock = Lock::take()?;
    interrupt::catch();
    let result = show(args.once);
    let down = Lab::down();
    if interrupt::happened() {
        down?;
        exit(i32::from(args.once));
    }
    result.and(down)
}

fn show(once: bool) -> Result<()> {
    title("The images: the agent, and a real nginx");
    let images = mesh::build_all()?;

    let begin = Instant::now();
    title("A three-node Swarm on this machine");
    let lab = Lab::fresh(Shape { docker: docker::newest(), ..Shape::default() })?;
    let (nodes, version) = (lab.nodes.len(), lab.docker_version()?);
    println!("{nodes} nodes with Docker {version} are up after {:.1} s", begin.elapsed().as_secs_f64());

    title("The mesh, deployed as a global service");
    mesh::load(&lab, &images)?;
    mesh::deploy(&lab)?;
    lab.docker(["service", "ls"]).run()?;

    title("A published service of five nginx");
    let service = Spec::nginx("web").replicas(REPLICAS).publish("80:80").create(&lab)?;
    for task in service.tasks()? {
        println!("  {}  on {}", task.name, task.node);
    }

    let checked = check(&lab, &service);
    title("What the agents say");
    for node in &lab.nodes {
        mesh::agent(node, &["status"])?.run()?;
    }
    if let Err(error) = &checked {
        eprintln!("{}", mesh::logs(&lab));
        println!("\nFAILED: {error:#}");
    } else {
        println!("\nAll checks hold.");
    }
    if !once {
        stay(&lab);
    }
    checked
}

fn check(lab: &Lab, service: &Service<'_>) -> Result<()> {
    title(&format!("{REQUESTS} requests from {CLIENT} to each node"));
    wait_until_live(lab)?;
    for node in &lab.nodes {
        let target = format!("{}:80", node.address);
        let report: Report = At::Client.run(&["get", &target, "--count", &REQUESTS.to_string()])?;
        let balance: Vec<String> =
            report.tasks.iter().map(|(task, count)| format!("{task} ×{count}")).collect();
        println!("  {} ({target})   {}", node.name, balance.join("  "));
        ensure!(
            report.failed == 0,
            "{} of {REQUESTS} requests to {} failed: {:?}",
            report.failed,
            node.name,
            report.errors
        );
        ensure!(report.imbalance(REPLICAS) <= 1, "{} does not spread evenly: {:?}", node.name, report.tasks);
    }

    title("Whom nginx saw");
    let mut clients: Vec<(String, usize)> = Vec::new();
    for line in service.logs()?.lines().filter(|line| line.contains("\"GET ")) {
        let address = line.split(':').next().unwrap_or_default().to_owned();
        match clients.iter_mut().find(|(known, _)| *known == address) {
            Some((_, count)) => *count += 1,
            None => clients.push((address, 1)),
        }
    }
    for (address, count) in &clients {
        println!("  {address} ×{count}");
    }
    let wanted = usize::try_from(REQUESTS)? * lab.nodes.len();
    ensure!(
        clients == [(CLIENT.to_owned(), wanted)],
        "nginx was to see {CLIENT}, {wanted} times, and nobody else"
    );

    title("From the nodes themselves");
    for node in &lab.nodes {
        println!("  {}: curl localhost → {}", node.name, At::Node(node).curl("http://localhost/")?);
    }
    Ok(())
}

/// All tasks run; the tables of all nodes follow in a moment, and then the balance is exact. A node that has been probed before
/// its agent was there gets nothing new for a second.
fn wait_until_live(lab: &Lab) -> Result<()> {
    for node in &lab.nodes {
        wait::for_up_to(
            Duration::from_secs(10),
            &format!("{} knows {REPLICAS} active backends", node.name),
            || {
                let status = mesh::status(node)?;
                let backends = status["backends"].as_array().into_iter().flatten();
                let active = backends.filter(|backend| backend["state"] == "active").count();
                ensure!(active == REPLICAS, "{active} are active: {}", status["backends"]);
                Ok(())
            },
        )?;
    }
    Ok(())
}

fn stay(lab: &Lab) {
    title("Yours until Ctrl-C");
    println!("  ip netns exec fabric curl http://{}/", lab.manager().address);
    println!("  cargo xtask lab docker node1 -- service scale web=8");
    println!("  cargo xtask lab exec node2 -- curl localhost");
    while !interrupt::happened() {
        thread::sleep(Duration::from_millis(200));
    }
}

fn title(text: &str) {
    println!("\n\x1b[1m{text}\x1b[0m");
}
