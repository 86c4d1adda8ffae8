//! The tunnel between an entry node and a home node: putting packets in, and taking them out.

use core::mem::{MaybeUninit, size_of};

use mesh_common::backend::Backend;
use mesh_common::cookie::Cookie;
use mesh_common::net::{Address, ETHERNET_HEADER, IPV4_HEADER, Mac, UDP_HEADER, ethertype, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::select;
use mesh_common::settings::Settings;
use mesh_common::tcp::flag;
use mesh_common::tunnel::flags::{PROBE, PROBE_ANSWER, REPLY};
use mesh_common::tunnel::{
    MOST_PROBE_PAYLOAD, OVERHEAD, PROBE_KNOWN, PROBE_PAYLOAD, TunnelAddress, TunnelFields, TunnelHeader,
    VXLAN_FLAG_VNI, class_after, ecn, known,
};

use crate::hook::Hook;
use crate::mark;
use crate::next_hop::{self, NextHop};
use crate::packet::{Fragment, NETWORK, Packet, rewrite};
use crate::split::Split;
use crate::tables::{fragments, node};
use crate::verdict::{LEAVE_TO_TC, PackedVerdict, Redirect, Step};

/// Sends a client's packet to its backend's home node, unchanged inside.
#[inline(always)]
pub(crate) fn to_home<H: Hook>(
    frame: &H,
    packet: &Packet,
    settings: &Settings,
    backend: &Backend,
) -> Result<Redirect, Outcome> {
    let address = TunnelAddress { identity: backend.identity, port: backend.port, flags: 0 };
    send(frame, packet, settings, backend.node, backend.interface, address)
}

/// As [`to_home`]; at XDP without a call, and `None` where the way to the node has to be asked for.
#[inline(always)]
pub(crate) fn to_home_by_known_way<H: Hook>(
    frame: &H,
    packet: &Packet,
    settings: &Settings,
    backend: &Backend,
) -> Option<Result<Redirect, Outcome>> {
    if !H::IS_XDP {
        return Some(to_home(frame, packet, settings, backend));
    }
    let known = next_hop::remembered(frame, packet.now, settings.node, backend.node)?;
    let address = TunnelAddress { identity: backend.identity, port: backend.port, flags: 0 };
    let step = encapsulate(frame, packet, settings, backend.node, address);
    Some(step.and_then(|()| next_hop::follow_remembered(frame, known)))
}

/// Sends a packet to another node.
#[inline(always)]
pub(crate) fn send<H: Hook>(
    frame: &H,
    packet: &Packet,
    settings: &Settings,
    node: Address,
    uplink: u32,
    address: TunnelAddress,
) -> Result<Redirect, Outcome> {
    if H::IS_XDP {
        // What XDP cannot send has to be left to TC as it came.
        let next_hop = NextHop::to_node(frame, packet, settings.node, node, uplink)?;
        encapsulate(frame, packet, settings, node, address)?;
        return Ok(next_hop.take(frame));
    }
    encapsulate(frame, packet, settings, node, address)?;
    mark::tunnelled(frame);
    // What a task answers is routed from the bridge, by whichever of its ports it was heard.
    let incoming = if address.flags & REPLY != 0 { settings.bridge } else { frame.interface() };
    Ok(next_hop::follow(frame, packet, incoming, [settings.node, node], uplink))
}

/// The header is made when there is room for it, or it would lie on the stack meanwhile; and the cookie is written after it, or it
/// would lie there too: XDP's chain of calls has no room for either.
#[inline(always)]
fn encapsulate<H: Hook>(
    frame: &H,
    packet: &Packet,
    settings: &Settings,
    node: Address,
    address: TunnelAddress,
) -> Result<(), Outcome> {
    frame.grow_for_tunnel(is_refusal(packet))?;
    let header = TunnelHeader::new(&TunnelFields {
        source: settings.node,
        destination: node,
        port: settings.tunnel_port,
        vni: settings.vni,
        hash: select::hash(&packet.flow_from_client()),
        inner_length: packet.length,
        traffic_class: packet.traffic_class,
        address,
    });
    rewrite::write_tunnel(frame, header)?;
    let cookie = settings.cookies.sent;
    if cookie != Cookie::NONE {
        rewrite::write_vxlan(frame, TunnelHeader::vxlan(settings.vni, cookie))?;
    }
    Ok(())
}

/// The largest packet that the tunnel to a node carries, if this one is larger. Most are small enough for the tunnel to any node.
#[inline(always)]
pub(crate) fn exceeded<H: Split>(
    frame: &H,
    packet: &Packet,
    settings: &Settings,
    node: Address,
) -> Option<u16> {
    if packet.length <= settings.inner_mtu {
        return None;
    }
    let limit = node::inner_mtu(node, settings);
    frame.is_too_big(packet, limit).then_some(limit)
}

/// Whether this may be a refusal that the entry node makes a SYN again and sends into the tunnel once more: the kernel puts
/// nothing into a tunnel that is marked as having been in one, and between network namespaces of one machine the mark stays.
/// Refusals are whole packets with complete checksums (`tcp_v4_send_reset`, `icmp_send`): they can do without it.
#[inline(always)]
fn is_refusal(packet: &Packet) -> bool {
    packet.protocol == protocol::ICMP || packet.tcp_flags & flag::RST != 0 && packet.sequence == 0
}

/// Whether a packet to this node is for the tunnel.
#[inline(always)]
pub fn is_tunnelled(packet: &Packet, settings: &Settings) -> bool {
    packet.protocol == protocol::UDP
        && packet.destination_port == settings.tunnel_port
        && packet.fragment == Fragment::Whole
        && packet.transport() == NETWORK + IPV4_HEADER
}

/// Where the flags stand, counted from the Ethernet header.
const FLAGS: usize = NETWORK + OVERHEAD - 4;

/// The flags of a packet of the tunnel; none if it is too short for any.
#[inline(always)]
pub fn flags<H: Hook>(frame: &H) -> u16 {
    frame.read(FLAGS).map_or(0, u16::from_be)
}

/// Where the VXLAN header stands, counted from the Ethernet header.
const VXLAN: usize = NETWORK + IPV4_HEADER + UDP_HEADER;

/// Whether a packet for the tunnel's port is of the tunnel's network.
#[inline(always)]
pub(crate) fn names_network<H: Hook>(frame: &H, settings: &Settings) -> bool {
    frame.make_linear((VXLAN + size_of::<[[u8; 4]; 2]>()) as u32);
    frame.read::<[[u8; 4]; 2]>(VXLAN).is_some_and(|[flags, vni]| is_network(flags, vni, settings))
}

#[inline(always)]
fn is_network(vxlan_flags: [u8; 4], vni: [u8; 4], settings: &Settings) -> bool {
    let [vni @ .., _] = vni;
    vxlan_flags[0] & VXLAN_FLAG_VNI != 0
        && vni == [(settings.vni >> 16) as u8, (settings.vni >> 8) as u8, settings.vni as u8]
}

/// UDP, VXLAN and inner Ethernet headers. All fields in network byte order.
#[derive(Clone, Copy)]
#[repr(C)]
struct OuterTail {
    udp: [u16; 4],
    vxlan_flags: [u8; 4],
    vni: [u8; 4],
    destination: Mac,
    source: Mac,
    ethertype: u16,
}

/// What a packet that came out of the tunnel was addressed to, and by whom.
#[derive(Clone, Copy)]
pub struct Arrival {
    pub address: TunnelAddress,
    /// The node that sent it.
    pub(crate) sender: Address,
}

/// Takes a packet from another node out of the tunnel: `packet`, the outer one, becomes the inner one, and `arrival` says
/// what it was addressed to; it is written if this succeeds. A probe, which says so there, stays in the tunnel.
#[inline(always)]
pub fn open<H: Hook>(
    frame: &H,
    packet: &mut Packet,
    settings: &Settings,
    arrival: &mut MaybeUninit<Arrival>,
) -> Result<(), Outcome> {
    // As `Packet::read`.
    if H::IS_XDP {
        open_here(frame, packet, settings, arrival)
    } else {
        open_apart(frame, packet, settings, arrival)
    }
}

#[inline(never)]
fn open_apart<H: Hook>(
    frame: &H,
    packet: &mut Packet,
    settings: &Settings,
    arrival: &mut MaybeUninit<Arrival>,
) -> Result<(), Outcome> {
    open_here(frame, packet, settings, arrival)
}

#[inline(always)]
fn open_here<H: Hook>(
    frame: &H,
    packet: &mut Packet,
    settings: &Settings,
    arrival: &mut MaybeUninit<Arrival>,
) -> Result<(), Outcome> {
    arrival.write(try_open(frame, packet, settings)?);
    Ok(())
}

#[inline(always)]
fn try_open<H: Hook>(frame: &H, packet: &mut Packet, settings: &Settings) -> Result<Arrival, Outcome> {
    let arrival = check(frame, packet, settings)?;
    if arrival.address.flags & (PROBE | PROBE_ANSWER) != 0 {
        return Ok(arrival);
    }
    let outer_class = packet.traffic_class;
    frame.shrink_from_tunnel()?;
    // From here on the packet is not the node's any more: what cannot be used is dropped.
    packet.read(frame).map_err(|_| Outcome::MalformedInside)?;
    if !H::IS_XDP && (packet.traffic_class ^ outer_class) & ecn::MASK != 0 {
        take_mark(frame, packet, outer_class)?;
    }
    if !fragments::complete(packet) {
        return Err(Outcome::LostFragment);
    }
    fragments::remember(packet);
    Ok(arrival)
}

/// Who a packet from another node is for, while it is in the tunnel, if it may come that way.
#[inline(always)]
pub(crate) fn check<H: Hook>(frame: &H, packet: &Packet, settings: &Settings) -> Result<Arrival, Outcome> {
    if packet.destination != settings.node {
        return Err(Outcome::NotOurs);
    }
    if usize::from(packet.length) < OVERHEAD + PROBE_PAYLOAD {
        return Err(Outcome::Malformed);
    }
    frame.make_linear((ETHERNET_HEADER + OVERHEAD + IPV4_HEADER) as u32);
    let tail: OuterTail = frame.read(NETWORK + IPV4_HEADER).ok_or(Outcome::Malformed)?;
    if !is_network(tail.vxlan_flags, tail.vni, settings) || tail.ethertype != ethertype::IPV4.to_be() {
        return Err(Outcome::NotOurs);
    }
    let address = TunnelAddress::from_macs(tail.destination, tail.source).ok_or(Outcome::NotOurs)?;
    let sender = packet.source;
    let peer = node::peer(sender).ok_or(Outcome::UnknownPeer)?;
    if !peer.may_come_by(frame.interface()) {
        // To a driver below a bond, the uplink is another interface.
        return Err(if H::IS_XDP { LEAVE_TO_TC } else { Outcome::WrongUplink });
    }
    if peer.has_to_have_cookie() && !has_cookie(&tail, settings) {
        return Err(Outcome::WrongCookie);
    }
    if address.flags & (PROBE | PROBE_ANSWER) != 0 {
        let is_agents = is_agents_probe(packet, settings, address.flags);
        return if is_agents { Ok(Arrival { address, sender }) } else { Err(Outcome::ForgedTunnel) };
    }
    if usize::from(packet.length) < OVERHEAD + IPV4_HEADER {
        return Err(Outcome::Malformed);
    }
    // Rare, and nothing that XDP may leave to TC must be changed before.
    if H::IS_XDP && (inner_class(frame) ^ packet.traffic_class) & ecn::MASK != 0 {
        return Err(LEAVE_TO_TC);
    }
    Ok(Arrival { address, sender })
}

/// Whether a packet for the tunnel has one of the cluster's cookies.
#[inline(always)]
fn has_cookie(tail: &OuterTail, settings: &Settings) -> bool {
    let ([_, behind_flags @ ..], [.., behind_vni]) = (tail.vxlan_flags, tail.vni);
    settings.cookies.take(Cookie::from_wire(behind_flags, behind_vni))
}

/// The traffic class of the packet that is in the tunnel.
#[inline(always)]
fn inner_class<H: Hook>(frame: &H) -> u8 {
    frame.read::<[u8; 2]>(NETWORK + OVERHEAD).map_or(0, |[_, class]| class)
}

/// Passes the mark of congestion that a tunnel packet has got on its way on to what was in it.
#[inline(always)]
fn take_mark<H: Hook>(frame: &H, packet: &mut Packet, outer_class: u8) -> Result<(), Outcome> {
    let class = class_after(packet.traffic_class, outer_class).ok_or(Outcome::Congested)?;
    if class != packet.traffic_class {
        rewrite::set_traffic_class(frame, class)?;
        packet.traffic_class = class;
    }
    Ok(())
}

/// Whether an agent may have sent a probe. What none asks is not answered: an answer, which would be asked and answered for ever
/// where it came to a tunnel's port, and anything long.
#[inline(always)]
fn is_agents_probe(packet: &Packet, settings: &Settings, flags: u16) -> bool {
    flags & PROBE_ANSWER == 0
        && packet.source_port != settings.tunnel_port
        && usize::from(packet.length) <= OVERHEAD + MOST_PROBE_PAYLOAD
}

/// Turns a probe, which [`open`] has found to be one, into its answer. It leaves as all does that goes through the tunnel to the
/// node that asks: so that node knows by which uplink this one's packets come in.
#[inline(always)]
pub fn answer_probe<H: Hook>(frame: &H, packet: &Packet, settings: &Settings) -> PackedVerdict {
    // As `Packet::read`.
    if H::IS_XDP {
        try_answer_probe(frame, packet, settings).into()
    } else {
        answer_probe_apart(frame, packet, settings)
    }
}

#[inline(never)]
fn answer_probe_apart<H: Hook>(frame: &H, packet: &Packet, settings: &Settings) -> PackedVerdict {
    try_answer_probe(frame, packet, settings).into()
}

#[inline(always)]
fn try_answer_probe<H: Hook>(frame: &H, packet: &Packet, settings: &Settings) -> Step {
    let (this, other, uplink) = (settings.node, packet.source, frame.interface());
    if H::IS_XDP {
        let next_hop = NextHop::to_node(frame, packet, this, other, uplink)?;
        into_answer(frame, packet)?;
        return Ok((Outcome::Probed, next_hop.take(frame)).into());
    }
    into_answer(frame, packet)?;
    Ok((Outcome::Probed, next_hop::follow(frame, packet, uplink, [this, other], uplink)).into())
}

#[inline(always)]
fn into_answer<H: Hook>(frame: &H, packet: &Packet) -> Result<(), Outcome> {
    const KNOWN: usize = OVERHEAD + PROBE_KNOWN;

    if usize::from(packet.length) >= KNOWN + size_of::<u16>() {
        let [bits, _]: [u8; 2] = frame.read(NETWORK + KNOWN).ok_or(Outcome::Malformed)?;
        if bits & known::PROBE_ANSWER != 0 {
            rewrite::udp::set_word(frame, packet, FLAGS, flags(frame).to_be(), PROBE_ANSWER.to_be())?;
        }
    }
    rewrite::udp::swap(frame, packet)
}
