//! `cargo xtask test vm`: what depends on the kernel, on those that Debian's releases have. Each kernel boots twice at the
//! same time: one machine runs the kernel suite, the other one a Swarm (`tests/vm`).

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{cmd::Cmd, images, interrupt, paths, vm::GUEST};
use serde_json::{Value, json};

use super::{
    kernel::{Kernel, Series},
    qemu::{Machine, Size},
    tally::Tally,
};

/// A test binary that runs in a machine of its own.
struct Suite {
    name: &'static str,
    program: PathBuf,
    /// Of the tests' names; all tests are run without any.
    words: Vec<String>,
}

/// The suites' names are those of their test binaries.
const SUITES: [&str; 2] = [KERNEL, "vm"];
const KERNEL: &str = "kernel";

/// Of the kernel suite, what differs most from kernel to kernel: maps and their layout, what is attached and how, each way
/// of a packet once, and the helpers behind it. An emulated processor takes a quarter of an hour for all.
const CARRYING: &[&str] = &[
    "contract::",
    "batch::",
    "migration::",
    "succession::",
    "request::",
    "reply::",
    "wire::",
    "xdp_attach::",
];

/// Where programs attach by tcx, those tests again by clsact that attach programs of TC.
const BOTH_WAYS: &str = r#""$0"; first=$?
MESH_TC=clsact "$0" wire:: split:: ports:: routes:: answers:: && exit $first"#;

const SIZE: Size = Size { processors: 2, gigabytes: 8, limit: Duration::from_mins(40) };

/// Runs the suites, those tests of them whose names contain one of the words, on each kernel. The last line is the sum.
pub(crate) fn run(kernels: &[Series], words: &[&str], carrying: bool) -> Result<()> {
    let kernels = if kernels.is_empty() { &[Series::V6_1] } else { kernels };
    images::workload()?;
    images::agent()?;
    let suites = wanted(build()?, words, carrying)?;
    interrupt::catch();
    let (mut sum, mut times) = (Tally::default(), Vec::new());
    for series in kernels {
        // A kernel that cannot be had fails alone.
        match Kernel::get(*series) {
            Ok(kernel) => on(*series, &kernel, &suites, &mut sum, &mut times),
            Err(error) => {
                eprintln!("FAIL  Linux {series}: {error:#}");
                sum.failed.push(format!("{series}: it cannot be had: {error:#}"));
            }
        }
    }
    save(&times)?;
    report(&sum);
    ensure!(sum.failed.is_empty(), "{} tests failed", sum.failed.len());
    Ok(())
}

/// All suites on one kernel.
fn on(series: Series, kernel: &Kernel, suites: &[Suite], sum: &mut Tally, times: &mut Vec<Value>) {
    println!("Linux {} under QEMU", kernel.release);
    let machine = |suite: &Suite| {
        let begin = Instant::now();
        let mut tally = Tally::default();
        if let Err(error) = boot(series, kernel, suite, &mut tally) {
            println!("FAIL  {series} {}: {error:#}", suite.name);
            tally.failed.push(format!("the machine itself: {error:#}"));
        }
        (tally, begin.elapsed().as_secs())
    };
    let done: Vec<(Tally, u64)> = thread::scope(|scope| {
        let running: Vec<_> = suites.iter().map(|suite| scope.spawn(|| machine(suite))).collect();
        let panicked = || (Tally { failed: vec!["it panicked".into()], ..Tally::default() }, 0);
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
    });
    for (suite, (tally, seconds)) in suites.iter().zip(done) {
        println!(
            "Linux {series}, {}: {} passed, {} failed, {} left out, in {seconds} s",
            suite.name,
            tally.passed(),
            tally.failed.len(),
            tally.left_out.len()
        );
        times.push(json!({
            "kernel": kernel.release, "suite": suite.name, "seconds": seconds, "passed": tally.passed(),
            "failed": tally.failed, "left_out": tally.left_out,
        }));
        let named = |name: &String| format!("{series} {}: {name}", suite.name);
        sum.passed += tally.passed();
        sum.failed.extend(tally.failed.iter().map(named));
        sum.left_out.extend(tally.left_out.iter().map(named));
    }
}

/// One suite on one kernel. What ends the machine, and not a test, is an error.
fn boot(series: Series, kernel: &Kernel, suite: &Suite, tally: &mut Tally) -> Result<()> {
    let shared = paths::target().join("vm/run").join(format!("{series}-{}", suite.name));
    let target = format!("CARGO_TARGET_DIR={}", paths::target().display());
    let guest = format!("{GUEST}=1");
    let program = suite.program.display().to_string();
    let mut command = vec!["env", &target, &guest, "RUST_BACKTRACE=0"];
    if suite.name == KERNEL && series.has_tcx() && suite.words.is_empty() {
        command.extend(["sh", "-c", BOTH_WAYS]);
    }
    command.push(&program);
    command.extend(suite.words.iter().map(String::as_str));
    let mut machine = Machine::boot(kernel, &shared, &command, SIZE)?;
    let status = machine.watch(|line| {
        tally.see(line);
        println!("[{series} {}] {line}", suite.name);
    })?;
    // A suite that ends early has not said which of its tests did not run.
    if status != 0 && tally.failed.is_empty() {
        bail!("its suite ended with {status}");
    }
    ensure!(tally.passed > 0 || !tally.failed.is_empty(), "its suite has run no test");
    Ok(())
}

/// Builds the suites' binaries, for this machine: the virtual ones have its files.
fn build() -> Result<Vec<Suite>> {
    // The same packages as for all tests: with others, dependencies would have other features, and be built again.
    let cargo = Cmd::cargo("test").args(["--no-run", "--workspace", "--exclude", "mesh-ebpf"]);
    let cargo = cargo.args(SUITES.iter().flat_map(|suite| ["--test", suite]));
    let said = cargo.args(["--message-format", "json-render-diagnostics"]).read()?;
    let built: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let suite = |name: &'static str| {
        let is_it = |message: &&Value| message["target"]["name"] == name && message["executable"].is_string();
        let found =
            built.iter().find(|message| is_it(message)).and_then(|message| message["executable"].as_str());
        let program = found.with_context(|| format!("cargo does not say where the suite `{name}` is"))?;
        Ok(Suite { name, program: program.into(), words: Vec::new() })
    };
    SUITES.into_iter().map(suite).collect()
}

/// Only those that have a test whose name contains one of the words: a machine takes a while to boot.
fn wanted(suites: Vec<Suite>, words: &[&str], carrying: bool) -> Result<Vec<Suite>> {
    let mut wanted = Vec::new();
    for suite in suites {
        let all = if carrying && words.is_empty() && suite.name == KERNEL { CARRYING } else { words };
        let list = Cmd::new(&suite.program).arg("--list").args(all).quiet().read()?;
        if list.lines().any(|line| line.ends_with(": test")) {
            wanted.push(Suite { words: all.iter().copied().map(String::from).collect(), ..suite });
        }
    }
    ensure!(!wanted.is_empty(), "no test has {words:?} in its name");
    Ok(wanted)
}

fn save(times: &[Value]) -> Result<()> {
    let folder = paths::target().join("tests");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join("vm.json"), format!("{:#}", json!(times))))
        .with_context(|| format!("cannot write to {}", folder.display()))
}

fn report(sum: &Tally) {
    for name in &sum.left_out {
        println!("left out: {name}");
    }
    for name in &sum.failed {
        println!("failed: {name}");
    }
    println!("{} passed, {} failed", sum.passed, sum.failed.len());
}
