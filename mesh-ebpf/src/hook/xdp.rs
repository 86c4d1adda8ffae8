//! A packet in a driver's hands. Checksums are complete here, nothing is an aggregate,
//! and nobody fills in hardware addresses.

use core::arch::asm;
use core::cell::Cell;
use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{
    bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
};
use aya_ebpf::programs::XdpContext;
use mesh_common::net::{ETHERNET_HEADER, ethertype};
use mesh_common::outcome::Outcome;
use mesh_common::tunnel::OVERHEAD;

use crate::hook::Hook;
use crate::packet::sum::TransportChange;
use crate::verdict::{LEAVE_TO_TC, Redirect};
use crate::verifier::{Even, bounded};

/// An Ethernet header.
type Ethernet = [u16; ETHERNET_HEADER / 2];

/// A packet at the XDP hook.
pub struct XdpBuff {
    context: *mut xdp_md,
    /// Where the packet begins. What is before it goes only when the packet leaves, so that a packet that is left to TC after
    /// all is as it came.
    start: Cell<usize>,
}

impl XdpBuff {
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self { context: context.ctx, start: Cell::new(0) }
    }

    /// The same packet, as it came, for a function that gets this one from its caller: what is its own it need not look for in memory.
    #[inline(always)]
    pub(crate) fn own(&self) -> Self {
        Self { context: self.context, start: Cell::new(0) }
    }

    /// Takes away what is before the packet. To be done before it leaves.
    #[inline(always)]
    pub fn settle(&self) -> Result<(), Outcome> {
        let bytes = self.start.replace(0);
        if bytes == 0 { Ok(()) } else { self.move_head(i32::from(bytes as u16)) }
    }

    /// An offset into the packet as helpers count it.
    #[inline(always)]
    fn place(&self, offset: usize) -> u32 {
        (self.start.get() + offset) as u32
    }

    #[inline(always)]
    fn put<T: Copy>(&self, offset: usize, value: T) -> Result<(), Outcome> {
        let place = self.at::<T>(offset).ok_or(Outcome::NotChangeable)?;
        // SAFETY: as in `read`.
        unsafe { Even::write(place, value) };
        Ok(())
    }

    #[inline(always)]
    fn move_head(&self, bytes: i32) -> Result<(), Outcome> {
        // SAFETY: the context is the one this program was called with.
        if unsafe { bpf_xdp_adjust_head(self.context, bytes) } == 0 {
            Ok(())
        } else {
            Err(Outcome::NotChangeable)
        }
    }

    /// Volatile, or the compiler hands the pointer to functions as the 32-bit number that it takes it for.
    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is valid for the whole program.
        unsafe { (&raw const (*self.context).data).read_volatile() as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as above.
        unsafe { (&raw const (*self.context).data_end).read_volatile() as usize }
    }
}

impl Hook for XdpBuff {
    const IS_XDP: bool = true;
    const IS_L3: bool = false;

    #[inline(always)]
    fn network(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn is_leaving(&self) -> bool {
        false
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the context is valid for the whole program.
        unsafe { (*self.context).ingress_ifindex }
    }

    #[inline(always)]
    fn back(&self) -> Redirect {
        Redirect::Interface(self.interface())
    }

    #[inline(always)]
    fn size(&self) -> u32 {
        (distance(self.data(), self.data_end()) - self.start.get()) as u32
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let place = self.data() + bounded(self.start.get() + offset);
        if place + size_of::<T>() > self.data_end() {
            return None;
        }
        Some(place as *mut T)
    }

    #[inline(always)]
    fn make_linear(&self, _bytes: u32) {}

    #[inline(always)]
    fn update_transport(&self, change: &TransportChange) -> Result<(), Outcome> {
        let place = self.at::<u16>(change.offset).ok_or(Outcome::NotChangeable)?;
        // SAFETY: as in `read`.
        unsafe {
            let before = Even::read(place);
            if change.optional && before == 0 {
                return Ok(());
            }
            let after = change.pseudo_header.add(change.segment).update(before);
            Even::write(place, if change.optional && after == 0 { u16::MAX } else { after });
        }
        Ok(())
    }

    #[inline(always)]
    fn grow_for_tunnel(&self, _plain: bool) -> Result<(), Outcome> {
        // What has come out of a tunnel and goes into one again, as a SYN that was refused, has been left to TC (`entry::reply`). Said
        // here, it spares all that follows a look where the packet begins, and the stack a place for that.
        if self.start.get() != 0 {
            return Err(LEAVE_TO_TC);
        }
        self.move_head(-i32::from(OVERHEAD as u16)).map_err(|_| LEAVE_TO_TC)?;
        self.put(ETHERNET_HEADER - 2, ethertype::IPV4.to_be())
    }

    #[inline(always)]
    fn shrink_from_tunnel(&self) -> Result<(), Outcome> {
        self.start.set(OVERHEAD);
        Ok(())
    }

    #[inline(always)]
    fn grow(&self, bytes: u16) -> Result<(), Outcome> {
        let ethernet: Ethernet = self.read(0).ok_or(Outcome::NotChangeable)?;
        self.move_head(-i32::from(bytes))?;
        self.put(0, ethernet)
    }

    #[inline(always)]
    fn shrink(&self, bytes: u16) -> Result<(), Outcome> {
        let ethernet: Ethernet = self.read(0).ok_or(Outcome::NotChangeable)?;
        self.start.set(self.start.get() + usize::from(bytes));
        self.put(0, ethernet)
    }

    #[inline(always)]
    fn resize(&self, bytes: u32) -> Result<(), Outcome> {
        let change = bytes.wrapping_sub(self.size()).cast_signed();
        // SAFETY: the context is the one this program was called with.
        if unsafe { bpf_xdp_adjust_tail(self.context, change) } == 0 {
            Ok(())
        } else {
            Err(Outcome::NotChangeable)
        }
    }

    #[inline(always)]
    fn set_mark(&self, _mark: u32) {}

    #[inline(always)]
    unsafe fn load_bytes(&self, offset: usize, to: *mut c_void, length: u32) -> i64 {
        // SAFETY: as promised by the caller.
        unsafe { bpf_xdp_load_bytes(self.context, self.place(offset), to, length) }
    }

    #[inline(always)]
    unsafe fn store_bytes(&self, offset: usize, from: *const c_void, length: u32) -> i64 {
        // SAFETY: as promised by the caller; the helper only reads them.
        unsafe { bpf_xdp_store_bytes(self.context, self.place(offset), from.cast_mut(), length) }
    }

    #[inline(always)]
    fn as_ptr(&self) -> *mut c_void {
        self.context.cast()
    }
}

/// How many bytes are between two pointers into a packet: in one subtraction of 64 bits, which is all that the verifier allows,
/// where the compiler would do with 32.
#[inline(always)]
fn distance(from: usize, to: usize) -> usize {
    let mut distance = to;
    // SAFETY: one arithmetic instruction on the operands.
    unsafe { asm!("{0} -= {1}", inout(reg) distance, in(reg) from, options(nomem, nostack, pure)) };
    distance
}
