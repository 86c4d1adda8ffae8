//! ARP packets for IPv4 over Ethernet (RFC 826). Offsets of fields are counted from the Ethernet header.

use mesh_common::net::{Address, Mac, ethertype};

use crate::hook::Hook;
use crate::packet::NETWORK;

pub(crate) const OPERATION: usize = NETWORK + 6;
pub(crate) const SENDER: usize = NETWORK + 8;
pub(crate) const TARGET: usize = NETWORK + 18;

/// One end of an ARP packet.
#[derive(Clone, Copy)]
#[repr(C, packed(2))]
pub(crate) struct ArpEnd {
    pub(crate) mac: Mac,
    pub(crate) address: u32,
}

/// The address that an ARP request asks for; `None` for any other packet.
#[inline(always)]
pub(crate) fn asked_for<H: Hook>(frame: &H) -> Option<Address> {
    /// Ethernet, IPv4, 6 and 4 bytes of address, request.
    const REQUEST: [u16; 4] =
        [1_u16.to_be(), ethertype::IPV4.to_be(), u16::from_ne_bytes([6, 4]), 1_u16.to_be()];

    frame.make_linear((TARGET + 10) as u32);
    if frame.read::<u16>(NETWORK - 2)? != ethertype::ARP.to_be()
        || frame.read::<[u16; 4]>(NETWORK)? != REQUEST
    {
        return None;
    }
    let asked: ArpEnd = frame.read(TARGET)?;
    Some(Address::from_wire(asked.address))
}
