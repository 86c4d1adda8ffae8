//! In a virtual machine whose kernel is as Docker's hosts have it (`cargo xtask test vm` boots it): a Swarm of three nodes,
//! AppArmor enforced, and Docker's own mesh, which serves there, before, beside and after ours. The checks run one after the
//! other in this order; each brings the agents into the state that it is about. Arguments select checks by a part of
//! their name; `--list` shows them. Nothing is cleaned up at the end: the machine ends then.

mod encrypted;
mod filters;
mod handover;
mod swarm;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Result, anyhow, ensure};
use mesh_tests::{
    mesh,
    vm::{self, GUEST, Mesh},
};

use self::swarm::{PORT, PORT_BESIDE, Swarm, Tc, Xdp};

/// A sentence that is true of the mesh, and what proves it.
type Check = (&'static str, fn(&Swarm) -> Result<()>);

const CHECKS: &[Check] = &[
    ("Docker's own mesh serves before there are agents", before),
    ("AppArmor's docker-default confines the tasks of services", tasks_are_confined),
    (
        "connections stay with the mesh that carries them when ours comes, and when it goes",
        handover::cuts_nothing,
    ),
    ("the stack's agents run confined by docker-default", agents_are_confined),
    ("this kernel takes the programs of TC, of overlays and of sockets", programs_are_loaded),
    ("the mesh serves, attached in the way that is this kernel's", ours_serves),
    ("Docker's own mesh serves a disabled service beside ours", beside),
    ("tasks reach a service on an encrypted network by its name and its virtual address", encrypted::works),
    ("Docker's own mesh serves after `mesh-agent uninstall`, with the agents still running", uninstalled),
    ("Docker's own mesh serves after the agents' service is removed", removed),
    (
        "a node with an operator's filter leaves published ports to Docker's own mesh until told otherwise",
        filters::hold,
    ),
    ("the mesh serves by XDP and clsact", by_xdp_and_clsact),
    ("the mesh serves on without agents", without_agents),
    ("Docker's own mesh serves after `mesh-agent uninstall` without any agent", uninstalled_without_agents),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let checks: Vec<&Check> = CHECKS.iter().filter(|(name, _)| wanted(name)).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in &checks {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if env::var_os(GUEST).is_none() {
        eprintln!("this would change the machine's modules and settings: run `cargo xtask test vm`");
        return ExitCode::from(2);
    }
    let failed = match vm::prepare().and_then(|()| Swarm::up()) {
        Ok(swarm) => checks.iter().filter(|check| !holds(check, &swarm)).count(),
        Err(error) => {
            println!("FAIL  a Swarm comes up: {error:#}");
            checks.len()
        }
    };
    println!("{} passed, {failed} failed", checks.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn holds((name, check): &Check, swarm: &Swarm) -> bool {
    println!("----  {name}");
    let begin = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| check(swarm)));
    let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked")));
    let seconds = begin.elapsed().as_secs_f64();
    match &outcome {
        Ok(()) => println!("PASS  {name} ({seconds:.1} s)"),
        Err(error) => println!("FAIL  {name} ({seconds:.1} s): {error:#}\n{}", mesh::evidence(swarm.lab)),
    }
    outcome.is_ok()
}

fn before(swarm: &Swarm) -> Result<()> {
    swarm.without_agents()?;
    swarm.serves(Mesh::Dockers, PORT)?;
    swarm.serves(Mesh::Dockers, PORT_BESIDE)
}

fn tasks_are_confined(swarm: &Swarm) -> Result<()> {
    for node in &swarm.lab.nodes {
        let options = node.docker(["info", "--format", "{{.SecurityOptions}}"]).quiet().read()?;
        ensure!(options.contains("name=apparmor"), "Docker on {} knows no AppArmor: {options}", node.name);
    }
    for task in swarm.web.tasks()? {
        swarm::is_confined(swarm.lab.node(&task.node)?, &swarm.web.container(&task)?)?;
    }
    Ok(())
}

fn agents_are_confined(swarm: &Swarm) -> Result<()> {
    swarm.with_agents(Tc::Auto, Xdp::Off)?;
    swarm.lab.nodes.iter().try_for_each(|node| swarm::is_confined(node, &mesh::agent_container(node)?))
}

fn programs_are_loaded(swarm: &Swarm) -> Result<()> {
    swarm.with_agents(Tc::Auto, Xdp::Off)?;
    swarm::holds_programs(Xdp::Off)
}

fn ours_serves(swarm: &Swarm) -> Result<()> {
    swarm.with_agents(Tc::Auto, Xdp::Off)?;
    swarm.serves(Mesh::Ours, PORT)?;
    swarm.is_attached(if swarm::has_tcx()? { "tcx-ingress" } else { "clsact-ingress" })
}

fn beside(swarm: &Swarm) -> Result<()> {
    swarm.with_agents(Tc::Auto, Xdp::Off)?;
    swarm.serves(Mesh::Ours, PORT)?;
    swarm.serves(Mesh::Dockers, PORT_BESIDE)
}

fn uninstalled(swarm: &Swarm) -> Result<()> {
    swarm.with_agents(Tc::Auto, Xdp::Off)?;
    swarm.serves(Mesh::Ours, PORT)?;
    swarm.uninstall()?;
    swarm.serves(Mesh::Dockers, PORT)
}

fn removed(swarm: &Swarm) -> Result<()> {
    swarm.without_agents()?;
    swarm.serves(Mesh::Dockers, PORT)
}

fn by_xdp_and_clsact(swarm: &Swarm) -> Result<()> {
    swarm.with_agents(Tc::Clsact, Xdp::Native)?;
    swarm.serves(Mesh::Ours, PORT)?;
    swarm.is_attached("clsact-ingress")?;
    swarm.is_attached("xdp-native")?;
    swarm::holds_programs(Xdp::Native)
}

fn without_agents(swarm: &Swarm) -> Result<()> {
    swarm.withdrawn()?;
    swarm.serves(Mesh::Ours, PORT)
}

fn uninstalled_without_agents(swarm: &Swarm) -> Result<()> {
    swarm.withdrawn()?;
    swarm.serves(Mesh::Ours, PORT)?;
    swarm.without_agents()?;
    swarm.serves(Mesh::Dockers, PORT)
}
