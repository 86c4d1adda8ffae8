//! Where on a node the address is by which the Swarm knows it: other nodes' tunnel packets come to that.

use std::net::IpAddr;

use super::{Interface, LinkLayer, NodeView};

/// The address is where other nodes' tunnel packets are not heard: why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    #[error(
        "the Swarm knows this node by {address}, which is on {interface}, and that is no uplink: what other nodes send through the \
         tunnel is not heard there; name it with --uplink"
    )]
    OtherInterface { address: IpAddr, interface: String },
    #[error(
        "the Swarm knows this node by {address}, which is on {interface}, whose packets are neither Ethernet frames nor plain IP: \
         what other nodes send through the tunnel is not heard there; join the Swarm with --advertise-addr and --data-path-addr of \
         another interface"
    )]
    Unreadable { address: IpAddr, interface: String },
    #[error(
        "the Swarm knows this node by {0}, which none of its interfaces has: what other nodes send through the tunnel comes to \
         another address, and is not taken for theirs; join the Swarm with --advertise-addr of an address that the node has"
    )]
    Nowhere(IpAddr),
    #[error(
        "the Swarm knows this node by {0}, and the tunnel between the nodes speaks IPv4: tasks on other nodes cannot be reached; \
         join the Swarm with --advertise-addr of an IPv4 address"
    )]
    Ipv6(IpAddr),
}

/// The uplink that has the address by which the Swarm knows the node.
///
/// # Errors
///
/// None of them has it.
pub fn uplink_of<'a>(
    address: IpAddr,
    view: &NodeView,
    uplinks: &'a [Interface],
) -> Result<&'a Interface, Misplaced> {
    let IpAddr::V4(wanted) = address else { return Err(Misplaced::Ipv6(address)) };
    let has_it = |interface: &&Interface| interface.addresses.contains(&wanted);
    if let Some(uplink) = uplinks.iter().find(has_it) {
        return Ok(uplink);
    }
    let found = view.interfaces.values().find(has_it).ok_or(Misplaced::Nowhere(address))?;
    let interface = found.name.clone();
    Err(if found.link_layer == LinkLayer::Other {
        Misplaced::Unreadable { address, interface }
    } else {
        Misplaced::OtherInterface { address, interface }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn interface(index: u32, name: &str, address: [u8; 4], link_layer: LinkLayer) -> (u32, Interface) {
        let addresses = vec![address.into()];
        (index, Interface { index, name: name.into(), link_layer, addresses, ..Interface::default() })
    }

    #[test]
    fn only_an_uplinks_address_is_no_problem() {
        let view = NodeView {
            interfaces: BTreeMap::from([
                interface(2, "eth0", [10, 99, 0, 1], LinkLayer::Ethernet),
                interface(3, "wg0", [10, 98, 0, 1], LinkLayer::None),
                interface(4, "ib0", [10, 97, 0, 1], LinkLayer::Other),
            ]),
        };
        let uplinks = [view.interfaces[&2].clone()];
        let found = |address: &str| {
            let address = address.parse().expect("an address");
            uplink_of(address, &view, &uplinks).map(|uplink| uplink.name.as_str())
        };
        assert_eq!(found("10.99.0.1"), Ok("eth0"));
        for (address, words) in [
            ("10.98.0.1", ["wg0", "--uplink"]),
            ("10.97.0.1", ["ib0", "neither"]),
            ("203.0.113.7", ["none of its interfaces", "--advertise-addr"]),
            ("2001:db8::1", ["2001:db8::1", "IPv4"]),
        ] {
            let problem = found(address).expect_err("there is one").to_string();
            assert!(words.iter().all(|word| problem.contains(word)), "{problem}");
        }
    }
}
