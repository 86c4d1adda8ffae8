//! Who may send to other nodes' tunnels: these programs and the agent.

use std::fs::{self, File};
use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use mesh_common::outcome::Outcome;

use crate::support::cast::{self, Ip, TUNNEL_PORT};
use crate::support::cookies;
use crate::support::forwarding::Forwarding;
use crate::support::overlay;
use crate::support::packet::Packet;
use crate::support::payload::{Payload, Udp, syn, udp};
use crate::support::run::Hook;
use crate::support::tunnel::Tunnel;
use crate::support::wire::{Frame, Wire};
use crate::support::world::{World, remote};

/// Whom another bridge of the node has.
const CONTAINER: Ip = [192, 0, 2, 7];

#[test]
fn a_container_cannot_send_to_another_nodes_tunnel() {
    let world = World::serving(&[remote(7)]);
    for flags in [0, 1, 2, 4] {
        world.run(Hook::BridgeIn, &from_task(flags).bytes()).is_dropped(Outcome::ForgedTunnel);
    }
    let probe = from_task(2).with(|packet| packet.payload = packet.payload.with_source(TUNNEL_PORT));
    world.run(Hook::BridgeIn, &probe.bytes()).is_dropped(Outcome::ForgedTunnel);
}

#[test]
fn what_no_node_would_take_from_a_container_passes() {
    let mut world = World::serving(&[remote(7)]);
    let forged = from_task(1);
    let other_network = datagram(&Tunnel { vni: cast::VNI ^ 1, ..forgery(1) });
    for packet in [
        forged.with(|packet| packet.destination = cast::STRANGER),
        forged.with(|packet| packet.payload = packet.payload.with_destination(TUNNEL_PORT + 1)),
        forged.with(|packet| packet.payload = other_network.with_destination(TUNNEL_PORT)),
        forged.with(|packet| packet.payload = Payload::Udp(udp(b"no VXLAN")).with_destination(TUNNEL_PORT)),
        forged.with(|packet| packet.payload = syn().with_destination(TUNNEL_PORT)),
        forged.with(|packet| packet.options = vec![1; 4]),
        forged.in_two(32)[0].clone(),
    ] {
        world.bridge_in(&packet).passes(Outcome::NotOurs);
    }
    world.settings(|settings| settings.tunnel_port = mesh_common::net::Port::new(TUNNEL_PORT + 1));
    world.bridge_in(&forged).passes(Outcome::NotOurs);
}

#[test]
fn what_is_forwarded_to_another_nodes_tunnel_leaves_by_no_uplink() {
    let mut forwarding = Forwarding::new(World::serving(&[remote(7)]));
    // As long as programs of another version may be on the node's other hooks, which do not mark what they send.
    forwarding.passes(&Forwarding::packet(cast::NODE));
    forwarding.world.claim_hooks();
    for source in [cast::NODE, CONTAINER, cast::OTHER] {
        forwarding.stops(&Forwarding::packet(source));
    }
    // Another node's, on their way to a third one, by an interface that is no uplink; and by one that is.
    forwarding.world.peer(CONTAINER, overlay::PORT);
    forwarding.stops(&Forwarding::packet(CONTAINER));
    forwarding.world.insert("UPLINKS", overlay::PORT, 1_u32);
    forwarding.passes(&Forwarding::packet(CONTAINER));
    forwarding.world.peer(CONTAINER, cast::UPLINK);
    forwarding.stops(&Forwarding::packet(CONTAINER));
}

#[test]
fn other_datagrams_are_forwarded_whatever_their_port() {
    let mut forwarding = Forwarding::new(World::serving(&[remote(7)]));
    forwarding.world.claim_hooks();
    let packet = Forwarding::packet(CONTAINER);
    let other_network = datagram(&Tunnel { vni: cast::VNI ^ 1, ..forgery(1) });
    forwarding.passes(&packet.with(|packet| packet.payload = other_network));
    forwarding.passes(&packet.with(|packet| packet.payload = packet.payload.with_destination(53)));
    forwarding.passes(&packet.with(|packet| packet.destination = cast::CLIENT));
}

#[test]
fn what_the_programs_send_leaves() {
    let mut world = World::serving(&[remote(7)]);
    world.claim_hooks();
    let [uplink, _bridge] = world.attach();
    let packet = Packet::from_client(syn());
    uplink.send(&Frame::finished(packet.bytes()));
    let came = uplink.receive().finish();
    assert_eq!(came[..12], [cast::OTHER_MAC, cast::NODE_MAC].concat());
    assert_eq!(came[36..38], TUNNEL_PORT.to_be_bytes());
    assert_eq!((world.count(Outcome::Tunnelled), world.count(Outcome::ForgedTunnel)), (1, 0));
}

#[test]
fn of_the_nodes_own_sockets_only_the_agents_reach_another_nodes_tunnel() {
    let mut world = World::serving(&[remote(7)]);
    let [uplink, _bridge] = world.attach();
    let socket = UdpSocket::bind("10.99.0.1:0").expect("the node has the address");
    let payload = forged_payload();
    let send = |number: u8| {
        let mut payload = payload.clone();
        payload.push(number);
        // A packet that is dropped on its way out may be told or not.
        let _ = socket.send_to(&payload, "10.99.0.2:4799");
    };
    let last = |wire: &Wire| wire.receive().finish().pop();
    send(1);
    assert_eq!(last(&uplink), Some(1), "programs of another version may be on other hooks");
    world.claim_hooks();
    send(2);
    assert_eq!(world.count(Outcome::ForgedTunnel), 1);
    world.agent_socket(cookies::of(&socket));
    send(3);
    assert_eq!(last(&uplink), Some(3));
    assert_eq!(world.count(Outcome::ForgedTunnel), 1);
}

#[test]
fn a_process_of_the_node_cannot_call_another_nodes_tunnel() {
    let cgroup = Cgroup::new();
    let mut world = World::serving(&[remote(7)]);
    let cookie = mesh_agent::node::netns_cookie().expect("Linux 5.14 has them");
    world.settings(|settings| settings.netns_cookie = cookie);
    let _links = world.attach_to_cgroup(&cgroup.file());
    let tunnel = (cast::OTHER, TUNNEL_PORT);
    let mut stopped = 0;
    for call in [Call::Connect, Call::SendTo, Call::ConnectMapped, Call::SendToMapped] {
        assert_eq!(cgroup.fails_with(call, tunnel), libc::EPERM, "{call:?}");
        stopped += 1;
        assert_eq!(world.count(Outcome::ForgedTunnel), stopped, "{call:?}");
        for allowed in [(cast::STRANGER, TUNNEL_PORT), (cast::OTHER, TUNNEL_PORT + 1)] {
            assert_eq!(cgroup.fails_with(call, allowed), 0, "{call:?}");
        }
    }
    // TCP has nothing to do with it: nobody answers, but nobody stops it either.
    assert_eq!(cgroup.fails_with(Call::ConnectTcp, tunnel), libc::EINPROGRESS);
    // Nor have other namespaces: what their sockets send is stopped at bridges and uplinks.
    world.settings(|settings| settings.netns_cookie = cookie ^ 1);
    assert_eq!(cgroup.fails_with(Call::Connect, tunnel), 0);
    assert_eq!(world.count(Outcome::ForgedTunnel), stopped);
}

#[test]
fn the_agents_sockets_may_call_another_nodes_tunnel() {
    let cgroup = Cgroup::new();
    let mut world = World::serving(&[remote(7)]);
    let cookie = mesh_agent::node::netns_cookie().expect("Linux 5.14 has them");
    world.settings(|settings| settings.netns_cookie = cookie);
    let _links = world.attach_to_cgroup(&cgroup.file());
    let socket = cgroup.socket(libc::AF_INET, libc::SOCK_DGRAM);
    let calls = |call| fails_with(&socket, call, (cast::OTHER, TUNNEL_PORT));
    assert_eq!([Call::SendTo, Call::Connect].map(calls), [libc::EPERM; 2]);
    let socket = UdpSocket::from(socket);
    world.agent_socket(cookies::of(&socket));
    let socket = OwnedFd::from(socket);
    let calls = |call| fails_with(&socket, call, (cast::OTHER, TUNNEL_PORT));
    assert_eq!([Call::SendTo, Call::Connect].map(calls), [0; 2]);
}

/// What a task would send to the other node's tunnel.
fn forgery(flags: u16) -> Tunnel {
    Tunnel { flags, ..Tunnel::to_here(7) }
}

/// The datagram that a socket would have to send for it.
fn datagram(tunnel: &Tunnel) -> Payload {
    let inner = Packet::from_client(Payload::Udp(udp(b"injected"))).ip();
    let data = tunnel.around(&inner)[42..].to_vec();
    Payload::Udp(Udp { source: 40_000, destination: TUNNEL_PORT, ..udp(&data) })
}

fn from_task(flags: u16) -> Packet {
    Packet::from_task(5, datagram(&forgery(flags))).with(|packet| packet.destination = cast::OTHER)
}

fn forged_payload() -> Vec<u8> {
    let Payload::Udp(udp) = datagram(&forgery(1)) else { return Vec::new() };
    udp.data
}

impl Forwarding {
    fn packet(source: Ip) -> Packet {
        Self::to_forward(&from_task(1)).with(|packet| packet.source = source)
    }

    fn passes(&self, packet: &Packet) {
        let before = self.world.count(Outcome::ForgedTunnel);
        let came = self.forwards(packet);
        assert_eq!(came[14 + 12..], packet.with(|packet| packet.ttl -= 1).ip()[12..]);
        assert_eq!(self.world.count(Outcome::ForgedTunnel), before);
    }

    fn stops(&self, packet: &Packet) {
        let before = self.world.count(Outcome::ForgedTunnel);
        self.port.send(&Frame::finished(packet.bytes()));
        // The next packet shows that the first one has been dealt with.
        self.passes_after(packet, before + 1);
    }

    fn passes_after(&self, packet: &Packet, count: u64) {
        let other = packet.with(|packet| packet.payload = packet.payload.with_destination(53));
        self.port.send(&Frame::finished(other.bytes()));
        let came = self.uplink.receive().finish();
        assert_eq!(came[36..38], [0, 53], "the one before has left");
        assert_eq!(self.world.count(Outcome::ForgedTunnel), count);
    }
}

/// A cgroup for sockets: one belongs to the cgroup of the process that has made it.
struct Cgroup(PathBuf);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Connect,
    SendTo,
    ConnectMapped,
    SendToMapped,
    ConnectTcp,
}

impl Cgroup {
    fn new() -> Self {
        let root = mesh_agent::cgroup::root().expect("/proc/mounts can be read");
        let root = root.expect("a cgroup2 hierarchy is mounted");
        let id = cookies::of(&UdpSocket::bind("127.0.0.1:0").expect("a socket can be had"));
        let path = root.join(format!("mesh-kernel-test-{}-{id}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup can be made");
        Self(path)
    }

    fn file(&self) -> File {
        File::open(&self.0).expect("it is there")
    }

    /// A socket that a process of the cgroup has made, in the namespace that the thread is in.
    fn socket(&self, family: i32, kind: i32) -> OwnedFd {
        let procs = File::create(self.0.join("cgroup.procs")).expect("it takes processes");
        let (mut reader, writer) = std::io::pipe().expect("a pipe can be had");
        let flags = i64::from(libc::CLONE_FILES | libc::SIGCHLD);
        // SAFETY: as `fork`, but for descriptors, which both have. The child makes system calls only, and ends.
        let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        assert!(child >= 0, "no process can be made");
        if child == 0 {
            // SAFETY: what is pointed to is as long as it says.
            unsafe {
                let joined = libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) == 1;
                let socket = if joined { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) } else { -1 };
                libc::write(writer.as_raw_fd(), (&raw const socket).cast(), size_of::<i32>());
                libc::_exit(0)
            }
        }
        let mut number = [0; size_of::<i32>()];
        reader.read_exact(&mut number).expect("the process tells it");
        // SAFETY: the child is this process's.
        unsafe { libc::waitpid(child as i32, std::ptr::null_mut(), 0) };
        let number = i32::from_ne_bytes(number);
        assert!(number >= 0, "no socket can be had in {}", self.0.display());
        // SAFETY: nobody else knows the descriptor.
        unsafe { OwnedFd::from_raw_fd(number) }
    }

    /// The error of a new socket's call; 0 for none.
    fn fails_with(&self, call: Call, to: (Ip, u16)) -> i32 {
        let is_mapped = matches!(call, Call::ConnectMapped | Call::SendToMapped);
        let family = if is_mapped { libc::AF_INET6 } else { libc::AF_INET };
        let kind = if call == Call::ConnectTcp { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
        fails_with(&self.socket(family, kind | libc::SOCK_NONBLOCK), call, to)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}

fn fails_with(socket: &OwnedFd, call: Call, (address, port): (Ip, u16)) -> i32 {
    let address = address_of(call, address, port);
    let (socket, size) = (socket.as_raw_fd(), address.len() as libc::socklen_t);
    // SAFETY: all pointers are to what is as long as it says.
    let result = unsafe {
        match call {
            Call::SendTo | Call::SendToMapped => {
                libc::sendto(socket, c"7".as_ptr().cast(), 1, 0, address.as_ptr().cast(), size) as i32
            }
            Call::Connect | Call::ConnectMapped | Call::ConnectTcp => {
                libc::connect(socket, address.as_ptr().cast(), size)
            }
        }
    };
    if result >= 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or_default() }
}

/// `struct sockaddr_in`, or `sockaddr_in6` with a mapped address.
fn address_of(call: Call, address: Ip, port: u16) -> Vec<u8> {
    let is_mapped = matches!(call, Call::ConnectMapped | Call::SendToMapped);
    let family = if is_mapped { libc::AF_INET6 } else { libc::AF_INET };
    let family = u16::try_from(family).expect("families are small");
    let mut bytes = [&family.to_ne_bytes()[..], &port.to_be_bytes()].concat();
    if is_mapped {
        bytes.extend([0; 4 + 10]);
        bytes.extend([0xff; 2]);
    }
    bytes.extend(address);
    bytes.resize(if is_mapped { 28 } else { 16 }, 0);
    bytes
}
