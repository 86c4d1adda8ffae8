//! Whether virtual addresses and names work on an encrypted overlay, which takes a kernel with ESP.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::Report,
    dig::Dig,
    inside::{Inside, Network},
    lab::{Lab, Node},
    service::Spec,
    wait,
};

/// Kernel modules that Docker's encryption takes: what it marks packets with, ESP, and the cipher of moby
/// (daemon/libnetwork/drivers/overlay/encryption.go), AES-GCM.
pub(super) const MODULES: &str =
    "xfrm_user esp4 xt_u32 xt_bpf xt_policy gcm seqiv ghash-generic aes_generic authenc ccm ctr";

const NAME: &str = "bench-vm-secret";
const REQUESTS: u64 = 12;

/// A service's tasks on two nodes answer a task on a third one, which they see by its own address; what goes between the
/// nodes is encrypted. While that is so it is looked at.
pub(super) fn check<T>(lab: &Lab, look: impl FnOnce() -> Result<T>) -> Result<T> {
    let network = Network::create(lab, "bench-vm-encrypted", &["--opt=encrypted"])?;
    let caller = Spec::workload("bench-vm-caller").option(&network.option());
    let caller = caller.option("--constraint=node.hostname==node1").create(lab)?;
    let spec = Spec::workload(NAME).replicas(2).option(&network.option());
    let service = spec.option("--constraint=node.hostname!=node1").create(lab)?;
    let place = Inside::tasks(lab, &caller)?.remove(0);
    let vip = service.vip(&network.name)?;
    let nodes: Vec<&Node> = lab.nodes.iter().collect();
    wait::for_up_to(Duration::from_secs(10), "an encrypted network's service answers", || {
        let dig = Dig::ask(&place, &[NAME])?;
        ensure!(dig.data() == [&vip] && dig.answers[0].ttl < 600, "the mesh does not know its name: {dig:?}");
        let before = encrypted(&nodes)?;
        let count = REQUESTS.to_string();
        let report: Report = place.run(&["get", &format!("{vip}:8080"), "--count", &count])?;
        let own = place.address(&network.name)?;
        ensure!(report.ok == REQUESTS && report.tasks.len() == 2, "{report:?}");
        ensure!(report.peers.keys().eq([&own]), "the tasks saw {:?}, not {own}", report.peers);
        let after = encrypted(&nodes)?;
        // A request takes four packets of the client's at least.
        ensure!(after >= before + 4 * REQUESTS, "only {} packets were encrypted", after - before);
        Ok(())
    })?;
    let seen = look()?;
    service.remove()?;
    caller.remove()?;
    Ok(seen)
}

/// How many packets the nodes' security associations have seen.
fn encrypted(nodes: &[&Node]) -> Result<u64> {
    let mut packets = 0;
    for node in nodes {
        let text = node.command("ip").args(["-statistics", "xfrm", "state"]).quiet().read()?;
        packets += packets_in(&text).with_context(|| format!("ip said {text}"))?;
    }
    Ok(packets)
}

/// Of `ip -s xfrm state`: the numbers like `1200(bytes), 10(packets)` under each `lifetime current:`.
fn packets_in(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    let mut packets = 0;
    while lines.by_ref().any(|line| line.trim() == "lifetime current:") {
        let (_, count) = lines.next()?.split_once(", ")?;
        packets += count.strip_suffix("(packets)")?.parse::<u64>().ok()?;
    }
    Some(packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packets_of_all_associations_are_added() {
        let one = "src 10.99.0.1 dst 10.99.0.2\n\tproto esp spi 0x1(1)\n\tlifetime config:\n\t  limit: soft (INF)(bytes)\n\
                   \tlifetime current:\n\t  1200(bytes), 10(packets)\n\t  add 2026-01-01 00:00:00 use -\n";
        assert_eq!(packets_in(""), Some(0));
        assert_eq!(packets_in(&[one, one].concat()), Some(20));
        assert_eq!(packets_in("\tlifetime current:\n\t  nonsense\n"), None);
    }
}
