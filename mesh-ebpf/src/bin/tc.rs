//! The dataplane at TC and at sockets: the hooks, and the only place that turns an [`Outcome`] into what the kernel does with a
//! packet. For XDP that is `xdp.rs`.
//!
//! | hook | where | steps |
//! |---|---|---|
//! | `uplink_in` | TC ingress of every uplink | published port, and answers out of the tunnel → [`entry`]; requests out of the tunnel → [`home`] |
//! | `uplink_out` | TC egress of every uplink | packets of the node's own sockets → [`host`]; refused ones → [`entry`]; nobody else's tunnel packets |
//! | `uplink_in_l3`, `uplink_out_l3` | the same of uplinks without Ethernet, as WireGuard's | the same |
//! | `uplink_port_in` | TC ingress of the ports of an uplink that is a bridge | what may be served → that bridge ([`entry::bridged`]) |
//! | `bridge_in` | TC ingress of `docker_gwbridge` and its ports | a task's answer or ICMP error → [`home`]; its question → [`names`] |
//! | `overlay_in` | TC ingress of a task's port in an overlay's namespace, behind `network_in` (`bin/network.rs`) | its calls of virtual addresses → [`vip`] |
//! | `overlay_out` | TC egress of the same port | answers to them → [`vip`] |
//! | `connect4` … `getpeername6` | root cgroup | sockets of the node's own processes → [`host`]; of tasks, to Docker's resolver → [`names`] |
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the macros hand their context over by value")]

use core::mem::MaybeUninit;
use core::ptr;

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::macros::{cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SockAddrContext, TcContext};
use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;
use mesh_common::tunnel::flags::{PROBE, REPLY};

use mesh_ebpf::hook::Hook;
use mesh_ebpf::hook::skb::{Direction, L2, L3, LinkLayer, Skb};
use mesh_ebpf::host::socket;
use mesh_ebpf::names::resolver;
use mesh_ebpf::packet::Packet;
use mesh_ebpf::tables::{counters, fragments, frontends, node, outgoing, replies};
use mesh_ebpf::verdict::{Next, PackedNext, PackedVerdict, Redirect};
use mesh_ebpf::{entry, home, host, mark, names, packet, split, tunnel, vip};

#[classifier]
pub(crate) fn uplink_in(context: TcContext) -> i32 {
    enter_by_uplink(&Skb::<L2>::new(&context, Direction::Ingress))
}

#[classifier]
pub(crate) fn uplink_out(context: TcContext) -> i32 {
    leave_by_uplink(&Skb::<L2>::new(&context, Direction::Egress))
}

#[classifier]
pub(crate) fn uplink_in_l3(context: TcContext) -> i32 {
    enter_by_uplink(&Skb::<L3>::new(&context, Direction::Ingress))
}

#[classifier]
pub(crate) fn uplink_out_l3(context: TcContext) -> i32 {
    leave_by_uplink(&Skb::<L3>::new(&context, Direction::Egress))
}

/// Nothing is counted: the bridge's own hook says how a packet ended.
#[classifier]
pub(crate) fn uplink_port_in(context: TcContext) -> i32 {
    let frame = Skb::<L2>::new(&context, Direction::Ingress);
    entry::bridged::uplink_of(&frame).map_or(TC_ACT_UNSPEC, |bridge| leave(&frame, Redirect::Ingress(bridge)))
}

#[classifier]
pub(crate) fn bridge_in(context: TcContext) -> i32 {
    run_if(&Skb::<L2>::new(&context, Direction::Ingress), may_be_answer, answer_quickly, on_bridge_in)
}

#[classifier]
pub(crate) fn overlay_in(context: TcContext) -> i32 {
    let Some(tag) = vip::tag(&context) else { return untagged(&context) };
    let frame = Skb::of_network(&context, Direction::Ingress, tag.network);
    if let Ok(verdict) = vip::arp::resolve(&frame, tag.balancer) {
        return act(&frame, verdict.outcome, verdict.redirect);
    }
    run_or(&frame, vip::established::call, on_overlay_in)
}

#[classifier]
pub(crate) fn overlay_out(context: TcContext) -> i32 {
    let Some(tag) = vip::tag(&context) else { return untagged(&context) };
    let frame = Skb::of_network(&context, Direction::Egress, tag.network);
    run_or(&frame, vip::established::answer, |frame, packet| vip::reply::to_caller(frame, packet))
}

/// A packet of an overlay that nothing has said the number of.
#[inline(always)]
fn untagged(context: &TcContext) -> i32 {
    act(&Skb::<L2>::new(context, Direction::Ingress), Outcome::NotOurs, Redirect::None)
}

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(context: SockAddrContext) -> i32 {
    if resolver::redirect(&context) { socket::ALLOW } else { socket::connect(&context, false) }
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(context: SockAddrContext) -> i32 {
    socket::connect(&context, true)
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(context: SockAddrContext) -> i32 {
    if resolver::redirect(&context) { socket::ALLOW } else { socket::send(&context) }
}

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(context: SockAddrContext) -> i32 {
    if resolver::restore(&context) { socket::ALLOW } else { socket::restore(&context, false) }
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(context: SockAddrContext) -> i32 {
    socket::restore(&context, true)
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(context: SockAddrContext) -> i32 {
    if resolver::restore(&context) { socket::ALLOW } else { socket::restore(&context, false) }
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(context: SockAddrContext) -> i32 {
    socket::restore(&context, true)
}

#[inline(always)]
fn leave_by_uplink<L: LinkLayer>(frame: &Skb<L>) -> i32 {
    // Most of what was received has just been sent on by `uplink_in` or `bridge_in`.
    if mark::is_ours(frame) || frame.origin() != 0 && !concerns_us(frame) {
        return act(frame, Outcome::NotOurs, Redirect::None);
    }
    on_uplink(frame, |_, _| Next::GoOn.into(), on_uplink_out)
}

#[inline(always)]
fn enter_by_uplink<L: LinkLayer>(frame: &Skb<L>) -> i32 {
    on_uplink(frame, quickly, on_uplink_in)
}

/// The short way of most packets.
#[inline(always)]
fn quickly<L: LinkLayer>(frame: &Skb<L>, seen: &packet::Seen) -> PackedNext {
    let is_tunnels = node::settings().is_none_or(|settings| settings.tunnel_port == seen.port);
    if !is_tunnels && !packet::begins_or_ends(frame, seen) && frame.is_for_host() && split::is_whole(frame) {
        entry::established::request(frame)
    } else {
        Next::GoOn.into()
    }
}

#[inline(always)]
fn on_uplink_in<L: LinkLayer>(frame: &Skb<L>, packet: &mut Packet) -> PackedVerdict {
    if !frame.is_for_host() {
        return Outcome::NotOurs.into();
    }
    let Some(settings) = node::settings() else { return Outcome::NotOurs.into() };
    if packet.protocol == protocol::ICMP {
        return entry::icmp::from_client(frame, packet, settings);
    }
    if !frontends::is_published(packet.protocol, packet.destination_port) {
        return Outcome::NotOurs.into();
    }
    if !tunnel::is_tunnelled(packet, settings) {
        return entry::request::handle(frame, packet, settings);
    }
    let mut arrival = MaybeUninit::uninit();
    let arrival = match tunnel::open(frame, packet, settings, &mut arrival) {
        // SAFETY: it has been written.
        Ok(()) => unsafe { arrival.assume_init_ref() },
        Err(outcome) => return outcome.into(),
    };
    if arrival.address.flags & PROBE != 0 {
        return tunnel::answer_probe(frame, packet, settings);
    }
    if arrival.address.flags & REPLY != 0 {
        if packet.protocol == protocol::ICMP
            && let Some(verdict) = entry::icmp::from_home(frame, packet, arrival).done()
        {
            return verdict;
        }
        entry::reply::from_tunnel(frame, packet, arrival)
    } else if packet.protocol == protocol::ICMP {
        home::icmp::to_task(frame, packet, settings, arrival)
    } else {
        home::request::from_tunnel(frame, packet, settings, arrival)
    }
}

#[inline(always)]
fn on_uplink_out<L: LinkLayer>(frame: &Skb<L>, packet: &mut Packet) -> PackedVerdict {
    let Some(settings) = node::settings() else { return Outcome::NotOurs.into() };
    if tunnel::is_tunnelled(packet, settings) && host::guard::stops_leaving(frame, packet, settings) {
        return Outcome::ForgedTunnel.into();
    }
    if frame.origin() != 0
        || !frontends::is_published(packet.protocol, packet.destination_port)
        || tunnel::is_tunnelled(packet, settings)
    {
        return Outcome::NotOurs.into();
    }
    if entry::request::is_refused_to_node(packet) {
        return entry::request::handle(frame, packet, settings);
    }
    host::leaving::from_socket(frame, packet, settings)
}

/// Whether what was received and leaves, not sent on by these programs, may be for a tunnel. Of what a container behind the
/// node's address begins from a published port note is taken.
#[inline(always)]
fn concerns_us<H: Hook>(frame: &H) -> bool {
    let Some(seen) = packet::peek_in_kernel(frame) else { return false };
    if outgoing::may_begin(frame, &seen) {
        outgoing::note(frame);
    }
    host::guard::may_stop(&seen)
}

/// The short way of most packets of tasks.
#[inline(always)]
fn answer_quickly(frame: &Skb, seen: &packet::Seen) -> PackedNext {
    if packet::begins_or_ends(frame, seen) || !split::is_whole(frame) {
        Next::GoOn.into()
    } else {
        home::established::answer(frame)
    }
}

/// Whether a container's packet may be an answer, or is for a port that is looked after: another node's tunnel, or the resolver.
#[inline(always)]
fn may_be_answer(seen: &packet::Seen) -> bool {
    let is_looked_after = || {
        node::settings()
            .is_none_or(|settings| seen.port == settings.tunnel_port || seen.port == settings.resolver_port)
    };
    replies::may_answer(seen.protocol, seen.source_port)
        || seen.protocol == protocol::UDP && is_looked_after()
}

#[inline(always)]
fn on_bridge_in(frame: &Skb, packet: &mut Packet) -> PackedVerdict {
    let Some(settings) = node::settings() else { return Outcome::NotOurs.into() };
    if packet.protocol == protocol::ICMP {
        if let Some(verdict) = home::icmp::refused_here(frame, packet).done() {
            return verdict;
        }
        return home::icmp::from_task(frame, packet, settings);
    }
    if host::guard::stops_container(frame, packet, settings) {
        return Outcome::ForgedTunnel.into();
    }
    if names::cache::is_question(packet, settings) {
        return names::cache::answer(frame, packet);
    }
    let mut reply = MaybeUninit::uninit();
    let reply = replies::empty(&mut reply);
    if let Some(verdict) = home::reply::hear(frame, packet, settings, reply).done() {
        return verdict;
    }
    home::reply::send(frame, packet, settings, reply)
}

#[inline(always)]
fn on_overlay_in(frame: &Skb, packet: &mut Packet) -> PackedVerdict {
    if let Some(verdict) = vip::call::from_caller(frame, packet).done() {
        return verdict;
    }
    let choice = vip::call::assign(frame, packet);
    vip::call::serve(frame, packet, choice)
}

/// As [`run`], which most of what passes an uplink is spared: it has to do with nothing that is published.
#[inline(always)]
fn on_uplink<L: LinkLayer>(
    frame: &Skb<L>,
    quickly: impl Fn(&Skb<L>, &packet::Seen) -> PackedNext,
    steps: impl Fn(&Skb<L>, &mut Packet) -> PackedVerdict,
) -> i32 {
    run_if(frame, |seen| frontends::is_published(seen.protocol, seen.port), quickly, steps)
}

/// As [`run`], for packets that a first look finds to be anybody's here.
#[inline(always)]
fn run_if<L: LinkLayer>(
    frame: &Skb<L>,
    may_be_ours: impl Fn(&packet::Seen) -> bool,
    quickly: impl Fn(&Skb<L>, &packet::Seen) -> PackedNext,
    steps: impl Fn(&Skb<L>, &mut Packet) -> PackedVerdict,
) -> i32 {
    let quickly = |frame: &Skb<L>| match packet::peek(frame) {
        Some(seen) if seen.is_complete(frame) && !may_be_ours(&seen) => Outcome::NotOurs.into(),
        Some(seen) => quickly(frame, &seen),
        None => Next::GoOn.into(),
    };
    run_or(frame, quickly, steps)
}

/// As [`run`], for what the short way leaves to it. A program has `run` in it once: of two copies the verifier has twice as much to
/// look at, which is more than it takes.
#[inline(always)]
fn run_or<L: LinkLayer>(
    frame: &Skb<L>,
    quickly: impl Fn(&Skb<L>) -> PackedNext,
    steps: impl Fn(&Skb<L>, &mut Packet) -> PackedVerdict,
) -> i32 {
    match quickly(frame).done() {
        Some(verdict) => act(frame, verdict.outcome(), verdict.redirect()),
        None => run(frame, steps),
    }
}

/// Reads the packet, lets the hook's steps decide, and does what they say.
#[inline(always)]
fn run<L: LinkLayer>(frame: &Skb<L>, steps: impl Fn(&Skb<L>, &mut Packet) -> PackedVerdict) -> i32 {
    if frame.is_of_vlan() {
        return act(frame, Outcome::NotOurs, Redirect::None);
    }
    let mut packet = MaybeUninit::uninit();
    let packet = Packet::unread(&mut packet);
    if let Err(outcome) = packet.read(frame) {
        return act(frame, outcome, Redirect::None);
    }
    if let Some(blocks) = split::is_copy(frame)
        && let Err(outcome) = split::lose_first_part(frame, packet, blocks)
    {
        return act(frame, outcome, Redirect::None);
    }
    if !fragments::complete(packet) {
        return act(frame, Outcome::UnknownFragment, Redirect::None);
    }
    let verdict = steps(frame, packet);
    if let Redirect::Back(rejection) = verdict.redirect() {
        return match entry::reject::write(frame, packet, rejection.into()) {
            Ok(()) => act(frame, verdict.outcome(), frame.back()),
            Err(outcome) => act(frame, outcome, Redirect::None),
        };
    }
    act(frame, verdict.outcome(), verdict.redirect())
}

/// The only place that turns an outcome into a kernel verdict.
#[inline(always)]
fn act<H: Hook>(frame: &H, outcome: Outcome, redirect: Redirect) -> i32 {
    counters::count(outcome);
    match outcome {
        // The next program, if there is one, then the kernel.
        Outcome::NotOurs
        | Outcome::Malformed
        | Outcome::UnknownFragment
        | Outcome::RepliedToNode
        | Outcome::VipToTask
        | Outcome::VipReplied
        | Outcome::VipError => TC_ACT_UNSPEC,

        Outcome::Delivered
        | Outcome::Tunnelled
        | Outcome::DeliveredFromTunnel
        | Outcome::Replied
        | Outcome::ReplyTunnelled
        | Outcome::RepliedFromTunnel
        | Outcome::RefusedWithReset
        | Outcome::RefusedUnreachable
        | Outcome::TooBig
        | Outcome::HopLimit
        | Outcome::TunnelledFromNode
        | Outcome::ErrorToTask
        | Outcome::ErrorToClient
        | Outcome::VipToSelf
        | Outcome::VipResolved
        | Outcome::VipPinged
        | Outcome::Probed
        | Outcome::RefusalReplayed
        | Outcome::NameAnswered => leave(frame, redirect),

        Outcome::UnknownPeer
        | Outcome::UnknownTask
        | Outcome::NoRoute
        | Outcome::NotChangeable
        | Outcome::NoFreePort
        | Outcome::UnknownReset
        | Outcome::FlowTableFull
        | Outcome::NoBridge
        | Outcome::MalformedInside
        | Outcome::LostFragment
        | Outcome::UnknownFrontend
        | Outcome::TooBigDropped
        | Outcome::RefusedFragment
        | Outcome::RefusalSwallowed
        | Outcome::ForgedTunnel
        | Outcome::WrongUplink
        | Outcome::WrongSender
        | Outcome::UnknownAnswer
        | Outcome::Congested
        | Outcome::RejectionLimited
        | Outcome::ForgedSource
        | Outcome::WrongCookie
        // Of flows or sockets, not of packets.
        | Outcome::FlowUnprotected
        | Outcome::SynNotKept
        | Outcome::SocketToTask
        | Outcome::SocketToNode
        | Outcome::SocketRefused
        | Outcome::SocketToResolver
        | Outcome::ResolverSilent => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn leave<H: Hook>(frame: &H, redirect: Redirect) -> i32 {
    match redirect {
        // SAFETY: both helpers only note where the packet goes; an interface that is gone drops it.
        Redirect::Interface(interface) => unsafe { bpf_redirect(interface, 0) as i32 },
        // Where it goes to, packets may have an Ethernet header; what the kernel does not need there it takes off.
        Redirect::Neighbour(_) if H::IS_L3 && frame.prepend_ethernet([0; 6], [0; 6]).is_err() => TC_ACT_SHOT,
        // SAFETY: as above; without parameters the kernel looks up the neighbour itself.
        Redirect::Neighbour(interface) => unsafe {
            bpf_redirect_neigh(interface, ptr::null_mut(), 0, 0) as i32
        },
        // SAFETY: as above.
        Redirect::Ingress(interface) => unsafe { bpf_redirect(interface, u64::from(BPF_F_INGRESS)) as i32 },
        // SAFETY: as above.
        Redirect::Peer(interface) => unsafe { bpf_redirect_peer(interface, 0) as i32 },
        // An answer has become a packet by now.
        Redirect::None | Redirect::Back(_) => TC_ACT_SHOT,
    }
}

include!("program.inc");
