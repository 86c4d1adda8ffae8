//! The Swarm changes, and every node's tables follow.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Conversation, Report, Running},
    lab::{Lab, Node},
    service::Spec,
    wait,
};

use crate::{
    Scenario, canary,
    load::{Ports, Pressure},
    support::{
        PATIENCE, PROMPT, PROMPT_TABLES, Undo, agent_answers, all_ok, exact_through_every_node, get, live,
        live_on, silent, target,
    },
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("scaling is known everywhere within two seconds and no request fails on the way up", scaling),
    ("a killed task is left out everywhere within two seconds and its successor joins", a_killed_task),
    ("tasks of a drained node are followed to where they move", a_drained_node),
    ("a port published at run time is served, and left alone when it is taken back", ports_at_run_time),
    ("a service without tasks refuses at once and serves again when it has some", nobody_home),
    (
        "connections to a task that shall stop last as long as mesh.drain says, else as long as it",
        drain_limit,
    ),
    ("an address that a node gets later answers too, for as long as the node has it", a_later_address),
];

fn scaling(lab: &Lab) -> Result<()> {
    let service = Spec::workload("scale").replicas(5).publish("8101:8080").create(lab)?;
    live(lab, "scale", 5)?;

    service.scale(2)?;
    live(lab, "scale", 2)?;
    service.wait_for(2)?;
    exact_through_every_node(lab, 8101, 2, 3)?;

    let mut pressure = Pressure::new();
    pressure.by_client(&lab.nodes.iter().collect::<Vec<_>>(), Ports { web: Some(8101), echo: None })?;
    service.scale(5)?;
    service.wait_for(5)?;
    live(lab, "scale", 5)?;
    let outcome = pressure.release()?;
    outcome.nothing_failed()?;
    for load in outcome.loads() {
        ensure!(load.tasks.len() == 5, "not all have been asked: {:?}", load.tasks);
    }
    exact_through_every_node(lab, 8101, 5, 2)
}

fn a_killed_task(lab: &Lab) -> Result<()> {
    // Long enough for the gap to be seen.
    let spec = Spec::workload("kill").replicas(4).publish("8102:8080").option("--restart-delay=4s");
    let service = spec.create(lab)?;
    live(lab, "kill", 4)?;
    let victim = service.tasks()?.remove(0);
    lab.node(&victim.node)?.docker(["kill", &service.container(&victim)?]).read()?;
    live(lab, "kill", 3).context("after the kill")?;
    exact_through_every_node(lab, 8102, 3, 3)?;
    // Docker may count the victim still: the mesh hears of its end before the managers do.
    wait::for_up_to(PATIENCE, "a successor runs", || {
        let tasks = service.tasks()?;
        ensure!(tasks.len() == 4 && !tasks.contains(&victim), "{tasks:?}");
        Ok(())
    })?;
    live(lab, "kill", 4).context("after the restart")?;
    exact_through_every_node(lab, 8102, 4, 2)
}

fn a_drained_node(lab: &Lab) -> Result<()> {
    // The Swarm takes the agent away too.
    canary::exchanges_agents();
    let service = Spec::workload("drain").replicas(3).publish("8103:8080").create(lab)?;
    live(lab, "drain", 3)?;
    let drained = lab.nodes.last().context("a lab has nodes")?;
    let others: Vec<&Node> = lab.nodes.iter().filter(|node| node.name != drained.name).collect();
    ensure!(service.tasks()?.iter().any(|task| task.node == drained.name), "no task is on {}", drained.name);

    let availability =
        |what| lab.docker(["node", "update", "--availability", what, &drained.name]).quiet().read().map(drop);
    let back = Undo::at_the_end(|| {
        let _ = availability("active").and_then(|()| agent_answers(drained));
    });
    availability("drain")?;
    wait::for_up_to(PATIENCE, "the tasks move", || {
        let tasks = service.tasks()?;
        ensure!(tasks.len() == 3 && tasks.iter().all(|task| task.node != drained.name), "{tasks:?}");
        Ok(())
    })?;
    live_on(&others, "drain", 3, PROMPT_TABLES)?;
    for node in &others {
        get(node, 8103, 30).with_context(|| format!("through {}, {} drained", node.name, drained.name))?;
    }

    // Its agent was drained too.
    drop(back);
    live_on(&[drained], "drain", 3, PATIENCE)?;
    exact_through_every_node(lab, 8103, 3, 2)
}

/// Both tasks serve on for eight seconds; one may keep its connections for two of them.
fn drain_limit(lab: &Lab) -> Result<()> {
    let spec = |name, port| {
        let spec = Spec::workload(name).publish(port).env("WORKLOAD_STOP=abrupt");
        spec.env("WORKLOAD_STOP_DELAY=8000").option("--stop-grace-period=20s")
    };
    let limited = spec("limited", "8108:9000").option("--label=mesh.drain=2s").create(lab)?;
    let patient = spec("patient", "8109:9000").create(lab)?;
    for service in [&limited, &patient] {
        live(lab, service.name(), 1)?;
    }
    let talk = |node, port| {
        let target = target(node, port);
        At::Client.start(&["tcp", &target, "--lines", "60", "--interval", "100"])
    };
    let start = |port| lab.nodes.iter().map(|node| talk(node, port)).collect::<Result<Vec<Running>>>();
    let (short, long) = (start(8108)?, start(8109)?);
    for service in [&limited, &patient] {
        service.scale(0)?;
    }
    for (node, running) in lab.nodes.iter().zip(short) {
        let talk: Conversation = running.report()?;
        let is_reset = talk.error.as_ref().is_some_and(|error| error.contains("reset"));
        ensure!(is_reset && (10..50).contains(&talk.echoed), "limited, through {}: {talk:?}", node.name);
    }
    for (node, running) in lab.nodes.iter().zip(long) {
        let talk: Conversation = running.report()?;
        ensure!(talk.error.is_none() && talk.echoed == 60, "patient, through {}: {talk:?}", node.name);
    }
    Ok(())
}

fn ports_at_run_time(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("ports").replicas(2).publish("8104:8080").option("--update-monitor=500ms");
    let service = spec.create(lab)?;
    let echo = |node: &Node| -> Result<()> {
        let target = target(node, 8105);
        let talk: Conversation = At::Client.run(&["tcp", &target, "--timeout", "500"])?;
        ensure!(talk.error.is_none() && talk.echoed == 1, "{target}: {talk:?}");
        Ok(())
    };
    live(lab, "ports", 2)?;
    ensure!(echo(lab.manager()).is_err(), "a port that is not published yet is served");

    service.update(&["--publish-add", "8105:9000"])?;
    service.wait_for_update("completed")?;
    live(lab, "ports", 2)?;
    lab.nodes.iter().try_for_each(echo)?;
    exact_through_every_node(lab, 8104, 2, 3)?;

    // Docker wants the target here.
    service.update(&["--publish-rm", "9000"])?;
    service.wait_for_update("completed")?;
    live(lab, "ports", 2)?;
    for node in &lab.nodes {
        wait::for_up_to(PROMPT, "the port is left alone", || {
            ensure!(echo(node).is_err(), "{} serves it", node.name);
            Ok(())
        })?;
    }
    exact_through_every_node(lab, 8104, 2, 3)
}

pub(crate) fn nobody_home(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("nobody").replicas(2).publish("8106:9000").publish("8106:9000/udp");
    let service = spec.create(lab)?;
    live(lab, "nobody", 2)?;
    let talk = |place: At<'_>, target: &str| -> Result<Conversation> { place.run(&["tcp", target]) };
    for node in &lab.nodes {
        let conversation = talk(At::Client, &target(node, 8106))?;
        ensure!(conversation.error.is_none() && conversation.echoed == 1, "{conversation:?}");
    }

    service.scale(0)?;
    live(lab, "nobody", 0)?;
    for node in &lab.nodes {
        let target = target(node, 8106);
        for place in [At::Client, At::Node(node)] {
            let refused = |said: &str| said.contains("Connection refused");
            let conversation = talk(place, &target)?;
            let error = conversation.error.unwrap_or_else(|| "it was served".into());
            ensure!(refused(&error), "TCP to {target} from {place:?}: {error}");
            let report: Report = place.run(&["udp", &target, "--count", "2", "--interval", "50"])?;
            let only_refused = report.ok == 0 && report.errors.keys().all(|error| refused(error));
            ensure!(only_refused, "UDP to {target} from {place:?}: {report:?}");
        }
    }

    service.scale(2)?;
    service.wait_for(2)?;
    live(lab, "nobody", 2)?;
    for node in &lab.nodes {
        let conversation = talk(At::Client, &target(node, 8106))?;
        ensure!(conversation.error.is_none() && conversation.echoed == 1, "{conversation:?}");
        all_ok(At::Client.run(&["udp", &target(node, 8106)])?)?;
    }
    Ok(())
}

fn a_later_address(lab: &Lab) -> Result<()> {
    const LATER: &str = "10.99.0.100";
    let _service = Spec::workload("later").replicas(3).publish("8107:8080").create(lab)?;
    live(lab, "later", 3)?;
    let node = &lab.nodes[1];
    let address = |verb| {
        let change = ["address", verb, &format!("{LATER}/24"), "dev", "eth0"];
        node.network_command("ip").args(change).quiet().read().map(drop)
    };
    let _gone = Undo::at_the_end(|| {
        let _ = address("delete");
        let _ = Lab::client("ip").args(["neighbour", "delete", LATER, "dev", "mesh-lab"]).quiet().read();
    });
    address("add")?;
    let target = format!("{LATER}:8107");
    wait::for_up_to(Duration::from_secs(2), "the new address answers", || {
        all_ok(At::Client.run(&["get", &target, "--timeout", "500"])?).map(drop)
    })?;
    let report = all_ok(At::Client.run(&["get", &target, "--count", "9"])?)?;
    ensure!(report.imbalance(3) <= 1, "{:?}", report.tasks);
    let local: Report = all_ok(At::Node(node).run(&["get", &target, "--count", "3"])?)?;
    ensure!(local.tasks.len() == 3, "{:?}", local.tasks);

    // What the client still sends there arrives, but is not the node's any more.
    let neighbour = Lab::client("ip").args(["neighbour", "show", "to", LATER]).quiet().read()?;
    let hardware = neighbour.split(' ').skip_while(|word| *word != "lladdr").nth(1);
    let hardware = hardware.with_context(|| format!("no neighbour {LATER}: {neighbour}"))?;
    let known = ["neighbour", "replace", LATER, "lladdr", hardware, "dev", "mesh-lab", "nud", "permanent"];
    Lab::client("ip").args(known).quiet().read()?;
    address("delete")?;
    wait::for_up_to(Duration::from_secs(2), "the address that is gone is silent", || silent(&target))
}
