//! Connections that are under way when published ports and virtual addresses go from Docker's mesh to ours, and back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Load, Report, Running},
    inside::Inside,
    vm::Mesh,
};

use crate::swarm::{ECHO, NETWORK, PORT, Swarm, Tc, Xdp};

/// What Docker carries stays Docker's when our agents come, and what we carry stays ours when the service is disabled.
pub(crate) fn cuts_nothing(swarm: &Swarm) -> Result<()> {
    swarm.without_agents()?;
    swarm.serves(Mesh::Dockers, PORT)?;
    let dockers = Held::begin(swarm)?;
    swarm.with_agents(Tc::Auto, Xdp::Off)?;
    swarm.serves(Mesh::Ours, PORT)?;
    let ours = Held::begin(swarm)?;
    linger();
    dockers.are_whole().context("those that Docker's mesh carried when ours came")?;

    swarm.web.update(&["--label-add", "mesh.enable=false"])?;
    let kept = swarm.serves(Mesh::Dockers, PORT).and_then(|()| {
        linger();
        ours.are_whole().context("those that ours carried when the service was disabled")
    });
    // What comes next wants it, whatever has become of this.
    swarm.web.update(&["--label-rm", "mesh.enable"])?;
    swarm.serves(Mesh::Ours, PORT)?;
    kept
}

/// Long enough for what has changed hands to be asked for again.
fn linger() {
    std::thread::sleep(Duration::from_secs(5));
}

/// Connections through the published port and through the virtual address, and one conversation of datagrams.
struct Held {
    tcp: Vec<(&'static str, Running)>,
    udp: Running,
}

impl Held {
    fn begin(swarm: &Swarm) -> Result<Self> {
        let published = format!("{}:{ECHO}", swarm.entry()?.address);
        let vip = swarm.web.vip(NETWORK)?;
        let caller = Inside::tasks(swarm.lab, &swarm.caller)?.remove(0);
        let (from_outside, from_a_task) = (format!("--echo={published}"), format!("--echo={vip}:9000"));
        let limits = ["--timeout", "10000", "--limit", "1200000"];
        let load = |echo| [&["load", echo][..], &limits].concat();
        let tcp = vec![
            ("the published port", At::Client.start(&load(&from_outside))?),
            ("the virtual address", caller.start(&load(&from_a_task))?),
        ];
        let udp =
            At::Client.start(&["udp", &published, "--hold", "--interval", "200", "--timeout", "10000"])?;
        std::thread::sleep(Duration::from_secs(2));
        Ok(Self { tcp, udp })
    }

    /// Ends them: none was cut before, and all datagrams of the conversation had one task.
    fn are_whole(self) -> Result<()> {
        for (way, running) in self.tcp {
            let load: Load = running.report()?;
            let whole = load.broken.is_empty() && load.failed == 0 && load.held > 0 && load.exchanges > 0;
            ensure!(whole, "through {way}: {load:?}");
        }
        let talk: Report = self.udp.report()?;
        ensure!(talk.failed == 0 && talk.ok > 0 && talk.tasks.len() == 1, "datagrams: {talk:?}");
        Ok(())
    }
}
