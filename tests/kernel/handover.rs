//! Frontends that go from Docker's mesh to this one or back: connections stay whose they are.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use mesh_agent::netfilter::conntrack;
use mesh_common::frontend::flags::{LEFT, SHARED, UNREAD};
use mesh_common::net::{Address, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::overlay::VipKey;
use mesh_common::unread::UnreadPort;

use crate::support::cast::{self, PUBLISHED};
use crate::support::namespace::Namespace;
use crate::support::overlay::{self, call};
use crate::support::packet::Packet;
use crate::support::payload::{ACK, FIN, Payload, RST, data, syn, tcp, udp};
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, flow_key, remote};

/// Everything that may come in the middle of a conversation.
fn segments() -> [Payload; 3] {
    [data(b"more"), Payload::Tcp(tcp(RST)), Payload::Tcp(tcp(FIN | ACK))]
}

fn datagram() -> Payload {
    Payload::Udp(udp(b"more"))
}

fn set_flags(world: &mut World, flags: u8) {
    for protocol in [protocol::TCP, protocol::UDP] {
        world.change_frontend(PUBLISHED, protocol, |frontend| frontend.flags = flags);
    }
}

fn is_tunnelled(world: &World, payload: Payload) {
    let packet = Packet::from_client(payload);
    let through = Tunnel::to_other(1, &packet);
    world.uplink_in(&packet).enters_tunnel(Outcome::Tunnelled, through, &packet.ip());
}

fn passes(world: &World, payload: Payload) {
    world.uplink_in(&Packet::from_client(payload)).passes(Outcome::NotOurs);
}

#[test]
fn until_it_is_read_what_docker_carries_segments_of_unknown_connections_are_dockers() {
    let mut world = World::serving(&[remote(1)]);
    set_flags(&mut world, UNREAD | SHARED);
    for segment in segments() {
        passes(&world, segment);
    }
    is_tunnelled(&world, datagram());
    is_tunnelled(&world, syn());
    is_tunnelled(&world, data(b"more"));
}

#[test]
fn a_connection_that_docker_carries_stays_dockers_and_its_ports_can_be_used_again() {
    let mut world = World::serving(&[remote(1)]);
    set_flags(&mut world, SHARED);
    for protocol in [protocol::TCP, protocol::UDP] {
        world.insert("DOCKER_FLOWS", flow_key(protocol), 1_u32);
    }
    for segment in segments() {
        passes(&world, segment);
    }
    passes(&world, datagram());
    // Others are this mesh's, guessed as ever.
    for payload in [data(b"more"), datagram()] {
        is_tunnelled(&world, payload.with_source(999));
    }
    is_tunnelled(&world, syn());
    is_tunnelled(&world, data(b"more"));
}

#[test]
fn what_is_known_is_not_asked_for() {
    let mut world = World::serving(&[remote(1)]);
    is_tunnelled(&world, syn());
    is_tunnelled(&world, datagram());
    set_flags(&mut world, SHARED);
    for protocol in [protocol::TCP, protocol::UDP] {
        world.insert("DOCKER_FLOWS", flow_key(protocol), 1_u32);
    }
    is_tunnelled(&world, data(b"more"));
    is_tunnelled(&world, datagram());
}

#[test]
fn a_frontend_that_is_left_keeps_its_flows_and_gets_no_new_ones() {
    let mut world = World::serving(&[remote(1)]);
    is_tunnelled(&world, syn());
    is_tunnelled(&world, datagram());
    set_flags(&mut world, LEFT);
    is_tunnelled(&world, data(b"more"));
    is_tunnelled(&world, datagram());
    for payload in segments().into_iter().chain([syn(), datagram()]) {
        passes(&world, payload.with_source(999));
    }
    // The end of it, and a new one from the same port.
    is_tunnelled(&world, Payload::Tcp(tcp(RST)));
    passes(&world, syn());
}

#[test]
fn calls_of_virtual_addresses_go_the_same_ways() {
    let set = |world: &mut World, flags: u8| {
        let key = VipKey { network: overlay::NETWORK, address: Address::new(overlay::VIP) };
        let mut frontend: mesh_common::frontend::Frontend =
            world.hash("VIPS").get(&key, 0).expect("it is served");
        frontend.flags = flags;
        world.insert("VIPS", key, frontend);
    };
    let mut world = World::calling(&[1]);
    set(&mut world, UNREAD | SHARED);
    world.overlay_in(&call(data(b"more"))).passes(Outcome::NotOurs);
    set(&mut world, SHARED);
    for protocol in [protocol::TCP, protocol::UDP] {
        world.insert("DOCKER_VIPFLOWS", overlay::flow_key(protocol), 1_u32);
    }
    for payload in [data(b"more"), datagram()] {
        world.overlay_in(&call(payload)).passes(Outcome::NotOurs);
    }
    let _ = world.overlay_in(&call(syn()));
    let _ = world.overlay_in(&call(data(b"more")));
    let _ = world.overlay_in(&call(datagram().with_source(999)));
    assert_eq!(world.count(Outcome::VipToTask), 3);
    set(&mut world, LEFT);
    let _ = world.overlay_in(&call(data(b"more")));
    assert_eq!(world.count(Outcome::VipToTask), 4);
    world.overlay_in(&call(syn().with_source(998))).passes(Outcome::NotOurs);
}

/// Where programs come to an interface, Docker's mesh may carry what came in by it before.
#[test]
fn until_it_is_read_what_came_in_by_an_interface_before_unknown_segments_are_dockers() {
    let mut world = World::serving(&[remote(1)]);
    let uplink = UnreadPort { network: 0, interface: cast::UPLINK };
    world.insert("UNREAD_PORTS", uplink, 1_u32);
    world.insert("UNREAD_PORTS", UnreadPort { network: 0, interface: cast::UPLINK + 1 }, 1_u32);
    for segment in segments() {
        passes(&world, segment);
    }
    is_tunnelled(&world, datagram());
    is_tunnelled(&world, syn());
    is_tunnelled(&world, data(b"more"));
    world.remove::<_, u32>("UNREAD_PORTS", &uplink);
    is_tunnelled(&world, data(b"more").with_source(999));
}

#[test]
fn so_are_calls_from_a_port_of_an_overlay_and_from_no_other() {
    let mut world = World::calling(&[1]);
    let port = UnreadPort { network: overlay::NETWORK, interface: overlay::PORT };
    world.insert("UNREAD_PORTS", port, 1_u32);
    for segment in segments() {
        world.overlay_in(&call(segment)).passes(Outcome::NotOurs);
    }
    let _ = world.overlay_in(&call(syn()));
    let _ = world.overlay_in(&call(data(b"more")));
    assert_eq!(world.count(Outcome::VipToTask), 2);
    world.remove::<_, u32>("UNREAD_PORTS", &port);
    world.insert("UNREAD_PORTS", UnreadPort { network: overlay::OTHER_NETWORK, ..port }, 1_u32);
    let _ = world.overlay_in(&call(data(b"more").with_source(999)));
    assert_eq!(world.count(Outcome::VipToTask), 3);
}

/// A connection as Docker's mesh has it: to an address of the node, translated on its way.
#[test]
fn translated_connections_are_read_from_the_kernel_and_others_are_not() {
    let namespace = Namespace::new();
    namespace.ip("link set lo up\naddr add 10.9.9.1/32 dev lo\naddr add 172.19.0.2/32 dev lo\n");
    let rules = "table ip docker { chain out { type nat hook output priority -100; \
        ip daddr 10.9.9.1 tcp dport 8080 dnat to 172.19.0.2:8080; }; }";
    let mut nft =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is installed");
    nft.stdin.take().expect("its input is a pipe").write_all(rules.as_bytes()).expect("nft reads its input");
    assert!(nft.wait().expect("nft ends").success());
    let listener = TcpListener::bind("172.19.0.2:8080").expect("the address is there");
    let straight = TcpStream::connect("172.19.0.2:8080").expect("somebody listens");
    assert_eq!(conntrack::translated().expect("the kernel tells"), []);
    let mut client = TcpStream::connect("10.9.9.1:8080").expect("it is translated");
    let (_first, _) = listener.accept().expect("a connection");
    let (mut server, _) = listener.accept().expect("another one");
    let found = conntrack::translated().expect("the kernel tells");
    let Ok(SocketAddr::V4(local)) = client.local_addr() else { panic!("it has an address") };
    let [connection] = found[..] else { panic!("one is translated: {found:?}") };
    assert_eq!(
        connection,
        conntrack::Translated {
            protocol: protocol::TCP,
            client: *local.ip(),
            client_port: local.port(),
            destination: Ipv4Addr::new(10, 9, 9, 1),
            port: 8080,
        }
    );
    drop(straight);
    // It lasts for as long as the connection does.
    client.write_all(b"x").and_then(|()| server.read_exact(&mut [0])).expect("it lives");
    assert_eq!(conntrack::translated().expect("the kernel tells").len(), 1);
    // A RST ends it at once.
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the value is of the option's type and lives through the call.
    unsafe {
        use std::os::fd::AsRawFd;
        let size = size_of_val(&linger) as libc::socklen_t;
        libc::setsockopt(
            client.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size,
        );
    }
    drop(client);
    assert_eq!(conntrack::translated().expect("the kernel tells"), []);
}
