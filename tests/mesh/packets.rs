//! Packets in words, both ways: what a scenario says becomes a frame, and a frame that left the node becomes words again, which
//! are compared.
//!
//! ```text
//! client:40000 > one:80 tcp syn mss 1460          a segment: flags, then what else there is to say
//! web.1:8080 > client:40000 tcp ack data "hello"
//! client:40000 > one:53 udp "question"
//! client > one icmp echo
//! one > client icmp too-big 1450 about client:40000 > one:80 tcp
//! one >> two web.2:8080: client:40000 > one:80 tcp syn      in the tunnel from one node to another, for this task
//! two >> one web.2:8080 answer: one:80 > client:40000 tcp syn ack
//! ```
//!
//! `web.1` is the first task of `web`, at its address on docker_gwbridge; `web.1@back` the same at its address on the network
//! `back`, and `web@back` the service's virtual address there.

use std::{collections::BTreeMap, fmt::Write as _, net::Ipv4Addr};

use anyhow::{Context, Result, bail, ensure};
use etherparse::{Ipv4HeaderSlice, TcpSlice, UdpSlice};
use mesh_agent::swarm::snapshot::{LocalView, Snapshot};

use crate::support::{
    cast::{self, Ip},
    checks,
    packet::Packet,
    payload::{self, Icmp, Payload, Tcp, Udp},
    tunnel::Tunnel,
};

/// Who is meant by what, in a Swarm.
#[derive(Debug, Default, Clone)]
pub(crate) struct Names {
    addresses: BTreeMap<String, Ip>,
    by_address: BTreeMap<Ip, String>,
    /// Of tasks, in the tunnel.
    identities: BTreeMap<String, Ip>,
    /// By name, of nodes and of whoever is outside.
    hardware: BTreeMap<Ip, [u8; 6]>,
}

const INGRESS: &str = "ingress";

impl Names {
    /// In this scenario, `client` has this address.
    pub(crate) fn of(snapshot: &Snapshot, local: &LocalView, client: Ip) -> Self {
        let mut names = Self::default();
        names.add_at("client", client, outside(client));
        names.add_at("stranger", cast::STRANGER, outside(cast::STRANGER));
        for node in snapshot.nodes.values() {
            if let Some(std::net::IpAddr::V4(address)) = node.address {
                names.add_at(&node.hostname, address.octets(), outside(address.octets()));
            }
        }
        for (id, task) in &snapshot.tasks {
            for attachment in &task.attachments {
                let Some(address) = attachment.addresses.first() else { continue };
                if attachment.network_id == INGRESS {
                    names.identities.insert(id.clone(), address.octets());
                }
                names.add(&format!("{id}@{}", attachment.network_id), address.octets());
            }
        }
        for container in local.containers.values() {
            if let Some(bridge) = container.bridge {
                names.add(&container.name, bridge.address.octets());
            }
        }
        for service in snapshot.services.values() {
            for vip in &service.virtual_ips {
                names.add(&format!("{}@{}", service.name, vip.network_id), vip.address.octets());
            }
        }
        names
    }

    fn add(&mut self, name: &str, address: Ip) {
        self.addresses.insert(name.to_owned(), address);
        self.by_address.insert(address, name.to_owned());
    }

    fn add_at(&mut self, name: &str, address: Ip, hardware: [u8; 6]) {
        self.add(name, address);
        self.hardware.insert(address, hardware);
    }

    /// An address by its name, or as it stands.
    pub(crate) fn address(&self, name: &str) -> Result<Ip> {
        let known = self.addresses.get(name).copied();
        let known = known.or_else(|| Some(name.parse::<Ipv4Addr>().ok()?.octets()));
        known.with_context(|| format!("nobody is called {name:?}; known are {:?}", self.addresses.keys()))
    }

    pub(crate) fn name(&self, address: Ip) -> String {
        self.by_address.get(&address).cloned().unwrap_or_else(|| Ipv4Addr::from(address).to_string())
    }

    /// The tasks of a service that can be meant by a letter.
    pub(crate) fn tasks(&self, service: &str) -> Vec<&str> {
        let begin = format!("{service}.");
        self.identities.keys().filter(|task| task.starts_with(&begin)).map(String::as_str).collect()
    }

    /// Docker makes hardware addresses on its networks of the others.
    fn hardware(&self, address: Ip) -> [u8; 6] {
        let [a, b, c, d] = address;
        self.hardware.get(&address).copied().unwrap_or([0x02, 0x42, a, b, c, d])
    }
}

/// The hardware address of a machine of the nodes' network.
pub(crate) fn outside(address: Ip) -> [u8; 6] {
    if address == cast::NODE { cast::NODE_MAC } else { [0x02, 0, 0, 0, 0, address[3]] }
}

/// A packet that comes to the node, and by which door.
#[derive(Debug, Clone)]
pub(crate) struct Coming {
    pub(crate) door: Door,
    pub(crate) frame: Vec<u8>,
}

/// By which interface packets come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Door {
    Uplink,
    /// `docker_gwbridge`.
    Bridge,
    /// The port of this task on an overlay network.
    Port {
        network: String,
        task: String,
    },
    /// From another node over this overlay network.
    Overlay {
        network: String,
    },
}

/// What a scenario says comes to the node.
pub(crate) fn coming(text: &str, names: &Names, local: &LocalView) -> Result<Coming> {
    let words = Words::of(text)?;
    if let Some(tunnel) = &words.tunnel {
        let inner = inner_packet(&words, names)?;
        return Ok(Coming { door: Door::Uplink, frame: tunnelled(tunnel, names, &inner)? });
    }
    let packet = inner_packet(&words, names)?;
    let who = words.source.0.as_str();
    let (door, gateway) = match who.split_once('@') {
        Some((task, network)) => {
            let is_here = local.containers.contains_key(task);
            let network = network.to_owned();
            let door = if is_here {
                Door::Port { network, task: task.to_owned() }
            } else {
                Door::Overlay { network }
            };
            (door, names.hardware(packet.destination))
        }
        None if local.containers.contains_key(who) => (Door::Bridge, cast::BRIDGE_MAC),
        None => (Door::Uplink, cast::NODE_MAC),
    };
    let source = names.hardware(packet.source);
    Ok(Coming { door, frame: packet.macs(gateway, source).bytes() })
}

fn tunnelled(tunnel: &TunnelWords, names: &Names, inner: &Packet) -> Result<Vec<u8>> {
    let (from, to) = (names.address(&tunnel.from)?, names.address(&tunnel.to)?);
    let identity = names.identities.get(&tunnel.task.0).copied();
    let around = Tunnel {
        source: from,
        source_mac: outside(from),
        destination: to,
        destination_mac: outside(to),
        identity: identity.with_context(|| format!("no task is called {:?}", tunnel.task.0))?,
        target: tunnel.task.1,
        flags: u16::from(tunnel.is_answer),
        ..Tunnel::to_here(0)
    };
    Ok(around.around(&inner.ip()))
}

fn inner_packet(words: &Words, names: &Names) -> Result<Packet> {
    let payload = payload(words, names)?;
    let packet = Packet::from_client(payload);
    Ok(Packet {
        source: names.address(&words.source.0)?,
        destination: names.address(&words.destination.0)?,
        ..packet
    })
}

/// A packet in words, taken apart.
#[derive(Debug)]
struct Words {
    tunnel: Option<TunnelWords>,
    source: (String, u16),
    destination: (String, u16),
    kind: String,
    rest: Vec<String>,
    /// What stands in quotes.
    data: Option<String>,
    about: Option<Box<Self>>,
}

#[derive(Debug)]
struct TunnelWords {
    from: String,
    to: String,
    task: (String, u16),
    is_answer: bool,
}

impl Words {
    fn of(text: &str) -> Result<Self> {
        Self::parsed(text).with_context(|| format!("{text:?} is not understood"))
    }

    fn parsed(text: &str) -> Result<Self> {
        let (text, about) = match text.split_once(" about ") {
            Some((text, about)) => (text, Some(Box::new(Self::parsed(about)?))),
            None => (text, None),
        };
        let (text, data) = match text.split_once('"') {
            Some((text, data)) => (text, Some(data.trim_end().trim_end_matches('"').to_owned())),
            None => (text, None),
        };
        let (tunnel, text) = match text.split_once(" >> ") {
            Some((from, rest)) => {
                let (head, inner) =
                    rest.split_once(": ").context("a packet in the tunnel stands behind `: `")?;
                let head: Vec<&str> = head.split_whitespace().collect();
                let [to, task, answer @ ..] = &head[..] else {
                    bail!("a tunnel leads to a node, for a task")
                };
                let is_answer = answer == ["answer"];
                (
                    Some(TunnelWords {
                        from: from.trim().into(),
                        to: (*to).into(),
                        task: place(task)?,
                        is_answer,
                    }),
                    inner,
                )
            }
            None => (None, text),
        };
        let mut words = text.split_whitespace().map(str::to_owned);
        let source = place(&words.next().context("it has no source")?)?;
        ensure!(words.next().as_deref() == Some(">"), "`>` stands behind its source");
        let destination = place(&words.next().context("it has no destination")?)?;
        let kind = words.next().context("it says neither tcp, udp nor icmp")?;
        Ok(Self { tunnel, source, destination, kind, rest: words.collect(), data, about })
    }

    /// The number behind a word.
    fn number(&self, word: &str) -> Result<Option<u16>> {
        let Some(at) = self.rest.iter().position(|there| there == word) else { return Ok(None) };
        let number = self.rest.get(at + 1).and_then(|number| number.parse().ok());
        Ok(Some(number.with_context(|| format!("`{word}` has a number"))?))
    }
}

/// `web.1:8080`, or a name without a port.
fn place(text: &str) -> Result<(String, u16)> {
    match text.rsplit_once(':') {
        Some((name, port)) => {
            Ok((name.to_owned(), port.parse().with_context(|| format!("{port:?} is no port"))?))
        }
        None => Ok((text.to_owned(), 0)),
    }
}

const FLAGS: [(&str, u8); 5] = [
    ("syn", payload::SYN),
    ("fin", payload::FIN),
    ("rst", payload::RST),
    ("psh", payload::PSH),
    ("ack", payload::ACK),
];

/// Kinds of ICMP messages: type and code.
const ICMP: [(&str, u8, u8); 6] = [
    ("echo", 8, 0),
    ("echo-reply", 0, 0),
    ("host-unreachable", 3, 1),
    ("port-unreachable", 3, 3),
    ("too-big", 3, 4),
    ("time-exceeded", 11, 0),
];

fn payload(words: &Words, names: &Names) -> Result<Payload> {
    let data = words.data.clone().unwrap_or_default().into_bytes();
    let (source, destination) = (words.source.1, words.destination.1);
    Ok(match words.kind.as_str() {
        "tcp" => {
            let is_set =
                |(word, bit): &(&str, u8)| words.rest.iter().any(|there| there == word).then_some(*bit);
            let flags = FLAGS.iter().filter_map(is_set).fold(0, |flags, bit| flags | bit);
            let mss = words.number("mss")?;
            let options = mss.map(payload::linux_options).unwrap_or_default();
            // It answers what all segments begin with.
            let acknowledgement =
                if flags & payload::ACK == 0 { 0 } else { payload::tcp(flags).sequence + 1 };
            Payload::Tcp(Tcp { source, destination, acknowledgement, options, data, ..payload::tcp(flags) })
        }
        "udp" => Payload::Udp(Udp { source, destination, ..payload::udp(&data) }),
        "icmp" => {
            let name = words.rest.first().context("an ICMP message is of some kind")?;
            let known = ICMP.iter().find(|(known, ..)| known == name);
            let &(_, kind, code) = known.with_context(|| format!("{name:?} is no kind of ICMP message"))?;
            let [high, low] = words.number("too-big")?.unwrap_or_default().to_be_bytes();
            let data = match &words.about {
                Some(about) => inner_packet(about, names)?.quote(),
                None => b"ping".to_vec(),
            };
            let word = if words.about.is_some() { [0, 0, high, low] } else { [0, 1, 0, 1] };
            Payload::Icmp(Icmp { kind, code, word, data })
        }
        other => bail!("{other:?} is neither tcp, udp nor icmp"),
    })
}

/// Whether a frame is an agent's question to another node's dataplane, or the answer.
pub(crate) fn is_probe(frame: &[u8]) -> bool {
    let is_to_tunnel = frame.get(36..38) == Some(&cast::TUNNEL_PORT.to_be_bytes());
    // Behind the outer headers and VXLAN's: the flags at the end of the inner source address.
    let flags = frame.get(14 + 28 + 8 + 10..).and_then(|rest| rest.get(..2));
    is_to_tunnel && matches!(flags, Some([0, 2 | 4]))
}

/// What is in a frame, in words; a wrong checksum is one of them.
pub(crate) fn described(frame: &[u8], names: &Names) -> String {
    let mut text = String::new();
    match frame.get(14..).map(|packet| describe(packet, names, &mut text)) {
        Some(Ok(())) => {}
        _ => return format!("no packet: {}", checks::hex(frame)),
    }
    if let Err(problem) = checks::checksums(frame) {
        let _ = write!(text, " WRONG: {problem}");
    }
    text
}

fn describe(packet: &[u8], names: &Names, text: &mut String) -> Result<()> {
    let ip = Ipv4HeaderSlice::from_slice(packet)?;
    let payload = packet.get(ip.slice().len()..usize::from(ip.total_len())).context("it is cut short")?;
    let (source, destination) = (names.name(ip.source()), names.name(ip.destination()));
    match ip.protocol().0 {
        6 => {
            let tcp = TcpSlice::from_slice(payload)?;
            let flags = payload[13];
            let words: Vec<&str> =
                FLAGS.iter().filter(|(_, bit)| flags & bit != 0).map(|(word, _)| *word).collect();
            write!(
                text,
                "{source}:{} > {destination}:{} tcp {}",
                tcp.source_port(),
                tcp.destination_port(),
                words.join(" ")
            )?;
            if let Some(mss) = mss(tcp.options()) {
                write!(text, " mss {mss}")?;
            }
            if !tcp.payload().is_empty() {
                write!(text, " data \"{}\"", String::from_utf8_lossy(tcp.payload()))?;
            }
        }
        17 => {
            let udp = UdpSlice::from_slice(payload)?;
            if udp.destination_port() == cast::TUNNEL_PORT {
                return describe_tunnel(&ip, udp.payload(), names, text);
            }
            let data = String::from_utf8_lossy(udp.payload());
            write!(
                text,
                "{source}:{} > {destination}:{} udp \"{data}\"",
                udp.source_port(),
                udp.destination_port()
            )?;
        }
        1 => {
            let [kind, code] = [payload[0], payload[1]];
            let known = ICMP.iter().find(|(_, its, code_of)| (*its, *code_of) == (kind, code));
            let name = known.map_or_else(|| format!("{kind}/{code}"), |(name, ..)| (*name).to_owned());
            write!(text, "{source} > {destination} icmp {name}")?;
            if name == "too-big" {
                write!(text, " {}", u16::from_be_bytes([payload[6], payload[7]]))?;
            }
            if matches!(kind, 3 | 11) {
                write!(text, " about ")?;
                describe_quote(&payload[8..], names, text)?;
            }
        }
        other => bail!("protocol {other}"),
    }
    Ok(())
}

/// As much of a packet as an ICMP error quotes.
fn describe_quote(packet: &[u8], names: &Names, text: &mut String) -> Result<()> {
    let ip = Ipv4HeaderSlice::from_slice(packet)?;
    let ports = packet.get(ip.slice().len()..).context("it quotes too little")?;
    let port = |at: usize| ports.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let kind = match ip.protocol().0 {
        6 => "tcp",
        17 => "udp",
        _ => "other",
    };
    let (source, destination) = (names.name(ip.source()), names.name(ip.destination()));
    Ok(write!(text, "{source}:{} > {destination}:{} {kind}", port(0), port(2))?)
}

fn describe_tunnel(
    outer: &Ipv4HeaderSlice<'_>,
    vxlan: &[u8],
    names: &Names,
    text: &mut String,
) -> Result<()> {
    let inner = vxlan.get(8..22).context("no frame is in the tunnel")?;
    let identity: Ip = inner[2..6].try_into()?;
    let task = names.identities.iter().find(|(_, its)| **its == identity);
    let task = task.map_or_else(|| Ipv4Addr::from(identity).to_string(), |(task, _)| task.clone());
    let target = u16::from_be_bytes([inner[8], inner[9]]);
    let answer = match u16::from_be_bytes([inner[10], inner[11]]) {
        0 => "",
        1 => " answer",
        _ => " probe",
    };
    let (from, to) = (names.name(outer.source()), names.name(outer.destination()));
    write!(text, "{from} >> {to} {task}:{target}{answer}: ")?;
    describe(&vxlan[22..], names, text)
}

fn mss(options: &[u8]) -> Option<u16> {
    let mut rest = options;
    while let [kind, tail @ ..] = rest {
        match kind {
            0 => return None,
            1 => rest = tail,
            2 => return Some(u16::from_be_bytes([*tail.get(1)?, *tail.get(2)?])),
            _ => rest = rest.get(usize::from(*tail.first()?)..)?,
        }
    }
    None
}
