//! A node with the real programs, and its tables as the agent would fill them.

mod agent;
mod hooks;
mod tables;

use std::collections::BTreeMap;

use mesh_common::backend::{Backend, TaskKey, state};
use mesh_common::flow::FlowKey;
use mesh_common::net::{Address, Mac, Port, protocol};
use mesh_common::reply::ReplyKey;

use super::cast::{self, Ip};
use super::namespace::Namespace;
use super::programs::Programs;
use super::{checks, overlay};

pub(crate) struct World {
    ebpf: Programs,
    /// Backend ids and set numbers that have been given out.
    backends: u32,
    sets: u32,
    frontends: BTreeMap<(u16, u8), u32>,
    vips: BTreeMap<(u32, Ip), u32>,
    namespace: Namespace,
}

/// The compiled programs.
pub(crate) fn object() -> &'static [u8] {
    mesh_agent::dataplane::object::OBJECT
}

/// Task `number` on this node.
pub(crate) fn local(number: u8) -> Backend {
    Backend {
        generation: 1,
        identity: Address::new(cast::identity(number)),
        bridge: Address::new(cast::task(number)),
        port: Port::new(cast::TARGET),
        state: state::ACTIVE,
        mac: cast::task_mac(number),
        ..Backend::default()
    }
}

/// Task `number` on the other node.
pub(crate) fn remote(number: u8) -> Backend {
    Backend {
        node: Address::new(cast::OTHER),
        bridge: Address::UNSPECIFIED,
        interface: cast::UPLINK,
        mac: [0; 6],
        ..local(number)
    }
}

impl World {
    /// A node with an uplink, a bridge, a neighbour on every address, and no frontends.
    pub(crate) fn new() -> Self {
        Self::of(Programs::take())
    }

    /// As [`World::new`], with a table for so many established flows.
    pub(crate) fn with_flows(flows: u32) -> Self {
        Self::of(Programs::with_flows(flows))
    }

    fn of(ebpf: Programs) -> Self {
        let namespace = Namespace::new();
        namespace.ip(&interfaces());
        namespace.forward();
        let mut world =
            Self { ebpf, backends: 0, sets: 0, frontends: BTreeMap::new(), vips: BTreeMap::new(), namespace };
        world.settings(|_| {});
        world.insert("LOCAL_ADDRESSES", Address::new(cast::NODE), 1_u32);
        world.peer(cast::OTHER, cast::UPLINK);
        world.insert("UPLINKS", cast::UPLINK, 1_u32);
        world.publish(cast::TUNNEL_PORT, protocol::UDP, true);
        world
    }

    /// A new world in which the usual port is published for TCP and UDP with these backends; their ids count from 1.
    pub(crate) fn serving(backends: &[Backend]) -> Self {
        Self::new().serves(backends)
    }

    /// This world, with the usual port published for TCP and UDP with these backends.
    pub(crate) fn serves(mut self, backends: &[Backend]) -> Self {
        let ids = self.backends(backends);
        self.frontend(cast::PUBLISHED, protocol::TCP, &ids);
        self.frontend(cast::PUBLISHED, protocol::UDP, &ids);
        self
    }

    /// As [`World::serving`], and the local tasks can be reached through the tunnel, too: by both protocols.
    pub(crate) fn home_of(numbers: &[u8]) -> Self {
        let mut world = Self::new();
        for number in numbers {
            world.task(*number, 0);
        }
        world
    }

    /// A new world in which these tasks serve the virtual address; their ids count from 1.
    pub(crate) fn calling(numbers: &[u8]) -> Self {
        Self::new().calls(numbers)
    }

    /// This world, with a virtual address that these tasks serve.
    pub(crate) fn calls(mut self, numbers: &[u8]) -> Self {
        let members: Vec<Backend> = numbers.iter().map(|number| overlay::member(*number)).collect();
        let ids = self.backends(&members);
        self.vip(overlay::NETWORK, overlay::VIP, &ids);
        self
    }
}

pub(crate) fn task_key(number: u8, protocol: u8) -> TaskKey {
    TaskKey {
        identity: Address::new(cast::identity(number)),
        port: Port::new(cast::TARGET),
        protocol,
        padding: 0,
    }
}

/// The key of the client's flow to the usual port.
pub(crate) fn flow_key(protocol: u8) -> FlowKey {
    FlowKey {
        client: Address::new(cast::CLIENT),
        frontend: Address::new(cast::NODE),
        client_port: Port::new(cast::CLIENT_PORT),
        frontend_port: Port::new(cast::PUBLISHED),
        protocol,
        padding: [0; 3],
    }
}

/// The key of task `number`'s answers to the client in its usual flow.
pub(crate) fn reply_key(number: u8, protocol: u8) -> ReplyKey {
    ReplyKey {
        task: Address::new(cast::task(number)),
        client: Address::new(cast::CLIENT),
        task_port: Port::new(cast::TARGET),
        client_port: Port::new(cast::CLIENT_PORT),
        protocol,
        padding: [0; 3],
    }
}

/// The lines for `ip` that make the node's interfaces, and its neighbours known for good.
fn interfaces() -> String {
    let address = |ip: Ip| ip.map(|byte| byte.to_string()).join(".");
    let link = |name: &str, index: u32, hardware: Mac, prefix: &str| {
        [
            format!(
                "link add name {name} index {index} address {} type veth peer name {name}-far",
                checks::mac(&hardware)
            ),
            format!("addr add {prefix} dev {name}"),
            format!("link set {name} up"),
            format!("link set {name}-far up"),
        ]
    };
    let neighbour = |ip: Ip, hardware: Mac| {
        format!("neigh replace {} lladdr {} nud permanent dev uplink", address(ip), checks::mac(&hardware))
    };
    let mut lines = Vec::new();
    lines.extend(link("uplink", cast::UPLINK, cast::NODE_MAC, &format!("{}/24", address(cast::NODE))));
    lines.extend(link("bridge", cast::BRIDGE, cast::BRIDGE_MAC, "172.18.0.1/16"));
    lines.extend(link("port", overlay::PORT, [0x02, 0, 0, 0, 0, 0x0c], "192.0.2.1/32"));
    lines.push(neighbour(cast::CLIENT, cast::CLIENT_MAC));
    lines.push(neighbour(cast::OTHER, cast::OTHER_MAC));
    lines.join("\n") + "\n"
}
