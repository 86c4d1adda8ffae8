//! Who takes part: the same few machines in every test.

use mesh_common::net::{Address, Mac, Port};
use mesh_common::settings::Settings;

pub(crate) type Ip = [u8; 4];

/// Interface index of the node's uplink.
pub(crate) const UPLINK: u32 = 10;
/// Interface index of the node's `docker_gwbridge`.
pub(crate) const BRIDGE: u32 = 11;

/// Interface index of a port of `docker_gwbridge`, with a task behind it.
pub(crate) const TASK_PORT: u32 = 13;

/// Interface index of the uplink's first port, where the uplink is a bridge.
pub(crate) const UPLINK_PORT: u32 = 14;

/// The node whose programs run.
pub(crate) const NODE: Ip = [10, 99, 0, 1];
pub(crate) const NODE_MAC: Mac = [0x02, 0, 0, 0, 0, 0x01];
pub(crate) const BRIDGE_MAC: Mac = [0x02, 0, 0, 0, 0, 0x0b];

/// Another node of the Swarm.
pub(crate) const OTHER: Ip = [10, 99, 0, 2];
pub(crate) const OTHER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x02];

/// A machine of the same network that is no node.
pub(crate) const STRANGER: Ip = [10, 99, 0, 77];

pub(crate) const CLIENT: Ip = [10, 99, 0, 254];
pub(crate) const CLIENT_MAC: Mac = [0x02, 0, 0, 0, 0, 0xfe];
pub(crate) const CLIENT_PORT: u16 = 40_000;

/// The published port, and the port inside the task.
pub(crate) const PUBLISHED: u16 = 80;
pub(crate) const TARGET: u16 = 8080;

pub(crate) const TUNNEL_PORT: u16 = 4799;
pub(crate) const VNI: u32 = 0x6d_6573;
/// An uplink of 1500 less the tunnel's 50.
pub(crate) const INNER_MTU: u16 = 1450;

/// Task `number`'s address on `docker_gwbridge`.
pub(crate) const fn task(number: u8) -> Ip {
    [172, 18, 0, number]
}

/// Task `number`'s hardware address on `docker_gwbridge`.
pub(crate) const fn task_mac(number: u8) -> Mac {
    [0x02, 0x42, 172, 18, 0, number]
}

/// Task `number`'s name in the tunnel.
pub(crate) const fn identity(number: u8) -> Ip {
    [10, 0, 0, number]
}

/// What the agent tells the programs of the node.
pub(crate) fn settings() -> Settings {
    Settings {
        node: Address::new(NODE),
        bridge: BRIDGE,
        vni: VNI,
        inner_mtu: INNER_MTU,
        tunnel_port: Port::new(TUNNEL_PORT),
        bridge_mac: BRIDGE_MAC,
        uplink_macs: [BRIDGE_MAC, NODE_MAC, [0; 6], [0; 6]],
        ..Settings::default()
    }
}
