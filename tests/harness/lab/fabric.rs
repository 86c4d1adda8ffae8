//! The network between the nodes: a bridge in a namespace of its own, where Docker's netfilter rules cannot reach it.
//! The client lives in that namespace too, at the bridge's address.

use std::path::Path;

use anyhow::{Result, bail};

use super::pass::{self, FarEnd};
use crate::cmd::Cmd;

/// The namespace that holds the bridge and the client, as `ip netns` knows it.
pub const FABRIC: &str = "fabric";
/// The client's address, which is also the nodes' default gateway.
pub const CLIENT: &str = "10.99.0.254";
/// An address of the client that is not on the nodes' subnet: reached through the gateway, as most clients are.
pub const FAR_CLIENT: &str = "10.98.0.1";

/// Of a node that has a second cable, and of the client there.
pub const SECOND_ADDRESS: &str = "10.97.0.1";
pub const SECOND_CLIENT: &str = "10.97.0.254";

const BRIDGE: &str = "mesh-lab";
const SECOND: &str = "second";

pub(super) fn create() -> Result<()> {
    if Path::new("/run/netns").join(FABRIC).exists() {
        bail!("a network namespace `{FABRIC}` exists already and is not the lab's");
    }
    Cmd::new("ip").args(["netns", "add", FABRIC]).quiet().read()?;
    batch(
        Some(FABRIC),
        &format!(
            "link set lo up
             addr add {FAR_CLIENT}/32 dev lo
             link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0
             addr add {CLIENT}/24 dev {BRIDGE}
             addr add fd99::fe/64 dev {BRIDGE} nodad
             link set {BRIDGE} up
             route add unreachable default"
        ),
    )?;
    // So that what the nodes send to the rest of the world is refused at once, not lost.
    sysctl("net.ipv4.ip_forward=1")
}

/// Gives the namespace of process `pid` an `eth0` with the address that belongs to node `index`.
pub(super) fn connect(node: &str, index: usize, pid: i32) -> Result<()> {
    batch(
        Some(FABRIC),
        &format!(
            "link add {node} type veth peer name eth0 netns {pid}
             link set {node} master {BRIDGE} up"
        ),
    )?;
    // What arrives is merged, as network cards' drivers do it.
    let gro = ["netns", "exec", FABRIC, "ethtool", "-K", node, "gro", "on"];
    Cmd::new("ip").args(gro).succeeds();
    let script = format!(
        "addr add {address}/24 dev eth0
         addr add fd99::{index:x}/64 dev eth0 nodad
         link set eth0 up
         route add default via {CLIENT}
         route add default via fd99::fe",
        address = address(index)
    );
    let net = format!("--net=/proc/{pid}/ns/net");
    feed(Cmd::new("nsenter").arg(net).args(["ip", "-batch", "-"]), &script)
}

/// Whether a node's cable is like a wire, whose other end is process `pid`'s: packets from the node and from the client have
/// their checksums worked out, where else whoever receives them is told that they are right; and what XDP sends arrives.
pub(super) fn make_wire(node: &str, pid: i32, wire: bool) -> Result<()> {
    let namespace = format!("/run/netns/{FABRIC}");
    let offload = if wire { "off" } else { "on" };
    for (net, interface) in [(namespace.clone(), BRIDGE), (format!("/proc/{pid}/ns/net"), "eth0")] {
        let enter = Cmd::new("nsenter").arg(format!("--net={net}"));
        enter.args(["ethtool", "-K", interface, "tx", offload]).quiet().read()?;
    }
    pass::set(&namespace, node, if wire { FarEnd::Pass } else { FarEnd::Nothing })
}

/// Lays another cable, like a wire, straight from the client to the namespace of process `pid`, where it is `eth1`. There is one
/// at a time.
pub(super) fn lay_second_cable(pid: i32) -> Result<()> {
    batch(Some(FABRIC), &format!("link add {SECOND} type veth peer name eth1 netns {pid}"))?;
    let offload = ["netns", "exec", FABRIC, "ethtool", "-K", SECOND, "tx", "off"];
    Cmd::new("ip").args(offload).quiet().read()?;
    pass::set(&format!("/run/netns/{FABRIC}"), SECOND, FarEnd::Pass)?;
    batch(Some(FABRIC), &format!("addr add {SECOND_CLIENT}/24 dev {SECOND}\nlink set {SECOND} up"))?;
    let net = format!("--net=/proc/{pid}/ns/net");
    // A veth is an uplink only if it leads somewhere; and an address comes before it is up, so that nobody asks meanwhile.
    let script = format!(
        "addr add {SECOND_ADDRESS}/24 dev eth1\nlink set eth1 up\nroute add default via {SECOND_CLIENT} dev eth1 metric 1000"
    );
    feed(Cmd::new("nsenter").arg(net).args(["ip", "-batch", "-"]), &script)
}

pub(super) fn remove_second_cable() -> Result<()> {
    batch(Some(FABRIC), &format!("link del {SECOND}"))
}

/// What is done with packets at the fabric's end of a cable.
pub(super) fn far_end(node: &str, program: FarEnd<'_>) -> Result<()> {
    pass::set(&format!("/run/netns/{FABRIC}"), node, program)
}

/// Pulls a node's cable, or plugs it in again.
pub(super) fn cable(node: &str, plugged: bool) -> Result<()> {
    batch(Some(FABRIC), &format!("link set {node} {}", if plugged { "up" } else { "down" }))
}

/// The address of node `index`, counted from 1.
pub(super) fn address(index: usize) -> String {
    format!("10.99.0.{index}")
}

pub(super) fn remove() -> Result<()> {
    if !Path::new("/run/netns").join(FABRIC).exists() {
        return Ok(());
    }
    if !is_ours() {
        bail!("the network namespace `{FABRIC}` is not the lab's; it is left alone");
    }
    Cmd::new("ip").args(["netns", "del", FABRIC]).quiet().read()?;
    Ok(())
}

/// Somebody else's namespace of this name has no such bridge.
fn is_ours() -> bool {
    let links = Cmd::new("ip").args(["-n", FABRIC, "-br", "link"]).quiet().read().unwrap_or_default();
    links.lines().all(|line| line.starts_with("lo ")) || links.contains(BRIDGE)
}

fn sysctl(setting: &str) -> Result<()> {
    Cmd::new("ip").args(["netns", "exec", FABRIC, "sysctl", "-qw", setting]).quiet().read().map(drop)
}

fn batch(namespace: Option<&str>, script: &str) -> Result<()> {
    let mut ip = Cmd::new("ip");
    if let Some(namespace) = namespace {
        ip = ip.args(["-n", namespace]);
    }
    feed(ip.args(["-batch", "-"]), script)
}

fn feed(cmd: Cmd, script: &str) -> Result<()> {
    cmd.quiet().read_fed(script).map(drop)
}
