//! What the node's network means for the dataplane.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use mesh_common::cookie::Cookies;
use mesh_common::net::{Address, Mac, Port};
use mesh_common::peer::{self, Peer};
use mesh_common::settings::{FRAME_TAKERS, Settings, UPLINK_MACS};
use mesh_common::tunnel::OVERHEAD;

use super::arrivals::arrivals;
use super::bridges::uplink_ports;
use super::{Interface, NodeView};
use crate::reach::Paths;
use crate::reconcile::plan::NodeFacts;

/// The ports of the bridge that containers are behind.
pub fn ports(view: &NodeView, bridge: Option<&Interface>) -> Vec<Interface> {
    let is_port = |interface: &&Interface| {
        bridge.is_some_and(|bridge| interface.bridge == Some(bridge.index))
            && interface.peer_namespace.is_some()
    };
    view.interfaces.values().filter(is_port).cloned().collect()
}

/// Those of them whose namespaces have an id that the dataplane can tell.
pub fn ports_by_namespace(ports: &[Interface]) -> BTreeMap<u16, u32> {
    let of_port = |port: &Interface| Some((u16::try_from(port.peer_namespace?).ok()?, port.index));
    ports.iter().filter_map(of_port).collect()
}

/// What is not to be seen on the interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// This node's address in the Swarm.
    pub address: Ipv4Addr,
    pub netns_cookie: u64,
    pub tunnel_port: u16,
    pub vni: u32,
    /// `None` leaves names to Docker.
    pub resolver_port: Option<u16>,
    /// Uplinks that take what XDP sends from other ones.
    pub frame_takers: [u32; FRAME_TAKERS],
    /// TCP flows that may begin in a second before it counts as a flood.
    pub flood: u32,
    /// The largest packet of the tunnel, where somebody knows better than uplinks and routes.
    pub mtu: Option<u16>,
}

/// Puts the node's view into the dataplane's terms.
pub fn facts(
    view: &NodeView,
    uplinks: &[Interface],
    bridge: Option<&Interface>,
    told: Told,
    peers: &BTreeSet<Ipv4Addr>,
    paths: &Paths,
    askers: BTreeMap<u64, u32>,
) -> NodeFacts {
    let default_uplink = with_address(uplinks, told.address).or(uplinks.first());
    let ways: BTreeMap<Ipv4Addr, PeerRoute> =
        peers.iter().map(|peer| (*peer, PeerRoute::to(*peer, uplinks, told.mtu))).collect();
    let uplink_mtu = smallest_mtu(uplinks);
    // What does not get there, though it may leave, counts only where it is known.
    let carried = |(peer, way): (&Ipv4Addr, &PeerRoute)| {
        let narrow = paths.get(peer).and_then(|path| path.narrow);
        (Address::from(*peer), way.mtu.min(narrow.unwrap_or(u16::MAX)).saturating_sub(OVERHEAD as u16))
    };
    let inner_mtus: BTreeMap<Address, u16> = ways.iter().map(carried).collect();
    let to_nobody = uplink_mtu.min(told.mtu.unwrap_or(u16::MAX)).saturating_sub(OVERHEAD as u16);
    let resolver = resolver_address(bridge);
    let settings = Settings {
        netns_cookie: told.netns_cookie,
        node: told.address.into(),
        bridge: bridge.map_or(0, |bridge| bridge.index),
        vni: told.vni,
        inner_mtu: inner_mtus.values().min().copied().unwrap_or(to_nobody),
        tunnel_port: Port::new(told.tunnel_port),
        bridge_mac: bridge.map_or([0; 6], |bridge| bridge.mac),
        resolver_port: Port::new(told.resolver_port.filter(|_| resolver.is_some()).unwrap_or(0)),
        resolver: resolver.map(Address::from).unwrap_or_default(),
        frame_takers: told.frame_takers,
        uplink_macs: uplink_macs(uplinks),
        flood: told.flood,
        uplink_mtu,
        padding: 0,
        cookies: Cookies::default(),
    };
    let towards = ways.iter().filter_map(|(peer, way)| Some((Address::from(*peer), way.uplink?))).collect();
    let arrivals = arrivals(uplinks, told.address, &towards, paths);
    let peer = |(address, inner_mtu)| {
        let uplink = arrivals.get(&address).copied().unwrap_or(peer::ANY_UPLINK);
        (address, Peer { uplink, inner_mtu, flags: 0 })
    };
    NodeFacts {
        settings,
        addresses: addresses(view),
        uplinks: uplinks.iter().map(|uplink| uplink.index).collect(),
        uplink_ports: uplink_ports(view, uplinks)
            .into_iter()
            .filter_map(|port| Some((port.index, port.bridge?)))
            .collect(),
        peers: inner_mtus.into_iter().map(peer).collect(),
        mtus: ways.into_iter().map(|(peer, way)| (peer, way.mtu)).collect(),
        towards,
        default_uplink: default_uplink.map_or(0, |uplink| uplink.index),
        askers,
    }
}

fn uplink_macs(uplinks: &[Interface]) -> [Mac; UPLINK_MACS] {
    let mut macs = [Mac::default(); UPLINK_MACS];
    // Those of a bond, and VLANs on one interface, have the same.
    let own: BTreeSet<Mac> = uplinks.iter().map(|uplink| uplink.mac).collect();
    for (place, mac) in macs.iter_mut().zip(own) {
        *place = mac;
    }
    macs
}

/// Those at which clients may ask for published ports. An address for anycast, or of a load balancer that leaves the destination as it
/// is, stands on `lo`.
pub fn addresses(view: &NodeView) -> BTreeSet<Address> {
    let addresses = view.interfaces.values().flat_map(|interface| &interface.addresses);
    addresses.filter(|address| !address.is_loopback()).copied().map(Address::from).collect()
}

/// Where the resolver listens, so that every container on docker_gwbridge reaches it.
pub fn resolver_address(bridge: Option<&Interface>) -> Option<Ipv4Addr> {
    bridge.and_then(|bridge| bridge.addresses.first().copied())
}

const ETHERNET_MTU: u16 = 1500;

fn smallest_mtu(uplinks: &[Interface]) -> u16 {
    uplinks.iter().map(|uplink| clamped(uplink.mtu)).min().unwrap_or(ETHERNET_MTU)
}

fn clamped(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

fn with_address(uplinks: &[Interface], address: Ipv4Addr) -> Option<&Interface> {
    uplinks.iter().find(|uplink| uplink.addresses.contains(&address))
}

/// The way to another node, as far as this node knows by itself.
struct PeerRoute {
    /// The interface's index, if it is an uplink.
    uplink: Option<u32>,
    /// The largest IP packet.
    mtu: u16,
}

impl PeerRoute {
    /// By the uplink that the route leads by, which may take less than the route says; `told` counts instead of the route's.
    fn to(peer: Ipv4Addr, uplinks: &[Interface], told: Option<u16>) -> Self {
        let route = route_to(peer);
        let uplink = route.as_ref().and_then(|route| with_address(uplinks, route.source));
        let by_uplink = uplink.map_or_else(|| smallest_mtu(uplinks), |uplink| clamped(uplink.mtu));
        let by_route = route.and_then(|route| route.mtu).map_or(u16::MAX, clamped);
        Self { uplink: uplink.map(|uplink| uplink.index), mtu: by_uplink.min(told.unwrap_or(by_route)) }
    }
}

/// What the kernel's routes say of the way to another node.
struct Route {
    /// The address that packets get.
    source: Ipv4Addr,
    /// Of the interface, or less where the route, or a router on the way, has said so.
    mtu: Option<u32>,
}

/// Nothing is sent.
fn route_to(peer: Ipv4Addr) -> Option<Route> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(SocketAddr::from((peer, 9))).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(source) => Some(Route { source, mtu: mtu_of(&socket) }),
        IpAddr::V6(_) => None,
    }
}

/// The largest packet that the kernel thinks to pass from a connected socket to its peer (ip(7), `IP_MTU`).
fn mtu_of(socket: &UdpSocket) -> Option<u32> {
    let mut mtu: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the buffer is as long as `length` says, and lives through the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU,
            (&raw mut mtu).cast(),
            &raw mut length,
        )
    };
    if result == 0 { u32::try_from(mtu).ok() } else { None }
}

/// The kernel's name for the network namespace that this process is in (Linux 5.14).
pub fn netns_cookie() -> std::io::Result<u64> {
    /// From asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;

    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the buffer is as long as `length` says, and lives through the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::LinkLayer;

    fn interface(index: u32, name: &str, addresses: &[[u8; 4]]) -> (u32, Interface) {
        let interface = Interface {
            index,
            name: name.into(),
            mtu: 1500,
            is_up: true,
            link_layer: LinkLayer::Ethernet,
            is_loopback: name == "lo",
            addresses: addresses.iter().map(|octets| Ipv4Addr::from(*octets)).collect(),
            ..Interface::default()
        };
        (index, interface)
    }

    fn view() -> NodeView {
        NodeView {
            interfaces: BTreeMap::from([
                interface(1, "lo", &[[127, 0, 0, 1], [127, 0, 0, 53], [10, 99, 0, 50]]),
                interface(2, "eth0", &[[10, 99, 0, 1], [10, 99, 0, 100]]),
                interface(3, "docker_gwbridge", &[[172, 18, 0, 1]]),
                interface(4, "docker0", &[[172, 17, 0, 1]]),
                interface(5, "veth12ab", &[]),
                interface(6, "br-0123456789ab", &[[172, 19, 0, 1]]),
                interface(7, "br-lan", &[[192, 168, 1, 1]]),
            ]),
        }
    }

    #[test]
    fn ports_are_the_bridges_and_told_by_the_namespaces_behind_them() {
        let mut view = view();
        for (index, bridge, peer_namespace) in
            [(5, Some(3), Some(0)), (8, Some(3), Some(70_000)), (9, Some(4), Some(1)), (10, Some(3), None)]
        {
            let port = Interface { index, bridge, peer_namespace, ..Interface::default() };
            view.interfaces.insert(index, port);
        }
        let found = ports(&view, view.by_name("docker_gwbridge"));
        assert_eq!(found.iter().map(|port| port.index).collect::<Vec<_>>(), [5, 8]);
        assert_eq!(ports_by_namespace(&found), BTreeMap::from([(0, 5)]));
        assert!(ports(&view, None).is_empty());
    }

    #[test]
    fn every_address_but_loopback_is_a_frontends() {
        let view = view();
        let mut uplinks = [view.interfaces[&2].clone(), view.interfaces[&7].clone()];
        for (number, uplink) in uplinks.iter_mut().enumerate() {
            uplink.mac = [2, 0, 0, 0, 0, number as u8];
        }
        let bridge = view.by_name("docker_gwbridge");
        let told = Told {
            address: Ipv4Addr::new(10, 99, 0, 1),
            netns_cookie: 5,
            tunnel_port: 4799,
            vni: 7,
            resolver_port: Some(4796),
            frame_takers: [2, 0, 0],
            flood: 1_000,
            mtu: None,
        };
        let of =
            |told| facts(&view, &uplinks, bridge, told, &BTreeSet::new(), &Paths::new(), BTreeMap::new());
        let facts = of(told);
        assert_eq!(facts.settings.resolver, Address::new([172, 18, 0, 1]));
        assert_eq!(facts.settings.frame_takers, [2, 0, 0]);
        assert!(uplinks.iter().all(|uplink| facts.settings.is_own_mac(uplink.mac)));
        assert_eq!(facts.settings.flood, 1_000);
        assert!(!facts.settings.is_own_mac([0; 6]) && !facts.settings.is_own_mac([2, 0, 0, 0, 0, 0x99]));
        assert!(facts.addresses.contains(&Address::new([10, 99, 0, 100])));
        assert!(facts.addresses.contains(&Address::new([10, 99, 0, 50])), "on lo");
        assert!(!facts.addresses.iter().any(|address| address.is_loopback()));
        assert_eq!(facts.uplinks, BTreeSet::from([2, 7]));
        assert_eq!((facts.settings.inner_mtu, facts.settings.bridge, facts.default_uplink), (1450, 3, 2));
        assert_eq!(facts.settings.uplink_mtu, 1500);
        for (said, inner) in [(1_400, 1_350), (9_000, 1_450)] {
            let settings = of(Told { mtu: Some(said), ..told }).settings;
            assert_eq!((settings.inner_mtu, settings.uplink_mtu), (inner, 1_500), "--mtu {said}");
        }
    }
}
