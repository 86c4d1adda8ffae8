//! ICMP errors about a flow: they quote the packet they are about, and only that says whose they are.

use core::mem::size_of;

use mesh_common::backend::{TaskKey, state};
use mesh_common::flow::FlowKey;
use mesh_common::net::{Address, ICMP_HEADER, Port, TCP_HEADER, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::reply::{Reply, ReplyKey};
use mesh_common::settings::Settings;
use mesh_common::tcp;
use mesh_common::tunnel::{self, TunnelAddress};

use crate::entry::replay::{self, Refusal};
use crate::frame::Frame;
use crate::home::delivery::Target;
use crate::home::reply;
use crate::next_hop::Route;
use crate::packet::rewrite::icmp::{QuotedChange, QuotedChecksum};
use crate::packet::rewrite::{self, Ends, Hop};
use crate::packet::{Fragment, Ipv4Header, NETWORK, Packet, TCP_CHECKSUM, ipv4};
use crate::tables::flows::{self, Known, Published};
use crate::tables::{frontends, replies};
use crate::tunnel::Arrival;
use crate::verdict::{Next, PackedNext, PackedVerdict, Step};

/// The packet that an ICMP error quotes: its first 8 bytes of transport header are all that can be counted on (RFC 792).
pub(crate) struct Quoted {
    network: usize,
    transport: usize,
    pub(crate) protocol: u8,
    /// Whether it is TCP and the checksum is there.
    tcp_checksum: bool,
    /// Whether it is TCP, and could not be delivered, now or ever (RFC 792, RFC 1122 §3.2.2.1, RFC 1812 §5.2.7.1).
    pub(crate) is_refused: bool,
    /// Of TCP, in host byte order.
    pub(crate) sequence: u32,
    pub(crate) ends: Ends,
}

impl Quoted {
    /// The kernel has whatever is no error, or quotes something that has no ports.
    #[inline(always)]
    pub(crate) fn read(frame: &Frame, packet: &Packet) -> Result<Self, Outcome> {
        const DESTINATION_UNREACHABLE: u8 = 3;
        const TIME_EXCEEDED: u8 = 11;
        const PARAMETER_PROBLEM: u8 = 12;
        /// Network, host, protocol, port; and by administration, network, host, communication.
        const REFUSES: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 10 | 1 << 13;

        if packet.fragment != Fragment::Whole {
            return Err(Outcome::NotOurs);
        }
        let network = packet.transport + ICMP_HEADER;
        frame.make_linear((network + 60 + TCP_HEADER) as u32);
        let [kind, code]: [u8; 2] = frame.read(packet.transport).ok_or(Outcome::Malformed)?;
        if !matches!(kind, DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM) {
            return Err(Outcome::NotOurs);
        }
        let header: Ipv4Header = frame.read(network).ok_or(Outcome::NotOurs)?;
        let transport = network + header.header_length().ok_or(Outcome::NotOurs)?;
        // A later fragment has no ports to be known by.
        let later = u16::from_be(header.fragment) & ipv4::FRAGMENT_OFFSET != 0;
        if later || !matches!(header.protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
            return Err(Outcome::NotOurs);
        }
        let ports: [u16; 4] = frame.read(transport).ok_or(Outcome::NotOurs)?;
        Ok(Self {
            network,
            transport,
            protocol: header.protocol,
            tcp_checksum: header.protocol == protocol::TCP
                && transport + TCP_CHECKSUM + size_of::<u16>() <= NETWORK + usize::from(packet.length),
            is_refused: header.protocol == protocol::TCP
                && kind == DESTINATION_UNREACHABLE
                && code < 32
                && REFUSES >> code & 1 != 0,
            sequence: u32::from(u16::from_be(ports[2])) << 16 | u32::from(u16::from_be(ports[3])),
            ends: Ends {
                source: Address::from_wire(header.source),
                destination: Address::from_wire(header.destination),
                source_port: Port::from_wire(ports[0]),
                destination_port: Port::from_wire(ports[1]),
            },
        })
    }

    #[inline(always)]
    pub(crate) fn change(&self, after: Ends) -> QuotedChange {
        QuotedChange {
            network: self.network,
            transport: self.transport,
            before: self.ends,
            after,
            checksum: match self.protocol {
                protocol::UDP => QuotedChecksum::Udp,
                _ if self.tcp_checksum => QuotedChecksum::Tcp,
                _ => QuotedChecksum::None,
            },
        }
    }
}

/// At the entry node: an error from the client's side about an answer of ours.
#[inline(never)]
pub(crate) fn from_client(frame: &Frame, packet: &Packet, settings: &Settings) -> PackedVerdict {
    try_from_client(frame, packet, settings).into()
}

/// At the home node: an error out of the tunnel about an answer of one of our tasks.
#[inline(never)]
pub(crate) fn to_task(
    frame: &Frame,
    packet: &Packet,
    settings: &Settings,
    arrival: &Arrival,
) -> PackedVerdict {
    try_to_task(frame, packet, settings, arrival.address).into()
}

/// At the home node: an error from a task about a client's packet.
#[inline(never)]
pub(crate) fn from_task(frame: &Frame, packet: &Packet, settings: &Settings) -> PackedVerdict {
    try_from_task(frame, packet, settings).into()
}

#[inline(always)]
fn try_from_client(frame: &Frame, packet: &Packet, settings: &Settings) -> Step {
    let quoted = Quoted::read(frame, packet)?;
    let ends = quoted.ends;
    if !frontends::is_published(quoted.protocol, ends.source_port) {
        return Err(Outcome::NotOurs);
    }
    let key = FlowKey {
        client: ends.destination,
        frontend: ends.source,
        client_port: ends.destination_port,
        frontend_port: ends.source_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    };
    let known = flows::recall::<Published>(&key).ok_or(Outcome::NotOurs)?;
    let flow = known.flow();
    let backend = frontends::backend(flow.backend).ok_or(Outcome::NotOurs)?;
    if backend.generation != flow.generation || backend.state == state::DOWN {
        return Err(Outcome::NotOurs);
    }
    if !backend.is_local() {
        let way = crate::tunnel::to_home(frame, packet, settings, backend)?;
        return Ok((Outcome::ErrorToTask, way).into());
    }
    deliver(frame, packet, settings, &quoted, &Target::of(backend))
}

#[inline(always)]
fn try_to_task(frame: &Frame, packet: &Packet, settings: &Settings, address: TunnelAddress) -> Step {
    let quoted = Quoted::read(frame, packet).map_err(|_| Outcome::MalformedInside)?;
    let key =
        TaskKey { identity: address.identity, port: address.port, protocol: quoted.protocol, padding: 0 };
    let task = frontends::task(&key).ok_or(Outcome::UnknownTask)?;
    let target = Target::of_task(&task, address.port);
    deliver(frame, packet, settings, &quoted, &target)
}

#[inline(always)]
fn try_from_task(frame: &Frame, packet: &Packet, settings: &Settings) -> Step {
    let quoted = Quoted::read(frame, packet)?;
    let ends = quoted.ends;
    let reply: Reply = *replies::recall(&answer_key(&quoted)).ok_or(Outcome::NotOurs)?.reply;
    if packet.source != ends.destination || packet.ttl <= 1 {
        return Err(Outcome::NotOurs);
    }
    let may_refuse = quoted.is_refused && tcp::may_refuse(reply.state, tcp::flag::RST);
    let straight = reply::goes_straight(&reply) && (reply.entry.is_unspecified() || !may_refuse);
    let route = Route::find(frame, packet, settings.bridge, reply.frontend, packet.destination, reply.uplink);
    let after = Ends {
        source: ends.source,
        destination: reply.frontend,
        source_port: reply.client_port,
        destination_port: reply.frontend_port,
    };
    rewrite::icmp::readdress_quoted(frame, packet, &quoted.change(after))?;
    rewrite::readdress_network(frame, packet, reply.frontend, packet.destination, Hop::Routed)?;
    let way = if straight {
        route.take(frame)
    } else {
        let address = TunnelAddress {
            identity: reply.identity,
            port: ends.destination_port,
            flags: tunnel::flags::REPLY,
        };
        crate::tunnel::send(frame, packet, settings, reply.entry, reply.uplink, address)?
    };
    Ok((Outcome::ErrorToClient, way).into())
}

/// At the entry node: an error out of the tunnel, from the side of a task. The next step is to send it on to the client, if
/// it is about a flow of that task.
#[inline(never)]
pub(crate) fn from_home(frame: &Frame, packet: &Packet, arrival: &Arrival) -> PackedNext {
    let Ok(quoted) = Quoted::read(frame, packet) else { return Outcome::UnknownAnswer.into() };
    let ends = quoted.ends;
    if packet.source != ends.destination || packet.destination != ends.source {
        return Outcome::UnknownAnswer.into();
    }
    let flow = FlowKey {
        client: ends.source,
        frontend: ends.destination,
        client_port: ends.source_port,
        frontend_port: ends.destination_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    };
    let known = flows::recall::<Published>(&flow);
    match known.and_then(|known| crate::tunnel::is_from_backend(known.flow(), arrival)) {
        Some(true) => {}
        Some(false) => return Outcome::WrongSender.into(),
        None if flows::are_taken_over() => return Next::GoOn.into(),
        None => return Outcome::UnknownAnswer.into(),
    }
    if !quoted.is_refused {
        return Next::GoOn.into();
    }
    refused(frame, &flow, quoted.sequence, arrival.address.identity, arrival.address.port)
}

/// At an entry node that is the home node too: an error from a task. The next step is to send it on to the client.
#[inline(never)]
pub(crate) fn refused_here(frame: &Frame, packet: &Packet) -> PackedNext {
    let Ok(quoted) = Quoted::read(frame, packet) else { return Next::GoOn.into() };
    if !quoted.is_refused || packet.source != quoted.ends.destination {
        return Next::GoOn.into();
    }
    let Some(known) = replies::recall(&answer_key(&quoted)) else { return Next::GoOn.into() };
    let reply = known.reply;
    if !reply.entry.is_unspecified() {
        return Next::GoOn.into();
    }
    let flow = FlowKey {
        client: quoted.ends.source,
        frontend: reply.frontend,
        client_port: reply.client_port,
        frontend_port: reply.frontend_port,
        protocol: protocol::TCP,
        padding: [0, 0, 0],
    };
    refused(frame, &flow, quoted.sequence, reply.identity, quoted.ends.destination_port)
}

/// The key of the conversation that a task's answers to the quoted packet belong to.
#[inline(always)]
fn answer_key(quoted: &Quoted) -> ReplyKey {
    ReplyKey {
        task: quoted.ends.destination,
        client: quoted.ends.source,
        task_port: quoted.ends.destination_port,
        client_port: quoted.ends.source_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    }
}

/// The packet says that the segment with this sequence number of a client's flow was refused.
#[inline(never)]
fn refused(frame: &Frame, flow: &FlowKey, sequence: u32, identity: Address, port: Port) -> PackedNext {
    match flows::recall::<Published>(flow) {
        Some(Known::Opening(opening)) if Refusal::Unreachable(sequence).answers(opening) => {
            replay::take(frame, opening, &flows::offer(flow, identity, port))
        }
        _ => Next::GoOn.into(),
    }
}

/// Makes the error one about the packet that the task sent, and hands it to the task.
#[inline(always)]
fn deliver(frame: &Frame, packet: &Packet, settings: &Settings, quoted: &Quoted, target: &Target) -> Step {
    if packet.ttl <= 1 {
        return Err(Outcome::HopLimit);
    }
    if settings.bridge == 0 {
        return Err(Outcome::NoBridge);
    }
    let key = ReplyKey {
        task: target.address,
        client: quoted.ends.destination,
        task_port: target.port,
        client_port: quoted.ends.destination_port,
        protocol: quoted.protocol,
        padding: [0, 0, 0],
    };
    let conversation = Reply {
        frontend: quoted.ends.source,
        frontend_port: quoted.ends.source_port,
        client_port: quoted.ends.destination_port,
        ..Reply::default()
    };
    let after = Ends {
        source: target.address,
        destination: quoted.ends.destination,
        source_port: target.port,
        destination_port: replies::translated(&key, &conversation).unwrap_or(quoted.ends.destination_port),
    };
    rewrite::icmp::readdress_quoted(frame, packet, &quoted.change(after))?;
    rewrite::readdress_network(frame, packet, packet.source, target.address, Hop::Routed)?;
    rewrite::set_macs(frame, target.mac, settings.bridge_mac)?;
    Ok((Outcome::ErrorToTask, target.way(frame, settings)).into())
}
