//! Tasks that die, refuse, or are replaced: who is not on that very task does not notice.

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, ensure};
use mesh_tests::{
    client::{At, Report},
    deaths::Death,
    inside::{Inside, Network},
    lab::Lab,
    service::{Service, Spec, Task},
    wait,
};

use crate::{
    Scenario,
    load::{Ports, Pressure, network, unix_ms},
    support::{PATIENCE, PROMPT, get, live, target},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a task that is killed takes with it what it was answering, and nothing else", killed),
    ("a task whose container is removed takes with it what it was answering, and nothing else", removed),
    ("datagrams of one client go on within a second after their task was replaced", datagrams_go_on),
    ("a task that refuses connections costs nobody a request while others do not", one_refuses),
    ("when all tasks refuse, clients are refused at once", all_refuse),
];

fn killed(lab: &Lab) -> Result<()> {
    end_a_task(lab, &["kill"])
}

fn removed(lab: &Lab) -> Result<()> {
    end_a_task(lab, &["rm", "--force"])
}

/// Ends two tasks, one after the other, by a command of Docker on their node.
fn end_a_task(lab: &Lab, command: &[&str]) -> Result<()> {
    let network = network(lab, "deaths")?;
    let callers = Spec::workload("caller").global().option(&network.option()).create(lab)?;
    let spec = Spec::workload("mortal").replicas(5).publish("8311:8080").publish("8312:9000");
    let service = spec.option(&network.option()).option("--restart-delay=1s").create(lab)?;
    live(lab, "mortal", 5)?;

    // So slow that some requests are under way at any moment; their heads tell at once who answers.
    let mut pressure = Pressure::with(&["--path", "/slow?ms=60", "--rate", "30"]);
    let ended = service.watch_deaths()?;
    pressure.by_client(&lab.nodes.iter().collect::<Vec<_>>(), Ports::new(8311, 8312))?;
    pressure.by_node(&lab.nodes[2], Ports::new(8311, 8312))?;
    let vip = service.vip(&network.name)?;
    for place in &Inside::tasks(lab, &callers)?[..2] {
        pressure.by_task(place, &vip, Ports::new(8080, 9000))?;
    }
    thread::sleep(Duration::from_secs(1));
    let mut deaths = Vec::new();
    for round in 1..=2 {
        let victim = service.tasks()?.swap_remove(round);
        let node = lab.node(&victim.node)?;
        node.docker(command).arg(service.container(&victim)?).read()?;
        deaths = wait::for_up_to(PATIENCE, "Docker tells of the death", || {
            let deaths = ended.seen();
            ensure!(deaths.len() == round, "{deaths:?}");
            Ok(deaths)
        })?;
        is_replaced(&service, &victim, 5)?;
        live(lab, "mortal", 5)?;
    }
    let outcome = pressure.release()?;
    outcome.only_failed("the requests under way on the dead tasks may", |failure| {
        failure.connected
            && deaths.iter().any(|death| was_under_way(failure.at, failure.task.as_deref(), death))
    })?;
    outcome.only_the_dead_broke(&deaths)
}

/// Waits until a task that has ended is none any more to Docker, and all that there shall be run.
fn is_replaced(service: &Service<'_>, task: &Task, count: usize) -> Result<()> {
    wait::for_up_to(PATIENCE, "the task is replaced", || {
        let now = service.tasks()?;
        ensure!(now.len() == count && now.iter().all(|other| other.id != task.id), "{now:?}");
        Ok(())
    })
}

/// Whether a request that began then was on this task when it died; its head may not have come any more.
fn was_under_way(began: u64, task: Option<&str>, death: &Death) -> bool {
    let span = if task.is_some() { 3000 } else { 400 };
    task.is_none_or(|task| task == death.task) && began <= death.at && began + span >= death.at
}

/// Fifty in a second, for as long as it takes to replace two tasks.
const DATAGRAMS: &[&str] = &["--count", "400", "--interval", "20", "--timeout", "100"];

fn datagrams_go_on(lab: &Lab) -> Result<()> {
    let network = network(lab, "echoes")?;
    let caller = Spec::workload("caller").option(&network.option()).create(lab)?;
    let spec = Spec::workload("echoes").replicas(2).publish("8313:9000/udp").option("--restart-delay=100ms");
    let service = spec.option(&network.option()).create(lab)?;
    live(lab, "echoes", 2)?;

    let mut talks = Vec::new();
    for (node, port) in lab.nodes.iter().zip(["33001", "33002", "33003"]) {
        let to = target(node, 8313);
        let running = At::Client.start(&[&["udp", &to, "--source-port", port], DATAGRAMS].concat())?;
        talks.push((format!("the client through {}", node.name), running));
    }
    let place = Inside::tasks(lab, &caller)?.remove(0);
    let vip = format!("{}:9000", service.vip(&network.name)?);
    let running = place.start(&[&["udp", &vip, "--source-port", "33004"], DATAGRAMS].concat())?;
    talks.push(("a task".into(), running));

    // Whichever task it is that a conversation is with, it is replaced.
    for task in service.tasks()? {
        thread::sleep(Duration::from_millis(700));
        lab.node(&task.node)?.docker(["kill", &service.container(&task)?]).read()?;
        is_replaced(&service, &task, 2)?;
        live(lab, "echoes", 2)?;
    }
    for (who, running) in talks {
        let report: Report = running.report()?;
        println!(
            "      {who}: {} datagrams answered, {} not, at most {:.0} ms without an answer",
            report.ok, report.failed, report.longest_gap_ms
        );
        ensure!(report.longest_gap_ms <= 1000.0, "{who} was left alone: {report:?}");
        ensure!(report.tasks.len() >= 2, "{who} spoke with one task only: {:?}", report.tasks);
    }
    Ok(())
}

/// Makes a task close its ports for a while.
fn refuse(place: &Inside<'_>, milliseconds: u32) -> Result<()> {
    let path = format!("/refuse?ms={milliseconds}");
    let report: Report = place.exec(&["get", "127.0.0.1:8080", "--path", &path])?;
    ensure!(report.ok == 1, "it does not refuse: {report:?}");
    Ok(())
}

fn refusing_service<'a>(lab: &'a Lab, network: &Network<'_>) -> Result<Service<'a>> {
    let spec = Spec::workload("moody").replicas(4).publish("8314:8080").publish("8315:9000");
    let service = spec.option(&network.option()).create(lab)?;
    live(lab, "moody", 4)?;
    Ok(service)
}

pub(crate) fn one_refuses(lab: &Lab) -> Result<()> {
    let network = network(lab, "moods")?;
    let callers = Spec::workload("caller").replicas(2).option(&network.option()).create(lab)?;
    let service = refusing_service(lab, &network)?;
    let places = Inside::tasks(lab, &service)?;

    let ports = Ports::new(8314, 8315);
    let mut pressure = Pressure::new();
    pressure.by_client(&lab.nodes.iter().collect::<Vec<_>>(), ports)?;
    let vip = service.vip(&network.name)?;
    for caller in &Inside::tasks(lab, &callers)? {
        // Docker tells the nodes of new tasks' hardware addresses by gossip; what is sent before that is lost, and sent again a
        // second later.
        wait::for_up_to(PROMPT, "every task answers a caller at once", || {
            let report: Report = caller.run(&["get", &format!("{vip}:8080"), "--count", "8"])?;
            ensure!(report.tasks.len() == 4 && report.slowest_ms < 300.0, "{report:?}");
            Ok(())
        })?;
        pressure.by_task(caller, &vip, Ports::new(8080, 9000))?;
    }
    thread::sleep(Duration::from_millis(500));
    let mut closings = Vec::new();
    for (place, milliseconds) in places.iter().zip([3000, 2000]) {
        let begin = unix_ms(SystemTime::now());
        refuse(place, milliseconds)?;
        closings.push(begin..=unix_ms(SystemTime::now()));
        thread::sleep(Duration::from_secs(1));
    }
    thread::sleep(Duration::from_millis(1500));
    let outcome = pressure.release()?;
    // Who closes a port resets the connections there that its kernel has taken and the program has not.
    outcome.only_failed("those may that wait at a port as it is closed", |failure| {
        let waited = failure.at..=failure.at + failure.ms;
        failure.connected
            && failure.task.is_none()
            && closings
                .iter()
                .any(|closing| waited.start() <= closing.end() && closing.start() <= waited.end())
    })?;
    outcome.nothing_broke()?;
    outcome.nothing_slower_than(Duration::from_millis(300))?;

    // They are asked again when they are well.
    wait::for_up_to(PATIENCE, "all four answer again", || {
        for node in &lab.nodes {
            let report = get(node, 8314, 24)?;
            ensure!(report.tasks.len() == 4, "through {}: {:?}", node.name, report.tasks);
        }
        Ok(())
    })
}

fn all_refuse(lab: &Lab) -> Result<()> {
    let network = network(lab, "moods")?;
    let caller = Spec::workload("caller").option(&network.option()).create(lab)?;
    let service = refusing_service(lab, &network)?;
    let caller = Inside::tasks(lab, &caller)?.remove(0);
    let vip = format!("{}:8080", service.vip(&network.name)?);
    for place in Inside::tasks(lab, &service)? {
        refuse(&place, 3000)?;
    }
    let mut refused = Vec::new();
    for node in &lab.nodes {
        let to = target(node, 8314);
        refused.push((to.clone(), At::Client.run::<Report>(&["get", &to, "--count", "5"])?));
    }
    refused.push((vip.clone(), caller.run(&["get", &vip, "--count", "5"])?));
    for (to, report) in refused {
        let plain = report.errors.keys().all(|error| error.contains("Connection refused"));
        ensure!(report.failed == 5 && plain, "{to} does not refuse: {report:?}");
        ensure!(report.slowest_ms < 1000.0, "{to} refuses late: {report:?}");
    }
    let begin = Instant::now();
    wait::for_up_to(PATIENCE, "they answer again", || {
        lab.nodes.iter().try_for_each(|node| get(node, 8314, 12).map(drop))
    })?;
    println!(
        "      all of them answer {:.1} s after the last was told to refuse",
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}
