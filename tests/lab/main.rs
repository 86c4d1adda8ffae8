//! Scenarios on a real Swarm with the mesh on it. One lab serves all; they run one after the other, and each leaves the
//! lab as it found it. Arguments select scenarios by a part of their name; `--list` shows them; `--up` takes the lab that
//! is up, with the mesh that is on it, and leaves it up.

mod agent;
mod balance;
mod change;
mod deaths;
mod flood;
mod flows;
mod forged;
mod host;
mod load;
mod managers;
mod names;
mod nodes;
mod peers;
mod policies;
mod support;
mod tunnel;
mod uninstall;
mod untouched;
mod updates;
mod upstreams;
mod vip;
mod xdp;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Result, anyhow};
use mesh_tests::{
    interrupt,
    lab::{Lab, Lock, Shape},
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
    forged::SCENARIOS,
    vip::SCENARIOS,
    names::SCENARIOS,
    upstreams::SCENARIOS,
    change::SCENARIOS,
    policies::SCENARIOS,
    updates::SCENARIOS,
    deaths::SCENARIOS,
    agent::SCENARIOS,
    nodes::SCENARIOS,
    xdp::SCENARIOS,
    flood::SCENARIOS,
    peers::SCENARIOS,
    managers::SCENARIOS,
    uninstall::SCENARIOS,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let scenarios: Vec<&Scenario> =
        SUITES.iter().copied().flatten().filter(|(name, _)| wanted(name)).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in &scenarios {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let up = arguments.iter().any(|argument| argument == "--up");
    match if up { run_on_what_is_up(&scenarios) } else { run_all(&scenarios) } {
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
fn run_all(scenarios: &[&Scenario]) -> Result<usize> {
    let images = mesh::build_all()?;
    let _lock = Lock::take()?;
    interrupt::catch();
    let outcome = prepare(&images).map(|lab| run(scenarios, &lab));
    let down = Lab::down();
    outcome.and_then(|failed| down.map(|()| failed))
}

fn run_on_what_is_up(scenarios: &[&Scenario]) -> Result<usize> {
    let _lock = Lock::take()?;
    interrupt::catch();
    Ok(run(scenarios, &Lab::open()?))
}

fn run(scenarios: &[&Scenario], lab: &Lab) -> usize {
    let begin = Instant::now();
    let failed: Vec<&str> =
        scenarios.iter().filter(|scenario| !holds(scenario, lab)).map(|(name, _)| *name).collect();
    println!("\n{:.0} s in all", begin.elapsed().as_secs_f64());
    for name in &failed {
        println!("failed: {name}");
    }
    println!("{} passed, {} failed", scenarios.len() - failed.len(), failed.len());
    failed.len()
}

fn prepare(images: &[std::path::PathBuf]) -> Result<Lab> {
    let lab = Lab::fresh(Shape::default())?;
    mesh::load(&lab, images)?;
    uninstall::remember(&lab)?;
    mesh::deploy(&lab)?;
    Ok(lab)
}

fn holds((name, check): &Scenario, lab: &Lab) -> bool {
    println!("----  {name}");
    let begin = Instant::now();
    let outcome = if interrupt::happened() {
        Err(anyhow!("interrupted"))
    } else {
        // A panic is a failure like any other; the lab is repaired by the scenario's own guards.
        catch_unwind(AssertUnwindSafe(|| check(lab))).unwrap_or_else(|_| Err(anyhow!("it panicked")))
    };
    let seconds = begin.elapsed().as_secs_f64();
    match &outcome {
        Ok(()) => println!("PASS  {name} ({seconds:.1} s)"),
        Err(error) => println!("FAIL  {name} ({seconds:.1} s): {error:#}\n{}", mesh::evidence(lab)),
    }
    outcome.is_ok()
}
