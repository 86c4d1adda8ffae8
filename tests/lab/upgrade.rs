//! From the version before to this one and back, as operators do it: by the image alone, node by node, by the stack file, and
//! by the old stack file. All the time there is load, and it is judged while both versions are on the Swarm.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_tests::{
    client::{At, Report},
    images::{AGENT, Revision},
    inside::Inside,
    lab::{Lab, Node},
    mesh::{self, SERVICE},
    paths, priority,
    service::{Service, Spec},
    wait,
};
use serde_json::Value;

use crate::{
    Scenario, canary,
    load::{Ports, Pressure, network},
    support::{PATIENCE, all_ok, exact_through_every_node, live, target},
};

pub(crate) const SCENARIOS: &[Scenario] = &[(
    "an upgrade from the version before, and the way back, interrupts no connection and no request, also with both versions on \
     the Swarm",
    upgraded,
)];

/// The version before: the revision that was landed last. Whoever lands another one names it here.
const BEFORE: &str = "fd87607";

/// Within what time all agents are exchanged, one after the other, each when the one before is healthy.
const EXCHANGED: Duration = Duration::from_mins(2);

const PORTS: Ports = Ports { web: Some(8341), echo: Some(8342) };
const STEADY_WEB: u16 = 8343;
const STEADY_ECHO: u16 = 8344;

/// The version before, ready to be deployed.
struct Before {
    archive: PathBuf,
    stack: PathBuf,
}

/// The version before, as it is built beside other scenarios.
static BUILDING: Mutex<Option<JoinHandle<Result<Before>>>> = Mutex::new(None);

/// Begins to build the version before, by what the scenarios that come first leave of the processors. It takes minutes the
/// first time.
pub(crate) fn begin_to_build_the_version_before() {
    let build = || {
        priority::give_way()?;
        build()
    };
    *BUILDING.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::spawn(build));
}

fn before() -> Result<Before> {
    let building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner).take();
    let built = building.map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("it panicked"))));
    // What was begun and has failed may have been in another's way.
    built.and_then(Result::ok).map_or_else(build, Ok)
}

fn build() -> Result<Before> {
    let revision = Revision::find(BEFORE).context("the version before cannot be built")?;
    let archive = revision.quick_image()?;
    // Its stack file names the image that every version has.
    let file = revision.files()?.join("mesh-agent/deploy/stack.yml");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(text.contains(AGENT), "{} does not name {AGENT}", file.display());
    let stack = archive.with_extension("yml");
    fs::write(&stack, text.replace(AGENT, &revision.tag()))?;
    Ok(Before { archive, stack })
}

fn upgraded(lab: &Lab) -> Result<()> {
    canary::loses_nodes();
    // That one warned of its own end when it was stopped.
    canary::warns("a part of the resolver ended");
    let before = before()?;
    mesh::load(lab, &[before.archive])?;
    mesh::uninstall(lab)?;
    let done = deploy(lab, &before.stack)
        .context("the version before")
        .and_then(|()| there_and_back(lab, &before.stack));
    // The next one wants this version, whatever has become of it here.
    let all_at_once = paths::target().join("stack-at-once.yml");
    let text = fs::read_to_string(paths::stack_file())?.replace("parallelism: 1", "parallelism: 0");
    fs::write(&all_at_once, text)?;
    done.and(deploy(lab, &all_at_once).context("this version again"))
}

fn there_and_back(lab: &Lab, stack_before: &Path) -> Result<()> {
    let network = network(lab, "upgrade")?;
    let callers = Spec::workload("caller").global().option(&network.option()).create(lab)?;
    let spec = Spec::workload("loaded").replicas(4).publish("8341:8080").publish("8342:9000");
    let loaded = spec.option(&network.option()).create(lab)?;
    let spec = Spec::workload("steady").replicas(2).publish(&format!("{STEADY_WEB}:8080"));
    let spec = spec.publish(&format!("{STEADY_ECHO}:9000/udp")).option(&network.option());
    let site = Site { lab, loaded, steady: spec.create(lab)?, callers, network: &network.name };
    live(lab, "loaded", 4)?;

    let throughout = site.pressure()?;
    let acted = site.exchange_all(stack_before);
    let outcome = throughout.release()?;
    acted?;
    outcome.nothing_failed()?;
    outcome.nothing_broke()
}

/// What the versions serve meanwhile.
struct Site<'a> {
    lab: &'a Lab,
    /// Under load, and never changed.
    loaded: Service<'a>,
    /// Changed, and asked without other load.
    steady: Service<'a>,
    /// One on every node.
    callers: Service<'a>,
    network: &'a str,
}

impl Site<'_> {
    fn exchange_all(&self, stack_before: &Path) -> Result<()> {
        let nodes = self.lab.nodes.len();
        for count in 1..=nodes {
            // A delay that no test waits for makes the Swarm pause after each node; another delay makes it go on.
            let delay = format!("--update-delay={count}h");
            let once = ["--update-parallelism=1", "--update-monitor=500ms", "--image", AGENT, &delay];
            let update = ["service", "update", "--quiet", "--detach", "--no-resolve-image"];
            self.lab.docker(update).args(once).arg(SERVICE).read()?;
            exchanged(self.lab, count)?;
            let new = with_image(self.lab, AGENT)?;
            println!("      this version on {}", new.join(", "));
            ensure!(new.len() == count, "{count} nodes were to have this version");
            self.is_served(2 + count % 2)
                .with_context(|| format!("with this version on {}", new.join(", ")))?;
        }
        deploy(self.lab, &paths::stack_file()).context("this version's stack file")?;
        self.is_served(2).context("with this version's stack file")?;
        deploy(self.lab, stack_before).context("back to the version before")?;
        self.is_served(3).context("with the version before again")
    }

    /// From outside through every node, from a node, and from a task.
    fn pressure(&self) -> Result<Pressure> {
        let first = self.lab.manager();
        let mut pressure = Pressure::with(&["--limit=900000"]);
        pressure.by_client(&self.lab.nodes.iter().collect::<Vec<_>>(), PORTS)?;
        pressure.by_node(first, PORTS)?;
        let vip = self.loaded.vip(self.network)?;
        for place in &Inside::tasks(self.lab, &self.callers)? {
            pressure.by_task(place, &vip, Ports::new(8080, 9000))?;
        }
        Ok(pressure)
    }

    /// All nodes serve, follow a change of the Swarm, and agree with it, whichever versions they have; what begins now is
    /// served too.
    fn is_served(&self, tasks: usize) -> Result<()> {
        let pressure = self.pressure()?;
        let steps = self.follow_a_change(tasks);
        let outcome = pressure.release()?;
        steps?;
        outcome.nothing_failed()?;
        outcome.nothing_broke()
    }

    fn follow_a_change(&self, tasks: usize) -> Result<()> {
        self.steady.scale(tasks)?;
        self.steady.wait_for(tasks)?;
        live(self.lab, "steady", tasks)?;
        for node in &self.lab.nodes {
            wait::for_up_to(PATIENCE, &format!("{} hears all others", node.name), || hears_all(node))?;
        }
        exact_through_every_node(self.lab, STEADY_WEB, tasks, 4)?;
        for node in &self.lab.nodes {
            let udp = ["udp", &target(node, STEADY_ECHO), "--count", "20"];
            let report: Report = At::Client.run(&udp)?;
            all_ok(report).with_context(|| format!("datagrams through {}", node.name))?;
            let check = || mesh::agent(node, &["check"])?.quiet().read();
            wait::for_up_to(PATIENCE, &format!("{} agrees with the Swarm", node.name), check)?;
        }
        Ok(())
    }
}

/// The other nodes' dataplanes answer this one's probes.
fn hears_all(node: &Node) -> Result<()> {
    let status = mesh::status(node)?;
    let rows = status["nodes"].as_array().with_context(|| format!("no nodes in {status}"))?;
    let others = || rows.iter().filter(|row| row["node"] != node.name.as_str());
    ensure!(others().count() > 0 && others().all(|row| row["dataplane"] == "answers"), "{}", status["nodes"]);
    Ok(())
}

/// Deploys a stack file, and waits until all agents are as it says.
fn deploy(lab: &Lab, file: &Path) -> Result<()> {
    let deploy = ["stack", "deploy", "--resolve-image", "never", "--compose-file"];
    lab.docker(deploy).arg(mesh::prompt(file)?).arg(mesh::STACK).env("MESH_XDP", "auto").read()?;
    exchanged(lab, lab.nodes.len())
}

/// Waits until so many agents are as the service says, and all answer.
fn exchanged(lab: &Lab, count: usize) -> Result<()> {
    wait::for_up_to(EXCHANGED, &format!("{count} agents are exchanged"), || {
        let there = up_to_date(lab)?;
        ensure!(there == count, "{there} are");
        Ok(())
    })?;
    mesh::answers(lab)
}

/// How many of the agents' tasks run as the service says.
fn up_to_date(lab: &Lab) -> Result<usize> {
    let inspect = ["service", "inspect", "--format", "{{json .Spec.TaskTemplate}}", SERVICE];
    let wanted: Value = serde_json::from_str(&lab.docker(inspect).quiet().read()?)?;
    let running = ["service", "ps", "--quiet", "--no-trunc", "--filter=desired-state=running", SERVICE];
    let ids = lab.docker(running).quiet().read()?;
    let inspect = lab.docker(["inspect", "--type", "task"]).args(ids.lines());
    let tasks: Vec<Value> = serde_json::from_str(&inspect.quiet().read()?)?;
    let as_wanted = |task: &&Value| {
        let same = |key: &str| said(&task["Spec"][key]) == said(&wanted[key]);
        task["Status"]["State"] == "running" && same("ContainerSpec") && same("ForceUpdate")
    };
    Ok(tasks.iter().filter(as_wanted).count())
}

/// Without what says nothing: of a service, Docker shows more of that than of its tasks.
fn said(value: &Value) -> Value {
    let Value::Object(fields) = value else { return value.clone() };
    let fields = fields.iter().map(|(key, value)| (key.clone(), said(value)));
    let says_something =
        |value: &Value| !value.is_null() && value.as_object().is_none_or(|fields| !fields.is_empty());
    Value::Object(fields.filter(|(_, value)| says_something(value)).collect())
}

/// The nodes whose agent runs this image.
fn with_image(lab: &Lab, image: &str) -> Result<Vec<String>> {
    let runs = |node: &Node| {
        let inspect = ["inspect", "--format", "{{.Config.Image}}", &mesh::agent_container(node)?];
        node.docker(inspect).quiet().read()
    };
    let images = lab.on_every_node(runs)?;
    let nodes = lab.nodes.iter().zip(images).filter(|(_, its)| its == image);
    Ok(nodes.map(|(node, _)| node.name.clone()).collect())
}
