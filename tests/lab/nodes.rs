//! Nodes that are drained, leave, lose their cable or their Docker, and come back.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    lab::{Lab, Node},
    service::{Service, Task},
    wait,
};

use crate::{
    Scenario, canary,
    load::{Callers, Cause, under_load, unix_ms},
    support::{PATIENCE, PROMPT_TABLES, Undo, agent_answers, all_get_flows, get, live, live_on},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("scaling up and down fails no request", scaling),
    ("draining a node and taking it back fails no request", draining),
    ("a node that leaves the Swarm and joins again costs no request", leaving),
    (
        "a node without a cable gets no new connections after three seconds, and serves again with one",
        unplugged,
    ),
    (
        "a node whose dockerd is restarted gets no new connections three seconds after its end",
        docker_restarted,
    ),
];

/// Within what time Docker's nodes have found each other again after one of them was without a cable.
const TOGETHER_AGAIN: u64 = 15_000;

/// Within what time a node that cannot be reached gets no new connections.
const NOTICED: Duration = Duration::from_secs(3);

fn scaling(lab: &Lab) -> Result<()> {
    let (outcome, deaths) = under_load(lab, 5, &everybody(lab), Callers::OutsideAndTask, |service| {
        let ended = service.watch_deaths()?;
        for count in [1, 6, 2, 4] {
            service.scale(count)?;
            service.wait_for(count)?;
            live(lab, service.name(), count)?;
        }
        // Swarm lets tasks that it takes away run on for two seconds.
        wait::for_up_to(PATIENCE, "eight tasks end", || {
            ensure!(ended.seen().len() == 8, "{:?}", ended.seen());
            Ok(())
        })
    })?;
    outcome.nothing_failed()?;
    outcome.only_the_stopped_broke(&deaths)
}

fn draining(lab: &Lab) -> Result<()> {
    // The Swarm takes the agent away too.
    canary::exchanges_agents();
    let (third, others) = the_last(lab)?;
    let availability =
        |what| lab.docker(["node", "update", "--availability", what, &third.name]).quiet().read().map(drop);
    let (outcome, deaths) = under_load(lab, 6, &others, Callers::OutsideAndTask, |service| {
        let back = Undo::at_the_end(|| {
            let _ = availability("active").and_then(|()| agent_answers(third));
        });
        availability("drain")?;
        moved_away(service, 6, third)?;
        live_on(&others, service.name(), 6, PROMPT_TABLES)?;
        drop(back);
        // Whatever is started now may go there again.
        service.scale(9)?;
        service.wait_for(9)?;
        live_on(&everybody(lab), service.name(), 9, PATIENCE)
    })?;
    outcome.nothing_failed()?;
    outcome.only_the_stopped_broke(&deaths)
}

fn leaving(lab: &Lab) -> Result<()> {
    canary::loses_nodes();
    let (third, others) = the_last(lab)?;
    let mut there = Vec::new();
    let (mut leaves, mut left) = (0, 0);
    let (outcome, deaths) = under_load(lab, 6, &others, Callers::OutsideAndTask, |service| {
        there = tasks_on(service, third)?;
        let back = Undo::at_the_end(|| {
            let _ = lab.rejoin(third).and_then(|()| agent_answers(third));
        });
        leaves = unix_ms(SystemTime::now());
        lab.leave(third)?;
        left = unix_ms(SystemTime::now());
        moved_away(service, 6, third)?;
        live_on(&others, service.name(), 6, PROMPT_TABLES)?;
        drop(back);
        service.scale(9)?;
        service.wait_for(9)?;
        live_on(&everybody(lab), service.name(), 9, PATIENCE)?;
        get(third, 8331, 18).map(drop)
    })?;
    // Docker kills the tasks of a node that leaves: an answer that one of them owes then is lost with it.
    outcome.only_failed("those that a task was killed over may", |failure| {
        failure.connected && failure.at + 100 >= leaves && failure.at <= left
    })?;
    outcome.only_broke("only those with tasks that ended may", |broken| {
        broken.is_with(&there) || broken.ended_with(&deaths)
    })
}

fn unplugged(lab: &Lab) -> Result<()> {
    canary::loses_nodes();
    let (third, others) = the_last(lab)?;
    let mut there = Vec::new();
    let (mut cut, mut noticed, mut plugged) = (0, 0, 0);
    let (outcome, _) = under_load(lab, 6, &others, Callers::OutsideAndTask, |service| {
        there = tasks_on(service, third)?;
        let back = Undo::at_the_end(|| {
            let _ = third.plug_in();
        });
        third.unplug()?;
        cut = unix_ms(SystemTime::now());
        noticed = cut + NOTICED.as_millis() as u64;
        live_on(&others, service.name(), 6 - there.len(), NOTICED).context("the cut is noticed")?;
        thread::sleep(Duration::from_secs(2));
        for node in &others {
            let report = get(node, 8331, 20).with_context(|| format!("through {}, cut", node.name))?;
            let strays = there.iter().filter(|task| report.tasks.contains_key(&task.name)).count();
            ensure!(strays == 0 && report.slowest_ms < 900.0, "through {}: {report:?}", node.name);
        }
        drop(back);
        plugged = unix_ms(SystemTime::now());
        // Too short for the Swarm to give the node up.
        live_on(&everybody(lab), service.name(), 6, PATIENCE).context("the cable is in again")?;
        all_answer(lab, 6)
    })?;
    let is_soon = |at: u64| (plugged..plugged + TOGETHER_AGAIN).contains(&(at + 200));
    outcome.only_failed("those that began before the cut was noticed may", |failure| {
        // Between tasks Docker carries the packets, and its nodes take a while to find each other again.
        let by_docker = failure.target.ends_with(":8080") && is_soon(failure.at);
        by_docker || (failure.at + 200 >= cut && failure.at <= noticed)
    })?;
    // The node that comes back says that all others are dead, and now and then Docker on the first one believes it of the
    // second for a while: `bridge fdb` in the overlay's namespace then has no entry of either. Held connections between tasks
    // get no answer meanwhile; those of clients go by the mesh's own tunnel.
    outcome.only_broke(
        "only those with tasks of that node may, and between tasks when the cable is in again",
        |broken| {
            let by_docker = broken.target.ends_with(":9000") && is_soon(broken.at);
            by_docker || there.iter().any(|task| task.id == broken.id)
        },
    )
}

fn docker_restarted(lab: &Lab) -> Result<()> {
    canary::loses_nodes();
    let (third, others) = the_last(lab)?;
    let mut there = Vec::new();
    let (mut stopped, mut noticed) = (0, 0);
    let (outcome, _) = under_load(lab, 6, &others, Callers::OutsideAndTask, |service| {
        there = tasks_on(service, third)?;
        let back = Undo::at_the_end(|| {
            let start = || {
                third.start_docker()?;
                third.wait_for_docker()?;
                agent_answers(third)
            };
            let _ = start();
        });
        // Its containers end with it, its agent among them. A Swarm does not allow the setting with which they would live on.
        stopped = unix_ms(SystemTime::now());
        third.stop_docker("TERM")?;
        noticed = unix_ms(SystemTime::now() + NOTICED);
        thread::sleep(Duration::from_secs(2));
        drop(back);
        service.wait_for(6)?;
        live_on(&everybody(lab), service.name(), 6, PATIENCE)?;
        all_answer(lab, 6)
    })?;
    outcome.only_failed("those that began before it was noticed may", |failure| {
        failure.at + 200 >= stopped && failure.at <= noticed
    })?;
    outcome.only_broke_with(&there)
}

/// Every node hands requests to all of so many tasks.
fn all_answer(lab: &Lab, tasks: usize) -> Result<()> {
    lab.nodes.iter().try_for_each(|node| all_get_flows(node, 8331, 4 * tasks, tasks))
}

fn everybody(lab: &Lab) -> Vec<&Node> {
    lab.nodes.iter().collect()
}

/// The last node, which is a worker, and the others.
fn the_last(lab: &Lab) -> Result<(&Node, Vec<&Node>)> {
    let (last, others) = lab.nodes.split_last().context("a lab has nodes")?;
    Ok((last, others.iter().collect()))
}

fn tasks_on(service: &Service<'_>, node: &Node) -> Result<Vec<Task>> {
    let mut tasks = service.tasks()?;
    tasks.retain(|task| task.node == node.name);
    ensure!(!tasks.is_empty(), "no task of {} is on {}", service.name(), node.name);
    Ok(tasks)
}

fn moved_away(service: &Service<'_>, count: usize, node: &Node) -> Result<()> {
    wait::for_up_to(PATIENCE, &format!("the tasks leave {}", node.name), || {
        let tasks = service.tasks()?;
        ensure!(tasks.len() == count && tasks.iter().all(|task| task.node != node.name), "{tasks:?}");
        Ok(())
    })
}
