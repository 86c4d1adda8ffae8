//! `cargo xtask test`: all tests, or one part of them. All parts are run, whichever fail before, and what each took is
//! written to `target/tests/parts.json`.

use std::{fs, time::Instant};

use anyhow::{Context, Result, bail};
use mesh_tests::{cmd::Cmd, paths};
use serde_json::{Value, json};

use crate::setup::{self, Set};

#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// Which part; all of them when none is named
    #[arg(value_enum)]
    part: Option<Part>,
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Further arguments for what runs the tests, like `--exact` or `--list`
    #[arg(last = true)]
    further: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Tests that need nothing but a compiler
    Unit,
    /// The programs in this machine's kernel, one packet at a time
    Kernel,
    /// Scenarios on a Swarm of this machine
    Lab,
}

impl Part {
    const ALL: [Self; 3] = [Self::Unit, Self::Kernel, Self::Lab];

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Kernel => "kernel",
            Self::Lab => "lab",
        }
    }

    fn needs(self) -> &'static [Set] {
        match self {
            Self::Unit => &[Set::Build],
            Self::Kernel | Self::Lab => &[Set::Build, Set::Lab],
        }
    }

    fn command(self) -> Cmd {
        // The same packages for all parts: with others, dependencies would have other features, and be built again.
        let test = Cmd::cargo("test").args(["--no-fail-fast", "--workspace", "--exclude", "mesh-ebpf"]);
        match self {
            Self::Unit => {
                test.args(["--lib", "--bins", "--test", "dns_fuzz"]).env("MESH_FUZZ_SECONDS", FUZZ_SECONDS)
            }
            Self::Kernel => test.args(["--test", "kernel"]),
            Self::Lab => test.args(["--test", "lab"]),
        }
    }
}

/// How long malformed queries are thrown at the resolver.
const FUZZ_SECONDS: &str = "60";

pub(crate) fn run(args: &Args) -> Result<()> {
    let parts = args.part.as_ref().map_or(&Part::ALL[..], std::slice::from_ref);
    let (mut failed, mut times) = (Vec::new(), Vec::new());
    for part in parts {
        let begin = Instant::now();
        let result = one(*part, args);
        let seconds = begin.elapsed().as_secs();
        times.push(json!({ "part": part.name(), "seconds": seconds, "passed": result.is_ok() }));
        if let Err(error) = result {
            failed.push(format!("{}: {error:#}", part.name()));
        }
    }
    save(&times)?;
    for time in &times {
        println!("{:>6} s  {}", time["seconds"], time["part"].as_str().unwrap_or_default());
    }
    if !failed.is_empty() {
        bail!("{} of {} parts failed:\n  {}", failed.len(), parts.len(), failed.join("\n  "));
    }
    Ok(())
}

fn one(part: Part, args: &Args) -> Result<()> {
    setup::ensure(part.needs())?;
    let words: Vec<&String> = args.filter.iter().chain(&args.further).collect();
    let test = part.command();
    if words.is_empty() { test.run() } else { test.arg("--").args(words).run() }
}

fn save(times: &[Value]) -> Result<()> {
    let folder = paths::target().join("tests");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join("parts.json"), format!("{:#}", json!(times))))
        .with_context(|| format!("cannot write to {}", folder.display()))
}
