//! Scenarios as text: a Swarm, what happens on one of its nodes, and what comes of it. Each is played on the agent's pure
//! core, on the programs in this machine's kernel, and on an agent in a namespace. Arguments select scenarios by a part of
//! their name; `--list` shows them; `--level` takes one of the three.

mod core;
mod dns;
mod files;
mod kernel;
mod letters;
mod level;
mod namespaces;
mod packets;
mod scenario;
#[allow(dead_code, reason = "the kernel suite needs more of it")]
#[path = "../kernel/support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;

use letters::Letters;
use level::{Level, Views, Went};
use scenario::{Becomes, Scenario, Step, changed};

/// Scenarios as text.
#[derive(Parser)]
struct Options {
    /// Only scenarios whose name contains one of these
    filters: Vec<String>,
    /// Only those that are called exactly so
    #[arg(long)]
    exact: bool,
    /// Shows them and plays none
    #[arg(long)]
    list: bool,
    /// Only on this level; on all when none is named
    #[arg(long, value_enum)]
    level: Vec<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Core,
    Kernel,
    Namespaces,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        let matches = |filter: &String| if self.exact { name == filter } else { name.contains(filter) };
        self.filters.is_empty() || self.filters.iter().any(matches)
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went as it should.
fn run(options: &Options) -> Result<bool> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh/scenarios");
    let scenarios: Vec<Scenario> =
        Scenario::all(&folder)?.into_iter().filter(|scenario| options.wants(&scenario.name)).collect();
    if options.list {
        for scenario in &scenarios {
            println!("{}: test", scenario.name);
        }
        return Ok(true);
    }
    try_own_tools();
    let levels = if options.level.is_empty() {
        &[Kind::Core, Kind::Kernel, Kind::Namespaces][..]
    } else {
        &options.level
    };
    let (mut passed, mut failed) = (0, Vec::new());
    for kind in levels {
        for (scenario, result) in scenarios.iter().zip(kind.play_all(&scenarios)?) {
            match result {
                Ok(()) => passed += 1,
                Err(error) => {
                    let name = format!("{}: {}", kind.name(), scenario.name);
                    println!("FAIL  {name}: {error:#}");
                    failed.push(name);
                }
            }
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    println!("{passed} passed, {} failed", failed.len());
    Ok(failed.is_empty())
}

/// So many agents are asked at a time: most of it is waiting until they have looked at their files.
const SIDE_BY_SIDE: usize = 4;

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Kernel => "kernel",
            Self::Namespaces => "namespaces",
        }
    }

    /// What has become of each scenario, in their order.
    fn play_all(self, scenarios: &[Scenario]) -> Result<Vec<Result<()>>> {
        let binary = if self == Self::Namespaces { namespaces::built()? } else { PathBuf::new() };
        let (next, results) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
        let play_some = || -> Result<()> {
            let file = SwarmFile::new();
            let mut level = self.prepare(&binary, &file.0)?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(scenario) = scenarios.get(number) else { return Ok(()) };
                let result = play(scenario, number, level.as_mut(), &file.0);
                results.lock().unwrap_or_else(PoisonError::into_inner).insert(number, result);
            }
        };
        let threads = if self == Self::Namespaces { SIDE_BY_SIDE.min(scenarios.len()) } else { 1 };
        thread::scope(|scope| {
            let playing: Vec<_> = (0..threads).map(|_| scope.spawn(play_some)).collect();
            let panicked = |_| Err(anyhow!("the thread panicked"));
            playing.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(panicked))
        })?;
        Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect())
    }

    fn prepare(self, binary: &Path, file: &Path) -> Result<Box<dyn Level>> {
        Ok(match self {
            Self::Core => Box::new(core::Core),
            Self::Kernel => Box::new(kernel::InKernel::load().context("the programs cannot be loaded")?),
            Self::Namespaces => {
                Box::new(namespaces::Agent::start(binary, file).context("no agent can be started")?)
            }
        })
    }
}

/// Where the Swarm is described at the moment; gone with its last user.
struct SwarmFile(PathBuf);

impl SwarmFile {
    fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        Self(env::temp_dir().join(format!("mesh-scenario-{}-{number}.yaml", std::process::id())))
    }
}

impl Drop for SwarmFile {
    fn drop(&mut self) {
        // Nobody may have written it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What scenarios are read and compared with, tried itself first: a fault here would look like one of the mesh.
fn try_own_tools() {
    letters::words_with_letters_are_found();
    scenario::a_change_adds_replaces_and_takes_away();
}

fn play(scenario: &Scenario, number: usize, level: &mut dyn Level, file: &Path) -> Result<()> {
    // Nobody knows what a client did in another scenario.
    let client = [10, 99, 0, 100 + u8::try_from(number % 100)?];
    level.begin()?;
    let mut swarm = scenario.swarm.clone();
    let mut views = Views::of(&swarm, file, client)?;
    level.follow(&views)?;
    let mut letters = Letters::default();
    for (number, step) in (1..).zip(&scenario.steps) {
        if let Step::Change { change } = step {
            changed(&mut swarm, change);
            views = Views::of(&swarm, file, client).with_context(|| format!("step {number}"))?;
        }
        take(step, &views, &mut letters, level).with_context(|| format!("step {number}"))?;
    }
    Ok(())
}

fn take(step: &Step, views: &Views, letters: &mut Letters, level: &mut dyn Level) -> Result<()> {
    match step {
        Step::Change { .. } => level.follow(views),
        Step::Tables { tables } => {
            let found = level.tables(views)?;
            ensure!(found == *tables, "the tables hold {found:?}, not {tables:?}");
            Ok(())
        }
        Step::Packet { packet, becomes } => {
            let coming = match letters.resolved(packet) {
                Ok(text) => packets::coming(&text, &views.names, &views.local)?,
                // Who is meant comes out where packets go.
                Err(error) if level.name() != "core" => return Err(error),
                Err(_) => return Ok(()),
            };
            let Some(went) = level.packet(&coming, becomes, views)? else { return Ok(()) };
            judge(packet, &went, becomes, views, letters)
        }
        Step::Question { by, ask, answer } => {
            let container = views.local.containers.values().find(|container| container.name == *by);
            let place = container.and_then(|container| container.bridge);
            let place = place.with_context(|| format!("{by:?} is no container of this node"))?;
            let said = dns::answer(&level.ask(place.address.octets(), &dns::question(ask)?, views)?)?;
            let mut expected = answer.clone();
            expected.sort();
            ensure!(said == expected, "asked for {ask}, {by} was told {said:?}, not {expected:?}");
            Ok(())
        }
    }
}

fn judge(came: &str, went: &Went, expected: &Becomes, views: &Views, letters: &mut Letters) -> Result<()> {
    match (went, expected) {
        (Went::Nothing, Becomes::Nothing) | (Went::Left, Becomes::Left) => Ok(()),
        (Went::Packet(frame), Becomes::Packet(text)) => {
            let said = packets::described(frame, &views.names);
            ensure!(letters.agree(text, &said, &views.names), "{came:?} becomes {said:?}, not {text:?}");
            Ok(())
        }
        (Went::Packet(frame), other) => {
            bail!("{came:?} becomes {:?}, not {other:?}", packets::described(frame, &views.names))
        }
        (other, expected) => bail!("{came:?} becomes {other:?}, not {expected:?}"),
    }
}
