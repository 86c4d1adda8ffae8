//! Where on a node the address is by which the Swarm knows it: other nodes' tunnel packets come to that.

use std::net::{IpAddr, Ipv4Addr};

use super::{Interface, NodeView};

/// Where an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On an uplink, by this name.
    Uplink(String),
    /// On an interface that is none, though it could be one.
    OtherInterface(String),
    /// On an interface whose packets are no Ethernet frames.
    NoEthernet(String),
    /// On none of this node's interfaces.
    Nowhere,
    /// The tunnel between the nodes speaks IPv4.
    Ipv6,
}

impl Placement {
    /// Of `address` on a node that looks like `view` and has these `uplinks`.
    pub fn of(address: IpAddr, view: &NodeView, uplinks: &[Interface]) -> Self {
        let IpAddr::V4(address) = address else { return Self::Ipv6 };
        let has_it = |interface: &&Interface| interface.addresses.contains(&address);
        if let Some(uplink) = uplinks.iter().find(has_it) {
            return Self::Uplink(uplink.name.clone());
        }
        match view.interfaces.values().find(has_it) {
            Some(interface) if interface.is_ethernet => Self::OtherInterface(interface.name.clone()),
            Some(interface) => Self::NoEthernet(interface.name.clone()),
            None => Self::Nowhere,
        }
    }

    /// What is wrong with it, and what to do.
    pub fn problem(&self, address: IpAddr) -> Option<String> {
        let lead = format!("the Swarm knows this node by {address}");
        match self {
            Self::Uplink(_) => None,
            Self::OtherInterface(name) => Some(format!(
                "{lead}, which is on {name}, and that is no uplink: what other nodes send through the tunnel is not heard there; \
                 name it with --uplink"
            )),
            Self::NoEthernet(name) => Some(format!(
                "{lead}, which is on {name}, whose packets are no Ethernet frames: what other nodes send through the tunnel is \
                 not heard there; join the Swarm with --advertise-addr and --data-path-addr of an Ethernet interface"
            )),
            Self::Nowhere => Some(format!(
                "{lead}, which none of its interfaces has: what other nodes send through the tunnel comes to another address, and \
                 is not taken for theirs; join the Swarm with --advertise-addr of an address that the node has"
            )),
            Self::Ipv6 => Some(format!(
                "{lead}, and the tunnel between the nodes speaks IPv4: tasks on other nodes cannot be reached; join the Swarm with \
                 --advertise-addr of an IPv4 address"
            )),
        }
    }
}

/// As [`Placement::problem`], of the address that the Swarm has.
pub fn address_problem(address: Ipv4Addr, view: &NodeView, uplinks: &[Interface]) -> Option<String> {
    Placement::of(address.into(), view, uplinks).problem(address.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn interface(index: u32, name: &str, address: [u8; 4], is_ethernet: bool) -> (u32, Interface) {
        let addresses = vec![address.into()];
        (index, Interface { index, name: name.into(), is_ethernet, addresses, ..Interface::default() })
    }

    #[test]
    fn only_an_uplinks_address_is_no_problem() {
        let view = NodeView {
            interfaces: BTreeMap::from([
                interface(2, "eth0", [10, 99, 0, 1], true),
                interface(3, "eth1", [10, 98, 0, 1], true),
                interface(4, "wg0", [10, 97, 0, 1], false),
            ]),
        };
        let uplinks = [view.interfaces[&2].clone()];
        let problem = |address: &str| {
            let address = address.parse().expect("an address");
            Placement::of(address, &view, &uplinks).problem(address)
        };
        assert_eq!(problem("10.99.0.1"), None);
        for (address, words) in [
            ("10.98.0.1", ["eth1", "--uplink"]),
            ("10.97.0.1", ["wg0", "no Ethernet"]),
            ("203.0.113.7", ["none of its interfaces", "--advertise-addr"]),
            ("2001:db8::1", ["2001:db8::1", "IPv4"]),
        ] {
            let problem = problem(address).expect("there is one");
            assert!(words.iter().all(|word| problem.contains(word)), "{problem}");
        }
    }
}
