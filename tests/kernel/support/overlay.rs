//! An overlay network: a caller, a virtual address, and the tasks behind it. The tasks are numbered, and the caller is one
//! of them.

use mesh_common::backend::{Backend, state};
use mesh_common::net::{Address, Mac, Port};
use mesh_common::overlay::{VipFlowKey, VipReplyKey};

use super::cast::{CLIENT_PORT, Ip, PUBLISHED};
use super::packet::Packet;
use super::payload::Payload;

/// The number of the network that the programs are loaded for, and that of one with the same addresses.
pub(crate) const NETWORK: u32 = 4097;
pub(crate) const OTHER_NETWORK: u32 = 4098;

/// Interface index of the caller's port.
pub(crate) const PORT: u32 = 12;

pub(crate) const VIP: Ip = [10, 0, 1, 200];
pub(crate) const VIP_MAC: Mac = [0x02, 0x42, 10, 0, 1, 200];

/// Another virtual address of the network.
pub(crate) const OTHER_VIP: Ip = [10, 0, 1, 201];

/// The task whose port the programs are on.
pub(crate) const CALLER: u8 = 5;

/// Something on the network that is neither a task of the service nor a virtual address.
pub(crate) const NEIGHBOUR: u8 = 99;

/// Task `number`'s address on the network.
pub(crate) const fn address(number: u8) -> Ip {
    [10, 0, 1, number]
}

/// Task `number`'s hardware address on the network.
pub(crate) const fn mac(number: u8) -> Mac {
    [0x02, 0x42, 10, 0, 1, number]
}

/// Task `number` behind the virtual address.
pub(crate) fn member(number: u8) -> Backend {
    Backend {
        generation: 1,
        identity: Address::new(address(number)),
        state: state::ACTIVE,
        mac: mac(number),
        ..Backend::default()
    }
}

/// From the caller to the virtual address.
pub(crate) fn call(payload: Payload) -> Packet {
    Packet {
        destination_mac: VIP_MAC,
        source_mac: mac(CALLER),
        source: address(CALLER),
        destination: VIP,
        ..Packet::from_client(payload)
    }
}

/// From the caller straight to task `number`.
pub(crate) fn straight(number: u8, payload: Payload) -> Packet {
    given(&call(payload), number)
}

/// What the caller sends to the virtual address as it goes on to task `number`.
pub(crate) fn given(call: &Packet, number: u8) -> Packet {
    call.with(|packet| {
        packet.destination_mac = mac(number);
        packet.destination = address(number);
    })
}

/// From task `number` to the caller.
pub(crate) fn answer(number: u8, payload: Payload) -> Packet {
    Packet {
        destination_mac: mac(CALLER),
        source_mac: mac(number),
        source: address(number),
        destination: address(CALLER),
        ..Packet::from_client(payload)
    }
}

/// A task's answer as the caller gets it.
pub(crate) fn from_vip(answer: &Packet) -> Packet {
    answer.with(|packet| packet.source = VIP)
}

/// What the caller sends to the virtual address as it comes back to itself.
pub(crate) fn turned(call: &Packet) -> Packet {
    call.with(|packet| {
        packet.destination_mac = call.source_mac;
        packet.source_mac = call.destination_mac;
        packet.source = call.destination;
        packet.destination = call.source;
    })
}

/// SCTP between these ports; its checksum is left as it is, so any will do.
pub(crate) fn sctp(source: u16, destination: u16, data: &[u8]) -> Payload {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend([1, 2, 3, 4, 0xde, 0xad, 0xbe, 0xef]);
    bytes.extend(data);
    Payload::Other(132, bytes)
}

/// The key of the caller's flow to the usual port.
pub(crate) fn flow_key(protocol: u8) -> VipFlowKey {
    VipFlowKey {
        network: NETWORK,
        caller: Address::new(address(CALLER)),
        vip: Address::new(VIP),
        caller_port: Port::new(CLIENT_PORT),
        port: Port::new(PUBLISHED),
        protocol,
        padding: [0; 3],
    }
}

/// The key of task `number`'s answers in the caller's flow to the usual port.
pub(crate) fn reply_key(number: u8, protocol: u8) -> VipReplyKey {
    VipReplyKey {
        network: NETWORK,
        task: Address::new(address(number)),
        caller: Address::new(address(CALLER)),
        port: Port::new(PUBLISHED),
        caller_port: Port::new(CLIENT_PORT),
        protocol,
        padding: [0; 3],
    }
}

/// An ARP packet for IPv4 over Ethernet (RFC 826).
pub(crate) fn arp(
    operation: u8,
    to: [u8; 6],
    sender: ([u8; 6], [u8; 4]),
    target: ([u8; 6], [u8; 4]),
) -> Vec<u8> {
    let mut bytes = to.to_vec();
    bytes.extend(sender.0);
    bytes.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, operation]);
    for (mac, address) in [sender, target] {
        bytes.extend(mac);
        bytes.extend(address);
    }
    bytes
}
