//! Scenarios on a real Swarm with the mesh on it. One lab serves all, and each leaves it as it found it; those that do not
//! disturb each other run side by side (`selection.rs`). Arguments select scenarios by a part of their name; `--list` shows
//! them; `--up` takes the lab that is up, with the mesh that is on it, and leaves it up.

mod agent;
mod balance;
mod bridged;
mod canary;
mod change;
mod deaths;
mod evidence;
mod firewall;
mod flood;
mod flows;
mod forged;
mod host;
mod ingress;
mod load;
mod managers;
mod names;
mod nodes;
mod peers;
mod policies;
mod promises;
mod runner;
mod selection;
mod stack_file;
mod support;
mod tables;
mod tunnel;
mod uninstall;
mod untouched;
mod updates;
mod upgrade;
mod upstreams;
mod vip;
mod xdp;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Parser;
use mesh_tests::{
    interrupt,
    lab::{Docker, Lab, Lock, Shape},
    mesh,
};

/// A sentence that is true of the mesh, and what proves it.
type Scenario = (&'static str, fn(&Lab) -> Result<()>);

/// In the order in which they run: what all rest on first, what shakes the Swarm itself late, and the end of the mesh last.
const SUITES: &[&[Scenario]] = &[
    balance::SCENARIOS,
    flows::SCENARIOS,
    host::SCENARIOS,
    untouched::SCENARIOS,
    tunnel::SCENARIOS,
    bridged::SCENARIOS,
    forged::SCENARIOS,
    vip::SCENARIOS,
    names::SCENARIOS,
    upstreams::SCENARIOS,
    change::SCENARIOS,
    policies::SCENARIOS,
    promises::SCENARIOS,
    updates::SCENARIOS,
    deaths::SCENARIOS,
    agent::SCENARIOS,
    stack_file::SCENARIOS,
    nodes::SCENARIOS,
    xdp::SCENARIOS,
    flood::SCENARIOS,
    firewall::SCENARIOS,
    peers::SCENARIOS,
    managers::SCENARIOS,
    ingress::SCENARIOS,
    upgrade::SCENARIOS,
    uninstall::SCENARIOS,
];

/// Scenarios on a real Swarm with the mesh on it.
#[derive(Parser)]
#[expect(clippy::struct_excessive_bools, reason = "they are the flags of a command line")]
struct Options {
    /// Only scenarios whose name contains one of these
    filters: Vec<String>,
    /// Only those that are called exactly so
    #[arg(long)]
    exact: bool,
    /// Only those that carry the rest
    #[arg(long)]
    carrying: bool,
    /// Shows them and runs none
    #[arg(long)]
    list: bool,
    /// Takes the lab that is up, with the mesh that is on it, and leaves it up
    #[arg(long, conflicts_with = "docker")]
    up: bool,
    /// What Docker the nodes run
    #[arg(long, value_enum, default_value_t)]
    docker: Docker,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        let matches = |filter: &String| if self.exact { name == filter } else { name.contains(filter) };
        let named = self.filters.is_empty() || self.filters.iter().any(matches);
        named && (!self.carrying || selection::carries(name))
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = selection::check() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let scenarios: Vec<&Scenario> =
        SUITES.iter().copied().flatten().filter(|(name, _)| options.wants(name)).collect();
    if options.list {
        for (name, _) in &scenarios {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if scenarios.is_empty() {
        eprintln!("no scenario's name has {:?} in it; `--list` shows them", options.filters);
        return ExitCode::FAILURE;
    }
    match if options.up { run_on_what_is_up(&scenarios) } else { run_all(&scenarios, options.docker) } {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!(
                "FAIL  the lab comes up with the mesh on it: {error:#}\n0 passed, {} failed",
                scenarios.len()
            );
            ExitCode::FAILURE
        }
    }
}

/// Returns how many failed.
fn run_all(scenarios: &[&Scenario], docker: Docker) -> Result<usize> {
    let images = mesh::build_all()?;
    if scenarios.iter().any(|(name, _)| upgrade::SCENARIOS.iter().any(|(own, _)| name == own)) {
        upgrade::begin_to_build_the_version_before();
    }
    let _lock = Lock::take()?;
    interrupt::catch();
    let outcome = prepare(&images, docker).and_then(|lab| run(scenarios, &lab));
    let down = Lab::down();
    outcome.and_then(|failed| down.map(|()| failed))
}

fn run_on_what_is_up(scenarios: &[&Scenario]) -> Result<usize> {
    let _lock = Lock::take()?;
    interrupt::catch();
    run(scenarios, &Lab::open()?)
}

fn run(scenarios: &[&Scenario], lab: &Lab) -> Result<usize> {
    let version = lab.docker_version()?;
    println!("{} scenarios with Docker {version}", scenarios.len());
    evidence::clear(lab.shape.docker)?;
    evidence::keep();
    let _recorded = evidence::record()?;
    let begin = Instant::now();
    let outcomes = runner::run(scenarios, lab);
    let seconds = begin.elapsed().as_secs_f64();
    runner::save(&outcomes, lab.shape.docker, &version, seconds)?;
    println!("\n{seconds:.0} s in all");
    runner::show(&outcomes);
    Ok(outcomes.iter().filter(|outcome| outcome.error.is_some()).count())
}

fn prepare(images: &[PathBuf], docker: Docker) -> Result<Lab> {
    let lab = Lab::fresh(Shape { docker, ..Shape::default() })?;
    mesh::load(&lab, images)?;
    uninstall::remember(&lab)?;
    mesh::deploy(&lab)?;
    Ok(lab)
}
