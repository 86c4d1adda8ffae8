//! The dataplane at XDP: what can be done with a packet before the kernel has made anything of it.
//!
//! The steps are those of TC, compiled from the same files; `frame` and `split` beside this one are XDP's own. What XDP cannot do it leaves to
//! TC, by passing the packet on as it came: that is [`Outcome::NotOurs`] here, and it is not counted, because TC will count it.
//! So every packet is counted once.
//!
//! | at `uplink_xdp` | |
//! |---|---|
//! | published port | into the tunnel, or refused; to a task here: TC |
//! | tunnel | answers to their clients, probes to who asked; to a task here: TC |
//! | anything else | TC |
//!
//! Also TC's: fragments, IP options, VLAN tags, ICMP errors, refusals that the client shall not see, packets that have to be cut,
//! neighbours that are not resolved, and other interfaces whose drivers do not take what XDP sends.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the macros hand their context over by value")]
#![expect(dead_code, reason = "the steps are shared with TC, which needs more of them")]
#![expect(internal_features, reason = "a fetching atomic add has no stable name on this target")]
#![feature(asm_experimental_arch, core_intrinsics)]

#[path = "../clock.rs"]
mod clock;
#[path = "../entry/mod.rs"]
mod entry;
mod frame;
#[path = "../home/mod.rs"]
mod home;
#[path = "../next_hop.rs"]
mod next_hop;
#[path = "../packet/mod.rs"]
mod packet;
mod split;
#[path = "../tables"]
mod tables {
    pub(crate) mod connections;
    pub(crate) mod counters;
    pub(crate) mod flows;
    pub(crate) mod fragments;
    pub(crate) mod frontends;
    pub(crate) mod handover;
    pub(crate) mod node;
    pub(crate) mod replies;
    pub(crate) mod suspects;
}
#[path = "../tunnel.rs"]
mod tunnel;
#[path = "../verdict.rs"]
mod verdict;
#[path = "../verifier.rs"]
mod verifier;

use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use mesh_common::outcome::Outcome;
use mesh_common::tunnel::flags::{PROBE, REPLY};

use crate::entry::{reject, reply, request};
use crate::frame::Frame;
use crate::packet::Packet;
use crate::tables::{counters, frontends, node};
use crate::verdict::{PackedVerdict, Redirect};

#[xdp]
pub(crate) fn uplink_xdp(context: XdpContext) -> u32 {
    let frame = Frame::new(&context);
    if may_be_ours(&frame) { run(&frame) } else { XDP_PASS }
}

/// Whether it is a whole packet to a port that is published: all that most packets cost.
#[inline(always)]
fn may_be_ours(frame: &Frame) -> bool {
    packet::peek(frame).is_some_and(|seen| frontends::is_published(seen.protocol, seen.port))
}

/// Reads the packet, lets the steps decide, and does what they say.
#[inline(always)]
fn run(frame: &Frame) -> u32 {
    let mut packet = MaybeUninit::uninit();
    let packet = Packet::unread(&mut packet);
    if packet.read(frame).is_err() {
        return XDP_PASS;
    }
    let verdict = on_uplink(frame, packet);
    if let Redirect::Back(rejection) = verdict.redirect() {
        return match reject::write(frame, packet, rejection) {
            Ok(()) => act(frame, verdict.outcome(), frame.back()),
            Err(outcome) => act(frame, outcome, Redirect::None),
        };
    }
    act(frame, verdict.outcome(), verdict.redirect())
}

#[inline(always)]
fn on_uplink(frame: &Frame, packet: &mut Packet) -> PackedVerdict {
    let Some(settings) = node::settings() else { return Outcome::NotOurs.into() };
    if !tunnel::is_tunnelled(packet, settings) {
        return request::handle(frame, packet, settings);
    }
    if tunnel::flags(frame) & (REPLY | PROBE) == 0 {
        return Outcome::NotOurs.into();
    }
    let mut arrival = MaybeUninit::uninit();
    let arrival = match tunnel::open(frame, packet, settings, &mut arrival) {
        // SAFETY: it has been written.
        Ok(()) => unsafe { arrival.assume_init_ref() },
        Err(outcome) => return outcome.into(),
    };
    if arrival.address.flags & PROBE != 0 {
        tunnel::answer_probe(frame, packet, settings)
    } else {
        reply::from_tunnel(frame, packet, arrival)
    }
}

/// The only place that turns an outcome into XDP's verdict.
#[inline(always)]
fn act(frame: &Frame, outcome: Outcome, redirect: Redirect) -> u32 {
    let (outcome, verdict) = match redirect {
        Redirect::Interface(interface) if interface == frame.interface() || node::takes_frames(interface) => {
            match frame.settle() {
                Ok(()) => (outcome, send(frame, interface)),
                Err(failed) => (failed, XDP_DROP),
            }
        }
        Redirect::None if outcome.is_drop() => (outcome, XDP_DROP),
        // TC's, which counts it.
        Redirect::None
        | Redirect::Interface(_)
        | Redirect::Neighbour(_)
        | Redirect::Ingress(_)
        | Redirect::Peer(_)
        | Redirect::Back(_) => return XDP_PASS,
    };
    counters::count(outcome);
    verdict
}

#[inline(always)]
fn send(frame: &Frame, interface: u32) -> u32 {
    if interface == frame.interface() {
        return XDP_TX;
    }
    // SAFETY: two numbers; what becomes of the packet is the verdict's.
    unsafe { bpf_redirect(interface, 0).cast_unsigned() as u32 }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that the dataplane needs are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
