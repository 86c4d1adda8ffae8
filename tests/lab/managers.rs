//! Managers that freeze, and agents that hear of none: what runs goes on, and what changed meanwhile is caught up with.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    deaths::Death,
    lab::{Lab, Node},
    service::Service,
    wait,
};

use crate::{
    Scenario, canary,
    load::{Callers, under_load, unix_ms},
    peers::promote,
    support::{PATIENCE, PROMPT_TABLES, Undo, agent_answers, backends, holds, is_active, live, live_on},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("of three managers the leader freezes, and nobody notices", one_of_three),
    ("all managers freeze, services go on, and what has changed is live when they are back", all_of_them),
    ("an agent that hears no manager for twenty seconds serves on, and nothing flaps", cut_from_managers),
];

fn one_of_three(lab: &Lab) -> Result<()> {
    canary::loses_nodes();
    let _managers = all_managers(lab)?;
    let leader = leader(lab)?;
    // Another one is asked: the leader's Docker will not answer.
    let mut seen = lab.clone();
    seen.nodes.sort_by_key(|node| node.name == leader.name);
    let (others, _) = seen.nodes.split_at(seen.nodes.len() - 1);
    let others: Vec<&Node> = others.iter().collect();
    // Between tasks, Docker carries the packets, and its nodes forget one whose dockerd is silent.
    let all: Vec<&Node> = seen.nodes.iter().collect();
    let (outcome, _) = under_load(&seen, 4, &all, Callers::Outside, |service| {
        let back = Undo::at_the_end(|| {
            let _ = leader.signal_docker("CONT").and_then(|()| agent_answers(leader));
        });
        leader.signal_docker("STOP")?;
        wait::for_up_to(PATIENCE, "another one leads", || {
            let list = ["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"];
            let list = others[0].docker(list).quiet().read()?;
            let leads = |line: &str| line.ends_with(" Leader") && !line.starts_with(&leader.name);
            ensure!(list.lines().any(leads), "{list}");
            Ok(())
        })?;
        service.scale(6)?;
        wait::for_up_to(PATIENCE, "six tasks where Docker answers", || {
            let tasks = service.tasks()?;
            ensure!(tasks.iter().filter(|task| task.node != leader.name).count() >= 4, "{tasks:?}");
            Ok(())
        })?;
        // Tasks of the frozen node may be replaced meanwhile: how many there are is asked again.
        wait::for_up_to(PATIENCE, "the tables follow", || {
            let count = service.tasks()?.len();
            others.iter().try_for_each(|node| holds(node, service.name(), count))
        })?;
        drop(back);
        service.wait_for(6)?;
        live_on(&all, service.name(), 6, PATIENCE)
    })?;
    outcome.nothing_failed()?;
    outcome.nothing_broke()
}

fn all_of_them(lab: &Lab) -> Result<()> {
    canary::loses_nodes();
    let _managers = all_managers(lab)?;
    let all: Vec<&Node> = lab.nodes.iter().collect();
    let mut killed = None;
    let (outcome, deaths) = under_load(lab, 5, &all, Callers::OutsideAndTask, |service| {
        let back = Undo::at_the_end(|| {
            for node in &lab.nodes {
                let _ = node.signal_docker("CONT");
            }
        });
        let victim = service.tasks()?.remove(0);
        let node = lab.node(&victim.node)?;
        let process = node.container_process(&service.container(&victim)?)?;
        lab.on_every_node(|node| node.signal_docker("STOP"))?;
        thread::sleep(Duration::from_secs(2));
        // Nobody is there to see it.
        node.command("true").quiet().read()?;
        // SAFETY: `kill` takes two integers; the process is one of the lab's containers.
        let sent = unsafe { libc::kill(process, libc::SIGKILL) };
        ensure!(sent == 0, "process {process} of {} is not there", victim.name);
        killed = Some((unix_ms(std::time::SystemTime::now()), victim));
        thread::sleep(Duration::from_secs(5));
        drop(back);
        let replaced = || -> Result<()> {
            let tasks = service.tasks()?;
            let id = killed.as_ref().map(|(_, task)| &task.id);
            ensure!(tasks.len() == 5 && tasks.iter().all(|task| Some(&task.id) != id), "{tasks:?}");
            Ok(())
        };
        wait::for_up_to(Duration::from_mins(1), "the dead task is replaced", replaced)?;
        live(lab, service.name(), 5).context("after the managers are back")
    })?;
    let (at, victim) = killed.context("nobody was killed")?;
    outcome.only_failed("those under way on the dead task may", |failure| {
        failure.connected && failure.at <= at && failure.at + 3000 >= at
    })?;
    // Docker tells of it late; what counts is when it happened.
    let death = Death { at, id: victim.id, task: victim.name, node: victim.node };
    outcome.only_the_dead_broke(&[&deaths[..], &[death]].concat())
}

/// How long the control path of a node is cut.
const CUT: Duration = Duration::from_secs(20);

fn cut_from_managers(lab: &Lab) -> Result<()> {
    canary::loses_nodes();
    let (alone, others) = lab.nodes.split_last().context("a lab has nodes")?;
    let others: Vec<&Node> = others.iter().collect();
    let all: Vec<&Node> = lab.nodes.iter().collect();
    let (outcome, _) = under_load(lab, 4, &all, Callers::OutsideAndTask, |service| {
        let back = Undo::at_the_end(|| {
            let _ = control_path(alone, "-D");
        });
        let begin = Instant::now();
        control_path(alone, "-I")?;
        thread::sleep(Duration::from_secs(3));
        service.scale(6)?;
        service.wait_for(6)?;
        live_on(&others, service.name(), 6, PROMPT_TABLES)?;
        while begin.elapsed() < CUT {
            for node in &others {
                active(node, service, 6)?;
            }
            // As they were, or with what it has seen itself.
            let known = active(alone, service, 4).or_else(|_| active(alone, service, 6));
            known.context("the tables that were to freeze")?;
            thread::sleep(Duration::from_millis(500));
        }
        drop(back);
        live_on(&[alone], service.name(), 6, Duration::from_secs(5)).context("the path is open again")
    })?;
    outcome.nothing_failed()?;
    outcome.nothing_broke()
}

/// Adds or removes the rules that let nothing pass between a node's agent and the managers' agents.
fn control_path(node: &Node, action: &str) -> Result<()> {
    for (chain, port) in [("OUTPUT", "--dport"), ("INPUT", "--sport"), ("INPUT", "--dport")] {
        let rule = [action, chain, "-p", "tcp", port, "4798", "-j", "DROP"];
        node.network_command("iptables").arg("-w").args(rule).quiet().read()?;
    }
    Ok(())
}

fn active(node: &Node, service: &Service<'_>, count: usize) -> Result<()> {
    let rows = backends(node, service.name())?;
    let web: Vec<_> = rows
        .iter()
        .filter(|row| row["frontend"].as_str().is_some_and(|frontend| frontend.contains("8331")))
        .collect();
    let active = web.iter().filter(|row| is_active(row)).count();
    ensure!(active == count, "{} has {active} active tasks, not {count}: {web:?}", node.name);
    Ok(())
}

fn leader(lab: &Lab) -> Result<&Node> {
    let list = ["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"];
    let list = lab.docker(list).quiet().read()?;
    let name = list.lines().find_map(|line| line.strip_suffix(" Leader")).context("nobody leads")?;
    lab.node(name)
}

/// Makes all nodes managers until the end of the scope.
fn all_managers(lab: &Lab) -> Result<Vec<impl Drop>> {
    lab.nodes.iter().filter(|node| !node.manager).map(|node| promote(lab, node)).collect()
}
