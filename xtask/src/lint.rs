//! `cargo xtask lint`: formatting, lints for host and BPF, docs, and dependencies. All checks are made, so that one look shows
//! everything that is wrong.

use anyhow::{Result, bail};
use mesh_tests::cmd::{Cmd, said};

use crate::{
    bpf,
    setup::{self, Set},
};

pub(crate) fn run() -> Result<()> {
    setup::ensure(&[Set::Build, Set::Lint])?;
    let mut failed: Vec<String> = checks()
        .into_iter()
        .filter_map(|check| check.run().err())
        .map(|error| format!("{error:#}"))
        .collect();
    failed.extend(advisories().err().map(|error| format!("{error:#}")));
    if !failed.is_empty() {
        bail!("{} checks failed:\n  {}", failed.len(), failed.join("\n  "));
    }
    Ok(())
}

fn checks() -> Vec<Cmd> {
    let host = ["--workspace", "--exclude", "mesh-ebpf"];
    vec![
        Cmd::new("cargo").args(["fmt", "--all", "--check"]).dir(mesh_tests::paths::root()),
        Cmd::cargo("clippy").args(host).args(["--all-targets", "--", "-D", "warnings"]),
        bpf::cargo("clippy").args(["--", "-D", "warnings"]),
        Cmd::cargo("doc")
            .args(host)
            .args(["--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings"),
        deny(&["licenses", "bans", "sources"]),
    ]
}

fn deny(checks: &[&str]) -> Cmd {
    Cmd::new(setup::cargo_deny())
        .args(["--locked", "--config", ".deny.toml", "--log-level", "error", "check"])
        .args(checks)
        .dir(mesh_tests::paths::root())
}

/// Known faults of dependencies. Their list is a repository on the network, which not every machine reaches: there, that
/// nothing was checked is said, and is no failure.
fn advisories() -> Result<()> {
    let check = deny(&["advisories"]);
    let line = check.line();
    let output = check.output()?;
    let said = said(&output);
    if output.status.success() {
        println!("no known faults in dependencies");
    } else if said.contains("failed to fetch advisory database") {
        println!(
            "NOT CHECKED: known faults in dependencies; the advisory database cannot be reached from here:\n{said}"
        );
    } else {
        bail!("`{line}` ended with {}\n{said}", output.status);
    }
    Ok(())
}
