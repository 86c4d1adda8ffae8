//! The others' way in: a machine on the fabric with nothing on it but what is compared: no Docker, no mesh, and no rule but
//! those that do the work, which is kinder to it than any real entry node.

use std::process::Child;

use anyhow::Result;
use mesh_tests::{
    cmd::Cmd,
    lab::{Node, Stranger},
};

use super::{HOST_TCP, HOST_UDP};

/// The last number of its address.
const NUMBER: usize = 250;
pub(super) const NAME: &str = "bench-entry";
/// Where nftables takes connections and datagrams, and where HAProxy takes connections.
pub(super) const NFT_TCP: u16 = 8394;
pub(super) const NFT_UDP: u16 = 8397;
pub(super) const HAPROXY_TCP: u16 = 8395;

pub(super) struct Rival {
    pub(super) machine: Stranger,
    haproxy: Option<Child>,
}

impl Rival {
    /// In front of tasks that these nodes publish as ports of their own.
    pub(super) fn start(nodes: &[&Node]) -> Result<Self> {
        let machine = Stranger::plug_in(NAME, NUMBER)?;
        // What routers have: forwarding, and no word to the sender that there is a shorter way.
        for setting in ["ip_forward=1", "conf.all.send_redirects=0", "conf.eth0.send_redirects=0"] {
            machine.command("sysctl").args(["-qw", &format!("net.ipv4.{setting}")]).quiet().read()?;
        }
        machine.command("nft").args(["-f", "-"]).quiet().read_fed(&rules(&machine.address, nodes))?;
        Ok(Self { machine, haproxy: None })
    }
}

/// As kube-proxy lays them out: a map from service to chain, in which an endpoint is drawn by lot.
fn rules(address: &str, nodes: &[&Node]) -> String {
    let draw: Vec<String> =
        (0..nodes.len()).map(|number| format!("{number} : goto endpoint-{number}")).collect();
    let draw = format!("numgen random mod {} vmap {{ {} }}", nodes.len(), draw.join(", "));
    let endpoint = |(number, node): (usize, &&Node)| {
        format!(
            " chain endpoint-{number} {{\n  meta l4proto tcp dnat to {0}:{HOST_TCP}\n  meta l4proto udp dnat to {0}:{HOST_UDP}\n }}\n",
            node.address
        )
    };
    let endpoints: String = nodes.iter().enumerate().map(endpoint).collect();
    format!(
        "table ip bench {{
 map services {{
  type ipv4_addr . inet_proto . inet_service : verdict
  elements = {{ {address} . tcp . {NFT_TCP} : goto service, {address} . udp . {NFT_UDP} : goto service }}
 }}
 chain prerouting {{
  type nat hook prerouting priority dstnat
  ip daddr . meta l4proto . th dport vmap @services
 }}
 chain service {{
  meta mark set mark or 0x4000
  {draw}
 }}
{endpoints} chain postrouting {{
  type nat hook postrouting priority srcnat
  meta mark and 0x4000 == 0 return
  meta mark set mark xor 0x4000
  masquerade fully-random
 }}
}}
"
    )
}
