//! A packet in the kernel's hands: bounds-checked access to its bytes, and what the hook lets us do with it.

use core::ffi::c_void;
use core::mem::{MaybeUninit, size_of};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_adj_room_mode,
};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_csum_diff, bpf_get_socket_cookie, bpf_l4_csum_replace, bpf_skb_adjust_room,
    bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use mesh_common::checksum::Sum;
use mesh_common::net::ETHERNET_HEADER;
use mesh_common::outcome::Outcome;
use mesh_common::tunnel::OVERHEAD;

use crate::packet::sum::{self, TransportChange, halves};
use crate::verdict::Redirect;
use crate::verifier::{Even, bounded, some_of, zeroed};

/// Inner Ethernet header, as the flags of `bpf_skb_adjust_room` want its length (linux/bpf.h).
const ENCAP_L2: u64 = (ETHERNET_HEADER as u64) << 56;

/// Whether the hook is XDP, which leaves what it cannot do to TC, unchanged and as [`Outcome::NotOurs`].
pub(crate) const IS_XDP: bool = false;

/// A packet at a TC hook.
pub(crate) struct Frame<'a> {
    context: &'a TcContext,
    direction: Direction,
    network: u32,
}

/// Which way packets pass a hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl<'a> Frame<'a> {
    #[inline(always)]
    pub(crate) fn new(context: &'a TcContext, direction: Direction) -> Self {
        Self::of_network(context, direction, 0)
    }

    /// A packet of an overlay network.
    #[inline(always)]
    pub(crate) fn of_network(context: &'a TcContext, direction: Direction, network: u32) -> Self {
        Self { context, direction, network }
    }

    /// The network's number; 0 for what is on no overlay.
    #[inline(always)]
    pub(crate) fn network(&self) -> u32 {
        self.network
    }

    /// Whether the packet is on its way out.
    #[inline(always)]
    pub(crate) fn is_leaving(&self) -> bool {
        self.direction == Direction::Egress
    }

    /// The interface that the packet has come in by; 0 if it is from a socket here.
    #[inline(always)]
    pub(crate) fn origin(&self) -> u32 {
        // SAFETY: the context is valid for the whole program.
        unsafe { (*self.skb()).ingress_ifindex }
    }

    /// Where a packet goes that is sent back to where it came from: out again, or, on its way out, in.
    #[inline(always)]
    pub(crate) fn back(&self) -> Redirect {
        match self.direction {
            Direction::Ingress => Redirect::Interface(self.interface()),
            Direction::Egress => Redirect::Ingress(self.interface()),
        }
    }

    /// The bytes at `offset`, if the packet has them where they can be read. Changing the packet's size or its
    /// checksums through this type invalidates the pointer; the verifier sees to that.
    #[inline(always)]
    pub(crate) fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.context.data() + bounded(offset);
        if start + size_of::<T>() > self.context.data_end() {
            return None;
        }
        Some(start as *mut T)
    }

    /// Copies the bytes at `offset`.
    #[inline(always)]
    pub(crate) fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` has checked that the packet holds the bytes, and every field that is read stands at an even address.
        self.at::<T>(offset).map(|pointer| unsafe { Even::read(pointer) })
    }

    /// Makes up to `bytes` of the packet's start readable and writable in place.
    #[inline(always)]
    pub(crate) fn make_linear(&self, bytes: u32) {
        if self.context.data_end() - self.context.data() < bytes as usize {
            let wanted = if self.len() < bytes { self.len() } else { bytes };
            // SAFETY: the context is the one this program was called with.
            // What could not be pulled will be missed by `at`.
            unsafe { bpf_skb_pull_data(self.skb(), wanted) };
        }
    }

    /// Bytes of the packet, from its Ethernet header on.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        self.context.len()
    }

    /// The interface that the hook is on.
    #[inline(always)]
    pub(crate) fn interface(&self) -> u32 {
        // SAFETY: the context is valid for the whole program.
        unsafe { (*self.skb()).ifindex }
    }

    /// Whether a VLAN tag was taken off by the driver: the packet belongs to a VLAN device, whose own hook gets it.
    #[inline(always)]
    pub(crate) fn has_vlan_tag(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.skb()).vlan_present != 0 }
    }

    /// Whether it stands for several packets on the wire (GSO, GRO).
    #[inline(always)]
    pub(crate) fn is_aggregate(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.skb()).gso_size != 0 }
    }

    /// The cookie of the socket that sent it; 0 if there is none.
    #[inline(always)]
    pub(crate) fn socket_cookie(&self) -> u64 {
        // SAFETY: the context is the one this program was called with.
        unsafe { bpf_get_socket_cookie(self.context.as_ptr()) }
    }

    /// Brings a transport checksum in step with a change of the packet, whether the checksum is complete, is still to
    /// be completed by a device, or was checked by one.
    #[inline(always)]
    pub(crate) fn update_transport(&self, change: &TransportChange) -> Result<(), Outcome> {
        let optional = if change.optional { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let pseudo_header = u64::from(change.pseudo_header.difference());
        let segment = u64::from(change.segment.difference());
        let offset = change.offset as u32;
        // SAFETY: the context is the one this program was called with; the helper checks the offset.
        let failed = unsafe {
            (pseudo_header != 0
                && bpf_l4_csum_replace(
                    self.skb(),
                    offset,
                    0,
                    pseudo_header,
                    optional | u64::from(BPF_F_PSEUDO_HDR),
                ) != 0)
                || (segment != 0 && bpf_l4_csum_replace(self.skb(), offset, 0, segment, optional) != 0)
        };
        if failed { Err(Outcome::NotChangeable) } else { Ok(()) }
    }

    /// Makes room for a tunnel header between the Ethernet and the IP header, so that an aggregate is still cut into
    /// packets of the same size. One that is `plain` is not marked as a tunnel's.
    #[inline(always)]
    pub(crate) fn grow_for_tunnel(&self, plain: bool) -> Result<(), Outcome> {
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

    /// Takes the tunnel header off.
    #[inline(always)]
    pub(crate) fn shrink_from_tunnel(&self) -> Result<(), Outcome> {
        self.adjust_room(-i32::from(OVERHEAD as u16), u64::from(BPF_F_ADJ_ROOM_FIXED_GSO))
    }

    /// Makes `bytes` of room between the Ethernet and the IP header, which stay what they are.
    #[inline(always)]
    pub(crate) fn grow(&self, bytes: u16) -> Result<(), Outcome> {
        self.adjust_room(i32::from(bytes), 0)
    }

    /// Takes the `bytes` behind the Ethernet header away.
    #[inline(always)]
    pub(crate) fn shrink(&self, bytes: u16) -> Result<(), Outcome> {
        self.adjust_room(-i32::from(bytes), 0)
    }

    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb()).mark }
    }

    #[inline(always)]
    pub(crate) fn set_mark(&self, mark: u32) {
        // SAFETY: as above.
        unsafe { (*self.skb()).mark = mark }
    }

    /// Sends a copy that carries `mark` to this hook again.
    #[inline(always)]
    pub(crate) fn send_around(&self, mark: u32) -> Result<(), Outcome> {
        let before = self.mark();
        self.set_mark(mark);
        let flags = if self.direction == Direction::Ingress { u64::from(BPF_F_INGRESS) } else { 0 };
        // SAFETY: the context is the one this program was called with.
        let result = unsafe { bpf_clone_redirect(self.skb(), self.interface(), flags) };
        self.set_mark(before);
        if result == 0 { Ok(()) } else { Err(Outcome::NotChangeable) }
    }

    /// Cuts or pads the packet to `bytes`.
    #[inline(always)]
    pub(crate) fn resize(&self, bytes: u32) -> Result<(), Outcome> {
        // SAFETY: the context is the one this program was called with.
        if unsafe { bpf_skb_change_tail(self.skb(), bytes, 0) } == 0 {
            Ok(())
        } else {
            Err(Outcome::NotChangeable)
        }
    }

    /// The sum of the `length` bytes at `offset`, which are an IP header and 8 to 20 more: 28 to 80.
    #[inline(always)]
    pub(crate) fn sum(&self, offset: usize, length: usize) -> Result<Sum, Outcome> {
        // SAFETY: the buffer has room for as many bytes as are asked for.
        sum::sum(length, |buffer, length| unsafe {
            bpf_skb_load_bytes(self.as_ptr(), offset as u32, buffer, length)
        })
    }

    /// The folded sum of the `length` bytes at `offset`, of which there are no more than 512 in a packet that needs it: one
    /// whose checksum is left to a device has the size that its sender's interface takes.
    #[inline(never)]
    pub(crate) fn sum_of_rest(&self, offset: usize, length: usize) -> u16 {
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
                    (offset + done) as u32,
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

    /// Copies the `length` bytes at `offset` to the start of `integers`.
    #[inline(always)]
    pub(crate) fn load<T: Copy, const N: usize>(
        &self,
        offset: usize,
        integers: &mut [T; N],
        length: u32,
    ) -> Result<(), Outcome> {
        let length = some_of(length, size_of::<[T; N]>()).ok_or(Outcome::Malformed)?;
        let place = integers.as_mut_ptr().cast();
        // SAFETY: there is room for as many bytes as are asked for.
        let failed = unsafe { bpf_skb_load_bytes(self.as_ptr(), offset as u32, place, length) } != 0;
        if failed { Err(Outcome::Malformed) } else { Ok(()) }
    }

    /// Puts the first `length` bytes of `integers` at `offset`. Invalidates pointers into the packet.
    #[inline(always)]
    pub(crate) fn store<T: Copy, const N: usize>(
        &self,
        offset: usize,
        integers: &[T; N],
        length: u32,
    ) -> Result<(), Outcome> {
        let length = some_of(length, size_of::<[T; N]>()).ok_or(Outcome::NotChangeable)?;
        let place = integers.as_ptr().cast();
        // SAFETY: there are as many bytes; the helper checks the offset.
        let failed = unsafe { bpf_skb_store_bytes(self.skb(), offset as u32, place, length, 0) } != 0;
        if failed { Err(Outcome::NotChangeable) } else { Ok(()) }
    }

    /// The context as helpers take it.
    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.context.as_ptr()
    }

    #[inline(always)]
    fn adjust_room(&self, bytes: i32, flags: u64) -> Result<(), Outcome> {
        // SAFETY: the context is the one this program was called with.
        let result =
            unsafe { bpf_skb_adjust_room(self.skb(), bytes, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, flags) };
        if result == 0 { Ok(()) } else { Err(Outcome::NotChangeable) }
    }

    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.context.skb.skb
    }
}
