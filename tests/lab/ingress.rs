//! The ingress network, over which the Swarm publishes ports, may be another one than the Swarm began with.

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    lab::{Lab, text},
    service::Spec,
    wait,
};

use crate::{
    Scenario,
    support::{PATIENCE, Undo, exact_through_every_node, live},
};

pub(crate) const SCENARIOS: &[Scenario] = &[(
    "an ingress network that is made anew, with another name and other addresses, serves as before",
    anew,
)];

/// As the Swarm made it.
const FIRST: [&str; 3] = ["ingress", "10.0.0.0/24", "10.0.0.1"];
const OTHER: [&str; 3] = ["front-door", "10.77.0.0/24", "10.77.0.1"];

fn anew(lab: &Lab) -> Result<()> {
    let _as_before = Undo::at_the_end(|| {
        let _ =
            remove(lab, OTHER[0]).and_then(|()| create(lab, FIRST)).map_err(|error| eprintln!("{error:#}"));
    });
    remove(lab, FIRST[0])?;
    create(lab, OTHER)?;
    let service = Spec::workload("anew").replicas(3).publish("8591:8080").create(lab)?;
    live(lab, "anew", 3)?;
    for container in lab.manager().containers_of("anew")? {
        let address = text(&container, "/NetworkSettings/Networks/front-door/IPAddress");
        ensure!(address.starts_with("10.77.0."), "it is not on the new network: {container}");
    }
    exact_through_every_node(lab, 8591, 3, 2)?;
    service.remove()
}

/// Removes it from all nodes, if it is there.
fn remove(lab: &Lab, name: &str) -> Result<()> {
    if lab.manager().list("/networks", &[("name", name)])?.is_empty() {
        return Ok(());
    }
    // Docker warns that published ports end with it, and asks.
    lab.docker(["network", "rm", name]).read_fed("y\n")?;
    wait::for_up_to(PATIENCE, &format!("the network {name} is gone"), || {
        for node in &lab.nodes {
            let left = node.list("/networks", &[("name", name)])?;
            ensure!(left.is_empty(), "{} has it", node.name);
        }
        Ok(())
    })
}

/// The Swarm has one at a time, and the one before may be on its way out.
fn create(lab: &Lab, [name, subnet, gateway]: [&str; 3]) -> Result<()> {
    let create =
        ["network", "create", "--driver=overlay", "--ingress", "--subnet", subnet, "--gateway", gateway];
    wait::for_up_to(PATIENCE, &format!("the network {name} is made"), || {
        lab.docker(create).arg(name).read().map(drop)
    })
    .context("the Swarm is without an ingress network")
}
