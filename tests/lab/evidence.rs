//! What there was to see when something failed. Guards take services and networks away as soon as a scenario fails, so what is
//! waited for in vain is looked at before that; what fails otherwise, right after.

use std::{
    cell::Cell,
    fs,
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use mesh_tests::{
    lab::{Docker, Lab, Node},
    mesh, paths,
    recording::Recording,
    wait,
};

thread_local! {
    static SCENARIO: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// From now on this thread's evidence is this scenario's.
pub(crate) fn of(scenario: &'static str) {
    SCENARIO.set(Some(scenario));
}

/// Looks at the lab whenever something was waited for in vain.
pub(crate) fn keep() {
    wait::when_in_vain(|what| {
        let seen = Lab::open().map_or_else(|error| format!("{error:#}"), |lab| look(&lab));
        if let Err(error) = save(&format!("waited for in vain: {what}\n{seen}")) {
            eprintln!("{error:#}");
        }
    });
}

/// For one answer of Docker's.
const PATIENCE: Duration = Duration::from_secs(5);

/// How packets left the programs, what the agents and Docker's daemons have logged, and what the Swarm says.
pub(crate) fn look(lab: &Lab) -> String {
    let swarm = [&["node", "ls"][..], &["service", "ls"], &["network", "ls", "--filter", "driver=overlay"]];
    let swarm = swarm.iter().map(|question| {
        // A daemon that is frozen on purpose keeps nobody waiting.
        let answer = lab
            .docker(*question)
            .quiet()
            .within(PATIENCE)
            .read()
            .unwrap_or_else(|error| format!("{error:#}"));
        format!("--- docker {}\n{answer}\n", question.join(" "))
    });
    let daemons = lab.nodes.iter().map(Node::docker_log).map(|log| log + "\n");
    mesh::evidence(lab) + &swarm.chain(daemons).collect::<String>()
}

/// Adds to the file of this thread's scenario.
pub(crate) fn save(text: &str) -> Result<()> {
    let Some(scenario) = SCENARIO.get() else { return Ok(()) };
    let file = file(scenario);
    let earlier = fs::read_to_string(&file).unwrap_or_default();
    fs::write(&file, format!("{earlier}{text}\n")).with_context(|| format!("cannot write {}", file.display()))
}

/// From now on the fabric's packets are recorded, until the value is dropped.
pub(crate) fn record() -> Result<impl Drop> {
    struct Recorded;
    impl Drop for Recorded {
        fn drop(&mut self) {
            *PACKETS.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
    let recording = Recording::start(&folder())?;
    *PACKETS.lock().unwrap_or_else(PoisonError::into_inner) = Some(recording);
    Ok(Recorded)
}

static PACKETS: Mutex<Option<Recording>> = Mutex::new(None);

/// Keeps the last packets on the fabric beside the file of this thread's scenario.
pub(crate) fn save_packets() -> Result<()> {
    let packets = PACKETS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((scenario, recording)) = SCENARIO.get().zip(packets.as_ref()) else { return Ok(()) };
    recording.keep(&file(scenario))
}

/// Where a scenario's evidence is kept.
pub(crate) fn file(scenario: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = scenario.chars().map(plain).collect();
    folder().join(name.trim_matches('-')).with_extension("txt")
}

fn folder() -> PathBuf {
    FOLDER.get().map_or_else(paths::target, PathBuf::clone)
}

/// Where all of it is kept.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Forgets that of an earlier run with this Docker.
pub(crate) fn clear(docker: Docker) -> Result<()> {
    let folder = FOLDER.get_or_init(|| paths::target().join("tests").join(format!("lab-{docker}")));
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}
