//! A packet at a hook: bounds-checked access to its bytes, and what the hook lets us do with it. Steps that both TC and XDP take
//! are written for a [`Hook`]; those that are TC's alone say [`skb::Skb`].

pub mod skb;
pub mod xdp;

use core::ffi::c_void;
use core::mem::size_of;

use mesh_common::checksum::Sum;
use mesh_common::net::{ETHERNET_HEADER, Mac, ethertype};
use mesh_common::outcome::Outcome;

use crate::packet::sum::{self, TransportChange};
use crate::verdict::Redirect;
use crate::verifier::{Even, some_of};

/// What TC and XDP can both do with a packet, each in its own manner. All offsets are counted from the Ethernet header, also
/// where there is none.
pub trait Hook {
    /// Whether the hook is XDP, which leaves what it cannot do to TC, unchanged ([`crate::verdict::LEAVE_TO_TC`]).
    const IS_XDP: bool;
    /// Whether packets have no Ethernet header there. What is at an offset before the IP header cannot be read then.
    const IS_L3: bool;

    /// The overlay network's number; 0 for what is on no overlay.
    fn network(&self) -> u32;

    /// Whether the packet is on its way out.
    fn is_leaving(&self) -> bool;

    /// The interface that the hook is on.
    fn interface(&self) -> u32;

    /// Where a packet goes that is sent back to where it came from: out again, or, on its way out, in.
    fn back(&self) -> Redirect;

    /// Bytes of the packet, counted as offsets are.
    fn size(&self) -> u32;

    /// Whether an IPv4 header comes behind the link layer's.
    #[inline(always)]
    fn is_ipv4(&self) -> bool {
        self.read::<u16>(ETHERNET_HEADER - 2) == Some(ethertype::IPV4.to_be())
    }

    /// The bytes at `offset`, if the packet has them where they can be read. Changing the packet's size or its checksums through
    /// this trait invalidates the pointer; the verifier sees to that.
    fn at<T>(&self, offset: usize) -> Option<*mut T>;

    /// Copies the bytes at `offset`.
    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` has checked that the packet holds the bytes, and every field that is read stands at an even address.
        self.at::<T>(offset).map(|pointer| unsafe { Even::read(pointer) })
    }

    /// Makes up to `bytes` of the packet's start readable and writable in place.
    fn make_linear(&self, bytes: u32);

    /// Brings a transport checksum in step with a change of the packet.
    fn update_transport(&self, change: &TransportChange) -> Result<(), Outcome>;

    /// Makes room for a tunnel header between the Ethernet and the IP header, so that an aggregate is still cut into packets of
    /// the same size. One that is `plain` is not marked as a tunnel's. At XDP the hardware addresses are yet to be set.
    fn grow_for_tunnel(&self, plain: bool) -> Result<(), Outcome>;

    /// Takes the tunnel header off. At XDP the Ethernet header is the inner one then.
    fn shrink_from_tunnel(&self) -> Result<(), Outcome>;

    /// Makes `bytes` of room between the Ethernet and the IP header, which stay what they are.
    fn grow(&self, bytes: u16) -> Result<(), Outcome>;

    /// Takes the `bytes` behind the Ethernet header away.
    fn shrink(&self, bytes: u16) -> Result<(), Outcome>;

    /// Puts an Ethernet header in front of a packet that has none, for an interface where packets have one. The packet cannot be
    /// read or changed any more after that.
    #[inline(always)]
    fn prepend_ethernet(&self, _destination: Mac, _source: Mac) -> Result<(), Outcome> {
        Err(Outcome::NotChangeable)
    }

    /// Cuts or pads the packet to `bytes`.
    fn resize(&self, bytes: u32) -> Result<(), Outcome>;

    /// Marks what these programs send for the guard at the uplinks. Nobody looks at what XDP sends.
    fn set_mark(&self, mark: u32);

    /// Copies the `length` bytes at `offset` to `to`; not 0 if the packet does not have them.
    ///
    /// # Safety
    /// There is room for as many bytes.
    unsafe fn load_bytes(&self, offset: usize, to: *mut c_void, length: u32) -> i64;

    /// Puts the `length` bytes at `from` at `offset`; not 0 if the packet does not have so many. Invalidates pointers into the packet.
    ///
    /// # Safety
    /// There are as many bytes.
    unsafe fn store_bytes(&self, offset: usize, from: *const c_void, length: u32) -> i64;

    /// The sum of the `length` bytes at `offset`, which are an IP header and 8 to 20 more: 28 to 80.
    #[inline(always)]
    fn sum(&self, offset: usize, length: usize) -> Result<Sum, Outcome> {
        // SAFETY: the buffer has room for as many bytes as are asked for.
        sum::sum(length, |buffer, length| unsafe { self.load_bytes(offset, buffer, length) })
    }

    /// Copies the `length` bytes at `offset` to the start of `integers`.
    #[inline(always)]
    fn load<T: Copy, const N: usize>(
        &self,
        offset: usize,
        integers: &mut [T; N],
        length: u32,
    ) -> Result<(), Outcome> {
        let length = some_of(length, size_of::<[T; N]>()).ok_or(Outcome::Malformed)?;
        // SAFETY: there is room for as many bytes as are asked for.
        let failed = unsafe { self.load_bytes(offset, integers.as_mut_ptr().cast(), length) } != 0;
        if failed { Err(Outcome::Malformed) } else { Ok(()) }
    }

    /// Puts the first `length` bytes of `integers` at `offset`. Invalidates pointers into the packet.
    #[inline(always)]
    fn store<T: Copy, const N: usize>(
        &self,
        offset: usize,
        integers: &[T; N],
        length: u32,
    ) -> Result<(), Outcome> {
        let length = some_of(length, size_of::<[T; N]>()).ok_or(Outcome::NotChangeable)?;
        // SAFETY: there are as many bytes.
        let failed = unsafe { self.store_bytes(offset, integers.as_ptr().cast(), length) } != 0;
        if failed { Err(Outcome::NotChangeable) } else { Ok(()) }
    }

    /// The context as helpers take it.
    fn as_ptr(&self) -> *mut c_void;
}
