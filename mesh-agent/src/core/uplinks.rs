//! Which interfaces are this node's uplinks from round to round, and what somebody should know about them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::args::RunArguments;
use crate::node::{self, Interface, NodeView, Uplinks};

/// An address often comes before the routes that make its interface an uplink.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct UplinkChoice {
    wanted: Uplinks,
    bridge: String,
    /// By which the Swarm has last known this node: a Docker that has just been started does not say, and what has the address
    /// serves on.
    address: Option<IpAddr>,
    /// Interfaces with an address that are no uplinks, and since when.
    left_out: BTreeMap<String, Instant>,
}

impl UplinkChoice {
    pub(super) fn new(arguments: &RunArguments) -> Self {
        let (wanted, bridge) = (arguments.uplinks(), arguments.bridge.clone());
        Self { wanted, bridge, address: None, left_out: BTreeMap::new() }
    }

    /// The uplinks of a node that the Swarm knows by an `address`, if Docker says so; what is to be said about them is added to
    /// `warnings`.
    pub(super) fn round(
        &mut self,
        node: &NodeView,
        address: Option<IpAddr>,
        now: Instant,
        warnings: &mut Vec<String>,
    ) -> Vec<Interface> {
        self.address = address.or(self.address);
        let (uplinks, unusable) = node::uplinks(node, &self.wanted, &self.bridge, self.address);
        warnings.extend(unusable.iter().map(ToString::to_string));
        if uplinks.is_empty() {
            warnings.push(
                "no interface is an uplink: clients do not reach this node; name one with --uplink".into(),
            );
        }
        warnings.extend(node::taken_by_netfilter(&uplinks));
        if self.wanted.auto {
            self.note_left_out(node, &uplinks, now, warnings);
        }
        if let Some(address) = address
            && let Err(problem) = node::uplink_of(address, node, &uplinks)
        {
            warnings.push(problem.to_string());
        }
        uplinks
    }

    fn note_left_out(
        &mut self,
        node: &NodeView,
        uplinks: &[Interface],
        now: Instant,
        warnings: &mut Vec<String>,
    ) {
        let left_out = node::left_out(node, uplinks, &self.bridge);
        self.left_out.retain(|name, _| left_out.contains(name));
        for name in left_out {
            let since = *self.left_out.entry(name.clone()).or_insert(now);
            if now.duration_since(since) >= PATIENCE {
                warnings.push(format!(
                    "{name} has an address and is no uplink: clients that come in by it are left to Docker; if nodes or clients \
                     are behind it, add it with --uplink auto,{name}"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::node::LinkLayer;

    const SWARM: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);

    /// A node whose only interface is a VPN's.
    fn view() -> NodeView {
        let vpn = Interface {
            index: 2,
            name: "wg0".into(),
            is_up: true,
            kind: Some("wireguard".into()),
            link_layer: LinkLayer::None,
            addresses: vec![SWARM],
            ..Interface::default()
        };
        NodeView { interfaces: BTreeMap::from([(2, vpn)]) }
    }

    fn choice(auto: bool, named: &[&str]) -> UplinkChoice {
        let named = named.iter().map(|&name| name.to_owned()).collect();
        let wanted = Uplinks { auto, named };
        UplinkChoice { wanted, bridge: "bridge".into(), address: None, left_out: BTreeMap::new() }
    }

    #[test]
    fn what_has_the_swarms_address_stays_an_uplink_while_docker_does_not_say_it() {
        let mut choice = choice(true, &[]);
        let now = Instant::now();
        let mut count = |address| choice.round(&view(), address, now, &mut Vec::new()).len();
        assert_eq!(count(None), 0);
        assert_eq!(count(Some(SWARM.into())), 1);
        assert_eq!(count(None), 1);
        assert_eq!(count(Some(IpAddr::from([10, 97, 0, 9]))), 0, "it is known by another one now");
    }

    #[test]
    fn an_interface_that_is_none_is_told_after_a_while_and_only_where_uplinks_are_found() {
        let begin = Instant::now();
        let told = |choice: &mut UplinkChoice, view: &NodeView, seconds| {
            let mut warnings = Vec::new();
            choice.round(view, None, begin + Duration::from_secs(seconds), &mut warnings);
            warnings.iter().any(|warning| warning.contains("--uplink auto,wg0"))
        };
        let mut found = choice(true, &[]);
        assert!(!told(&mut found, &view(), 0) && !told(&mut found, &view(), 4));
        assert!(told(&mut found, &view(), 5));
        assert!(!told(&mut found, &NodeView::default(), 6));
        assert!(!told(&mut found, &view(), 7), "it is another one's time");
        let mut named = choice(false, &["eth0"]);
        assert!(!told(&mut named, &view(), 0) && !told(&mut named, &view(), 60));
    }

    #[test]
    fn what_cannot_be_an_uplink_is_told_at_once() {
        let mut warnings = Vec::new();
        let uplinks = choice(false, &["eth7"]).round(&view(), None, Instant::now(), &mut warnings);
        assert!(uplinks.is_empty());
        assert!(warnings.iter().any(|warning| warning.contains("eth7")), "{warnings:?}");
    }
}
