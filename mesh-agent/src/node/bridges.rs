//! Uplinks that are bridges, whose frames netfilter gets first where `br_netfilter` is loaded, as Docker does: Docker's rules for
//! published ports would have them before the programs at the bridge.

use std::fs;

use super::{Interface, NodeView};

/// For all bridges of the namespace (`linux/net/bridge/br_netfilter_hooks.c`); each has a switch of its own too.
const CALL_IPTABLES: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

pub(super) fn call_iptables() -> bool {
    fs::read(CALL_IPTABLES).is_ok_and(|value| value.starts_with(b"1"))
}

/// The ports by which something comes in that netfilter would get before the uplink that it is for.
pub fn uplink_ports(view: &NodeView, uplinks: &[Interface]) -> Vec<Interface> {
    let is_port = |interface: &&Interface| {
        let bridge = uplinks.iter().find(|uplink| interface.bridge == Some(uplink.index));
        bridge.is_some_and(|bridge| bridge.calls_iptables && !is_of_several_vlans(bridge))
    };
    view.interfaces.values().filter(is_port).cloned().collect()
}

/// What is to be said of the uplinks for which nothing can be done about that.
pub fn taken_by_netfilter(uplinks: &[Interface]) -> Vec<String> {
    let taken = uplinks.iter().filter(|uplink| uplink.calls_iptables && is_of_several_vlans(uplink));
    let text = |uplink: &Interface| {
        format!(
            "{} filters VLANs, and there are VLAN devices on it: Docker's rules get what comes in by its ports first; to have the \
             mesh serve its clients, set net.bridge.bridge-nf-call-iptables=0",
            uplink.name
        )
    };
    taken.map(text).collect()
}

/// What comes in by a port without a tag may be for the bridge or for a VLAN device on it, as the port's own VLAN says.
fn is_of_several_vlans(bridge: &Interface) -> bool {
    bridge.filters_vlans && bridge.carries_vlans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, bridge: Option<u32>) -> Interface {
        Interface { index, bridge, name: format!("i{index}"), ..Interface::default() }
    }

    fn names(interfaces: &[Interface]) -> Vec<&str> {
        interfaces.iter().map(|interface| interface.name.as_str()).collect()
    }

    #[test]
    fn ports_are_those_of_uplinks_whose_frames_pass_iptables() {
        let bridge = |index| Interface { calls_iptables: true, ..interface(index, None) };
        let several = Interface { filters_vlans: true, carries_vlans: true, ..bridge(4) };
        let filtering = Interface { filters_vlans: true, ..bridge(5) };
        let uplinks = [interface(1, None), bridge(2), several, filtering];
        let ports = [(11, 1), (12, 2), (13, 2), (14, 3), (15, 4), (16, 5)];
        let ports = ports.map(|(index, bridge)| interface(index, Some(bridge)));
        let all = uplinks.iter().cloned().chain([bridge(3)]).chain(ports);
        let view = NodeView { interfaces: all.map(|interface| (interface.index, interface)).collect() };
        assert_eq!(names(&uplink_ports(&view, &uplinks)), ["i12", "i13", "i16"]);
        let told = taken_by_netfilter(&uplinks);
        assert!(matches!(&told[..], [told] if told.starts_with("i4 ")), "{told:?}");
    }
}
