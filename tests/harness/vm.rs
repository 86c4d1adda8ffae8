//! In a virtual machine with a kernel as Docker's hosts have it (`cargo xtask test vm`, `bench vm`): its modules, and
//! Docker's own mesh, which serves there.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    client::{At, Report},
    cmd::{Cmd, said},
    lab::{CLIENT, Lab, Node},
    wait,
};

/// Set in the environment of what runs in a virtual machine.
pub const GUEST: &str = "MESH_TESTS_VM";

/// What Docker and its own mesh need of the kernel, and what programs on a clsact qdisc do.
const MODULES: &str = "tun ip_vs ip_vs_rr xt_ipvs vxlan bridge veth br_netfilter overlay iptable_nat iptable_filter \
     iptable_mangle xt_conntrack xt_MASQUERADE xt_addrtype xt_mark xt_nat xt_REDIRECT xt_tcpudp nft_compat sch_ingress \
     cls_bpf act_bpf";

/// What Docker's encryption takes: what it marks packets with, ESP, and the cipher of moby
/// (daemon/libnetwork/drivers/overlay/encryption.go), AES-GCM.
const ENCRYPTION: &str =
    "xfrm_user esp4 xt_u32 xt_bpf xt_policy gcm seqiv ghash-generic aes_generic authenc ccm ctr";

/// An emulated processor is about so many times as slow.
const PATIENCE: u32 = 10;

/// Makes the machine what it is where Docker runs on the machine itself.
pub fn prepare() -> Result<()> {
    wait::be_patient(PATIENCE);
    // dockerd sets it for its own namespace; the one in which Docker's mesh forwards inherits it from the first one.
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot forward")?;
    let names = [MODULES, ENCRYPTION].into_iter().flat_map(str::split_whitespace);
    let loaded = Cmd::new("modprobe").arg("--all").args(names).quiet().output()?;
    if !loaded.status.success() {
        println!("not all modules were loaded: {}", said(&loaded));
    }
    Ok(())
}

/// Whose mesh serves a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mesh {
    Dockers,
    Ours,
}

impl Mesh {
    /// Waits until requests from the client, through a node, to a published port of `mesh-workload` are all served by this mesh,
    /// and by no other. Returns the last report.
    pub fn serves(self, node: &Node, port: u16) -> Result<Report> {
        let what = match self {
            Self::Dockers => "Docker's own mesh serves",
            Self::Ours => "the mesh serves",
        };
        wait::for_up_to(Duration::from_secs(10), what, || self.try_to_serve(node, port))
    }

    fn try_to_serve(self, node: &Node, port: u16) -> Result<Report> {
        const REQUESTS: u64 = 6;
        let before = ipvs_connections(node)?;
        let (target, count) = (format!("{}:{port}", node.address), REQUESTS.to_string());
        let report: Report = At::Client.run(&["get", &target, "--count", &count])?;
        ensure!(report.failed == 0 && report.ok == REQUESTS, "requests failed: {:?}", report.errors);
        let by_ipvs = ipvs_connections(node)? - before;
        // Docker's puts an address of its own in the place of the client's.
        let sees_client = report.peers.keys().eq([CLIENT]);
        let served = match self {
            Self::Dockers => by_ipvs == REQUESTS && !report.peers.contains_key(CLIENT),
            Self::Ours => by_ipvs == 0 && sees_client,
        };
        ensure!(served, "IPVS saw {by_ipvs} of {REQUESTS} connections, and the tasks {:?}", report.peers);
        Ok(report)
    }
}

/// How many connections Docker's own mesh has balanced on a node so far.
pub fn ipvs_connections(node: &Node) -> Result<u64> {
    let sandbox: PathBuf = node.path("/run/docker/netns/ingress_sbox");
    let net = format!("--net={}", sandbox.display());
    let text = Cmd::new("nsenter").arg(net).args(["cat", "/proc/net/ip_vs_stats_percpu"]).quiet().read()?;
    connections_in(&text).with_context(|| format!("not understood: {text}"))
}

/// Of `/proc/net/ip_vs_stats_percpu` (Linux, `net/netfilter/ipvs/ip_vs_ctl.c`): two lines of titles, then a line for each
/// processor, with the connections in its second column, then totals that are two seconds old. All is in base 16.
fn connections_in(text: &str) -> Option<u64> {
    let rows = text.lines().skip(2).take_while(|line| !line.trim_start().starts_with('~'));
    rows.map(|row| u64::from_str_radix(row.split_whitespace().nth(1)?, 16).ok()).sum()
}

/// How many packets the security associations of all nodes have seen.
pub fn encrypted_packets(lab: &Lab) -> Result<u64> {
    let mut packets = 0;
    for node in &lab.nodes {
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
    fn the_connections_of_all_processors_are_added() {
        let text = "       Total Incoming Outgoing         Incoming         Outgoing\n\
                    CPU    Conns  Packets  Packets            Bytes            Bytes\n\
                    \x20 0       1A        0        0                0                0\n\
                    \x20 1        6        0        0                0                0\n\
                    \x20 ~       11        0        0                0                0\n\
                    \n     Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n";
        assert_eq!(connections_in(text), Some(32));
        assert_eq!(connections_in("a\nb\nnonsense\n"), None);
    }

    #[test]
    fn the_packets_of_all_associations_are_added() {
        let one = "src 10.99.0.1 dst 10.99.0.2\n\tproto esp spi 0x1(1)\n\tlifetime config:\n\t  limit: soft (INF)(bytes)\n\
                   \tlifetime current:\n\t  1200(bytes), 10(packets)\n\t  add 2026-01-01 00:00:00 use -\n";
        assert_eq!(packets_in(""), Some(0));
        assert_eq!(packets_in(&[one, one].concat()), Some(20));
        assert_eq!(packets_in("\tlifetime current:\n\t  nonsense\n"), None);
    }
}
