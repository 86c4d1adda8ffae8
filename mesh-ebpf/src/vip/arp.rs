//! Who asks for the hardware address of a virtual address.

use mesh_common::outcome::Outcome;
use mesh_common::overlay::VipKey;

use crate::hook::Hook;
use crate::hook::skb::Skb;
use crate::packet::{self, rewrite};
use crate::tables::vips;
use crate::verdict::{Redirect, Step};

/// ARP for a virtual address is answered as Docker's load balancer would: should these programs go, what tasks remember
/// leads to it.
#[inline(always)]
pub fn resolve(frame: &Skb, balancer: [u8; 6]) -> Step {
    if frame.is_of_vlan() {
        return Err(Outcome::NotOurs);
    }
    let address = packet::asked_for(frame).ok_or(Outcome::NotOurs)?;
    vips::find(&VipKey { network: frame.network(), address }).ok_or(Outcome::NotOurs)?;
    let mac = if balancer == [0; 6] {
        let [a, b, c, d] = address.octets();
        [0x02, 0x42, a, b, c, d]
    } else {
        balancer
    };
    rewrite::into_arp_reply(frame, mac)?;
    Ok((Outcome::VipResolved, Redirect::Interface(frame.interface())).into())
}
