//! Virtual addresses and names on an encrypted overlay, which takes a kernel with ESP.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::{
    client::Report,
    dig::Dig,
    inside::{Inside, Network},
    service::Spec,
    vm, wait,
};

use crate::swarm::{Swarm, Tc, Xdp};

const NAME: &str = "vm-secret";
const REQUESTS: u64 = 12;

/// A service's tasks on two nodes answer a task on a third one, which they see by its own address; what goes between the
/// nodes is encrypted.
pub(crate) fn works(swarm: &Swarm) -> Result<()> {
    swarm.with_agents(Tc::Auto, Xdp::Off)?;
    let lab = swarm.lab;
    let network = Network::create(lab, "vm-encrypted", &["--opt=encrypted"])?;
    let caller = Spec::workload("vm-secret-caller").option(&network.option());
    let caller = caller.option("--constraint=node.hostname==node1").create(lab)?;
    let spec = Spec::workload(NAME).replicas(2).option(&network.option());
    let service = spec.option("--constraint=node.hostname!=node1").create(lab)?;
    let place = Inside::tasks(lab, &caller)?.remove(0);
    let vip = service.vip(&network.name)?;
    wait::for_up_to(Duration::from_secs(10), "an encrypted network's service answers", || {
        let dig = Dig::ask(&place, &[NAME])?;
        ensure!(dig.data() == [&vip] && dig.answers[0].ttl < 600, "the mesh does not know its name: {dig:?}");
        let before = vm::encrypted_packets(lab)?;
        let count = REQUESTS.to_string();
        let report: Report = place.run(&["get", &format!("{vip}:8080"), "--count", &count])?;
        let own = place.address(&network.name)?;
        ensure!(report.ok == REQUESTS && report.tasks.len() == 2, "{report:?}");
        ensure!(report.peers.keys().eq([&own]), "the tasks saw {:?}, not {own}", report.peers);
        let after = vm::encrypted_packets(lab)?;
        // A request takes four packets of the client's at least.
        ensure!(after >= before + 4 * REQUESTS, "only {} packets were encrypted", after - before);
        Ok(())
    })?;
    service.remove()?;
    caller.remove()
}
