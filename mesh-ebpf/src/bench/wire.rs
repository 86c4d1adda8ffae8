//! Both ends of a line on which packets are sent at full speed: where they are made, and where they are counted and end.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_SHOT, TC_ACT_UNSPEC,
};
use aya_ebpf::helpers::generated::{
    bpf_redirect, bpf_skb_adjust_room, bpf_skb_store_bytes, bpf_xdp_adjust_head, bpf_xdp_store_bytes,
};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use mesh_common::net::ETHERNET_HEADER;
use mesh_common::tunnel::OVERHEAD;

use crate::{bounds_tc, bounds_xdp};

/// Words of 16 bits of a packet: Ethernet, IPv4, UDP, and what keeps the checksum as it is. The mark follows.
const HEADER: usize = 22;
const SOURCE_PORT: usize = 17;
const DESTINATION_PORT: usize = 18;
const BALANCE: usize = 21;
const MARK: [u16; 2] = [0x6e62, 0x6863];

const TUNNEL_HEADER: i32 = OVERHEAD as u16 as i32;

/// How packets begin.
#[map]
static LINE_HEADER: Array<[u16; HEADER]> = Array::with_max_entries(1, 0);

/// The interface that they are sent by, the first of the ports that they come from, and how many ports these are.
#[map]
static LINE_SHAPE: Array<[u32; 3]> = Array::with_max_entries(1, 0);

#[map]
static LINE_SENT: Array<u64> = Array::with_max_entries(1, 0);

#[map]
static LINE_ARRIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Makes the frame a packet of the next port. The kernel does not restore what was written into one that it uses again.
#[xdp]
pub(crate) fn line_begin_xdp(context: XdpContext) -> u32 {
    match next(&context) {
        // SAFETY: the helper only notes where the packet goes.
        Some(interface) => unsafe { bpf_redirect(interface, 0).cast_unsigned() as u32 },
        None => XDP_ABORTED,
    }
}

/// The end of a line that nothing forwards on.
#[xdp]
pub(crate) fn line_end_xdp(_context: XdpContext) -> u32 {
    count();
    XDP_DROP
}

/// Ends packets that were forwarded, and nobody else's.
#[xdp]
pub(crate) fn line_beyond_xdp(context: XdpContext) -> u32 {
    if is_forwarded(bounds_xdp(&context)) {
        count();
        return XDP_DROP;
    }
    XDP_PASS
}

#[classifier]
pub(crate) fn line_beyond_tc(context: TcContext) -> i32 {
    if is_forwarded(bounds_tc(&context)) {
        count();
        return TC_ACT_SHOT;
    }
    TC_ACT_UNSPEC
}

/// What the floors put before packets. On the stack it would be cleared byte by byte each time.
static NO_HEADER: [u8; TUNNEL_HEADER as usize] = [0; TUNNEL_HEADER as usize];

/// Floors: a machine that puts packets into a tunnel, without any idea where to.
#[xdp]
pub(crate) fn line_back_xdp(context: XdpContext) -> u32 {
    let header = (&raw const NO_HEADER).cast_mut().cast();
    // SAFETY: the context is the one the program was called with; the header is as long as is said, and only read.
    let failed = unsafe {
        bpf_xdp_adjust_head(context.ctx, -TUNNEL_HEADER) != 0
            || bpf_xdp_store_bytes(context.ctx, 0, header, TUNNEL_HEADER as u32) != 0
    };
    if failed { XDP_ABORTED } else { XDP_TX }
}

#[classifier]
pub(crate) fn line_back_tc(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let flags = u64::from(
        BPF_F_ADJ_ROOM_FIXED_GSO
            | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
            | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
            | BPF_F_ADJ_ROOM_ENCAP_L2_ETH,
    ) | (ETHERNET_HEADER as u64) << 56;
    let header = (&raw const NO_HEADER).cast_mut().cast();
    // SAFETY: as above; redirecting only notes where the packet goes.
    unsafe {
        let failed = bpf_skb_adjust_room(skb, TUNNEL_HEADER, BPF_ADJ_ROOM_MAC, flags) != 0
            || bpf_skb_store_bytes(skb, ETHERNET_HEADER as u32, header, TUNNEL_HEADER as u32, 0) != 0;
        if failed { TC_ACT_SHOT } else { bpf_redirect((*skb).ifindex, 0) as i32 }
    }
}

#[inline(always)]
fn next(context: &XdpContext) -> Option<u32> {
    let [interface, first, ports] = *LINE_SHAPE.get(0)?;
    let header = LINE_HEADER.get_ptr_mut(0)?;
    let sent = LINE_SENT.get_ptr_mut(0)?;
    // SAFETY: the pointers are to maps' only values, and one processor sends; the context is the program's own.
    let failed = unsafe {
        let number = *sent;
        *sent = number + 1;
        let port = (first + number as u32 % ports.max(1)) as u16;
        (*header)[SOURCE_PORT] = port.to_be();
        (*header)[BALANCE] = !port.to_be();
        bpf_xdp_store_bytes(context.ctx, 0, header.cast(), 2 * HEADER as u32) != 0
    };
    if failed { None } else { Some(interface) }
}

/// Whether it has the mark, in the tunnel or to another port than it was sent to.
#[inline(always)]
fn is_forwarded((start, end): (usize, usize)) -> bool {
    const TUNNELLED: usize = HEADER + OVERHEAD / 2;
    if start + 2 * (HEADER + MARK.len()) > end {
        return false;
    }
    // SAFETY: the packet has the words.
    let word = |place: usize| unsafe { (start as *const u16).add(place).read() };
    if word(HEADER) == MARK[0] && word(HEADER + 1) == MARK[1] {
        let original = LINE_HEADER.get(0).map_or(0, |header| header[DESTINATION_PORT]);
        return word(DESTINATION_PORT) != original;
    }
    start + 2 * (TUNNELLED + MARK.len()) <= end
        && word(TUNNELLED) == MARK[0]
        && word(TUNNELLED + 1) == MARK[1]
}

#[inline(always)]
fn count() {
    if let Some(arrived) = LINE_ARRIVED.get_ptr_mut(0) {
        // SAFETY: the value is this processor's.
        unsafe { *arrived += 1 };
    }
}
