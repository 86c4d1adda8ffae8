//! What a container gets for a question, if it is one about the Swarm's names. Pure.

use std::net::Ipv4Addr;

use hickory_proto::rr::RecordType;

use crate::desired::Names;
use crate::desired::names::{Asker, Found, NetworkNames, ServicePort};

/// What to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution<'a> {
    Addresses {
        addresses: &'a [Ipv4Addr],
        ttl: u32,
    },
    /// The name of an address, on a network.
    Pointer {
        name: &'a str,
        network: &'a str,
        ttl: u32,
    },
    Services {
        ports: Vec<&'a ServicePort>,
        network: &'a str,
        ttl: u32,
    },
    /// The name is ours and has nothing of this kind.
    Empty {
        ttl: u32,
    },
    NoSuchName,
    NotOurs,
}

/// `name` in lower case, without the last dot. `searches_first` counts if the container itself says nothing about it.
pub fn resolve<'a>(
    kind: RecordType,
    name: &str,
    asker: &'a Asker,
    names: &'a Names,
    searches_first: bool,
) -> Resolution<'a> {
    if kind == RecordType::PTR
        && let Some(address) = reversed(name)
    {
        return pointer(address, asker, names);
    }
    if let Some((_, found)) = find(name, asker, names) {
        return if kind == RecordType::A && !found.addresses.is_empty() {
            Resolution::Addresses { addresses: found.addresses, ttl: found.ttl }
        } else {
            Resolution::Empty { ttl: found.ttl }
        };
    }
    if let Some((service, host)) = service_and_host(name)
        && let Some((network, found)) = find(host, asker, names)
    {
        let ports: Vec<_> = found.ports.iter().filter(|port| port.name == service).collect();
        return if kind == RecordType::SRV && !ports.is_empty() {
            Resolution::Services { ports, network: &network.name, ttl: found.ttl }
        } else {
            Resolution::Empty { ttl: found.ttl }
        };
    }
    // With `ndots`, a stub tries its search domains first, and goes on with them when this fails. Docker says "no data"
    // here, which makes musl stop (moby, daemon/libnetwork/resolver.go, `serveDNS`).
    let is_address = matches!(kind, RecordType::A | RecordType::AAAA);
    if is_address && !name.contains('.') && asker.upstream.searches_first.unwrap_or(searches_first) {
        return Resolution::NoSuchName;
    }
    Resolution::NotOurs
}

/// Looks on every network of the container for `a.b.c`, then on the network `c` for `a.b`, then on `b.c` for `a`: names
/// and networks may have dots. The first network that has the name has the say (moby, daemon/libnetwork/sandbox.go,
/// `ResolveName`).
fn find<'a>(name: &str, asker: &'a Asker, names: &'a Names) -> Option<(&'a NetworkNames, Found<'a>)> {
    let anywhere = names.networks_of(asker).find_map(|network| Some((network, network.find(name)?)));
    if anywhere.is_some() {
        return anywhere;
    }
    let dots = name.bytes().enumerate().rev().filter(|(_, byte)| *byte == b'.');
    dots.map(|(dot, _)| (&name[..dot], &name[dot + 1..])).find_map(|(host, network_name)| {
        let networks = names.networks_of(asker).filter(|network| network.is_called(network_name));
        networks.into_iter().find_map(|network| Some((network, network.find(host)?)))
    })
}

/// `_http._tcp.web` asks for a service of the host `web` (RFC 2782).
fn service_and_host(name: &str) -> Option<(&str, &str)> {
    if !name.starts_with('_') {
        return None;
    }
    let first = name.find('.')?;
    let second = first + 1 + name[first + 1..].find('.')?;
    let protocol = &name[first + 1..second];
    matches!(protocol, "_tcp" | "_udp" | "_sctp").then(|| (&name[..second], &name[second + 1..]))
}

fn pointer<'a>(address: Ipv4Addr, asker: &'a Asker, names: &'a Names) -> Resolution<'a> {
    let found = names.networks_of(asker).find_map(|network| Some((network, network.reverse(address)?)));
    match found {
        Some((network, reverse)) => {
            Resolution::Pointer { name: &reverse.name, network: &network.name, ttl: reverse.ttl }
        }
        None => Resolution::NotOurs,
    }
}

/// The address of a name like `4.3.2.1.in-addr.arpa`.
fn reversed(name: &str) -> Option<Ipv4Addr> {
    let [a, b, c, d] = name.strip_suffix(".in-addr.arpa")?.parse::<Ipv4Addr>().ok()?.octets();
    Some(Ipv4Addr::new(d, c, b, a))
}
