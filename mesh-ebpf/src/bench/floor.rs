//! Floors: programs that read and write what the dataplane reads and writes in a packet, and know beforehand all that it
//! looks up. No dataplane that leaves the same packet behind can cost much less.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::{BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_adjust_room, bpf_xdp_adjust_head};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use mesh_common::net::{ethertype, protocol};
use mesh_common::tunnel::OVERHEAD;

use crate::{bounds_tc, bounds_xdp};

/// The interface that packets are sent to: anything but 0 costs the same.
const BRIDGE: u32 = 11;
const PUBLISHED: u16 = 80;
const TUNNEL: u16 = 4799;
const TUNNEL_HEADER: i32 = OVERHEAD as u16 as i32;

/// What a packet is given in place of what it has; any other values cost the same.
const MACS: [u16; 6] = [0x0242, 0xac12, 0x0001, 0x0200, 0x0000, 0x000b];
const ADDRESS: [u16; 2] = [0x12ac, 0x0100];
const PORT: u16 = 8080_u16.to_be();
/// Ethernet, IPv4, UDP, VXLAN and inner Ethernet addresses; lengths, checksum and source port are filled in.
const OUTER: [u16; 31] = [
    0x0002, 0x0000, 0x0200, 0x0002, 0x0000, 0x0100, 0x0008, 0x0045, 0, 0, 0, 0x1140, 0, 0x630a, 0x0100,
    0x630a, 0x0200, 0, 0xbf12, 0, 0, 0x0008, 0, 0x656d, 0x0073, 0x4202, 0x000a, 0x0200, 0x6d02, 0x901f, 0,
];

/// Places of fields in a frame with an IPv4 header without options, in words of 16 bits.
const ETHERTYPE: usize = 6;
const VERSION: usize = 7;
const LENGTH: usize = 8;
const IDENTIFICATION: usize = 9;
const FRAGMENT: usize = 10;
const TTL: usize = 11;
const CHECKSUM: usize = 12;
const SOURCE: usize = 13;
const DESTINATION: usize = 15;
const SOURCE_PORT: usize = 17;
const DESTINATION_PORT: usize = 18;
const TCP_FLAGS: usize = 23;
const TCP_CHECKSUM: usize = 25;
const UDP_LENGTH: usize = 19;
const VXLAN_VNI: usize = 23;
const ICMP_CHECKSUM: usize = 18;
/// The packet that an ICMP error quotes begins so much later.
const QUOTED: usize = 14;

#[xdp]
pub(crate) fn floor_pass_xdp(context: XdpContext) -> u32 {
    match Words::of(bounds_xdp(&context), 19).and_then(|words| words.port_of(protocol::TCP)) {
        Some(port) if port == PUBLISHED.to_be() => XDP_ABORTED,
        _ => XDP_PASS,
    }
}

#[xdp]
pub(crate) fn floor_tunnel_xdp(context: XdpContext) -> u32 {
    if tunnel_xdp(&context).is_some() { XDP_TX } else { XDP_ABORTED }
}

#[xdp]
pub(crate) fn floor_answer_xdp(context: XdpContext) -> u32 {
    if answer_xdp(&context).is_some() { XDP_TX } else { XDP_ABORTED }
}

#[classifier]
pub(crate) fn floor_pass_tc(context: TcContext) -> i32 {
    match Words::of(bounds_tc(&context), 19).and_then(|words| words.port_of(protocol::TCP)) {
        Some(port) if port == PUBLISHED.to_be() => TC_ACT_SHOT,
        _ => TC_ACT_UNSPEC,
    }
}

#[classifier]
pub(crate) fn floor_local_tc(context: TcContext) -> i32 {
    redirect(Words::of(bounds_tc(&context), 26).and_then(Words::deliver))
}

#[classifier]
pub(crate) fn floor_reply_tc(context: TcContext) -> i32 {
    redirect(reply_tc(&context))
}

#[classifier]
pub(crate) fn floor_open_tc(context: TcContext) -> i32 {
    redirect(open_tc(&context))
}

#[classifier]
pub(crate) fn floor_error_tc(context: TcContext) -> i32 {
    redirect(error_tc(&context))
}

#[classifier]
pub(crate) fn floor_fragment_tc(context: TcContext) -> i32 {
    redirect(fragment_tc(&context))
}

#[inline(always)]
fn tunnel_xdp(context: &XdpContext) -> Option<()> {
    let words = Words::of(bounds_xdp(context), 26)?;
    if words.port_of(protocol::TCP)? != PUBLISHED.to_be() || words.get(TCP_FLAGS) == 0 {
        return None;
    }
    let hash = words.get(SOURCE_PORT) ^ words.get(SOURCE + 1);
    let length = u16::from_be(words.get(LENGTH)) + OVERHEAD as u16;
    // SAFETY: the context is the one the program was called with.
    if unsafe { bpf_xdp_adjust_head(context.ctx, -TUNNEL_HEADER) } != 0 {
        return None;
    }
    Words::of(bounds_xdp(context), OUTER.len())?.put_outer(length, hash);
    Some(())
}

#[inline(always)]
fn answer_xdp(context: &XdpContext) -> Option<()> {
    let words = Words::of(bounds_xdp(context), 32)?;
    if words.port_of(protocol::UDP)? != TUNNEL.to_be() || words.get(VXLAN_VNI) == 0 {
        return None;
    }
    // SAFETY: as above.
    if unsafe { bpf_xdp_adjust_head(context.ctx, TUNNEL_HEADER) } != 0 {
        return None;
    }
    let words = Words::of(bounds_xdp(context), 26)?;
    words.port_of(protocol::TCP)?;
    words.age();
    words.put_macs();
    Some(())
}

#[inline(always)]
fn reply_tc(context: &TcContext) -> Option<()> {
    let words = Words::of(bounds_tc(context), 26)?;
    words.port_of(protocol::TCP)?;
    let addresses = words.put_address(SOURCE);
    words.age();
    let port = words.put(SOURCE_PORT, PUBLISHED.to_be());
    words.update(TCP_CHECKSUM, addresses + port);
    Some(())
}

#[inline(always)]
fn open_tc(context: &TcContext) -> Option<()> {
    let words = Words::of(bounds_tc(context), 32)?;
    if words.port_of(protocol::UDP)? != TUNNEL.to_be() || words.get(VXLAN_VNI) == 0 {
        return None;
    }
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    // SAFETY: as above.
    if unsafe { bpf_skb_adjust_room(context.skb.skb, -TUNNEL_HEADER, BPF_ADJ_ROOM_MAC, flags) } != 0 {
        return None;
    }
    Words::of(bounds_tc(context), 26)?.deliver()
}

#[inline(always)]
fn error_tc(context: &TcContext) -> Option<()> {
    let words = Words::of(bounds_tc(context), QUOTED + 26)?;
    words.port_of(protocol::ICMP)?;
    words.put_address(DESTINATION);
    words.age();
    words.put_macs();
    let header = words.get(QUOTED + CHECKSUM);
    let quoted = words.put_address(QUOTED + SOURCE);
    let port = words.put(QUOTED + SOURCE_PORT, PORT);
    let transport = words.get(QUOTED + TCP_CHECKSUM);
    words.update(QUOTED + TCP_CHECKSUM, quoted + port);
    let checksums =
        changed(header, words.get(QUOTED + CHECKSUM)) + changed(transport, words.get(QUOTED + TCP_CHECKSUM));
    words.update(ICMP_CHECKSUM, quoted + port + checksums);
    Some(())
}

#[inline(always)]
fn fragment_tc(context: &TcContext) -> Option<()> {
    let words = Words::of(bounds_tc(context), 19)?;
    if words.get(ETHERTYPE) != ethertype::IPV4.to_be() || words.get(FRAGMENT) == 0 {
        return None;
    }
    words.put_address(DESTINATION);
    words.age();
    words.put_macs();
    Some(())
}

#[inline(always)]
fn redirect(done: Option<()>) -> i32 {
    // SAFETY: the helper only notes where the packet goes.
    if done.is_some() { unsafe { bpf_redirect(BRIDGE, 0) as i32 } } else { TC_ACT_SHOT }
}

/// The start of a packet. All words in memory order; sums of changes are not folded yet.
#[derive(Clone, Copy)]
struct Words(*mut u16);

impl Words {
    /// The first `count` words, if the packet has them.
    #[inline(always)]
    fn of((start, end): (usize, usize), count: usize) -> Option<Self> {
        if start + 2 * count > end { None } else { Some(Self(start as *mut u16)) }
    }

    #[inline(always)]
    fn get(self, place: usize) -> u16 {
        // SAFETY: `of` has checked that the packet has the word, for every place that this file asks for after it; packets
        // begin at even addresses.
        unsafe { self.0.add(place).read() }
    }

    #[inline(always)]
    fn set(self, place: usize, word: u16) {
        // SAFETY: as above.
        unsafe { self.0.add(place).write(word) }
    }

    /// The destination port (of ICMP, the checksum) of a whole packet of this protocol.
    #[inline(always)]
    fn port_of(self, protocol: u8) -> Option<u16> {
        let [version, _] = self.get(VERSION).to_ne_bytes();
        let [ttl, carried] = self.get(TTL).to_ne_bytes();
        let is_fragment = self.get(FRAGMENT) & !0x4000_u16.to_be() != 0;
        let is_usual = self.get(ETHERTYPE) == ethertype::IPV4.to_be() && version == 0x45 && !is_fragment;
        if is_usual && ttl > 1 && carried == protocol { Some(self.get(DESTINATION_PORT)) } else { None }
    }

    /// To a task on this node.
    #[inline(always)]
    fn deliver(self) -> Option<()> {
        self.port_of(protocol::TCP)?;
        let address = self.put_address(DESTINATION);
        self.age();
        let port = self.put(DESTINATION_PORT, PORT);
        self.update(TCP_CHECKSUM, address + port);
        self.put_macs();
        Some(())
    }

    #[inline(always)]
    fn put(self, place: usize, word: u16) -> u32 {
        let before = self.get(place);
        self.set(place, word);
        changed(before, word)
    }

    /// Puts an address into the IP header whose address this is, with its checksum.
    #[inline(always)]
    fn put_address(self, place: usize) -> u32 {
        let change = self.put(place, ADDRESS[0]) + self.put(place + 1, ADDRESS[1]);
        let quoted = if place >= QUOTED + SOURCE { QUOTED } else { 0 };
        self.update(quoted + CHECKSUM, change);
        change
    }

    /// One hop older.
    #[inline(always)]
    fn age(self) {
        let change = self.put(TTL, self.get(TTL).wrapping_sub(1));
        self.update(CHECKSUM, change);
    }

    #[inline(always)]
    fn put_macs(self) {
        for (place, word) in MACS.iter().enumerate() {
            self.set(place, *word);
        }
    }

    #[inline(always)]
    fn put_outer(self, length: u16, hash: u16) {
        for (place, word) in OUTER.iter().enumerate() {
            self.set(place, *word);
        }
        self.set(LENGTH, length.to_be());
        self.set(IDENTIFICATION, hash);
        let mut sum = u32::from(length.to_be()) + u32::from(hash);
        for word in &OUTER[VERSION..SOURCE_PORT] {
            sum += u32::from(*word);
        }
        self.set(CHECKSUM, !folded(sum));
        self.set(SOURCE_PORT, hash | 0x00c0);
        self.set(UDP_LENGTH, (length - 20).to_be());
    }

    /// RFC 1624, equation 3.
    #[inline(always)]
    fn update(self, place: usize, change: u32) {
        self.set(place, !folded(u32::from(!self.get(place)) + change));
    }
}

#[inline(always)]
fn changed(before: u16, after: u16) -> u32 {
    u32::from(!before) + u32::from(after)
}

#[inline(always)]
fn folded(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}
