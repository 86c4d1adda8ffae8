//! From something that happens in the Swarm to the tables in the kernel of every node. The tables are read as the
//! programs read them, from the host, several times in a millisecond, on the clock that the event is timed with.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use mesh_common::{
    frontend::{Frontend, FrontendKey},
    net::{Port, protocol},
};
use mesh_tests::{
    cmd::Cmd,
    interrupt,
    lab::{Lab, Node},
    service::{Service, Spec},
    terminal::Progress,
    wait,
};
use serde_json::{Value, json};

use super::{machine, plot, results};

const NAME: &str = "bench-convergence";
const PORT: u16 = 8391;
const TASKS: u32 = 6;

pub(super) fn run(lab: &Lab, repetitions: usize) -> Result<()> {
    let spec = Spec::workload(NAME).replicas(TASKS as usize).publish(&format!("{PORT}:8080"));
    let service = spec.option("--restart-delay=300ms").create(lab)?;
    let watch = Watch::begin(lab)?;
    watch.all_show(Some(TASKS)).context("the mesh does not serve")?;
    let mut measured = Measured::default();
    let mut progress = Progress::new();
    for number in 1..=repetitions {
        progress.show(&format!("{number} of {repetitions}"));
        ensure!(!interrupt::happened(), "interrupted");
        a_death(lab, &service, &watch, number, &mut measured)?;
        a_start(lab, &service, &watch, &mut measured)?;
        a_label(lab, &service, &watch, &mut measured)?;
    }
    drop(progress);
    measured.show();
    measured.save(repetitions)
}

/// A task's process is killed; timed from the moment at which the kernel says that the process has ended.
fn a_death(
    lab: &Lab,
    service: &Service<'_>,
    watch: &Watch,
    number: usize,
    measured: &mut Measured,
) -> Result<()> {
    let tasks = service.wait_for(TASKS as usize)?;
    watch.all_show(Some(TASKS))?;
    let victim = &tasks[number % tasks.len()];
    let node = lab.node(&victim.node)?;
    let container = service.container(victim)?;
    let end = end_of(node.container_process(&container)?)?;
    watch.forget();
    node.docker(["kill", &container]).quiet().read()?;
    let ended = end.join().map_err(|_| anyhow::anyhow!("the process was not watched"))??;
    for (index, entry) in lab.nodes.iter().enumerate() {
        let moment = watch.first(index, |count| count == Some(TASKS - 1))?;
        let own = entry.name == node.name;
        measured.add(if own { Event::DeathOwn } else { Event::DeathElsewhere }, ended, moment);
    }
    // Its successor.
    wait::for_up_to(Duration::from_secs(30), "the task is replaced", || {
        let tasks = service.tasks()?;
        ensure!(tasks.iter().all(|task| task.id != victim.id) && tasks.len() == TASKS as usize, "{tasks:?}");
        Ok(())
    })?;
    watch.all_show(Some(TASKS))
}

/// A task is added; timed from the moment at which its node tells the Swarm that it runs.
fn a_start(lab: &Lab, service: &Service<'_>, watch: &Watch, measured: &mut Measured) -> Result<()> {
    let before = service.wait_for(TASKS as usize)?;
    watch.forget();
    scale(lab, TASKS + 1)?;
    let tasks = service.wait_for(TASKS as usize + 1)?;
    let task = tasks.iter().find(|task| before.iter().all(|old| old.id != task.id)).context("no new task")?;
    let inspect = ["inspect", "--type", "task", "--format", "{{json .Status.Timestamp}}", &task.id];
    let running = moment(&lab.docker(inspect).quiet().read()?)?;
    for (index, entry) in lab.nodes.iter().enumerate() {
        let moment = watch.first(index, |count| count == Some(TASKS + 1))?;
        let own = entry.name == task.node;
        measured.add(if own { Event::RunningOwn } else { Event::RunningElsewhere }, running, moment);
    }
    scale(lab, TASKS)?;
    service.wait_for(TASKS as usize)?;
    watch.all_show(Some(TASKS))
}

/// The service is taken off the mesh and put back; timed from when the Swarm has written that down.
fn a_label(lab: &Lab, service: &Service<'_>, watch: &Watch, measured: &mut Measured) -> Result<()> {
    for (label, count) in [("mesh.enable=false", None), ("mesh.enable=true", Some(TASKS))] {
        watch.forget();
        let update = ["service", "update", "--quiet", "--detach", "--label-add", label, service.name()];
        lab.docker(update).quiet().read()?;
        let inspect = ["service", "inspect", "--format", "{{json .UpdatedAt}}", service.name()];
        let written = moment(&lab.docker(inspect).quiet().read()?)?;
        for index in 0..lab.nodes.len() {
            measured.add(Event::Label, written, watch.first(index, |shown| shown == count)?);
        }
    }
    Ok(())
}

fn scale(lab: &Lab, tasks: u32) -> Result<()> {
    lab.docker(["service", "scale", "--detach", &format!("{NAME}={tasks}")]).quiet().read().map(drop)
}

/// Waits for the end of a process that is not a child of this one.
fn end_of(process: i32) -> Result<JoinHandle<Result<SystemTime>>> {
    // SAFETY: `pidfd_open` takes two integers and returns a descriptor or -1.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) } as i32;
    ensure!(descriptor >= 0, "cannot watch process {process}: {}", std::io::Error::last_os_error());
    Ok(thread::spawn(move || {
        let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid `pollfd` is given, for a descriptor that only this thread has; it is closed once.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 30_000) };
        let now = SystemTime::now();
        // SAFETY: as above.
        unsafe { libc::close(descriptor) };
        ensure!(ready == 1, "process {process} does not end");
        Ok(now)
    }))
}

/// Docker's times are RFC 3339 with nanoseconds, in quotes.
fn moment(text: &str) -> Result<SystemTime> {
    let text = text.trim_matches('"');
    let nanoseconds = Cmd::new("date").args(["--utc", "+%s%N", "--date", text]).quiet().read()?;
    let nanoseconds: u64 = nanoseconds.parse().with_context(|| format!("{text} is no time"))?;
    Ok(UNIX_EPOCH + Duration::from_nanos(nanoseconds))
}

/// How many backends the service's frontend has in the tables of each node, each time that this changes.
struct Watch {
    seen: Arc<Mutex<Vec<Vec<Seen>>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: SystemTime,
    /// None without a frontend.
    count: Option<u32>,
}

/// Between two looks at all nodes.
const EVERY: Duration = Duration::from_micros(300);

impl Watch {
    fn begin(lab: &Lab) -> Result<Self> {
        let tables = lab.nodes.iter().map(frontends).collect::<Result<Vec<_>>>()?;
        let seen = Arc::new(Mutex::new(vec![Vec::<Seen>::new(); tables.len()]));
        let over = Arc::new(AtomicBool::new(false));
        let (told, stop) = (Arc::clone(&seen), Arc::clone(&over));
        let thread = thread::spawn(move || {
            let key = FrontendKey::published(Port::new(PORT), protocol::TCP);
            while !stop.load(Ordering::Relaxed) {
                for (index, table) in tables.iter().enumerate() {
                    let count = table.get(&key, 0).ok().map(|frontend| frontend.count);
                    let at = SystemTime::now();
                    let Ok(mut seen) = told.lock() else { return };
                    if seen[index].last().is_none_or(|last| last.count != count) {
                        seen[index].push(Seen { at, count });
                    }
                }
                thread::sleep(EVERY);
            }
        });
        Ok(Self { seen, over, thread: Some(thread) })
    }

    /// Leaves only what is shown now.
    fn forget(&self) {
        if let Ok(mut seen) = self.seen.lock() {
            for node in seen.iter_mut() {
                node.drain(..node.len().saturating_sub(1));
            }
        }
    }

    /// When a node's tables first showed this after what they showed at [`Watch::forget`].
    fn first(&self, node: usize, wanted: impl Fn(Option<u32>) -> bool) -> Result<SystemTime> {
        wait::until("the tables follow", Duration::from_secs(20), Duration::from_millis(1), || {
            let Ok(seen) = self.seen.lock() else { bail!("the watch has ended") };
            let found = seen[node].iter().skip(1).find(|seen| wanted(seen.count));
            Ok(found.with_context(|| format!("node {} shows {:?}", node + 1, seen[node]))?.at)
        })
    }

    /// Waits until all nodes show this.
    fn all_show(&self, count: Option<u32>) -> Result<()> {
        wait::until("all tables agree", Duration::from_secs(20), Duration::from_millis(10), || {
            let Ok(seen) = self.seen.lock() else { bail!("the watch has ended") };
            let agree = seen.iter().all(|node| node.last().is_some_and(|last| last.count == count));
            ensure!(agree, "they show {seen:?}");
            Ok(())
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The node's own table, through its BPF file system.
fn frontends(node: &Node) -> Result<HashMap<MapData, FrontendKey, Frontend>> {
    let path = node.path("/sys/fs/bpf/mesh/maps/FRONTENDS");
    let data =
        MapData::from_pin(&path).with_context(|| format!("{} has no tables of the mesh", node.name))?;
    Ok(HashMap::try_from(Map::HashMap(data))?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    DeathOwn,
    DeathElsewhere,
    RunningOwn,
    RunningElsewhere,
    Label,
}

impl Event {
    const ALL: [(Self, &str, &str); 5] = [
        (Self::DeathOwn, "death_own_node", "mesh: task dies, own node"),
        (Self::DeathElsewhere, "death_other_nodes", "mesh: task dies, others"),
        (Self::RunningOwn, "running_own_node", "mesh: task runs, own node"),
        (Self::RunningElsewhere, "running_other_nodes", "mesh: task runs, others"),
        (Self::Label, "label_all_nodes", "mesh: label changes, all"),
    ];
}

/// Milliseconds, by event; less than nothing where the tables were ahead of what the event is timed with.
#[derive(Debug, Default)]
struct Measured(Vec<(Event, f64)>);

impl Measured {
    fn add(&mut self, event: Event, happened: SystemTime, shown: SystemTime) {
        let later = shown.duration_since(happened).map(|time| time.as_secs_f64());
        let seconds = later.unwrap_or_else(|early| -early.duration().as_secs_f64());
        self.0.push((event, seconds * 1000.0));
    }

    fn sorted(&self, event: Event) -> Vec<f64> {
        let mut of: Vec<f64> = self.0.iter().filter(|(e, _)| *e == event).map(|(_, ms)| *ms).collect();
        of.sort_unstable_by(f64::total_cmp);
        of
    }

    fn show(&self) {
        println!(
            "{:28} {:>8} {:>8} {:>8} {:>8}",
            "FROM … TO THE TABLES", "SAMPLES", "P50 ms", "P99 ms", "MAX ms"
        );
        for (event, _, label) in Event::ALL {
            let of = self.sorted(event);
            let (p50, p99, max) = (percentile(&of, 50), percentile(&of, 99), percentile(&of, 100));
            println!("{label:28} {:8} {p50:8.1} {p99:8.1} {max:8.1}", of.len());
        }
        println!(
            "A death is timed from the end of its process, a start from the moment at which its node says that it runs,\n\
             a label from the moment at which the Swarm has stored it."
        );
    }

    fn save(&self, repetitions: usize) -> Result<()> {
        let event = |(event, key, _): (Event, &str, &str)| {
            let of = self.sorted(event);
            let figures = json!({
                "samples": of.len(), "p50_ms": percentile(&of, 50), "p99_ms": percentile(&of, 99), "all_ms": of
            });
            (key.to_owned(), figures)
        };
        let mut result: serde_json::Map<String, Value> = Event::ALL.into_iter().map(event).collect();
        result.insert("repetitions".into(), json!(repetitions));
        let machine = machine::describe();
        result.insert("machine".into(), json!(machine));
        let rows =
            Event::ALL.map(|(event, _, label)| (label.to_owned(), percentile(&self.sorted(event), 99)));
        let plot = plot::bars("From an event to the tables, 99th percentile", &machine, "ms", &rows);
        results::save([
            ("convergence.json", serde_json::to_string_pretty(&result)?),
            ("convergence.svg", plot),
        ])
    }
}

/// The smallest value that so many in a hundred do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let sorted: Vec<f64> = (1..=50).map(f64::from).collect();
        let measured = [50, 99, 100].map(|percent| percentile(&sorted, percent).to_string());
        assert_eq!(measured, ["25", "50", "50"]);
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn dockers_times_keep_their_nanoseconds() {
        let moment = moment("\"2026-11-21T05:31:43.123456789Z\"").unwrap();
        let since = moment.duration_since(UNIX_EPOCH).unwrap();
        assert_eq!((since.as_secs(), since.subsec_nanos()), (1_795_239_103, 123_456_789));
    }
}
