//! `cargo xtask test`: all tests, or one part of them.

use anyhow::Result;
use mesh_tests::cmd::Cmd;

use crate::setup::{self, Set};

#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// Which part; all of them when none is named
    #[arg(value_enum)]
    part: Option<Part>,
    /// Only tests whose name contains this
    filter: Option<String>,
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

/// How long malformed queries are thrown at the resolver.
const FUZZ_SECONDS: &str = "60";

pub(crate) fn run(args: &Args) -> Result<()> {
    let parts = match &args.part {
        Some(part) => std::slice::from_ref(part),
        None => &[Part::Unit, Part::Kernel, Part::Lab],
    };
    setup::ensure(if parts.contains(&Part::Lab) { &[Set::Build, Set::Lab] } else { &[Set::Build] })?;
    for part in parts {
        let test = Cmd::cargo().arg("test");
        let test = match part {
            Part::Unit => test.env("MESH_FUZZ_SECONDS", FUZZ_SECONDS),
            Part::Kernel => test.args(["--package", "mesh-tests", "--lib", "--test", "kernel"]),
            Part::Lab => test.args(["--package", "mesh-tests", "--test", "lab"]),
        };
        test.args(args.filter.iter().flat_map(|filter| ["--", filter])).run()?;
    }
    Ok(())
}
