//! Who may ask: a container of this node, from where it asks, on which networks, and who answers what is not the Swarm's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use mesh_common::asker::DOCKERS_RESOLVER;

use super::seat::{Sandbox, Seat};
use crate::swarm::snapshot::{ContainerDetails, LocalContainer, LocalView, Snapshot};

/// A container on this node whose questions are answered by the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// What Docker calls the container.
    pub name: String,
    /// The networks it is on, in the order in which names are looked up there: places in [`networks`](super::Names::networks).
    pub(super) networks: Vec<usize>,
    pub upstream: Upstream,
}

/// What a container was told about names that are not the Swarm's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// `--dns`; `None` for the servers of the node itself.
    pub servers: Option<Arc<[SocketAddr]>>,
    /// Whether `--dns-option ndots:…` asks for the search domains to be tried before a name of one label is looked up
    /// elsewhere; `None` if it says nothing about it.
    pub searches_first: Option<bool>,
}

/// The order in which a container's networks are asked: the Swarm's first, then by name (moby,
/// daemon/libnetwork/endpoint.go, `Less`; sandbox.go, `ResolveName`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order<'a> {
    pub(super) local: bool,
    internal: bool,
    pub(super) name: &'a str,
    pub(super) id: &'a str,
}

/// The ingress network has no names.
pub(super) fn networks_of<'a>(
    snapshot: &'a Snapshot,
    local: &'a LocalView,
    container: &'a LocalContainer,
) -> Vec<Order<'a>> {
    let order = |id: &'a String| match snapshot.networks.get(id) {
        Some(network) if network.ingress => None,
        Some(network) => {
            Some(Order { local: false, internal: network.internal, name: &network.name, id: &network.id })
        }
        None => {
            let name = local.networks.get(id)?;
            Some(Order { local: true, internal: false, name, id })
        }
    };
    let mut networks: Vec<_> = container.addresses.keys().filter_map(order).collect();
    networks.sort_unstable();
    networks
}

/// From where a container asks; `None` for who cannot be reached, or not yet.
pub(super) fn seat(
    snapshot: &Snapshot,
    container: &LocalContainer,
    details: &ContainerDetails,
) -> Option<Seat> {
    if let Some(bridge) = container.bridge {
        return Some(Seat::Bridge(bridge.address));
    }
    let is_internal = |id: &String| snapshot.networks.get(id).is_some_and(|network| network.internal);
    if !container.addresses.keys().all(is_internal) {
        return None;
    }
    Sandbox::of(Path::new(&details.sandbox)).map(Seat::Sandbox)
}

/// Docker asks the servers of `--dns` from inside the container. The agent asks from the node, so it leaves alone whom
/// it could not reach from there.
pub(super) fn upstream(
    snapshot: &Snapshot,
    container: &LocalContainer,
    details: &ContainerDetails,
) -> Result<Upstream, String> {
    // As its own upstream Docker's resolver would ask itself (moby #47716).
    let dockers = IpAddr::V4(DOCKERS_RESOLVER.into());
    let mut servers = Vec::new();
    for server in details.name_servers.iter().filter(|server| **server != dockers) {
        if server.is_loopback() {
            return Err(format!("its name server {server} is inside of it"));
        }
        let networks = container.addresses.keys().filter_map(|id| snapshot.networks.get(id));
        if let IpAddr::V4(address) = server
            && let Some(network) = networks
                .into_iter()
                .find(|network| network.subnets.iter().any(|subnet| is_in(subnet, *address)))
        {
            return Err(format!("its name server {server} is on its network {}", network.name));
        }
        servers.push(SocketAddr::new(*server, 53));
    }
    let ndots = details.dns_options.iter().filter_map(|option| option.strip_prefix("ndots:")).next_back();
    Ok(Upstream {
        servers: (!details.name_servers.is_empty()).then(|| servers.into()),
        searches_first: ndots.map(|number| number.parse::<u32>().is_ok_and(|number| number > 0)),
    })
}

fn is_in(subnet: &str, address: Ipv4Addr) -> bool {
    let Some((network, length)) = subnet.split_once('/') else { return false };
    let (Ok(network), Ok(length @ 0..=32)) = (network.parse::<Ipv4Addr>(), length.parse::<u32>()) else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or_default();
    network.to_bits() & mask == address.to_bits() & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_told_apart() {
        let address = Ipv4Addr::new(10, 0, 2, 53);
        for (subnet, contains) in [
            ("10.0.2.0/24", true),
            ("10.0.3.0/24", false),
            ("0.0.0.0/0", true),
            ("10.0.2.53/32", true),
            ("fd00::/8", false),
            ("x", false),
        ] {
            assert_eq!(is_in(subnet, address), contains, "{subnet}");
        }
    }
}
