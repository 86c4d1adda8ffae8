//! Published ports with XDP before TC: all that holds with TC alone.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mesh_tests::{lab::Lab, mesh};

use crate::{Scenario, balance, change, deaths, flows, support::Undo, tunnel, untouched};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("published ports are served by XDP as they are by TC alone", as_by_tc_alone)];

/// What is about published ports, and about refusals, which XDP makes itself or leaves to TC.
const AGAIN: &[&[Scenario]] = &[
    balance::SCENARIOS,
    flows::SCENARIOS,
    untouched::SCENARIOS,
    tunnel::SCENARIOS,
    &[
        ("a service without tasks refuses at once and serves again when it has some", change::nobody_home),
        ("a task that refuses connections costs nobody a request while others do not", deaths::one_refuses),
    ],
];

fn as_by_tc_alone(lab: &Lab) -> Result<()> {
    let _as_before = Undo::at_the_end(|| {
        let _ = mesh::without_xdp(lab);
    });
    mesh::with_xdp(lab)?;
    for (name, check) in AGAIN.iter().copied().flatten() {
        let begin = Instant::now();
        check(lab).with_context(|| format!("with XDP: {name}"))?;
        println!("      {:5.1} s  {name}", begin.elapsed().as_secs_f64());
    }
    for node in &lab.nodes {
        let sent = node.sent_by_xdp()?;
        println!("      {} has sent {sent} packets by XDP", node.name);
        ensure!(sent > 500, "{} has sent {sent} packets by XDP", node.name);
    }
    Ok(())
}
