//! Docker's own mesh against this one, in the same virtual machine: Debian's kernel with IPVS, which the machine that this
//! runs on need not have, and three nodes on it. QEMU emulates the processors, so that it works everywhere; figures are to
//! be compared with each other only.

mod ab;
mod guest;
mod kernel;
mod qemu;
mod report;

use std::{env, fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use mesh_tests::{interrupt, mesh, paths};

use self::{kernel::Kernel, qemu::Machine, report::Report};
use crate::setup;

/// The virtual machine's results, in the folder that it shares.
const RESULT: &str = "result.json";
/// In the virtual machine, and on its search path first.
const PROGRAMS: &str = "/tmp/mesh-vm";

pub(super) fn run(quick: bool) -> Result<()> {
    let vng = setup::virtme().context("virtme-ng is missing: run `cargo xtask setup vm`")?;
    mesh::build_all()?;
    let kernel = Kernel::get()?;
    eprintln!("booting Linux {} under QEMU", kernel.release);
    let shared = paths::target().join("bench/vm");
    fs::create_dir_all(&shared)?;
    let result = shared.join(RESULT);
    let _ = fs::remove_file(&result);
    interrupt::catch();
    let limit = Duration::from_mins(if quick { 15 } else { 30 });
    let mut machine = Machine::boot(&vng, &kernel, &shared, &guest_line(&shared, quick)?, limit)?;
    machine.watch()?;
    let text =
        fs::read_to_string(&result).context("the virtual machine has left no results: see what it said")?;
    let report = Report(serde_json::from_str(&text)?);
    report.show();
    report.save()
}

/// Runs this very program in the virtual machine, with the files of this machine.
fn guest_line(shared: &Path, quick: bool) -> Result<String> {
    let program = env::current_exe()?;
    let quick = if quick { " --quick" } else { "" };
    Ok(format!(
        "export HOME=/root PATH={PROGRAMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         export CARGO_TARGET_DIR='{}'\n'{}' bench vm-guest '{}'{quick}",
        paths::target().display(),
        program.display(),
        shared.display()
    ))
}

/// What `run` has the virtual machine do.
pub(super) fn guest(shared: &Path, quick: bool) -> Result<()> {
    let result = guest::run(quick)?;
    let file = shared.join(RESULT);
    fs::write(&file, serde_json::to_string_pretty(&result)?)
        .with_context(|| format!("cannot write {}", file.display()))
}
