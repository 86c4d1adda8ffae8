//! Interfaces over which clients and other nodes reach this node. Pure.

use std::net::IpAddr;

use super::{Interface, LinkLayer, NodeView};

/// Which interfaces are uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplinks {
    /// Whether those are that lead somewhere as far as anybody can tell: hardware, and what has the node's address in the Swarm or a
    /// default route.
    pub auto: bool,
    /// And these, by name.
    pub named: Vec<String>,
}

/// Why an interface that was named is no uplink.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("there is no interface {0} to be an uplink")]
    Missing(String),
    #[error("{0} cannot be an uplink: its packets are neither Ethernet frames nor plain IP")]
    Unreadable(String),
}

/// The uplinks of a node that the Swarm knows by an address, and what is wrong with those that were named. Not the `bridge` to the
/// tasks, unless it is named.
pub fn uplinks(
    view: &NodeView,
    wanted: &Uplinks,
    bridge: &str,
    address: Option<IpAddr>,
) -> (Vec<Interface>, Vec<Unusable>) {
    let is_uplink = |interface: &&Interface| {
        wanted.named.contains(&interface.name) && interface.link_layer != LinkLayer::Other
            || wanted.auto && interface.name != bridge && leads_somewhere(interface, view, address)
    };
    let found = view.interfaces.values().filter(is_uplink).cloned().collect();
    let unusable = |name: &String| match view.by_name(name) {
        None => Some(Unusable::Missing(name.clone())),
        Some(interface) if interface.link_layer == LinkLayer::Other => {
            Some(Unusable::Unreadable(name.clone()))
        }
        Some(_) => None,
    };
    (found, wanted.named.iter().filter_map(unusable).collect())
}

/// Names of the interfaces with an address at which nobody is served, because they are no uplinks, and Docker has not made them.
pub fn left_out(view: &NodeView, uplinks: &[Interface], bridge: &str) -> Vec<String> {
    let is_left_out = |interface: &&Interface| {
        is_candidate(interface)
            && interface.name != bridge
            && !uplinks.iter().any(|uplink| uplink.index == interface.index)
    };
    view.interfaces.values().filter(is_left_out).map(|interface| interface.name.clone()).collect()
}

fn leads_somewhere(interface: &Interface, view: &NodeView, address: Option<IpAddr>) -> bool {
    let has_address = || interface.addresses.iter().any(|own| Some(IpAddr::V4(*own)) == address);
    is_candidate(interface) && (is_cable(interface, view) || interface.has_default_route || has_address())
}

fn is_candidate(interface: &Interface) -> bool {
    interface.is_up
        && interface.link_layer != LinkLayer::Other
        && !interface.is_loopback
        && !interface.addresses.is_empty()
        && !is_dockers(&interface.name)
}

/// Whether it is hardware, several in one, or a VLAN of either.
fn is_cable(interface: &Interface, view: &NodeView) -> bool {
    match interface.kind.as_deref() {
        None => interface.link_layer == LinkLayer::Ethernet,
        Some("bond" | "team") => true,
        // One on another VLAN is not looked through.
        Some("vlan") if interface.peer_namespace.is_none() => {
            let below = interface.peer.and_then(|index| view.interfaces.get(&index));
            below.is_some_and(|below| below.kind.as_deref() != Some("vlan") && is_cable(below, view))
        }
        Some(_) => false,
    }
}

/// Bridges that Docker makes for its networks, and its ends of containers' links.
fn is_dockers(name: &str) -> bool {
    name.starts_with("docker")
        || name.starts_with("veth")
        || name
            .strip_prefix("br-")
            .is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use super::*;

    const SWARM: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);

    fn interface(index: u32, name: &str, kind: Option<&str>, link_layer: LinkLayer) -> Interface {
        Interface {
            index,
            name: name.into(),
            is_up: true,
            kind: kind.map(Into::into),
            link_layer,
            addresses: vec![Ipv4Addr::new(10, 99, 0, index as u8)],
            ..Interface::default()
        }
    }

    fn view() -> NodeView {
        use LinkLayer::{Ethernet, None as Nothing, Other};

        let mut interfaces = [
            interface(1, "lo", None, Other),
            interface(2, "eth0", None, Ethernet),
            interface(3, "docker_gwbridge", Some("bridge"), Ethernet),
            interface(4, "docker0", Some("bridge"), Ethernet),
            interface(5, "veth12ab", Some("veth"), Ethernet),
            interface(6, "br-0123456789ab", Some("bridge"), Ethernet),
            interface(7, "br-lan", Some("bridge"), Ethernet),
            interface(8, "br0", Some("bridge"), Ethernet),
            interface(9, "wg0", Some("wireguard"), Nothing),
            interface(10, "wg1", Some("wireguard"), Nothing),
            interface(11, "bond0", Some("bond"), Ethernet),
            interface(12, "bond0.7", Some("vlan"), Ethernet),
            interface(13, "br-lan.7", Some("vlan"), Ethernet),
            interface(14, "ib0", None, Other),
            interface(15, "eth1", None, Ethernet),
            interface(16, "eth2", None, Ethernet),
        ];
        interfaces[0].is_loopback = true;
        interfaces[7].has_default_route = true;
        interfaces[8].addresses.push(SWARM);
        interfaces[11].peer = Some(11);
        interfaces[12].peer = Some(7);
        interfaces[14].addresses.clear();
        interfaces[15].is_up = false;
        NodeView {
            interfaces: interfaces.into_iter().map(|interface| (interface.index, interface)).collect(),
        }
    }

    fn found(auto: bool, named: &[&str], address: Option<Ipv4Addr>) -> Vec<String> {
        let wanted = Uplinks { auto, named: named.iter().map(|name| (*name).to_owned()).collect() };
        let (found, _) = uplinks(&view(), &wanted, "docker_gwbridge", address.map(IpAddr::V4));
        found.into_iter().map(|uplink| uplink.name).collect()
    }

    #[test]
    fn cables_are_uplinks_and_what_has_the_swarms_address_or_a_default_route() {
        assert_eq!(found(true, &[], Some(SWARM)), ["eth0", "br0", "wg0", "bond0", "bond0.7"]);
        assert_eq!(found(true, &[], None), ["eth0", "br0", "bond0", "bond0.7"]);
    }

    #[test]
    fn names_add_to_them_or_stand_alone() {
        assert_eq!(found(true, &["wg1"], None), ["eth0", "br0", "wg1", "bond0", "bond0.7"]);
        assert_eq!(found(false, &["br-lan", "eth0"], Some(SWARM)), ["eth0", "br-lan"]);
    }

    #[test]
    fn a_wanted_interface_that_does_not_exist_or_cannot_be_read_is_named() {
        let wanted = Uplinks { auto: false, named: ["eth0", "eth7", "ib0"].map(Into::into).to_vec() };
        let (found, unusable) = uplinks(&view(), &wanted, "docker_gwbridge", None);
        assert_eq!(found.len(), 1);
        assert_eq!(unusable, [Unusable::Missing("eth7".into()), Unusable::Unreadable("ib0".into())]);
    }

    #[test]
    fn interfaces_that_nobody_is_served_at_are_known() {
        let wanted = Uplinks { auto: true, named: Vec::new() };
        let (found, _) = uplinks(&view(), &wanted, "docker_gwbridge", Some(SWARM.into()));
        assert_eq!(left_out(&view(), &found, "docker_gwbridge"), ["br-lan", "wg1", "br-lan.7"]);
        assert!(left_out(&NodeView { interfaces: BTreeMap::new() }, &[], "docker_gwbridge").is_empty());
    }
}
