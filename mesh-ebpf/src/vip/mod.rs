//! Task → virtual address, on the caller's own node: at the bridge port of the caller, in the namespace of its overlay.
//!
//! The virtual address becomes the address of a task and back; transport is left to Docker's bridge and VXLAN. A task that
//! is given to itself would see its own address call: it sees the virtual address instead, and what it answers comes by
//! here once more.

pub mod arp;
pub mod call;
pub mod established;
pub mod icmp;
pub mod reply;

use core::ptr;

use aya_ebpf::programs::TcContext;
use mesh_common::net::{Address, Port};
use mesh_common::overlay::{NetworkTag, VipFlowKey, VipKey, VipReplyKey};

use crate::entry::replay::Offer;
use crate::packet::Packet;
use crate::packet::rewrite::Tuple;
use crate::tables::vips;

/// What the program ahead of these has said of the port's network (`bin/network.rs`).
#[inline(always)]
pub fn tag(context: &TcContext) -> Option<NetworkTag> {
    let block = context.skb.skb;
    let mut words = [0; 4];
    for (place, word) in words.iter_mut().enumerate() {
        // SAFETY: the context is valid for the whole program, and its control block has five words.
        *word = unsafe { ptr::read_volatile(&raw const (*block).cb[place]) };
    }
    NetworkTag::from_words(words)
}

/// The key of `caller`'s flow to `vip`; `answer` tells whether the packet comes from its task.
#[inline(always)]
pub(crate) fn flow_key(packet: &Packet, caller: Address, vip: Address, answer: bool) -> VipFlowKey {
    let (port, caller_port) = ports(packet, answer);
    VipFlowKey {
        network: packet.network,
        caller,
        vip,
        caller_port,
        port,
        protocol: packet.protocol,
        padding: [0, 0, 0],
    }
}

/// The key that `task`'s answers to `caller` have; `answer` tells whether the packet is such an answer.
#[inline(always)]
pub(crate) fn reply_key(task: Address, caller: Address, packet: &Packet, answer: bool) -> VipReplyKey {
    let (port, caller_port) = ports(packet, answer);
    VipReplyKey {
        network: packet.network,
        task,
        caller,
        port,
        caller_port,
        protocol: packet.protocol,
        padding: [0, 0, 0],
    }
}

/// The port that was called, and the caller's own.
#[inline(always)]
pub(crate) fn ports(packet: &Packet, answer: bool) -> (Port, Port) {
    if answer {
        (packet.source_port, packet.destination_port)
    } else {
        (packet.destination_port, packet.source_port)
    }
}

/// Other addresses; ports stay, a virtual address serves them all.
#[inline(always)]
pub(crate) fn tuple(packet: &Packet, source: Address, destination: Address) -> Tuple {
    Tuple { source, destination, source_port: packet.source_port, destination_port: packet.destination_port }
}

/// Who could be offered the SYN of the flow with this key; `task` speaks now.
#[inline(always)]
pub(crate) fn offer(key: &VipFlowKey, task: Address) -> Offer {
    let vip = VipKey { network: key.network, address: key.vip };
    Offer {
        tuple: Tuple {
            source: key.caller,
            destination: key.vip,
            source_port: key.caller_port,
            destination_port: key.port,
        },
        count: vips::find(&vip).map_or(0, |frontend| frontend.count),
        identity: task,
        port: key.port,
    }
}
