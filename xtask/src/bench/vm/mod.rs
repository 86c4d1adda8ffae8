//! Docker's own mesh against this one, in the same virtual machine: Debian's kernel with IPVS, which the machine that this
//! runs on need not have, and three nodes on it. QEMU emulates the processors, so that it works everywhere; figures are to
//! be compared with each other only.

mod ab;
mod guest;
mod report;

use std::{env, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{images, interrupt, paths};

use self::report::Report;
use crate::vm::{
    kernel::{Kernel, Series},
    qemu::{Machine, Size},
};

/// The virtual machine's results, in the folder that it shares.
const RESULT: &str = "result.json";

pub(super) fn run(quick: bool) -> Result<()> {
    images::nginx()?;
    images::agent()?;
    let kernel = Kernel::get(Series::V6_1)?;
    eprintln!("booting Linux {} under QEMU", kernel.release);
    let shared = paths::target().join("bench/vm");
    fs::create_dir_all(&shared)?;
    let result = shared.join(RESULT);
    let _ = fs::remove_file(&result);
    interrupt::catch();
    let limit = Duration::from_mins(if quick { 15 } else { 30 });
    let size = Size { processors: 2, gigabytes: 8, limit };
    let target = format!("CARGO_TARGET_DIR={}", paths::target().display());
    let (program, folder) = (env::current_exe()?.display().to_string(), shared.display().to_string());
    let mut command = vec!["env", &target, &program, "bench", "vm-guest", &folder];
    command.extend(quick.then_some("--quick"));
    let mut machine = Machine::boot(&kernel, &shared, &command, size)?;
    let status = machine.watch(|line| eprintln!("{line}"))?;
    ensure!(status == 0, "the measurements in the virtual machine ended with {status}: see what they said");
    let text =
        fs::read_to_string(&result).context("the virtual machine has left no results: see what it said")?;
    let report = Report(serde_json::from_str(&text)?);
    report.show();
    report.save()
}

/// What `run` has the virtual machine do.
pub(super) fn guest(shared: &Path, quick: bool) -> Result<()> {
    let result = guest::run(quick)?;
    let file = shared.join(RESULT);
    fs::write(&file, serde_json::to_string_pretty(&result)?)
        .with_context(|| format!("cannot write {}", file.display()))
}
