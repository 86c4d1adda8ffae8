//! Map `ROUTES`, and the next hop of what leaves: asked of the kernel's routing table before a packet is changed, and followed for a moment.

use core::mem::{self, MaybeUninit, size_of};

use aya_ebpf::bindings::bpf_fib_lookup as FibLookup;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use mesh_common::maps;
use mesh_common::net::{Address, Mac};
use mesh_common::outcome::Outcome;
use mesh_common::route::{self, RememberedRoute};

use crate::hook::Hook;
use crate::packet::{Packet, rewrite};
use crate::tables::node;
use crate::verdict::{LEAVE_TO_TC, Redirect};
use crate::verifier;

/// The kernel's answer takes longer than all else that is done for a packet of an established flow.
#[map]
static ROUTES: PerCpuArray<RememberedRoute> = PerCpuArray::with_max_entries(maps::ROUTES, 0);

/// From linux/bpf.h: the lookup found an interface and the neighbour's hardware address.
const SUCCESS: i64 = 0;
/// From linux/bpf.h: the lookup found an interface; the neighbour has yet to be asked for its hardware address.
const NO_NEIGHBOUR: i64 = 7;
const AF_INET: u8 = 2;

/// The interface, and the neighbour behind it, that packets to an address go to.
#[derive(Clone, Copy)]
pub(crate) struct NextHop {
    /// With [`UNCONFIRMED`] where the kernel has to send there itself, for once.
    interface: u32,
    /// Destination and source as they stand in a frame; `None` where the kernel has to resolve the neighbour.
    macs: Option<[u32; 3]>,
}

/// More than an interface's number, in the same word: the stack has no room for another.
const UNCONFIRMED: u32 = 1 << 31;

impl NextHop {
    /// The next hop of a packet from `source` to `destination`, which came in by `incoming`, by the node's routes, as they are or
    /// were a moment ago; out of `otherwise` where they say nothing, as when forwarding is off on that interface.
    #[inline(always)]
    pub(crate) fn find<H: Hook>(
        frame: &H,
        packet: &Packet,
        incoming: u32,
        source: Address,
        destination: Address,
        otherwise: u32,
    ) -> Self {
        Self::known(frame, packet.now, incoming, source, destination).unwrap_or(Self::unresolved(otherwise))
    }

    /// The next hop from `source` to `destination`, likewise. `None` where the routes say nothing, and if the destination is the node
    /// itself.
    #[inline(always)]
    pub(crate) fn known<H: Hook>(
        frame: &H,
        now: u64,
        incoming: u32,
        source: Address,
        destination: Address,
    ) -> Option<Self> {
        let known = place_of(destination)?;
        if !known.answers(incoming, source, destination, now) {
            // It answers no question until the kernel has.
            (known.asked, known.incoming) = (0, incoming);
            let answer = ask(frame, source, destination, now, known);
            if answer != REMEMBERED {
                return if answer == 0 { None } else { Some(Self::unresolved(answer as u32)) };
            }
        }
        let is_confirmed = !route::is_to_be_confirmed(known.confirmed, now);
        // What XDP does not send, TC has next.
        if !is_confirmed && !H::IS_XDP {
            known.confirmed = route::ticks(now);
        }
        let interface = if is_confirmed { known.interface } else { known.interface | UNCONFIRMED };
        Some(Self { interface, macs: Some(known.macs) })
    }

    #[inline(always)]
    fn unresolved(interface: u32) -> Self {
        Self { interface, macs: None }
    }

    /// The next hop at XDP from this node to another one.
    #[inline(always)]
    pub(crate) fn to_node<H: Hook>(
        frame: &H,
        packet: &Packet,
        this: Address,
        other: Address,
        uplink: u32,
    ) -> Result<Self, Outcome> {
        let next_hop = Self::find(frame, packet, frame.interface(), this, other, uplink);
        if next_hop.is_open(frame) { Ok(next_hop) } else { Err(LEAVE_TO_TC) }
    }

    /// The interface that it goes out of.
    #[inline(always)]
    pub(crate) fn interface(&self) -> u32 {
        self.interface & !UNCONFIRMED
    }

    #[inline(always)]
    fn is_confirmed(&self) -> bool {
        self.interface & UNCONFIRMED == 0
    }

    /// Whether the hook can send a packet there with the hardware addresses that are known.
    #[inline(always)]
    fn is_open<H: Hook>(&self, frame: &H) -> bool {
        self.macs.is_some()
            && (!H::IS_XDP
                || self.is_confirmed()
                    && (self.interface == frame.interface() || node::takes_frames(self.interface)))
    }

    /// Sends the packet there. If the kernel is to do it, it fills in the hardware addresses.
    #[inline(always)]
    pub(crate) fn take<H: Hook>(&self, frame: &H) -> Redirect {
        match self.macs {
            Some(macs)
                if !H::IS_L3
                    && self.is_open(frame)
                    && rewrite::set_both_macs(frame, macs).is_ok()
                    && self.is_confirmed() =>
            {
                Redirect::Interface(self.interface)
            }
            _ => Redirect::Neighbour(self.interface()),
        }
    }

    /// Lets the packet come in from there. It is unchanged if the kernel does not know the neighbour.
    #[inline(always)]
    pub(crate) fn come_from<H: Hook>(&self, frame: &H) -> Redirect {
        match self.macs {
            Some(macs)
                if rewrite::set_both_macs(frame, macs).is_ok() && rewrite::swap_macs(frame).is_ok() =>
            {
                Redirect::Ingress(self.interface())
            }
            _ => Redirect::None,
        }
    }
}

/// Where the way to an address is remembered.
#[inline(always)]
fn place_of(destination: Address) -> Option<&'static mut RememberedRoute> {
    let known = ROUTES.get_ptr_mut(route::place(destination, maps::ROUTE_BITS))?;
    // SAFETY: an aligned value of this CPU's own; whoever interrupts this program does not run it.
    Some(unsafe { &mut *known })
}

/// The way from `source` to `destination` of what came in here, if it is remembered, and the hook can send by it.
#[inline(always)]
pub(crate) fn remembered<H: Hook>(
    frame: &H,
    now: u64,
    source: Address,
    destination: Address,
) -> Option<&'static RememberedRoute> {
    let known = place_of(destination)?;
    let interface = frame.interface();
    let is_open = known.answers(interface, source, destination, now)
        && !route::is_to_be_confirmed(known.confirmed, now)
        && (!H::IS_XDP || known.interface == interface || node::takes_frames(known.interface));
    if is_open { Some(known) } else { None }
}

/// Sends the packet that way.
#[inline(always)]
pub(crate) fn follow_remembered<H: Hook>(frame: &H, known: &RememberedRoute) -> Result<Redirect, Outcome> {
    rewrite::set_both_macs(frame, known.macs)?;
    Ok(Redirect::Interface(known.interface))
}

/// [`NextHop::find`] and [`NextHop::take`] at TC, where both would take more of the caller's stack than Linux 6.1 gives, for a
/// packet that came in by `incoming`; out of `otherwise` where the routes say nothing. Of a packet that leaves by an uplink
/// already the kernel finds the next hop again.
#[inline(always)]
pub(crate) fn follow<H: Hook>(
    frame: &H,
    packet: &Packet,
    incoming: u32,
    [source, destination]: [Address; 2],
    otherwise: u32,
) -> Redirect {
    if frame.is_leaving() {
        return Redirect::Neighbour(otherwise);
    }
    let redirect = follow_apart(frame, packet.now, incoming, source, destination);
    match redirect as u32 {
        0 => Redirect::Neighbour(otherwise),
        interface if redirect & REMEMBERED != 0 => Redirect::Interface(interface),
        interface => Redirect::Neighbour(interface),
    }
}

/// The interface to send by, or 0; with [`REMEMBERED`] if the packet has its hardware addresses.
#[inline(never)]
fn follow_apart<H: Hook>(frame: &H, now: u64, incoming: u32, source: Address, destination: Address) -> u64 {
    let Some(next_hop) = NextHop::known(frame, now, incoming, source, destination) else { return 0 };
    let has_addresses = matches!(next_hop.take(frame), Redirect::Interface(_));
    u64::from(next_hop.interface()) | if has_addresses { REMEMBERED } else { 0 }
}

/// More than an interface's number.
const REMEMBERED: u64 = 1 << 32;

/// Asks the kernel about what comes in by the interface in `known`. What can be followed without it is put into `known`, and
/// [`REMEMBERED`]; else this is the interface that the kernel has to send by, or 0.
#[inline(never)]
fn ask<H: Hook>(
    frame: &H,
    source: Address,
    destination: Address,
    now: u64,
    known: &mut RememberedRoute,
) -> u64 {
    const SIZE: u16 = size_of::<FibLookup>() as u16;

    let mut lookup = MaybeUninit::uninit();
    // SAFETY: this is a struct of integers.
    let lookup: &mut FibLookup = unsafe { verifier::zeroed(&mut lookup) };
    lookup.family = AF_INET;
    lookup.ifindex = known.incoming;
    lookup.__bindgen_anon_3.ipv4_src = source.wire();
    lookup.__bindgen_anon_4.ipv4_dst = destination.wire();
    // SAFETY: the context is the one this program was called with, and the size is the struct's.
    let result = unsafe { bpf_fib_lookup(frame.as_ptr(), lookup, i32::from(SIZE), 0) };
    match result {
        SUCCESS => {
            let macs = in_frame(lookup.dmac, lookup.smac);
            // Clients behind one router share it.
            let is_same = known.interface == lookup.ifindex && known.macs == macs;
            *known = RememberedRoute {
                asked: now,
                incoming: known.incoming,
                source,
                destination,
                interface: lookup.ifindex,
                macs,
                confirmed: if is_same { known.confirmed } else { route::ticks(now) },
            };
            REMEMBERED
        }
        NO_NEIGHBOUR => u64::from(lookup.ifindex),
        _ => 0,
    }
}

#[inline(always)]
fn in_frame(destination: Mac, source: Mac) -> [u32; 3] {
    // SAFETY: both are 12 bytes of integers.
    unsafe { mem::transmute::<[Mac; 2], [u32; 3]>([destination, source]) }
}
