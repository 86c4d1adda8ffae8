//! Packets through the programs, and the programs where the agent puts them.

use std::fs::{self, File};
use std::process::Command;
use std::thread;
use std::time::Duration;

use aya::programs::cgroup_sock_addr::CgroupSockAddrLink;
use aya::programs::{SchedClassifier, TcAttachType};
use mesh_common::net::Mac;

use super::World;
use crate::support::namespace::Namespace;
use crate::support::packet::Packet;
use crate::support::run::{self, Hook, Run};
use crate::support::tun::Tun;
use crate::support::wire::Wire;
use crate::support::{cast, checks, overlay, programs};

impl World {
    /// Puts the programs where the agent puts them, and returns the far ends of the uplink and of the bridge.
    pub(crate) fn attach(&mut self) -> [Wire; 2] {
        self.namespace.enter();
        for (hook, interface, place) in [
            (Hook::UplinkIn, "uplink", TcAttachType::Ingress),
            (Hook::UplinkOut, "uplink", TcAttachType::Egress),
            (Hook::BridgeIn, "bridge", TcAttachType::Ingress),
        ] {
            self.ebpf.attach(hook, interface, place);
        }
        ["uplink", "bridge"].map(Wire::at_far_end_of)
    }

    /// As [`World::attach`], of an uplink that has no Ethernet, in the place of the one that has, and so has no neighbours either.
    pub(crate) fn attach_l3(&mut self) -> (Tun, Wire) {
        self.namespace.ip("link del uplink\n");
        let tun = self.make_l3("uplink", cast::UPLINK, "10.99.0.1/24");
        self.ebpf.attach(Hook::BridgeIn, "bridge", TcAttachType::Ingress);
        (tun, Wire::at_far_end_of("bridge"))
    }

    /// As [`World::attach`], of an uplink that is a bridge, in the place of the one that is not. Its frames pass the node's rules before
    /// it has them. Returns the far ends of its two ports, and of `docker_gwbridge`.
    pub(crate) fn attach_bridged(&mut self) -> [Wire; 3] {
        self.make_bridged();
        for (hook, interface, place) in [
            (Hook::UplinkIn, "uplink", TcAttachType::Ingress),
            (Hook::UplinkOut, "uplink", TcAttachType::Egress),
            (Hook::UplinkPortIn, "cable", TcAttachType::Ingress),
            (Hook::UplinkPortIn, "guest", TcAttachType::Ingress),
            (Hook::BridgeIn, "bridge", TcAttachType::Ingress),
        ] {
            self.ebpf.attach(hook, interface, place);
        }
        ["cable", "guest", "bridge"].map(Wire::at_far_end_of)
    }

    /// Makes the uplink a bridge with two ports, whose frames pass the node's rules first.
    pub(crate) fn make_bridged(&mut self) {
        let (uplink, cable, guest) = (cast::UPLINK, cast::UPLINK_PORT, cast::UPLINK_PORT + 1);
        self.namespace.ip(&format!(
            "link del uplink\n\
             link add name uplink index {uplink} address {mac} type bridge mcast_snooping 0 forward_delay 0\n\
             addr add 10.99.0.1/24 dev uplink\nlink set uplink up\n\
             link add name cable index {cable} type veth peer name cable-far\n\
             link add name guest index {guest} type veth peer name guest-far\n\
             link set cable-far up\nlink set guest-far up\n\
             link set cable up master uplink\nlink set guest up master uplink\n\
             neigh replace 10.99.0.254 lladdr {client} nud permanent dev uplink\n\
             neigh replace 10.99.0.2 lladdr {other} nud permanent dev uplink\n",
            mac = checks::mac(&cast::NODE_MAC),
            client = checks::mac(&cast::CLIENT_MAC),
            other = checks::mac(&cast::OTHER_MAC),
        ));
        fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1").expect("br_netfilter is loaded");
        let forwards = |text: &str| text.matches("state forwarding").count() == 2;
        while !forwards(&self.namespace.ask(&["-details", "link", "show", "master", "uplink"])) {
            thread::sleep(Duration::from_millis(10));
        }
        self.insert("UPLINK_PORTS", cable, uplink);
        self.insert("UPLINK_PORTS", guest, uplink);
    }

    /// Whether the bridge that is the uplink knows where somebody is.
    pub(crate) fn is_learned(&self, address: Mac) -> bool {
        self.namespace.enter();
        let output = Command::new("bridge").args(["fdb", "show", "br", "uplink"]).output();
        let output = output.expect("iproute2's `bridge` can be run");
        String::from_utf8_lossy(&output.stdout).contains(&checks::mac(&address))
    }

    /// Rules of the node's own.
    pub(crate) fn nft(&self, rules: &str) {
        self.namespace.nft(rules);
    }

    /// Makes an uplink without Ethernet, with the programs on it.
    pub(crate) fn make_l3(&mut self, name: &str, index: u32, address: &str) -> Tun {
        self.namespace.enter();
        let tun = Tun::new(name, index);
        self.namespace.ip(&format!("addr add {address} dev {name}\nlink set {name} up\n"));
        self.insert("UPLINKS", index, 1_u32);
        self.ebpf.attach(Hook::UplinkInL3, name, TcAttachType::Ingress);
        self.ebpf.attach(Hook::UplinkOutL3, name, TcAttachType::Egress);
        tun
    }

    /// Makes a port of the bridge that a task is behind, in a namespace of its own, with the bridge's program on it. Returns the
    /// task's end.
    pub(crate) fn attach_port(&mut self) -> (Namespace, Wire) {
        let task = Namespace::new();
        let (index, namespace) = (cast::TASK_PORT, task.path());
        self.namespace.ip(&format!(
            "link add name task index {index} type veth peer name task-far netns {namespace}\nlink set task up\n"
        ));
        task.ip("link set task-far up\n");
        let wire = Wire::at_far_end_of("task");
        self.namespace.enter();
        self.ebpf.attach(Hook::BridgeIn, "task", TcAttachType::Ingress);
        (task, wire)
    }

    /// Puts the overlay's programs on the caller's port of a bridge, which takes no aggregates, and returns the caller's end and that of the rest of
    /// the network.
    pub(crate) fn attach_overlay(&mut self) -> [Wire; 2] {
        self.namespace.ip("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n\
             link add rest type veth peer name rest-far\nlink set rest-far up\nlink set rest up\n\
             link set port gso_max_size 1500 master br0\nlink set rest gso_max_size 1500 master br0\n");
        let forwards = |text: &str| text.matches("state forwarding").count() == 2;
        while !forwards(&self.namespace.ask(&["-details", "link", "show", "master", "br0"])) {
            thread::sleep(Duration::from_millis(10));
        }
        for (hook, place) in
            [(Hook::OverlayIn, TcAttachType::Ingress), (Hook::OverlayOut, TcAttachType::Egress)]
        {
            self.ebpf.attach(hook, "port", place);
        }
        ["port", "rest"].map(Wire::at_far_end_of)
    }

    /// From now on the interfaces take no aggregates, so that the kernel cuts them before it sends them.
    pub(crate) fn cut_aggregates(&self) {
        self.namespace.ip("link set uplink gso_max_size 1500\nlink set bridge gso_max_size 1500\n");
    }

    /// From now on the bridge takes packets as large as netfilter puts them together.
    pub(crate) fn widen_bridge(&self) {
        self.namespace.ip("link set bridge-far mtu 9000\nlink set bridge mtu 9000\n");
    }

    /// From now on the uplink takes jumbo frames, and larger ones.
    pub(crate) fn widen_uplink(&self) {
        self.namespace.ip("link set uplink-far mtu 12000\nlink set uplink mtu 12000\n");
    }

    /// The route to a node takes packets of this size only.
    pub(crate) fn narrow_route(&self, node: &str, mtu: u16) {
        self.namespace.ip(&format!("route replace {node}/32 dev uplink mtu {mtu}\n"));
    }

    /// The client has been heard of at this hardware address, but not for a while.
    pub(crate) fn client_was_at(&self, mac: &str) {
        self.namespace.ip(&format!("neigh replace 10.99.0.254 dev uplink lladdr {mac} nud stale\n"));
    }

    /// What the kernel thinks of the client's hardware address.
    pub(crate) fn neighbour_state(&self) -> String {
        self.namespace.ask(&["neigh", "show", "10.99.0.254"])
    }

    /// The packet through the hook's program.
    pub(crate) fn run(&self, hook: Hook, packet: &[u8]) -> Run {
        self.counted(packet, || run::run(self.program(hook), hook, packet))
    }

    /// As [`World::run`], on the other network.
    pub(crate) fn run_on_other_network(&self, hook: Hook, packet: &[u8]) -> Run {
        self.counted(packet, || run::run_on(self.program(hook), hook, overlay::OTHER_NETWORK, packet))
    }

    /// As [`World::run`], with these words in the control block.
    pub(crate) fn run_tagged(&self, hook: Hook, tag: [u32; 4], packet: &[u8]) -> Run {
        self.counted(packet, || run::run_tagged(self.program(hook), hook, tag, packet))
    }

    fn counted(&self, packet: &[u8], run: impl FnOnce() -> (i32, Vec<u8>)) -> Run {
        self.namespace.enter();
        let counted = self.outcomes();
        let (verdict, after) = run();
        let outcomes = self
            .outcomes()
            .into_iter()
            .zip(counted)
            .filter(|((_, now), (_, then))| now != then)
            .map(|((outcome, now), (_, then))| (outcome, now - then))
            .collect();
        Run { verdict, before: packet.to_vec(), after, outcomes }
    }

    pub(crate) fn uplink_in(&self, packet: &Packet) -> Run {
        self.run(Hook::UplinkIn, &packet.bytes())
    }

    pub(crate) fn bridge_in(&self, packet: &Packet) -> Run {
        self.run(Hook::BridgeIn, &packet.bytes())
    }

    pub(crate) fn overlay_in(&self, packet: &Packet) -> Run {
        self.run(Hook::OverlayIn, &packet.bytes())
    }

    pub(crate) fn overlay_out(&self, packet: &Packet) -> Run {
        self.run(Hook::OverlayOut, &packet.bytes())
    }

    /// Puts the programs for sockets on a cgroup, for as long as what is returned lives.
    pub(crate) fn attach_to_cgroup(&mut self, cgroup: &File) -> Vec<CgroupSockAddrLink> {
        self.ebpf.attach_to_cgroup(cgroup)
    }

    pub(crate) fn program(&self, hook: Hook) -> &SchedClassifier {
        programs::classifier(&self.ebpf, hook)
    }
}
