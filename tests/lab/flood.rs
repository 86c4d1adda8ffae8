//! Floods: whoever is connected stays connected.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Flood},
    lab::Lab,
    service::Spec,
};

use crate::{
    Scenario, canary,
    load::{Ports, Pressure},
    support::{get, live, target},
};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("a thousand connections outlive floods of SYN, ACK and UDP packets from random sources", floods)];

/// Connections through each of the three nodes.
const HELD: &str = "334";

fn floods(lab: &Lab) -> Result<()> {
    // Tasks say SYN-ACK again to those that never answer, also after their port is nobody's any more.
    canary::packets_end("unknown_answer");
    let spec = Spec::workload("flooded").replicas(3).publish("8321:8080").publish("8322:9000");
    let _service = spec.publish("8322:9000/udp").create(lab)?;
    live(lab, "flooded", 3)?;
    // What is slow under a flood is not lost.
    let options = ["--held", HELD, "--every", "2000", "--timeout", "20000", "--rate", "2"];
    let mut pressure = Pressure::with(&options);
    let echo = Ports { web: None, echo: Some(8322) };
    pressure.by_client(&lab.nodes.iter().collect::<Vec<_>>(), echo)?;
    thread::sleep(Duration::from_secs(3));
    let entry = &lab.nodes[1];
    // Each is more than the tables that forget have places for, however slow the machine.
    for (kind, port, seconds, count) in
        [("syn", 8322, "10", "20000000"), ("ack", 8321, "30", "150000"), ("udp", 8322, "30", "150000")]
    {
        let to = target(entry, port);
        let flood: Flood =
            At::Client.run(&["flood", &to, "--kind", kind, "--seconds", seconds, "--count", count])?;
        println!("      {kind}: {} packets in {:.1} s", flood.sent, flood.seconds);
        ensure!(flood.sent > 100_000, "that was no flood");
    }
    // One whole round of exchanges.
    thread::sleep(Duration::from_secs(3));
    let outcome = pressure.release()?;
    let held: u64 = outcome.loads().map(|load| load.held).sum();
    ensure!(held >= 1000, "only {held} connections were held");
    outcome.nothing_broke()?;
    outcome.nothing_failed()?;
    for node in &lab.nodes {
        get(node, 8321, 12).with_context(|| format!("through {}, after the floods", node.name))?;
    }
    Ok(())
}
