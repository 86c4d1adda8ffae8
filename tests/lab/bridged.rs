//! A node whose uplink is a bridge, as a host of virtual machines has it, where Docker's rules get the frames first.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Report, Transfer},
    lab::{CLIENT, Lab, Node},
    mesh,
    service::Spec,
    wait,
};

use crate::{
    Scenario,
    support::{Undo, get, live, only_on, target},
};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("a node whose uplink is a bridge under br_netfilter serves clients and nodes", bridged)];

fn bridged(lab: &Lab) -> Result<()> {
    const REQUESTS: usize = 50;

    let [home, entry, ..] = &lab.nodes[..] else { anyhow::bail!("the lab is too small") };
    let here = Spec::workload("bridged").publish("8411:8080").option(&only_on(entry)).create(lab)?;
    let there = Spec::workload("behind").publish("8412:8080").option(&only_on(home)).create(lab)?;
    live(lab, "bridged", 1)?;
    live(lab, "behind", 1)?;
    let _as_before = move_to_bridge(entry)?;
    wait::for_up_to(Duration::from_secs(10), "the agent serves the bridge and its port", || {
        let status = mesh::status(entry)?;
        let rows = status["dataplane"]["attachments"].as_array().context("no attachments are told")?;
        for (interface, program) in [("br0", "uplink_in"), ("br0", "uplink_out"), ("eth0", "uplink_port_in")]
        {
            let is_there =
                |row: &serde_json::Value| row["interface"] == interface && row["program"] == program;
            ensure!(rows.iter().any(is_there), "{program} is not on {interface}: {rows:?}");
        }
        Ok(())
    })?;
    // To its own task, to one behind the tunnel, and out of it.
    for (node, port, service) in [(entry, 8411, &here), (entry, 8412, &there), (home, 8411, &here)] {
        let report: Report = get(node, port, REQUESTS)?;
        ensure!(report.peers.keys().eq([CLIENT]), "{}:{port}: the task saw {:?}", node.name, report.peers);
        let task = &service.tasks()?[0].name;
        ensure!(report.tasks.keys().eq([task]), "{}:{port}: {:?} answered", node.name, report.tasks);
    }
    let moved: Transfer = At::Client.run(&["download", &target(entry, 8412), "--bytes", "10000000"])?;
    ensure!(moved.intact, "{moved:?}");
    Ok(())
}

/// Makes the node's uplink a port of a bridge that has its addresses then, and back at the end.
fn move_to_bridge(node: &Node) -> Result<Undo<impl FnMut()>> {
    const CALL_IPTABLES: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

    let batch = |lines: &[String]| {
        let lines = lines.join("\n");
        node.network_command("sh")
            .args(["-ec", &format!("ip -batch - <<END\n{lines}\nEND")])
            .quiet()
            .read()
            .map(drop)
    };
    let shell = |command: &str| node.network_command("sh").args(["-ec", command]).quiet().read();
    let address = format!("{}/24", node.address);
    let routes = shell("ip route show default")?;
    let moved = |from: &str, to: &str| {
        let mut lines =
            vec![format!("addr del {address} dev {from}"), format!("addr add {address} dev {to}")];
        lines.extend(routes.lines().map(|route| format!("route replace {}", route.replace("eth0", to))));
        lines
    };
    let there = [
        // It takes its only port's hardware address.
        "link add br0 type bridge forward_delay 0".to_owned(),
        "link set eth0 master br0".to_owned(),
        "link set br0 up".to_owned(),
    ];
    let back = [moved("br0", "eth0"), vec!["link del br0".into()]].concat();
    let undo = Undo::at_the_end(move || {
        let _ = batch(&back);
    });
    batch(&[there.to_vec(), moved("eth0", "br0")].concat())?;
    let calls = shell(&format!("echo 1 >{CALL_IPTABLES}; cat {CALL_IPTABLES}"))?;
    ensure!(calls.trim() == "1", "{CALL_IPTABLES} is {calls:?}");
    Ok(undo)
}
