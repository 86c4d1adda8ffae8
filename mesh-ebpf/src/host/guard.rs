//! Who may send to other nodes' tunnels: these programs and the agent, nobody else. A node believes what comes from another one,
//! and has no other sign of where it comes from than an address, which masquerading gives to any container and any process here.
//! Map `AGENT_SOCKETS`.
//!
//! | who | stopped at |
//! |---|---|
//! | a container on docker_gwbridge | its port (`bridge_in`) |
//! | a process of the node | its socket, when it connects or sends |
//! | any other container, raw sockets, sockets that were connected before | the uplink (`uplink_out`), which knows these programs' packets by their mark |

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use mesh_common::maps;
use mesh_common::net::{Address, Port, protocol};
use mesh_common::settings::Settings;

use crate::hook::Hook;
use crate::hook::skb::{LinkLayer, Skb};
use crate::packet::{Packet, Seen};
use crate::tables::{handover, node};
use crate::tunnel;

#[map]
static AGENT_SOCKETS: HashMap<u64, u32> = HashMap::with_max_entries(maps::AGENT_SOCKETS, BPF_F_NO_PREALLOC);

/// Whether a call of a process is about another node's tunnel, and not the agent's.
#[inline(always)]
pub(crate) fn stops_call(protocol: u8, address: Address, port: Port, cookie: u64) -> bool {
    protocol == protocol::UDP
        && node::settings().is_some_and(|settings| settings.tunnel_port == port)
        && node::peer(address).is_some()
        && !is_agents(cookie)
}

/// Whether a packet of a container is for another node's tunnel.
#[inline(always)]
pub fn stops_container<H: Hook>(frame: &H, packet: &Packet, settings: &Settings) -> bool {
    tunnel::is_tunnelled(packet, settings) && is_for_peer(frame, packet, settings)
}

/// At an uplink, on the way out, of packets that are not ours ([`crate::mark`]): whether one that was received may be for a tunnel.
#[inline(always)]
pub fn may_stop(seen: &Seen) -> bool {
    seen.protocol == protocol::UDP
        && node::settings().is_some_and(|settings| settings.tunnel_port == seen.port)
}

/// At an uplink, on the way out, of packets that are for the tunnel's port and not ours: whether it must not leave. What
/// another node has sent is only routed here.
#[inline(never)]
pub fn stops_leaving<L: LinkLayer>(frame: &Skb<L>, packet: &Packet, settings: &Settings) -> bool {
    if !is_for_peer(frame, packet, settings) || !handover::are_on_all_hooks() {
        return false;
    }
    let origin = frame.origin();
    if origin == 0 {
        return !is_agents(frame.socket_cookie());
    }
    let is_routed =
        node::is_uplink(origin) && node::peer(packet.source).is_some_and(|peer| peer.may_come_by(origin));
    !is_routed
}

/// Whether another node would take the packet, which is for the tunnel's port.
#[inline(always)]
fn is_for_peer<H: Hook>(frame: &H, packet: &Packet, settings: &Settings) -> bool {
    node::peer(packet.destination).is_some() && tunnel::names_network(frame, settings)
}

#[inline(always)]
fn is_agents(cookie: u64) -> bool {
    AGENT_SOCKETS.get_ptr(cookie).is_some()
}
