//! A packet in the kernel's hands: bounds-checked access to its bytes, and what the hook lets us do with it.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::{MaybeUninit, size_of};

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_adj_room_mode,
};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_csum_diff, bpf_get_socket_cookie, bpf_l4_csum_replace, bpf_skb_adjust_room,
    bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
    bpf_skb_vlan_pop,
};
use aya_ebpf::programs::TcContext;
use mesh_common::checksum::Sum;
use mesh_common::net::{ETHERNET_HEADER, Mac, ethertype};
use mesh_common::outcome::Outcome;
use mesh_common::tunnel::OVERHEAD;

use crate::hook::Hook;
use crate::packet::sum::{TransportChange, halves};
use crate::verdict::Redirect;
use crate::verifier::{bounded, zeroed};

/// Inner Ethernet header, as the flags of `bpf_skb_adjust_room` want its length (linux/bpf.h).
const ENCAP_L2: u64 = (ETHERNET_HEADER as u64) << 56;

/// What an interface puts in front of an IP packet.
pub trait LinkLayer {
    /// Bytes of it.
    const HEADER: usize;
}

/// Ethernet, or what looks like it to the rest of the kernel.
pub struct L2;

impl LinkLayer for L2 {
    const HEADER: usize = ETHERNET_HEADER;
}

/// Nothing, as `WireGuard`, tun, IPIP and PPP do: the kernel's L3 devices. Offsets are those that the packet would have behind an
/// Ethernet header.
pub struct L3;

impl LinkLayer for L3 {
    const HEADER: usize = 0;
}

/// A packet at a TC hook.
pub struct Skb<L = L2> {
    context: *mut __sk_buff,
    direction: Direction,
    network: u32,
    link_layer: PhantomData<L>,
}

/// All fields in network byte order.
#[repr(C)]
struct Ethernet {
    destination: Mac,
    source: Mac,
    ethertype: u16,
}

/// Which way packets pass a hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Ingress,
    Egress,
}

impl<L: LinkLayer> Skb<L> {
    /// Of all that offsets are counted with, what is not in the packet.
    const MISSING: usize = ETHERNET_HEADER - L::HEADER;

    #[inline(always)]
    pub fn new(context: &TcContext, direction: Direction) -> Self {
        Self::of_network(context, direction, 0)
    }

    /// A packet of an overlay network.
    #[inline(always)]
    pub fn of_network(context: &TcContext, direction: Direction, network: u32) -> Self {
        Self { context: context.skb.skb, direction, network, link_layer: PhantomData }
    }

    /// The interface that the packet has come in by; 0 if it is from a socket here.
    #[inline(always)]
    pub fn origin(&self) -> u32 {
        // SAFETY: the context is valid for the whole program.
        unsafe { (*self.context).ingress_ifindex }
    }

    /// Whether the frame is addressed to the interface. One that is not comes in where the interface hears all, or a switch has
    /// yet to learn where its addressee is: that one takes it, and two nodes would serve it otherwise. The kernel takes no TCP
    /// from a broadcast either (`tcp_v4_rcv`).
    #[inline(always)]
    pub fn is_for_host(&self) -> bool {
        /// From `linux/if_packet.h`.
        const PACKET_HOST: u32 = 0;

        // SAFETY: as above.
        unsafe { (*self.context).pkt_type == PACKET_HOST }
    }

    /// Whether the packet belongs to a VLAN device, whose own hook gets it. A tag that says a priority only (VLAN 0, IEEE 802.1Q
    /// §6.9) is taken off, or it would go along to whom the packet is sent.
    #[inline(always)]
    pub fn is_of_vlan(&self) -> bool {
        const ID: u32 = 0x0fff;

        // SAFETY: as above.
        let (is_tagged, tag) = unsafe { ((*self.context).vlan_present != 0, (*self.context).vlan_tci) };
        // SAFETY: the context is the one this program was called with.
        is_tagged && (tag & ID != 0 || unsafe { bpf_skb_vlan_pop(self.context) } != 0)
    }

    /// Whether it stands for several packets on the wire (GSO, GRO).
    #[inline(always)]
    pub fn is_aggregate(&self) -> bool {
        self.segment_size() != 0
    }

    /// How much each of the packets that an aggregate stands for carries behind its transport header; 0 for a single packet.
    #[inline(always)]
    pub fn segment_size(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.context).gso_size }
    }

    /// The cookie of the socket that sent it; 0 if there is none.
    #[inline(always)]
    pub fn socket_cookie(&self) -> u64 {
        // SAFETY: the context is the one this program was called with.
        unsafe { bpf_get_socket_cookie(self.as_ptr()) }
    }

    #[inline(always)]
    pub fn mark(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.context).mark }
    }

    /// Sends a copy that carries `mark` to this hook again.
    #[inline(always)]
    pub fn send_around(&self, mark: u32) -> Result<(), Outcome> {
        let before = self.mark();
        self.set_mark(mark);
        let flags = if self.direction == Direction::Ingress { u64::from(BPF_F_INGRESS) } else { 0 };
        // SAFETY: the context is the one this program was called with.
        let result = unsafe { bpf_clone_redirect(self.context, self.interface(), flags) };
        self.set_mark(before);
        if result == 0 { Ok(()) } else { Err(Outcome::NotChangeable) }
    }

    /// The folded sum of the `length` bytes at `offset`, of which there are no more than 512 in a packet that needs it: one
    /// whose checksum is left to a device has the size that its sender's interface takes.
    #[inline(never)]
    pub fn sum_of_rest(&self, offset: usize, length: usize) -> u16 {
        const PIECE: usize = 64;
        const PIECES: usize = 8;

        let mut total = Sum::ZERO;
        for piece in 0..PIECES {
            let done = piece * PIECE;
            if done >= length {
                break;
            }
            let left = if length - done < PIECE { length - done } else { PIECE };
            // As in `sum::sum`.
            let left = bounded(left - 1) + 1;
            if left > PIECE {
                break;
            }
            let mut bytes = MaybeUninit::uninit();
            // SAFETY: these are integers.
            let bytes: &mut [u32; PIECE / 4] = unsafe { zeroed(&mut bytes) };
            // SAFETY: the buffer holds the bytes that are asked for; what is behind them stays zero and adds nothing.
            let sum = unsafe {
                if bpf_skb_load_bytes(
                    self.as_ptr(),
                    Self::place(offset + done),
                    bytes.as_mut_ptr().cast(),
                    left as u32,
                ) != 0
                {
                    break;
                }
                bpf_csum_diff(core::ptr::null_mut(), 0, bytes.as_mut_ptr(), PIECE as u32, 0)
            };
            total = total.add(halves(sum));
        }
        total.folded()
    }

    /// An offset as helpers count it.
    #[inline(always)]
    fn place(offset: usize) -> u32 {
        (offset - Self::MISSING) as u32
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is valid for the whole program.
        unsafe { (*self.context).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.context).data_end as usize }
    }

    #[inline(always)]
    fn adjust_room(&self, bytes: i32, flags: u64) -> Result<(), Outcome> {
        // SAFETY: the context is the one this program was called with.
        let result =
            unsafe { bpf_skb_adjust_room(self.context, bytes, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, flags) };
        if result == 0 { Ok(()) } else { Err(Outcome::NotChangeable) }
    }
}

impl<L: LinkLayer> Hook for Skb<L> {
    const IS_XDP: bool = false;
    const IS_L3: bool = L::HEADER == 0;

    #[inline(always)]
    fn network(&self) -> u32 {
        self.network
    }

    #[inline(always)]
    fn is_leaving(&self) -> bool {
        self.direction == Direction::Egress
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the context is valid for the whole program.
        unsafe { (*self.context).ifindex }
    }

    #[inline(always)]
    fn back(&self) -> Redirect {
        match self.direction {
            Direction::Ingress => Redirect::Interface(self.interface()),
            Direction::Egress => Redirect::Ingress(self.interface()),
        }
    }

    #[inline(always)]
    fn size(&self) -> u32 {
        // SAFETY: the context is valid for the whole program.
        unsafe { (*self.context).len + Self::MISSING as u32 }
    }

    #[inline(always)]
    fn is_ipv4(&self) -> bool {
        if Self::IS_L3 {
            // SAFETY: as above.
            unsafe { (*self.context).protocol == u32::from(ethertype::IPV4.to_be()) }
        } else {
            self.read::<u16>(ETHERNET_HEADER - 2) == Some(ethertype::IPV4.to_be())
        }
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        if offset < Self::MISSING {
            return None;
        }
        let start = self.data() + bounded(offset - Self::MISSING);
        if start + size_of::<T>() > self.data_end() {
            return None;
        }
        Some(start as *mut T)
    }

    #[inline(always)]
    fn make_linear(&self, bytes: u32) {
        let bytes = bytes - Self::MISSING as u32;
        // Of a packet that is in one piece, however small, there is nothing to be pulled.
        let size = self.size() - Self::MISSING as u32;
        let wanted = if size < bytes { size } else { bytes };
        if self.data_end() - self.data() < wanted as usize {
            // SAFETY: the context is the one this program was called with.
            // What could not be pulled will be missed by `at`.
            unsafe { bpf_skb_pull_data(self.context, wanted) };
        }
    }

    #[inline(always)]
    fn update_transport(&self, change: &TransportChange) -> Result<(), Outcome> {
        let optional = if change.optional { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let pseudo_header = u64::from(change.pseudo_header.difference());
        let segment = u64::from(change.segment.difference());
        let offset = Self::place(change.offset);
        // SAFETY: the context is the one this program was called with; the helper checks the offset.
        let failed = unsafe {
            (pseudo_header != 0
                && bpf_l4_csum_replace(
                    self.context,
                    offset,
                    0,
                    pseudo_header,
                    optional | u64::from(BPF_F_PSEUDO_HDR),
                ) != 0)
                || (segment != 0 && bpf_l4_csum_replace(self.context, offset, 0, segment, optional) != 0)
        };
        if failed { Err(Outcome::NotChangeable) } else { Ok(()) }
    }

    #[inline(always)]
    fn grow_for_tunnel(&self, plain: bool) -> Result<(), Outcome> {
        if plain {
            return self.grow(OVERHEAD as u16);
        }
        let flags = u64::from(
            BPF_F_ADJ_ROOM_FIXED_GSO
                | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
                | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
                | BPF_F_ADJ_ROOM_ENCAP_L2_ETH,
        ) | ENCAP_L2;
        self.adjust_room(i32::from(OVERHEAD as u16), flags)
    }

    #[inline(always)]
    fn shrink_from_tunnel(&self) -> Result<(), Outcome> {
        self.adjust_room(-i32::from(OVERHEAD as u16), u64::from(BPF_F_ADJ_ROOM_FIXED_GSO))
    }

    #[inline(always)]
    fn grow(&self, bytes: u16) -> Result<(), Outcome> {
        self.adjust_room(i32::from(bytes), 0)
    }

    #[inline(always)]
    fn shrink(&self, bytes: u16) -> Result<(), Outcome> {
        self.adjust_room(-i32::from(bytes), 0)
    }

    #[inline(always)]
    fn prepend_ethernet(&self, destination: Mac, source: Mac) -> Result<(), Outcome> {
        // SAFETY: the context is the one this program was called with.
        if unsafe { bpf_skb_change_head(self.context, ETHERNET_HEADER as u32, 0) } != 0 {
            return Err(Outcome::NotChangeable);
        }
        let header = Ethernet { destination, source, ethertype: ethertype::IPV4.to_be() };
        let size = size_of::<Ethernet>() as u32;
        // SAFETY: there are as many bytes.
        if unsafe { bpf_skb_store_bytes(self.context, 0, (&raw const header).cast(), size, 0) } == 0 {
            Ok(())
        } else {
            Err(Outcome::NotChangeable)
        }
    }

    #[inline(always)]
    fn resize(&self, bytes: u32) -> Result<(), Outcome> {
        // SAFETY: the context is the one this program was called with.
        if unsafe { bpf_skb_change_tail(self.context, Self::place(bytes as usize), 0) } == 0 {
            Ok(())
        } else {
            Err(Outcome::NotChangeable)
        }
    }

    #[inline(always)]
    fn set_mark(&self, mark: u32) {
        // SAFETY: as above.
        unsafe { (*self.context).mark = mark }
    }

    #[inline(always)]
    unsafe fn load_bytes(&self, offset: usize, to: *mut c_void, length: u32) -> i64 {
        // SAFETY: as promised by the caller.
        unsafe { bpf_skb_load_bytes(self.as_ptr(), Self::place(offset), to, length) }
    }

    #[inline(always)]
    unsafe fn store_bytes(&self, offset: usize, from: *const c_void, length: u32) -> i64 {
        // SAFETY: as promised by the caller.
        unsafe { bpf_skb_store_bytes(self.context, Self::place(offset), from, length, 0) }
    }

    #[inline(always)]
    fn as_ptr(&self) -> *mut c_void {
        self.context.cast()
    }
}
