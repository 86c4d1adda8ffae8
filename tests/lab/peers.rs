//! The way of the Swarm's state from managers to workers: who may ask, and what happens when a manager is away.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Report},
    cmd::{Cmd, said},
    lab::{Lab, Node, text},
    mesh,
    service::Spec,
    wait,
};

use crate::{
    Scenario, canary,
    load::{Ports, Pressure},
    support::{
        PATIENCE, PROMPT_TABLES, Undo, agent_answers, all_ok, exact_through_every_node, get, live, live_on,
        target,
    },
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a manager's agent refuses who has no certificate or a foreign one, and says so", strangers_are_refused),
    ("a worker's agent serves nobody", workers_serve_nobody),
    ("a worker follows another manager's agent when its own is gone", another_managers_agent),
    ("a lost quorum freezes the tables and no request fails", a_lost_quorum),
    ("with a manager down, services go on and changes are followed", a_manager_down),
];

const PORT: u16 = 4798;

/// Until agents have given up one that was killed with its Docker: three seconds, and some more.
const GIVEN_UP: Duration = Duration::from_secs(5);

fn strangers_are_refused(lab: &Lab) -> Result<()> {
    canary::warns("refused to tell");
    let dir = mesh_tests::paths::target().join("tmp/strangers");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let (certificate, key) = (dir.join("foreign.crt"), dir.join("foreign.key"));
    let request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let subject = "/O=another/OU=swarm-manager/CN=stranger";
    let make = Cmd::new("openssl").args(request).args(["-days", "2", "-subj", subject]).arg("-keyout");
    make.arg(&key).arg("-out").arg(&certificate).quiet().read()?;

    let manager = lab.manager();
    for (who, files, wanted) in [
        ("without a certificate", None, "it showed no certificate"),
        ("with a foreign certificate", Some((&certificate, &key)), "stranger"),
    ] {
        let answer = dial(manager, files.map(|(c, k)| (c.as_path(), k.as_path())))?;
        ensure!(answer.contains("alert"), "{who} it was not refused:\n{answer}");
        wait::for_up_to(Duration::from_secs(5), "the refusal is in the log", || {
            let log = mesh::logs(lab);
            let refusals: Vec<&str> = log.lines().filter(|line| line.contains("refused to tell")).collect();
            ensure!(refusals.iter().any(|line| line.contains(wanted)), "{who} the log says {refusals:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// What openssl says of a TLS connection to a node's agent.
fn dial(node: &Node, own: Option<(&Path, &Path)>) -> Result<String> {
    let address = target(node, PORT);
    // With TLS 1.3 a refusal comes after the handshake, so it must be waited for.
    let connect = ["s_client", "-connect", &address, "-alpn", "h2", "-ign_eof"];
    let mut openssl = Lab::client("timeout").args(["5", "openssl"]).args(connect);
    if let Some((certificate, key)) = own {
        openssl = openssl.arg("-cert").arg(certificate).arg("-key").arg(key);
    }
    Ok(said(&openssl.output()?))
}

fn workers_serve_nobody(lab: &Lab) -> Result<()> {
    for worker in lab.workers() {
        let answer = dial(worker, None)?;
        ensure!(answer.contains("Connection refused"), "{} answers on {PORT}:\n{answer}", worker.name);
    }
    Ok(())
}

fn another_managers_agent(lab: &Lab) -> Result<()> {
    canary::loses_nodes();
    let [first, second, worker, ..] = &lab.nodes[..] else { anyhow::bail!("the lab is too small") };
    // Where there is no agent, a new task can be reached by nobody.
    let elsewhere = format!("--constraint=node.hostname!={}", first.name);
    let service = Spec::workload("follow").replicas(2).publish("8601:8080").option(&elsewhere).create(lab)?;
    live(lab, "follow", 2)?;
    let _demoted = promote(lab, second)?;

    let constrain = |option: &str, detach: &str| {
        let constraint = format!("node.hostname!={}", first.name);
        let update = ["service", "update", "--quiet", detach, "--no-resolve-image", option, &constraint];
        lab.docker(update).arg(mesh::SERVICE).read().map(drop)
    };
    let returned = Undo::at_the_end(|| {
        let _ = constrain("--constraint-rm", "--detach").and_then(|()| agent_answers(first));
    });
    // Some Dockers exchange the agents of all nodes for it, and an agent that has just begun follows nobody yet.
    constrain("--constraint-add", "--detach=false")?;
    wait::for_up_to(PATIENCE, "the first manager's agent ends", || {
        ensure!(mesh::agent_container(first).is_err(), "it runs");
        Ok(())
    })?;

    let left = [second, worker];
    left.into_iter().try_for_each(agent_answers)?;
    service.scale(4)?;
    service.wait_for(4)?;
    live_on(&left, "follow", 4, Duration::from_secs(6))?;
    for node in left {
        get(node, 8601, 12).with_context(|| format!("through {}", node.name))?;
    }
    service.scale(2)?;
    live_on(&left, "follow", 2, PROMPT_TABLES)?;

    drop(returned);
    live_on(&[first, second, worker], "follow", 2, PATIENCE)?;
    exact_through_every_node(lab, 8601, 2, 3)
}

fn a_manager_down(lab: &Lab) -> Result<()> {
    canary::loses_nodes();
    let [first, second, third, ..] = &lab.nodes[..] else { anyhow::bail!("the lab is too small") };
    let service = Spec::workload("fewer").replicas(3).publish("8602:8080").create(lab)?;
    live(lab, "fewer", 3)?;
    let _second = promote(lab, second)?;
    let _third = promote(lab, third)?;

    let mut pressure = Pressure::new();
    pressure.by_client(&[second], Ports { web: Some(8602), echo: None })?;
    let restarted = Undo::at_the_end(|| {
        let _ = start_docker(lab, third);
    });
    // Its tasks live on for now, as after a crash of dockerd.
    third.stop_docker("KILL")?;
    std::thread::sleep(GIVEN_UP);
    let outcome = pressure.release()?;
    outcome.nothing_failed().with_context(|| format!("while dockerd of {} died", third.name))?;

    // As soon as the Swarm has given the node up, its tasks are elsewhere.
    let left = [first, second];
    service.scale(4)?;
    wait::for_up_to(Duration::from_mins(1), "four tasks on the nodes that are left", || {
        let tasks = service.tasks()?;
        let there = tasks.iter().filter(|task| task.node != third.name).count();
        ensure!(there == 4, "{tasks:?}");
        Ok(())
    })?;
    live_on(&left, "fewer", 4, PROMPT_TABLES)?;
    for node in left {
        get(node, 8602, 20).with_context(|| format!("through {}", node.name))?;
    }
    drop(restarted);
    live_on(&[first, second, third], "fewer", 4, PATIENCE)?;
    exact_through_every_node(lab, 8602, 4, 2)
}

fn a_lost_quorum(lab: &Lab) -> Result<()> {
    canary::loses_nodes();
    let [_, _, second, ..] = &lab.nodes[..] else { anyhow::bail!("the lab is too small") };
    let _service = Spec::workload("frozen").replicas(3).publish("8603:8080").create(lab)?;
    live(lab, "frozen", 3)?;
    let _demoted = promote(lab, second)?;
    let _restarted = Undo::at_the_end(|| {
        let _ = start_docker(lab, second);
    });
    // Of two managers, one is no majority.
    second.stop_docker("KILL")?;
    wait::for_up_to(Duration::from_secs(20), "the Swarm has no leader", || {
        ensure!(!lab.docker(["service", "ls"]).succeeds(), "it answers");
        Ok(())
    })?;
    let load = |node: &Node| -> Result<Report> {
        At::Client.run(&["get", &target(node, 8603), "--duration", "6000", "--interval", "20"])
    };
    for (node, report) in lab.nodes.iter().zip(lab.on_every_node(load)?) {
        let report = all_ok(report).with_context(|| format!("through {}", node.name))?;
        ensure!(report.tasks.len() == 3, "through {}: {:?}", node.name, report.tasks);
    }
    // The agent of the second one cannot be asked without its Docker.
    let others: Vec<&Node> = lab.nodes.iter().filter(|node| node.name != second.name).collect();
    live_on(&others, "frozen", 3, PROMPT_TABLES)
}

/// Makes a node a manager until the end of the scope.
pub(crate) fn promote<'a>(lab: &'a Lab, node: &'a Node) -> Result<Undo<impl FnMut() + 'a>> {
    // Whether it serves others is asked without a certificate.
    canary::warns("refused to tell");
    let undo = Undo::at_the_end(|| {
        let demote =
            || lab.docker(["node", "demote", &node.name]).quiet().read().map(drop).context("cannot demote");
        let follows = || {
            let source = &mesh::status(node)?["source"];
            let well = source["role"] == "worker" && source["swarm"]["error"].is_null();
            ensure!(well, "its agent says {source}");
            Ok(())
        };
        let demoted = wait::for_up_to(PATIENCE, "the manager is demoted", demote);
        let _ = demoted.and_then(|()| wait::for_up_to(PATIENCE, "it follows a manager", follows));
    });
    lab.docker(["node", "promote", &node.name]).read()?;
    wait::for_up_to(PATIENCE, &format!("{} is a manager", node.name), || {
        let known = lab.manager().ask(&format!("/nodes/{}", node.name))?;
        let status = text(&known, "/ManagerStatus/Reachability");
        ensure!(status == "reachable", "it is {status:?}");
        Ok(())
    })?;
    wait::for_up_to(PATIENCE, &format!("the agent of {} serves others", node.name), || {
        let answer = dial(node, None)?;
        ensure!(answer.contains("alert"), "{answer}");
        Ok(())
    })?;
    Ok(undo)
}

/// Starts a dockerd that was killed, and waits until its node is back in the Swarm with its agent.
fn start_docker(lab: &Lab, node: &Node) -> Result<()> {
    node.start_docker()?;
    node.wait_for_docker()?;
    wait::for_up_to(PATIENCE, &format!("{} is back", node.name), || {
        let known = lab.manager().ask(&format!("/nodes/{}", node.name))?;
        let state = text(&known, "/Status/State");
        ensure!(state == "ready", "it is {state}");
        Ok(())
    })?;
    agent_answers(node)
}
