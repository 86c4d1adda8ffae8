//! Uplinks that are bridges.
//!
//! Docker loads `br_netfilter`, and then a frame that comes in by a bridge's port passes Docker's rules for published ports before
//! it comes to the bridge's own hook. What may be served goes around that: from the port's hook to the bridge, where it comes in
//! again ([`crate`]'s first look then decides as on any other uplink).

use mesh_common::net::{Address, Mac};

use crate::hook::Hook;
use crate::hook::skb::Skb;
use crate::packet::{self, NETWORK, ipv4};
use crate::tables::{frontends, node};

/// The bridge that a frame at one of its ports comes in by, if it is for this node and may be served: to a published port, in a
/// tunnel, or something without a port that may be about either. All else is the bridge's business.
#[inline(always)]
pub fn uplink_of(frame: &Skb) -> Option<u32> {
    let bridge = node::bridge_of(frame.interface())?;
    let destination: Mac = frame.read(0)?;
    if !node::settings()?.is_own_mac(destination) || !frame.is_ipv4() || frame.is_of_vlan() {
        return None;
    }
    if let Some(seen) = packet::peek_in_kernel(frame)
        && seen.is_complete(frame)
        && !frontends::is_published(seen.protocol, seen.port)
    {
        return None;
    }
    let address: u32 = frame.read(NETWORK + ipv4::DESTINATION)?;
    node::is_local(Address::from_wire(address)).then_some(bridge)
}
