//! Rolling updates and their way back, under load: nobody notices.

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    images::{NGINX, WORKLOAD},
    inside::Inside,
    lab::Lab,
    service::Spec,
    wait,
};

use crate::{
    Scenario,
    load::{Ports, Pressure, network},
    support::{PATIENCE, live},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("an update of nginx, one task at a time, stopped first, fails no request", nginx_stopped_first),
    ("an update of nginx, two tasks at a time, started first, fails no request", nginx_started_first),
    ("an update of graceful tasks, started first, fails no request", graceful_started_first),
    ("an update of tasks that close their ports at once, stopped first, fails no request", refusing),
    ("an update of abrupt tasks, stopped first, fails no request", abrupt_stopped_first),
    ("an update of abrupt tasks, started first, fails no request", abrupt_started_first),
];

/// The tasks under update, enough for some to be on every node at any time.
const REPLICAS: usize = 6;

struct Case {
    /// By which it is told from others that run at the same time.
    number: u16,
    service: Spec,
    ports: Ports,
    /// Those inside the task, which its virtual address serves.
    inner: Ports,
    image: &'static str,
    order: &'static str,
    parallelism: usize,
}

fn nginx_stopped_first(lab: &Lab) -> Result<()> {
    update_and_roll_back(lab, nginx(0, "stop-first", 1))
}

fn nginx_started_first(lab: &Lab) -> Result<()> {
    update_and_roll_back(lab, nginx(1, "start-first", 2))
}

fn graceful_started_first(lab: &Lab) -> Result<()> {
    update_and_roll_back(lab, workload(2, "graceful", 500, "start-first", 2))
}

fn refusing(lab: &Lab) -> Result<()> {
    update_and_roll_back(lab, workload(3, "refuse", 500, "stop-first", 2))
}

fn abrupt_stopped_first(lab: &Lab) -> Result<()> {
    update_and_roll_back(lab, workload(4, "abrupt", 0, "stop-first", 2))
}

fn abrupt_started_first(lab: &Lab) -> Result<()> {
    update_and_roll_back(lab, workload(5, "abrupt", 0, "start-first", 1))
}

fn nginx(number: u16, order: &'static str, parallelism: usize) -> Case {
    let (name, port, _) = name_and_ports(number);
    let ports = Ports { web: Some(port), echo: None };
    let inner = Ports { web: Some(80), echo: None };
    let service = Spec::nginx(&name).publish(&format!("{port}:80"));
    Case { number, service, ports, inner, image: OTHER_NGINX, order, parallelism }
}

fn workload(number: u16, stop: &str, delay: u32, order: &'static str, parallelism: usize) -> Case {
    let (name, web, echo) = name_and_ports(number);
    let service = Spec::workload(&name).publish(&format!("{web}:8080")).publish(&format!("{echo}:9000"));
    let service = service.env(&format!("WORKLOAD_STOP={stop}")).env(&format!("WORKLOAD_STOP_DELAY={delay}"));
    let image = "mesh-lab/workload:v2";
    Case {
        number,
        service,
        ports: Ports::new(web, echo),
        inner: Ports::new(8080, 9000),
        image,
        order,
        parallelism,
    }
}

fn name_and_ports(number: u16) -> (String, u16, u16) {
    (format!("rolling{number}"), 8361 + 2 * number, 8362 + 2 * number)
}

/// The same nginx under another name, so that the Swarm has something to update to.
const OTHER_NGINX: &str = "mesh-lab/nginx:next";

fn update_and_roll_back(lab: &Lab, case: Case) -> Result<()> {
    lab.on_every_node(|node| node.docker(["tag", NGINX, OTHER_NGINX]).quiet().read())?;
    let network = network(lab, &format!("updates{}", case.number))?;
    let callers = Spec::workload(&format!("caller{}", case.number))
        .replicas(2)
        .option(&network.option())
        .create(lab)?;
    let service = ["update", "rollback"].iter().fold(case.service, |service, step| {
        service
            .option(&format!("--{step}-order={}", case.order))
            .option(&format!("--{step}-parallelism={}", case.parallelism))
            .option(&format!("--{step}-monitor=500ms"))
    });
    let service = service.replicas(REPLICAS).option(&network.option()).create(lab)?;
    live(lab, service.name(), REPLICAS)?;

    let vip = service.vip(&network.name)?;
    let mut pressure = Pressure::new();
    pressure.by_client(&lab.nodes.iter().collect::<Vec<_>>(), case.ports)?;
    pressure.by_node(&lab.nodes[1], case.ports)?;
    for place in &Inside::tasks(lab, &callers)? {
        pressure.by_task(place, &vip, case.inner)?;
    }
    let ended = service.watch_deaths()?;
    service.update(&["--image", case.image])?;
    service.wait_for_update("completed")?;
    live(lab, service.name(), REPLICAS).context("after the update")?;
    service.rollback()?;
    service.wait_for_update("rollback_completed")?;
    live(lab, service.name(), REPLICAS).context("after the rollback")?;

    let deaths = wait::for_up_to(PATIENCE, "all tasks have been replaced twice", || {
        let deaths = ended.seen();
        ensure!(deaths.len() == 2 * REPLICAS, "{} have ended: {deaths:?}", deaths.len());
        Ok(deaths)
    });
    let outcome = pressure.release()?;
    let deaths = deaths?;
    if case.image.starts_with(WORKLOAD.trim_end_matches("latest")) {
        for load in outcome.loads() {
            ensure!(load.versions.len() == 2, "both versions were to answer: {:?}", load.versions);
        }
    }
    outcome.nothing_failed()?;
    outcome.only_the_stopped_broke(&deaths)
}
