//! Packets that look like the tunnel's, from those who may not send them: a task, a process of a node without root, and somebody
//! on the nodes' network who names a node as the sender. Nothing arrives, and everything is counted.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    capture::Capture,
    client::{At, Running},
    inside::Inside,
    lab::{CLIENT, Lab, Node},
    mesh,
    service::Spec,
    wait,
};
use serde::Deserialize;

use crate::{
    Scenario, canary,
    support::{PATIENCE, Undo, get, live, only_on},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("what a task sends to another node's tunnel does not leave its node", from_a_task),
    ("what a process without root sends to another node's tunnel does not leave its node", from_a_process),
    ("a node takes nothing out of the tunnel that no node has sent it", from_the_network),
    ("a node whose way to another one is not the way back serves as any other", two_ways),
];

/// A port of the nodes that nobody publishes, where something listens.
const LISTENED: u16 = 8499;
/// Published, with a task on one node.
const PUBLISHED: u16 = 8431;
const TARGET: u16 = 9000;
/// Whom the forged packets name as the client.
const FORGED_CLIENT: [u8; 4] = [8, 8, 8, 8];
const TUNNEL: &str = "4799";

/// What a sender reports.
#[derive(Debug, Deserialize)]
struct Sent {
    sent: u64,
    errors: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Heard {
    datagrams: u64,
}

fn from_a_task(lab: &Lab) -> Result<()> {
    let [home, sender, third] = &lab.nodes[..] else { anyhow::bail!("the lab has another shape") };
    let victim = Victim::prepare(lab, home)?;
    let attacker = Spec::workload("attacker").publish("8434:8080").option(&only_on(sender)).create(lab)?;
    live(lab, "attacker", 1)?;
    let task = Inside::tasks(lab, &attacker)?.pop().context("no task")?;
    let target = format!("{}:{TUNNEL}", home.address);
    let before = outcomes(sender)?;
    for options in [&["--connected"][..], &[]] {
        for attack in victim.attacks(third) {
            let mut arguments = vec!["send", &target, "--hex", &attack.hex];
            arguments.extend(attack.port.iter().flat_map(|port| ["--source-port", port]));
            arguments.extend(options);
            let sent: Sent = task.exec(&arguments).context(attack.name)?;
            ensure!(sent.sent == 1, "{}: a container's own socket knows nothing: {sent:?}", attack.name);
        }
    }
    // Those on other bridges send by the node's address, too.
    let run = ["run", "--rm", "--network", "bridge", mesh_tests::images::WORKLOAD];
    for attack in victim.attacks(third) {
        let text = sender.docker(run).args(["send", &target, "--hex", &attack.hex]).quiet().read()?;
        ensure!(text.contains("\"sent\":1"), "{}: {text}", attack.name);
    }
    let count = victim.attacks(third).len() as u64;
    victim.saw_nothing()?;
    counted(sender, &before, "forged_tunnel", 3 * count)
}

fn from_a_process(lab: &Lab) -> Result<()> {
    let [home, sender, third] = &lab.nodes[..] else { anyhow::bail!("the lab has another shape") };
    let victim = Victim::prepare(lab, home)?;
    let target = format!("{}:{TUNNEL}", home.address);
    let mapped = format!("[::ffff:{}]:{TUNNEL}", home.address);
    let before = outcomes(sender)?;
    for options in [&["--unprivileged"][..], &["--unprivileged", "--connected"], &["--connected"], &[]] {
        for attack in victim.attacks(third) {
            let mut arguments = vec!["send", &target, "--hex", &attack.hex];
            arguments.extend(options);
            let sent: Sent = At::Node(sender).run(&arguments).context(attack.name)?;
            let is_told = sent.errors.iter().all(|error| error.contains("Operation not permitted"));
            ensure!(sent.sent == 0 && is_told, "{} {options:?}: {sent:?}", attack.name);
        }
    }
    let count = victim.attacks(third).len() as u64;
    // The same by a socket of the other family.
    let hex = victim.attacks(third).remove(0).hex;
    let by_ipv6 = At::Node(sender).run::<Sent>(&["send", &mapped, "--hex", &hex])?;
    ensure!(by_ipv6.sent == 0, "{by_ipv6:?}");
    victim.saw_nothing()?;
    counted(sender, &before, "forged_tunnel", 4 * count + 1)
}

/// Past the doors of the sender's node: only those of the receiver are left.
fn from_the_network(lab: &Lab) -> Result<()> {
    canary::packets_end("unknown_answer");
    let [home, named, third] = &lab.nodes[..] else { anyhow::bail!("the lab has another shape") };
    let victim = Victim::prepare(lab, home)?;
    let target = format!("{}:{TUNNEL}", home.address);
    let before = outcomes(home)?;
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for attack in victim.attacks(third) {
        // That one is a request as another node may send it.
        let Some(reason) = attack.reason else { continue };
        let port = attack.port.unwrap_or("50000");
        let arguments =
            ["send", &target, "--hex", &attack.hex, "--source", &named.address, "--source-port", port];
        let sent: Sent = At::Client.run(&arguments).context(attack.name)?;
        ensure!(sent.sent == 1, "{}: {sent:?}", attack.name);
        *expected.entry(reason).or_default() += 1;
    }
    for (reason, count) in expected {
        counted(home, &before, reason, count)?;
    }
    // By an uplink that does not lead to the node that is named.
    let _taken_away = Undo::at_the_end(|| {
        let _ = Lab::remove_second_cable();
    });
    home.lay_second_cable()?;
    let hex = victim.attacks(third).remove(0).hex;
    let arguments = ["send", &target, "--hex", &hex, "--source", &named.address, "--source-port", "50000"];
    wait::for_up_to(PATIENCE, "what comes by the other uplink is not taken", || {
        let before = outcomes(home)?;
        let sent: Sent = At::Client.run(&[&arguments[..], &["--interface", "second"]].concat())?;
        ensure!(sent.sent == 1, "{sent:?}");
        counted(home, &before, "wrong_uplink", 1)
    })?;
    victim.saw_nothing()
}

/// What `home` sends to the other node comes in there by an uplink that does not lead back.
fn two_ways(lab: &Lab) -> Result<()> {
    let [home, other, ..] = &lab.nodes[..] else { anyhow::bail!("the lab is too small") };
    let _home = Spec::workload("there").publish("8432:8080").option(&only_on(home)).create(lab)?;
    let _other = Spec::workload("here").publish("8433:8080").option(&only_on(other)).create(lab)?;
    for service in ["there", "here"] {
        live(lab, service, 1)?;
    }
    let to_other = format!("{}/32", other.address);
    let _taken_away = Undo::at_the_end(|| {
        // With it goes the client's route by it.
        let _ = Lab::remove_second_cable();
        let _ = home.network_command("ip").args(["route", "del", &to_other]).quiet().read();
    });
    other.lay_second_cable()?;
    Lab::client("ip").args(["route", "replace", &to_other, "dev", "second"]).quiet().read()?;
    home.network_command("ip").args(["route", "replace", &to_other, "via", CLIENT]).quiet().read()?;
    // Until the answers of `home` have been heard by that uplink.
    wait::for_up_to(PATIENCE, "both nodes serve each other's clients", || {
        for node in [home, other] {
            get(node, 8432, 2)?;
            get(node, 8433, 2)?;
        }
        Ok(())
    })?;
    let first = format!("udp port {TUNNEL} and src host {} and dst host {}", home.address, other.address);
    let by_first = Capture::on_cable(other, &first)?;
    for node in [home, other] {
        get(node, 8432, 20)?;
        get(node, 8433, 20)?;
    }
    let by_first = by_first.stop();
    ensure!(by_first.is_empty(), "{} packets took the first cable, like {}", by_first.len(), by_first[0]);
    Ok(())
}

/// A node that is to be reached, with everything that would notice.
struct Victim<'a> {
    node: &'a Node,
    identity: [u8; 4],
    listening: Running,
    forged: Capture,
    probes: Capture,
    _service: mesh_tests::service::Service<'a>,
}

/// What is sent.
struct Attack {
    name: &'static str,
    hex: String,
    /// From this port only.
    port: Option<&'static str>,
    /// Why the receiver drops it, if it does.
    reason: Option<&'static str>,
}

impl<'a> Victim<'a> {
    fn prepare(lab: &'a Lab, node: &'a Node) -> Result<Self> {
        let publish = format!("{PUBLISHED}:{TARGET}/udp");
        let service = Spec::workload("victim").publish(&publish).option(&only_on(node)).create(lab)?;
        live(lab, "victim", 1)?;
        let task = Inside::tasks(lab, &service)?.pop().context("no task")?;
        let listening = At::Node(node).start(&["listen", &LISTENED.to_string()])?;
        // Packets with the forged client, as itself or in the tunnel; and probes between the tunnels' ports.
        let forged = "host 8.8.8.8 or (udp port 4799 and (ip[62:4] = 0x08080808 or ip[66:4] = 0x08080808))";
        Ok(Self {
            node,
            identity: octets(&task.address("ingress")?)?,
            listening,
            forged: Capture::on_cable(node, &format!("({forged}) and src host {}", node.address))?,
            probes: Capture::on_cable(
                node,
                &format!("udp src port 4799 and udp dst port 4799 and src host {}", node.address),
            )?,
            _service: service,
        })
    }

    /// Those of the audit: a to d, and the probe.
    fn attacks(&self, third: &Node) -> Vec<Attack> {
        let node = octets(&self.node.address).unwrap_or_default();
        let third = octets(&third.address).unwrap_or_default();
        let answer = |source: ([u8; 4], u16), destination: ([u8; 4], u16)| {
            tunnelled(self.identity, 1, &datagram(source, destination))
        };
        let unknown = Some("unknown_answer");
        let attack = |name, hex, reason| Attack { name, hex, port: None, reason };
        vec![
            attack("into the node", answer((FORGED_CLIENT, 53), (node, LISTENED)), unknown),
            attack("as the node", answer((node, 22), (FORGED_CLIENT, 53)), unknown),
            attack("as the node, to another one", answer((node, 4799), (third, 4799)), unknown),
            attack("to a container", answer((node, 53), ([172, 18, 0, 2], 53)), unknown),
            attack("as a client", self.request(), None),
            Attack {
                name: "a probe from a tunnel's port",
                hex: tunnelled([0; 4], 2, &[0; 20]),
                port: Some(TUNNEL),
                reason: Some("forged_tunnel"),
            },
            attack("a probe's answer", tunnelled([0; 4], 4, &[0; 20]), Some("forged_tunnel")),
        ]
    }

    fn request(&self) -> String {
        let client = (FORGED_CLIENT, 53);
        let node = octets(&self.node.address).unwrap_or_default();
        tunnelled(self.identity, 0, &datagram(client, (node, PUBLISHED)))
    }

    /// Nothing has come to it, and it has sent nothing because of that.
    fn saw_nothing(self) -> Result<()> {
        // What is on its way arrives; a loop would go on.
        thread::sleep(Duration::from_millis(500));
        for seen in [self.forged.stop(), self.probes.stop()] {
            ensure!(seen.is_empty(), "{} has sent {} packets, like {}", self.node.name, seen.len(), seen[0]);
        }
        let heard: Heard = self.listening.report()?;
        ensure!(heard.datagrams == 0, "{} datagrams were delivered on {}", heard.datagrams, self.node.name);
        Ok(())
    }
}

/// VXLAN, the inner Ethernet header and what is in it, as digits.
fn tunnelled(identity: [u8; 4], flags: u16, inner: &[u8]) -> String {
    let mut bytes = vec![0x08, 0, 0, 0, 0x6d, 0x65, 0x73, 0, 0x02, 0x42];
    bytes.extend(identity);
    bytes.extend([0x02, 0x6d]);
    bytes.extend(TARGET.to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes.extend([0x08, 0x00]);
    bytes.extend(inner);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// An IPv4 packet with a datagram that has no checksum.
fn datagram((source, from): ([u8; 4], u16), (destination, to): ([u8; 4], u16)) -> Vec<u8> {
    const DATA: &[u8] = b"injected";

    let length = 8 + DATA.len() as u16;
    let mut bytes = vec![0x45, 0];
    bytes.extend((20 + length).to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    bytes.extend(source);
    bytes.extend(destination);
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    for word in [from, to, length, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(DATA);
    bytes
}

fn octets(address: &str) -> Result<[u8; 4]> {
    let address: std::net::Ipv4Addr = address.parse().with_context(|| format!("{address:?}"))?;
    Ok(address.octets())
}

fn outcomes(node: &Node) -> Result<BTreeMap<String, u64>> {
    let status = mesh::status(node)?;
    serde_json::from_value(status["dataplane"]["outcomes"].clone()).context("no outcomes in the status")
}

/// Since `before` an outcome has been counted so often.
fn counted(node: &Node, before: &BTreeMap<String, u64>, outcome: &str, times: u64) -> Result<()> {
    let of = |outcomes: &BTreeMap<String, u64>| outcomes.get(outcome).copied().unwrap_or_default();
    let after = outcomes(node)?;
    let counted = of(&after) - of(before);
    ensure!(counted == times, "{} has counted {counted} {outcome}, not {times}: {after:?}", node.name);
    Ok(())
}
