//! Runs scenarios, some of them side by side, and keeps what became of each.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::SystemTime,
};

use anyhow::{Context, Result, anyhow};
use mesh_tests::{
    interrupt,
    lab::{Docker, Lab},
    paths,
};
use serde_json::{Value, json};

use crate::{
    Scenario,
    canary::{self, Announced, Canary, Ran},
    evidence,
    selection::Company,
};

/// How many run at a time of those that may have company.
const SEVERAL: usize = 3;

/// How many of the slowest are named at the end.
const SLOWEST: usize = 10;

/// What became of a scenario.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    begin: SystemTime,
    end: SystemTime,
    pub(crate) announced: Announced,
    pub(crate) error: Option<String>,
}

impl Outcome {
    fn ran(&self) -> Ran<'_> {
        Ran { begin: self.begin, end: self.end, announced: &self.announced, findings: Vec::new() }
    }

    fn seconds(&self) -> f64 {
        self.end.duration_since(self.begin).unwrap_or_default().as_secs_f64()
    }
}

/// Runs all of them, first those that may have company, and returns what became of each. Each leaves the lab as it found it.
pub(crate) fn run(scenarios: &[&Scenario], lab: &Lab) -> Vec<Outcome> {
    let progress = Progress { all: scenarios.len(), begun: AtomicUsize::new(0) };
    let mut ordered = scenarios.to_vec();
    ordered.sort_by_key(|(name, _)| Company::of(name));
    let mut outcomes = Vec::new();
    for group in ordered.chunk_by(|(one, _), (other, _)| at_a_time(one) == at_a_time(other)) {
        match group.first().map_or(1, |(name, _)| at_a_time(name)) {
            1 => group.iter().for_each(|scenario| {
                outcomes.extend(watched(lab, || vec![one(scenario, lab, &progress)]));
            }),
            several => outcomes.extend(watched(lab, || side_by_side(group, several, lab, &progress))),
        }
    }
    outcomes
}

fn at_a_time(name: &str) -> usize {
    match Company::of(name) {
        Company::Several(_) => SEVERAL,
        Company::One(_) => 2,
        Company::None => 1,
    }
}

/// Runs scenarios, and has those fail that leave something behind or have caused what they have not announced.
fn watched(lab: &Lab, run: impl FnOnce() -> Vec<Outcome>) -> Vec<Outcome> {
    let canary = Canary::look(lab);
    let mut outcomes = run();
    if interrupt::happened() {
        return outcomes;
    }
    let findings: Vec<Vec<String>> = match canary {
        Err(error) => vec![vec![format!("nobody could look at the lab before: {error:#}")]; outcomes.len()],
        Ok(canary) => {
            let mut batch: Vec<Ran<'_>> = outcomes.iter().map(Outcome::ran).collect();
            canary.judge(lab, &mut batch);
            batch.into_iter().map(|ran| ran.findings).collect()
        }
    };
    let mut seen = None;
    for (outcome, findings) in outcomes.iter_mut().zip(findings) {
        // What a failure leaves behind follows from it.
        if !findings.is_empty() && outcome.error.is_none() {
            evidence::of(outcome.name);
            let seen = seen.get_or_insert_with(|| evidence::look(lab));
            outcome.error = Some(failed(outcome, &findings.join("\n"), seen));
        }
    }
    outcomes
}

fn side_by_side(scenarios: &[&Scenario], at_a_time: usize, lab: &Lab, progress: &Progress) -> Vec<Outcome> {
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = one(scenario, lab, progress);
            outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(work);
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn one((name, check): &Scenario, lab: &Lab, progress: &Progress) -> Outcome {
    println!("----  {} {name}", progress.next());
    evidence::of(name);
    canary::take();
    let begin = SystemTime::now();
    let result = if interrupt::happened() {
        Err(anyhow!("interrupted"))
    } else {
        // A panic is a failure like any other; the lab is repaired by the scenario's own guards.
        catch_unwind(AssertUnwindSafe(|| check(lab))).unwrap_or_else(|_| Err(anyhow!("it panicked")))
    };
    let mut outcome = Outcome { name, begin, end: SystemTime::now(), announced: canary::take(), error: None };
    match result {
        Ok(()) => println!("PASS  {name} ({:.1} s)", outcome.seconds()),
        Err(error) => outcome.error = Some(failed(&outcome, &format!("{error:#}"), &evidence::look(lab))),
    }
    outcome
}

/// Says that a scenario has failed, and keeps what there is to see. Returns the reason.
fn failed(outcome: &Outcome, error: &str, seen: &str) -> String {
    let (name, seconds) = (outcome.name, outcome.seconds());
    if let Err(error) = evidence::save(&format!("{error}\n{seen}")).and_then(|()| evidence::save_packets()) {
        eprintln!("{error:#}");
    }
    let file = evidence::file(name);
    println!("FAIL  {name} ({seconds:.1} s): {error}\n{seen}\nFAIL  {name}: see {}", file.display());
    error.to_owned()
}

/// How far it is.
struct Progress {
    all: usize,
    begun: AtomicUsize,
}

impl Progress {
    fn next(&self) -> String {
        format!("[{}/{}]", self.begun.fetch_add(1, Ordering::Relaxed) + 1, self.all)
    }
}

/// Shows the slowest, those that failed, and how many did what.
pub(crate) fn show(outcomes: &[Outcome]) {
    let mut slowest: Vec<&Outcome> = outcomes.iter().collect();
    slowest.sort_by(|one, other| other.seconds().total_cmp(&one.seconds()));
    println!("\nthe slowest:");
    for outcome in slowest.iter().take(SLOWEST) {
        println!("{:>6.1} s  {}", outcome.seconds(), outcome.name);
    }
    let failed = outcomes.iter().filter(|outcome| outcome.error.is_some());
    for outcome in failed.clone() {
        println!("failed: {}", outcome.name);
    }
    let failed = failed.count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
}

/// Writes of each its name, when it began, how long it took and what it came to, to `target/tests/lab-<docker>.json`.
pub(crate) fn save(outcomes: &[Outcome], docker: Docker, version: &str, seconds: f64) -> Result<()> {
    let first = outcomes.iter().map(|outcome| outcome.begin).min();
    let scenario = |outcome: &Outcome| {
        let at = first.and_then(|first| outcome.begin.duration_since(first).ok()).unwrap_or_default();
        json!({
            "name": outcome.name,
            "at": rounded(at.as_secs_f64()),
            "seconds": rounded(outcome.seconds()),
            "passed": outcome.error.is_none(),
            "error": outcome.error,
        })
    };
    let scenarios: Vec<Value> = outcomes.iter().map(scenario).collect();
    let all = json!({ "docker": version, "seconds": rounded(seconds), "scenarios": scenarios });
    let folder = paths::target().join("tests");
    let file = folder.join(format!("lab-{docker}.json"));
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&file, format!("{all:#}\n")))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}
