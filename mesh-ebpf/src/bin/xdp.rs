//! The dataplane at XDP: what can be done with a packet before the kernel has made anything of it.
//!
//! The steps are those of TC. What XDP cannot do it leaves to TC ([`LEAVE_TO_TC`]), by passing the packet on as it came. That is not
//! counted, because TC will count it: so every packet is counted once.
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

use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use mesh_common::net::Mac;
use mesh_common::outcome::Outcome;
use mesh_common::tunnel::flags::{PROBE, REPLY};

use mesh_ebpf::entry::{established, reject, reply, request};
use mesh_ebpf::hook::Hook;
use mesh_ebpf::hook::xdp::XdpBuff;
use mesh_ebpf::packet::{self, Packet};
use mesh_ebpf::tables::{counters, frontends, node};
use mesh_ebpf::tunnel;
use mesh_ebpf::verdict::{LEAVE_TO_TC, Next, PackedNext, PackedVerdict, Redirect};

#[xdp]
pub(crate) fn uplink_xdp(context: XdpContext) -> u32 {
    let frame = XdpBuff::new(&context);
    let Some(seen) = packet::peek(&frame) else { return XDP_PASS };
    // All that most packets cost.
    if !frontends::is_published(seen.protocol, seen.port) || !is_for_host(&frame) {
        return XDP_PASS;
    }
    match quickly(&frame, &seen).done() {
        Some(verdict) => act(&frame, verdict.outcome(), verdict.redirect()),
        None => run(&frame),
    }
}

/// The short way of most packets.
#[inline(always)]
fn quickly(frame: &XdpBuff, seen: &packet::Seen) -> PackedNext {
    if packet::begins_or_ends(frame, seen) {
        Next::GoOn.into()
    } else if node::settings().is_some_and(|settings| settings.tunnel_port == seen.port) {
        established::answer(frame)
    } else {
        established::request(frame)
    }
}

/// Of another machine's frames, which a switch floods or an interface hears that hears all, TC knows.
#[inline(always)]
fn is_for_host(frame: &XdpBuff) -> bool {
    let destination = frame.read::<Mac>(0);
    node::settings().zip(destination).is_some_and(|(settings, destination)| settings.is_own_mac(destination))
}

/// Reads the packet, lets the steps decide, and does what they say.
#[inline(always)]
fn run(frame: &XdpBuff) -> u32 {
    let mut packet = MaybeUninit::uninit();
    let packet = Packet::unread(&mut packet);
    if packet.read(frame).is_err() {
        return XDP_PASS;
    }
    let verdict = on_uplink(frame, packet);
    if let Redirect::Back(rejection) = verdict.redirect() {
        return match reject::write(frame, packet, rejection.into()) {
            Ok(()) => act(frame, verdict.outcome(), frame.back()),
            Err(outcome) => act(frame, outcome, Redirect::None),
        };
    }
    act(frame, verdict.outcome(), verdict.redirect())
}

#[inline(always)]
fn on_uplink(frame: &XdpBuff, packet: &mut Packet) -> PackedVerdict {
    let Some(settings) = node::settings() else { return LEAVE_TO_TC.into() };
    if !tunnel::is_tunnelled(packet, settings) {
        return request::handle(frame, packet, settings);
    }
    if tunnel::flags(frame) & (REPLY | PROBE) == 0 {
        return LEAVE_TO_TC.into();
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
fn act(frame: &XdpBuff, outcome: Outcome, redirect: Redirect) -> u32 {
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
fn send(frame: &XdpBuff, interface: u32) -> u32 {
    if interface == frame.interface() {
        return XDP_TX;
    }
    // SAFETY: two numbers; what becomes of the packet is the verdict's.
    unsafe { bpf_redirect(interface, 0).cast_unsigned() as u32 }
}

include!("program.inc");
