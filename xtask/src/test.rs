//! `cargo xtask test`: all tests but those in virtual machines, or one part of them. All parts are run, whichever fail before, and what each took is
//! written to `target/tests/parts.json`.

use std::{fs, time::Instant};

use anyhow::{Context, Result, bail};
use mesh_tests::{cmd::Cmd, lab::Docker, paths};
use serde_json::{Value, json};

use crate::{
    setup::{self, Set, docker},
    vm::{self, kernel::Series},
};

#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// Which part; all of them but `vm` when none is named
    #[arg(value_enum)]
    part: Option<Part>,
    /// Only tests whose name contains this
    filter: Option<String>,
    /// With `vm`: the kernel to boot; several are booted one after the other
    #[arg(long, value_enum, value_name = "SERIES")]
    kernel: Vec<Series>,
    /// The Docker of the lab's nodes; the newest that can be had when none is named
    #[arg(long, value_enum)]
    docker: Option<Docker>,
    /// Only the scenarios of the lab, or the tests in virtual machines, that carry the rest
    #[arg(long)]
    carrying: bool,
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
    /// Scenarios as text, without Docker: on the agent's core, on the programs in this machine's kernel, and on an
    /// agent in a namespace
    Mesh,
    /// Scenarios on a Swarm of this machine
    Lab,
    /// The programs, and a Swarm with AppArmor and Docker's own mesh, on other kernels in virtual machines: on Linux 6.1 if no
    /// `--kernel` is named. Only when it is named itself
    Vm,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Kernel => "kernel",
            Self::Mesh => "mesh",
            Self::Lab => "lab",
            Self::Vm => "vm",
        }
    }

    fn needs(self) -> &'static [Set] {
        match self {
            Self::Unit => &[Set::Build],
            Self::Kernel | Self::Mesh | Self::Lab => &[Set::Build, Set::Lab],
            Self::Vm => &[Set::Build, Set::Lab, Set::Vm],
        }
    }

    fn command(self) -> Cmd {
        let tests = match self {
            Self::Unit => &["--lib", "--bins", "--test", "dns_fuzz"][..],
            Self::Kernel => &["--test", "kernel"],
            Self::Mesh => &["--test", "mesh"],
            Self::Lab => &["--test", "lab"],
            Self::Vm => &["--test", "vm"],
        };
        // The same packages for all parts: with others, dependencies would have other features, and be built again.
        let test = Cmd::cargo("test").args(["--no-fail-fast", "--workspace", "--exclude", "mesh-ebpf"]);
        let test = if self == Self::Unit { test.env("MESH_FUZZ_SECONDS", FUZZ_SECONDS) } else { test };
        test.args(tests)
    }
}

/// A part, and on which Docker.
struct Job {
    part: Part,
    docker: Option<Docker>,
    carrying: bool,
}

impl Job {
    /// Without the virtual machines, which take longer than all of these together.
    const ALL: [Self; 6] = [
        Self::of(Part::Unit),
        Self::of(Part::Kernel),
        Self::of(Part::Mesh),
        Self::of(Part::Lab),
        Self::carrying(Docker::V26_1),
        Self::carrying(Docker::V20_10),
    ];

    const fn of(part: Part) -> Self {
        Self { part, docker: None, carrying: false }
    }

    const fn carrying(docker: Docker) -> Self {
        Self { part: Part::Lab, docker: Some(docker), carrying: true }
    }

    fn name(&self) -> String {
        let docker = self.docker.map(|docker| format!(" on Docker {docker}"));
        self.part.name().to_owned() + &docker.unwrap_or_default()
    }

    /// What tells the lab which scenarios to run, and on what.
    fn options(&self, further: &[String]) -> Result<Vec<&'static str>> {
        let mut options: Vec<&str> = self.carrying.then_some("--carrying").into_iter().collect();
        // A lab that is up has its Docker already.
        if self.part == Part::Lab && !further.iter().any(|word| word == "--up" || word == "--list") {
            options.extend(["--docker", docker::chosen(self.docker)?.name()]);
        }
        Ok(options)
    }
}

/// How long malformed queries are thrown at the resolver, on all processors.
const FUZZ_SECONDS: &str = "30";

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.part != Some(Part::Vm) && !args.kernel.is_empty() {
        bail!("--kernel is for `test vm`");
    }
    if args.part != Some(Part::Lab) && args.docker.is_some() {
        bail!("--docker is for `test lab`");
    }
    if !matches!(args.part, Some(Part::Lab | Part::Vm)) && args.carrying {
        bail!("--carrying is for `test lab` and `test vm`");
    }
    let jobs = match args.part {
        None => Vec::from(Job::ALL),
        Some(part) => vec![Job { part, docker: args.docker, carrying: args.carrying }],
    };
    let (mut failed, mut times) = (Vec::new(), Vec::new());
    for job in &jobs {
        let begin = Instant::now();
        let result = one(job, args);
        let seconds = begin.elapsed().as_secs();
        times.push(json!({ "part": job.name(), "seconds": seconds, "passed": result.is_ok() }));
        if let Err(error) = result {
            failed.push(format!("{}: {error:#}", job.name()));
        }
    }
    save(&times)?;
    for time in &times {
        println!("{:>6} s  {}", time["seconds"], time["part"].as_str().unwrap_or_default());
    }
    if !failed.is_empty() {
        bail!("{} of {} parts failed:\n  {}", failed.len(), jobs.len(), failed.join("\n  "));
    }
    Ok(())
}

fn one(job: &Job, args: &Args) -> Result<()> {
    setup::ensure(job.part.needs())?;
    let words = args.filter.iter().chain(&args.further).map(String::as_str);
    if job.part == Part::Vm {
        return vm::test::run(&args.kernel, &words.collect::<Vec<_>>(), job.carrying);
    }
    let words: Vec<&str> = job.options(&args.further)?.into_iter().chain(words).collect();
    let test = job.part.command();
    if words.is_empty() { test.run() } else { test.arg("--").args(words).run() }
}

fn save(times: &[Value]) -> Result<()> {
    let folder = paths::target().join("tests");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join("parts.json"), format!("{:#}", json!(times))))
        .with_context(|| format!("cannot write to {}", folder.display()))
}
