//! Constant load from everywhere at once while something happens, and what may be said of it afterwards.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Broken, Failure, Load, Running},
    deaths::Death,
    inside::{Inside, Network},
    lab::{Lab, Node},
    service::{Service, Spec, Task},
    wait,
};

use crate::support::{PATIENCE, live, only_on};

/// How much later than it happened Docker may tell of a container's end: 410 ms have been seen, on a machine that was busy with
/// other things.
const REPORTED_WITHIN: u64 = 800;

/// The published ports of [`under_load`].
const PORTS: Ports = Ports { web: Some(8331), echo: Some(8332) };

/// From where the load of [`under_load`] comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callers {
    /// From the client and from a node's process.
    Outside,
    /// From a task too, to the virtual address.
    OutsideAndTask,
    /// From a process of every node, and from a task.
    EverywhereAndTask,
}

/// Does something while a service `loaded` with so many tasks is asked by the client through these nodes, by a process of
/// the first of them, and by a task there.
pub(crate) fn under_load(
    lab: &Lab,
    replicas: usize,
    entries: &[&Node],
    from: Callers,
    act: impl FnOnce(&Service<'_>) -> Result<()>,
) -> Result<(Outcome, Vec<Death>)> {
    let first = entries.first().context("no way in")?;
    let network = network(lab, "loaded")?;
    let callers = Spec::workload("caller").option(&only_on(first)).option(&network.option()).create(lab)?;
    let spec = Spec::workload("loaded").publish("8331:8080").publish("8332:9000").replicas(replicas);
    // It stops as a good server does: for a moment it serves on.
    let spec = spec.env("WORKLOAD_STOP_DELAY=300").option(&network.option());
    let service = spec.create(lab)?;
    live(lab, "loaded", replicas)?;

    let mut pressure = Pressure::new();
    pressure.by_client(entries, PORTS)?;
    let ways_in = if from == Callers::EverywhereAndTask { entries } else { &entries[..1] };
    ways_in.iter().try_for_each(|node| pressure.by_node(node, PORTS))?;
    let vip = service.vip(&network.name)?;
    if from != Callers::Outside {
        let place = Inside::tasks(lab, &callers)?.remove(0);
        pressure.by_task(&place, &vip, Ports::new(8080, 9000))?;
    }
    std::thread::sleep(Duration::from_millis(500));
    let deaths = service.watch_deaths()?;
    let acted = act(&service);
    let outcome = pressure.release();
    acted?;
    Ok((outcome?, deaths.seen()))
}

/// A network; one of the same name that was removed a moment ago may be there still.
pub(crate) fn network<'a>(lab: &'a Lab, name: &str) -> Result<Network<'a>> {
    wait::for_up_to(PATIENCE, &format!("the network {name}"), || Network::create(lab, name, &[]))
}

/// Clients that go on until [`Pressure::release`].
#[derive(Debug)]
pub(crate) struct Pressure {
    since: SystemTime,
    running: Vec<(String, Running)>,
    extra: Vec<String>,
}

/// The ports that are under load: HTTP for new connections, echo for those that are held.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ports {
    pub(crate) web: Option<u16>,
    pub(crate) echo: Option<u16>,
}

impl Ports {
    pub(crate) fn new(web: u16, echo: u16) -> Self {
        Self { web: Some(web), echo: Some(echo) }
    }

    fn at(self, address: &str) -> Vec<String> {
        let web = self.web.map(|port| format!("--web={address}:{port}"));
        let echo = self.echo.map(|port| format!("--echo={address}:{port}"));
        web.into_iter().chain(echo).collect()
    }
}

impl Pressure {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// With options of `mesh-workload load` for all that begin.
    pub(crate) fn with(options: &[&str]) -> Self {
        let extra = options.iter().map(ToString::to_string).collect();
        Self { since: SystemTime::now(), running: Vec::new(), extra }
    }

    /// From outside, through each of these nodes.
    pub(crate) fn by_client(&mut self, nodes: &[&Node], ports: Ports) -> Result<()> {
        let targets: Vec<String> = nodes.iter().flat_map(|node| ports.at(&node.address)).collect();
        self.begin("the client".into(), &targets, |arguments| At::Client.start(arguments))
    }

    /// From outside, to an address.
    pub(crate) fn at(&mut self, who: &str, address: &str, ports: Ports) -> Result<()> {
        self.begin(who.into(), &ports.at(address), |arguments| At::Client.start(arguments))
    }

    /// From a process of a node, to `localhost`.
    pub(crate) fn by_node(&mut self, node: &Node, ports: Ports) -> Result<()> {
        let targets = ports.at("127.0.0.1");
        self.begin(format!("a process of {}", node.name), &targets, |arguments| {
            At::Node(node).start(arguments)
        })
    }

    /// From a task to a virtual address.
    pub(crate) fn by_task(&mut self, place: &Inside<'_>, vip: &str, ports: Ports) -> Result<()> {
        self.begin(format!("a task on {}", place.node.name), &ports.at(vip), |arguments| {
            place.start(arguments)
        })
    }

    fn begin(
        &mut self,
        who: String,
        targets: &[String],
        start: impl FnOnce(&[&str]) -> Result<Running>,
    ) -> Result<()> {
        let options = targets.iter().chain(&self.extra).map(String::as_str);
        let arguments: Vec<&str> = std::iter::once("load").chain(options).collect();
        self.running.push((who, start(&arguments)?));
        Ok(())
    }

    /// Ends it and shows what became of it.
    pub(crate) fn release(mut self) -> Result<Outcome> {
        // A held connection is not missed before its next exchange, and Docker tells of a death a moment later.
        std::thread::sleep(Duration::from_millis(REPORTED_WITHIN));
        for (_, running) in &mut self.running {
            running.enough();
        }
        let report = |(who, running): (String, Running)| {
            let load = running.report().with_context(|| format!("the load of {who}"))?;
            Ok((who, load))
        };
        let loads = self.running.into_iter().map(report).collect::<Result<Vec<_>>>()?;
        let outcome = Outcome { since: self.since, loads };
        outcome.show();
        Ok(outcome)
    }
}

/// Why a held connection ended.
pub(crate) trait Cause {
    /// Whether it was held with one of these tasks.
    fn is_with(&self, tasks: &[Task]) -> bool;
    /// Whether its task ended, and not after it.
    fn ended_with(&self, deaths: &[Death]) -> bool;
}

impl Cause for Broken {
    fn is_with(&self, tasks: &[Task]) -> bool {
        tasks.iter().any(|task| task.id == self.id)
    }

    fn ended_with(&self, deaths: &[Death]) -> bool {
        deaths.iter().any(|death| death.id == self.id && self.at + REPORTED_WITHIN >= death.at)
    }
}

/// What became of all the load.
#[derive(Debug)]
pub(crate) struct Outcome {
    since: SystemTime,
    loads: Vec<(String, Load)>,
}

impl Outcome {
    fn show(&self) {
        for (who, load) in &self.loads {
            let Load { requests, failed, slowest_ms, slow, held, .. } = load;
            let slowest = match load.slowest_task.as_str() {
                "" => String::new(),
                task => format!(", slowest {slowest_ms:.0} ms ({task}, {})", self.when(load.slowest_at)),
            };
            let ended = load.broken.len();
            println!(
                "      {who}: {requests} requests, {failed} failed, {slow} over 200 ms{slowest}; \
                 {held} connections held, {ended} ended"
            );
        }
    }

    /// Everybody was served, every time.
    pub(crate) fn nothing_failed(&self) -> Result<()> {
        self.only_failed("none may fail", |_| false)
    }

    /// Requests failed for this reason only.
    pub(crate) fn only_failed(&self, reason: &str, may_fail: impl Fn(&Failure) -> bool) -> Result<()> {
        for (who, load) in &self.loads {
            ensure!(load.requests > 0 || load.held > 0, "{who} did nothing");
            ensure!(
                load.failures.len() as u64 == load.failed,
                "{who} does not tell of all {} failures",
                load.failed
            );
            let bad: Vec<String> =
                load.failures.iter().filter(|f| !may_fail(f)).map(|f| self.failure(f)).collect();
            ensure!(
                bad.is_empty(),
                "of {} requests from {who}, {} failed ({reason}):\n  {}",
                load.requests,
                load.failed,
                few(&bad)
            );
        }
        Ok(())
    }

    /// Every connection that was held is held still.
    pub(crate) fn nothing_broke(&self) -> Result<()> {
        self.only_broke("none may end", |_| false)
    }

    /// Connections ended that were held with one of these tasks, whenever that was.
    pub(crate) fn only_broke_with(&self, tasks: &[Task]) -> Result<()> {
        self.only_broke("only those with tasks of that node may", |broken| broken.is_with(tasks))
    }

    /// Connections ended with their tasks, none before.
    pub(crate) fn only_the_dead_broke(&self, deaths: &[Death]) -> Result<()> {
        self.only_broke_before(deaths, 0)
    }

    /// The same of tasks that were told to end, and close what they hold from then on.
    pub(crate) fn only_the_stopped_broke(&self, deaths: &[Death]) -> Result<()> {
        /// The grace period of the lab's services, in milliseconds: one that takes longer to end is killed.
        const GRACE: u64 = 2_000;

        self.only_broke_before(deaths, GRACE)
    }

    /// Connections ended with their tasks, or so many milliseconds before.
    fn only_broke_before(&self, deaths: &[Death], earlier: u64) -> Result<()> {
        let ends: Vec<String> = deaths
            .iter()
            .map(|death| {
                format!("{} ({}) on {} at {}", death.task, death.id, death.node, self.when(death.at))
            })
            .collect();
        self.only_broke(&format!("these ended: {}", ends.join(", ")), |broken| {
            let begun: Vec<Death> = deaths
                .iter()
                .map(|death| Death { at: death.at.saturating_sub(earlier), ..death.clone() })
                .collect();
            broken.ended_with(&begun)
        })
    }

    /// Connections ended for this reason only.
    pub(crate) fn only_broke(&self, reason: &str, may_break: impl Fn(&Broken) -> bool) -> Result<()> {
        for (who, load) in &self.loads {
            let bad: Vec<String> =
                load.broken.iter().filter(|b| !may_break(b)).map(|b| self.broken(b)).collect();
            ensure!(
                bad.is_empty(),
                "of {} connections held by {who}, {} ended that should not have ({reason}):\n  {}",
                load.held,
                bad.len(),
                few(&bad)
            );
        }
        Ok(())
    }

    /// No answer took longer.
    pub(crate) fn nothing_slower_than(&self, limit: Duration) -> Result<()> {
        for (who, load) in &self.loads {
            let limit = limit.as_secs_f64() * 1000.0;
            let (slowest, task) = (load.slowest_ms, &load.slowest_task);
            let when = self.when(load.slowest_at);
            ensure!(slowest <= limit, "{when}: a request from {who} took {slowest:.0} ms; {task} answered");
        }
        Ok(())
    }

    pub(crate) fn loads(&self) -> impl Iterator<Item = &Load> {
        self.loads.iter().map(|(_, load)| load)
    }

    fn failure(&self, failure: &Failure) -> String {
        let Failure { at, ms, target, connected, task, error } = failure;
        let task = task.as_deref().unwrap_or("nobody");
        let way = if *connected { "connected" } else { "not connected" };
        format!("{} to {target}, {way}, answered by {task}, after {ms} ms: {error}", self.when(*at))
    }

    fn broken(&self, broken: &Broken) -> String {
        let Broken { at, lasted_ms, target, task, id, error } = broken;
        format!("{} to {target}, with {task} ({id}), after {lasted_ms} ms: {error}", self.when(*at))
    }

    /// Seconds from the beginning.
    fn when(&self, at: u64) -> String {
        format!("{:.2} s", (at as f64 - unix_ms(self.since) as f64) / 1000.0)
    }
}

/// The first and the last ones.
fn few(lines: &[String]) -> String {
    let last = lines.len().saturating_sub(4).max(8);
    let shown = lines.iter().enumerate().filter(|(number, _)| *number < 8 || *number >= last);
    shown.map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n  ")
}

/// Milliseconds since 1970, as reports have them.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
