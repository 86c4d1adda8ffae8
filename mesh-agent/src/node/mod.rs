//! This node's interfaces and addresses, followed through rtnetlink.

mod arrivals;
mod bridges;
mod facts;
mod frames;
mod gateways;
pub mod namespaces;
mod new_addresses;
mod placement;
pub mod sandboxes;
mod uplinks;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    InfoBridge, InfoData, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
};

pub use bridges::{taken_by_netfilter, uplink_ports};
pub use facts::{Told, addresses, facts, netns_cookie, ports, ports_by_namespace, resolver_address};
pub use frames::frame_takers;
pub use new_addresses::watch_new_addresses;
pub use placement::uplink_of;
pub use uplinks::{Unusable, Uplinks, left_out, uplinks};
pub use watch::{enlarge, watch};

/// What the node's network looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// By index.
    pub interfaces: BTreeMap<u32, Interface>,
}

#[expect(clippy::struct_excessive_bools, reason = "what the kernel says of it, each on its own")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    pub mac: [u8; 6],
    pub mtu: u32,
    pub is_up: bool,
    pub link_layer: LinkLayer,
    pub is_loopback: bool,
    /// Whether what no other route is for leaves by it.
    pub has_default_route: bool,
    pub addresses: Vec<Ipv4Addr>,
    /// The same, each with the length of its network's prefix.
    pub networks: Vec<(Ipv4Addr, u8)>,
    /// What software it is made of, as in `ip link add type`; none if it is hardware.
    pub kind: Option<String>,
    /// Index of the bridge that it is a port of.
    pub bridge: Option<u32>,
    /// Index of the other end of a veth pair.
    pub peer: Option<u32>,
    /// The id that this namespace has for the other end's; `None` if that is in this one.
    pub peer_namespace: Option<i32>,
    /// Whether a VLAN device is on top of it.
    pub carries_vlans: bool,
    /// Of a bridge: whether its frames pass iptables before it takes them in (`br_netfilter`).
    pub calls_iptables: bool,
    /// Of a bridge: whether its ports are on VLANs.
    pub filters_vlans: bool,
}

/// What stands in front of an IP packet on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkLayer {
    Ethernet,
    /// Nothing, as on `WireGuard`, tun, IPIP and PPP: the kernel's L3 devices.
    None,
    /// What the programs cannot read.
    #[default]
    Other,
}

impl From<LinkLayerType> for LinkLayer {
    /// As `dev_is_mac_header_xmit` (`include/linux/if_arp.h`), for what carries IPv4 between two ends.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "there are seventy, and these are all that can be served"
    )]
    fn from(kind: LinkLayerType) -> Self {
        match kind {
            LinkLayerType::Ether => Self::Ethernet,
            LinkLayerType::None | LinkLayerType::Rawip | LinkLayerType::Tunnel | LinkLayerType::Ppp => {
                Self::None
            }
            _ => Self::Other,
        }
    }
}

impl NodeView {
    pub fn by_name(&self, name: &str) -> Option<&Interface> {
        self.interfaces.values().find(|interface| interface.name == name)
    }
}

/// What the node's network looks like now, to whoever does not follow it.
pub async fn look() -> Result<NodeView> {
    let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket")?;
    let connection = tokio::spawn(connection);
    let view = read(&handle).await;
    connection.abort();
    view
}

/// Reads all interfaces with their addresses.
async fn read(handle: &Handle) -> Result<NodeView> {
    let mut interfaces: BTreeMap<u32, Interface> =
        links(handle).await?.into_iter().map(|interface| (interface.index, interface)).collect();
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await.context("list this node's addresses")? {
        if message.header.family != AddressFamily::Inet {
            continue;
        }
        let Some(interface) = interfaces.get_mut(&message.header.index) else { continue };
        // IFA_LOCAL is the node's own end; on point-to-point links IFA_ADDRESS is the other one.
        for attribute in &message.attributes {
            if let AddressAttribute::Local(IpAddr::V4(address)) = attribute {
                interface.addresses.push(*address);
                interface.networks.push((*address, message.header.prefix_len));
            }
        }
    }
    let gateways = gateways::read();
    let calls_iptables = bridges::call_iptables();
    for interface in interfaces.values_mut() {
        interface.calls_iptables |= calls_iptables && interface.kind.as_deref() == Some("bridge");
        interface.addresses.sort();
        interface.networks.sort();
        interface.has_default_route = gateways.contains(&interface.name);
    }
    Ok(NodeView { interfaces })
}

/// Reads all interfaces, without addresses.
pub async fn links(handle: &Handle) -> Result<Vec<Interface>> {
    let mut interfaces = Vec::new();
    let mut links = handle.link().get().execute();
    while let Some(message) = links.try_next().await.context("list this node's interfaces")? {
        let mut interface = Interface {
            index: message.header.index,
            is_up: message.header.flags.contains(LinkFlags::Up),
            link_layer: message.header.link_layer_type.into(),
            is_loopback: message.header.flags.contains(LinkFlags::Loopback),
            ..Interface::default()
        };
        for attribute in message.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                interface.name = name;
            } else if let LinkAttribute::Mtu(mtu) = attribute {
                interface.mtu = mtu;
            } else if let LinkAttribute::Address(address) = attribute {
                interface.mac = address.try_into().unwrap_or_default();
            } else if let LinkAttribute::Controller(index) = attribute {
                interface.bridge = Some(index);
            } else if let LinkAttribute::Link(index) = attribute {
                interface.peer = Some(index);
            } else if let LinkAttribute::LinkNetNsId(id) = attribute {
                interface.peer_namespace = Some(id);
            } else if let LinkAttribute::LinkInfo(infos) = attribute {
                interface.note(infos);
            }
        }
        interfaces.push(interface);
    }
    find_vlans(&mut interfaces);
    Ok(interfaces)
}

/// What a VLAN device has for a peer is the interface that it is on, unless that is another namespace's.
fn find_vlans(interfaces: &mut [Interface]) {
    let is_vlan = |interface: &&Interface| {
        interface.kind.as_deref() == Some("vlan") && interface.peer_namespace.is_none()
    };
    let below: BTreeSet<u32> =
        interfaces.iter().filter(is_vlan).filter_map(|interface| interface.peer).collect();
    for interface in interfaces {
        interface.carries_vlans = below.contains(&interface.index);
    }
}

impl Interface {
    fn note(&mut self, infos: Vec<LinkInfo>) {
        for info in infos {
            if let LinkInfo::Kind(kind) = info {
                self.kind = Some(kind.to_string());
            } else if let LinkInfo::Data(InfoData::Bridge(options)) = info {
                self.calls_iptables |= options.contains(&InfoBridge::NfCallIpTables(true));
                self.filters_vlans = options.contains(&InfoBridge::VlanFiltering(true));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_carries_the_vlans_that_are_on_it_in_this_namespace() {
        let vlan = |index, peer, peer_namespace| Interface {
            index,
            kind: Some("vlan".into()),
            peer: Some(peer),
            peer_namespace,
            ..Interface::default()
        };
        let veth = Interface { kind: Some("veth".into()), ..vlan(5, 3, None) };
        let eth = |index| Interface { index, ..Interface::default() };
        let mut interfaces = [eth(1), eth(2), eth(3), vlan(4, 1, None), veth, vlan(6, 2, Some(0))];
        find_vlans(&mut interfaces);
        assert_eq!(
            interfaces.map(|interface| interface.carries_vlans),
            [true, false, false, false, false, false]
        );
    }
}
