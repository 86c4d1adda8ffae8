//! `cargo xtask ci`: everything that must hold before a change is taken.

use anyhow::{Result, bail};
use mesh_tests::cmd::Cmd;

use crate::{
    bpf,
    setup::{self, Set},
    test,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leaves the tests out
    #[arg(long)]
    no_tests: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Set::Build, Set::Lint])?;
    // All are run, so that one look shows everything that is wrong.
    let failed: Vec<String> = checks()
        .into_iter()
        .filter_map(|check| check.run().err())
        .map(|error| format!("{error:#}"))
        .collect();
    if !failed.is_empty() {
        bail!("{} checks failed:\n  {}", failed.len(), failed.join("\n  "));
    }
    if args.no_tests { Ok(()) } else { test::run(&test::Args::default()) }
}

fn checks() -> Vec<Cmd> {
    let cargo = |args: &[&str]| Cmd::cargo().args(args);
    vec![
        cargo(&["fmt", "--all", "--check"]),
        cargo(&["clippy", "--workspace", "--exclude", "mesh-ebpf", "--all-targets", "--", "-D", "warnings"]),
        bpf::cargo("clippy").args(["--", "-D", "warnings"]),
        cargo(&["doc", "--workspace", "--exclude", "mesh-ebpf", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings"),
        cargo(&[
            "deny",
            "--config",
            ".deny.toml",
            "--log-level",
            "error",
            "check",
            "licenses",
            "bans",
            "sources",
        ]),
    ]
}
