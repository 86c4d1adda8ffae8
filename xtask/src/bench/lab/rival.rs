//! The others' way in: a machine on the fabric with nothing on it but what is compared: no Docker, no mesh, and no rule but
//! those that do the work, which is kinder to them than any real entry node.

use std::{fs, process::Child};

use anyhow::Result;
use mesh_tests::{
    lab::{Node, Stranger},
    paths,
};

use super::{HOST_TCP, HOST_UDP};
use crate::setup::{self, Set};

/// The last number of its address.
const NUMBER: usize = 250;
pub(super) const NAME: &str = "bench-entry";
/// Where nftables takes connections and datagrams, and where the proxy takes connections.
pub(super) const NFT_TCP: u16 = 8394;
pub(super) const NFT_UDP: u16 = 8397;
pub(super) const HAPROXY_TCP: u16 = 8395;

/// All of it is gone when this is dropped, and also if this process is killed.
pub(super) struct Rival {
    pub(super) machine: Stranger,
    haproxy: Option<Child>,
}

impl Rival {
    /// In front of tasks that these nodes publish as ports of their own; with the reason if there is no proxy.
    pub(super) fn start(homes: &[&Node]) -> Result<(Self, Option<String>)> {
        let machine = Stranger::plug_in(NAME, NUMBER)?;
        // As it is for the mesh's entry node.
        machine.command("ethtool").args(["-K", "eth0", "gro", "on"]).quiet().read()?;
        // What routers have: forwarding, and no word to the sender that there is a shorter way.
        for setting in ["ip_forward=1", "conf.all.send_redirects=0", "conf.eth0.send_redirects=0"] {
            machine.command("sysctl").args(["-qw", &format!("net.ipv4.{setting}")]).quiet().read()?;
        }
        machine.command("nft").args(["-f", "-"]).quiet().read_fed(&rules(&machine.address, homes))?;
        let mut rival = Self { machine, haproxy: None };
        let missing = match setup::ensure(&[Set::Proxy]) {
            Ok(()) => {
                rival.haproxy = Some(rival.start_haproxy(homes)?);
                None
            }
            Err(error) => Some(format!("it cannot be installed: {error:#}")),
        };
        Ok((rival, missing))
    }

    pub(super) const fn has_haproxy(&self) -> bool {
        self.haproxy.is_some()
    }

    fn start_haproxy(&self, homes: &[&Node]) -> Result<Child> {
        let directory = paths::target().join("bench");
        fs::create_dir_all(&directory)?;
        let file = directory.join("haproxy.cfg");
        fs::write(&file, configuration(&self.machine.address, homes))?;
        // In the foreground and without a master: one process, which the kernel ends with this one.
        let haproxy = ["--pdeathsig", "KILL", "haproxy", "-db", "-q", "-f"];
        self.machine.command("setpriv").args(haproxy).arg(file).quiet().spawn()
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        if let Some(haproxy) = &mut self.haproxy {
            let _ = haproxy.kill();
            let _ = haproxy.wait();
        }
    }
}

/// As kube-proxy lays them out: a map from service to chain, in which an endpoint is drawn by lot.
fn rules(address: &str, homes: &[&Node]) -> String {
    let draw: Vec<String> =
        (0..homes.len()).map(|number| format!("{number} : goto endpoint-{number}")).collect();
    let draw = format!("numgen random mod {} vmap {{ {} }}", homes.len(), draw.join(", "));
    let endpoint = |(number, node): (usize, &&Node)| {
        format!(
            " chain endpoint-{number} {{\n  meta l4proto tcp dnat to {0}:{HOST_TCP}\n  \
             meta l4proto udp dnat to {0}:{HOST_UDP}\n }}\n",
            node.address
        )
    };
    let endpoints: String = homes.iter().enumerate().map(endpoint).collect();
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

fn configuration(address: &str, homes: &[&Node]) -> String {
    let server = |node: &&Node| format!(" server {} {}:{HOST_TCP}\n", node.name, node.address);
    let servers: String = homes.iter().map(server).collect();
    format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 1m\n timeout server 1m\n\
         listen bench\n bind {address}:{HAPROXY_TCP}\n balance roundrobin\n{servers}"
    )
}
