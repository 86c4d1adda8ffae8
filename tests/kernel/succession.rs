//! Programs take over from those of another agent: what these serve they go on serving until their flows have been copied.

use std::ffi::CString;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TcAttachType};
use mesh_agent::dataplane::attachments::{Attachments, Hooked};
use mesh_agent::dataplane::kernel;
use mesh_agent::dataplane::migration::Migration;
use mesh_agent::dataplane::pins::Pins;
use mesh_agent::dataplane::tc::TcMode;
use mesh_agent::dataplane::unread_ports::UnreadPorts;
use mesh_agent::node::Interface;
use mesh_common::maps::Sizes;
use mesh_common::outcome::Outcome;

use crate::support::bpffs::BpfFs;
use crate::support::kernel::{Feature, lacks};
use crate::support::namespace::Namespace;
use crate::support::overlay::call;
use crate::support::packet::Packet;
use crate::support::payload::{ACK, FIN, Payload, RST, data, syn, tcp, udp};
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, remote};

const UPLINK: &str = "uplink";

#[test]
fn what_is_unknown_is_left_to_the_programs_behind_and_what_starts_is_not() {
    let mut world = World::serving(&[remote(1)]);
    let started = Packet::from_client(syn());
    let unknown =
        [data(b"more"), Payload::Tcp(tcp(RST)), Payload::Tcp(tcp(FIN | ACK)), Payload::Udp(udp(b"more"))];

    world.taking_over(true);
    for payload in unknown.clone() {
        world.uplink_in(&Packet::from_client(payload)).passes(Outcome::NotOurs);
    }
    let through = Tunnel::to_other(1, &started);
    world.uplink_in(&started).enters_tunnel(Outcome::Tunnelled, through, &started.ip());
    let goes_on = Packet::from_client(data(b"more"));
    let through = Tunnel::to_other(1, &goes_on);
    world.uplink_in(&goes_on).enters_tunnel(Outcome::Tunnelled, through, &goes_on.ip());

    let mut world = World::serving(&[remote(1)]);
    world.taking_over(false);
    for payload in
        unknown.into_iter().filter(|payload| !matches!(payload, Payload::Tcp(tcp) if tcp.flags & RST != 0))
    {
        let packet = Packet::from_client(payload);
        let through = Tunnel::to_other(1, &packet);
        world.uplink_in(&packet).enters_tunnel(Outcome::Tunnelled, through, &packet.ip());
    }
}

#[test]
fn so_are_calls_of_virtual_addresses() {
    let mut world = World::calling(&[1]);
    world.taking_over(true);
    for payload in [data(b"more"), Payload::Udp(udp(b"more"))] {
        world.overlay_in(&call(payload)).passes(Outcome::NotOurs);
    }
    let _ = world.overlay_in(&call(syn()));
    assert_eq!(world.count(Outcome::VipToTask), 1);
    let _ = world.overlay_in(&call(data(b"more")));
    assert_eq!(world.count(Outcome::VipToTask), 2);
}

#[test]
fn programs_stay_behind_their_successors_until_their_flows_are_taken_over() {
    if lacks(Feature::Tcx) {
        return;
    }
    let namespace = Namespace::new();
    namespace.ip(&format!("link add {UPLINK} type veth peer name wire\nlink set {UPLINK} up\n"));
    let bpffs = BpfFs::new();
    let pins = Pins::under(&bpffs.path(""));

    let (first, _) = agent(&pins, 1024, TcMode::Tcx);
    let [old] = programs()[..] else { panic!("one agent, one program") };
    drop(first);
    let (second, migration) = agent(&pins, 4096, TcMode::Tcx);
    let [new, behind] = programs()[..] else { panic!("two agents, two programs") };
    assert!(behind == old && new != old, "the new program comes first");
    drop((second, migration));

    // The second one was killed before it could finish; its successor finds all as it was.
    let (third, migration) = agent(&pins, 4096, TcMode::Tcx);
    let [newest, behind] = programs()[..] else { panic!("the second agent's program has been replaced") };
    assert!(behind == old && newest != new);
    migration.finish();
    // The kernel takes it off a moment after its link has been unpinned.
    let end = Instant::now() + Duration::from_secs(10);
    while programs().len() > 1 && Instant::now() < end {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(programs(), [newest]);
    drop(third);

    // Tables of the same size are not taken over, and programs replaced in place.
    let (_fourth, migration) = agent(&pins, 4096, TcMode::Tcx);
    assert!(!migration.is_pending());
    assert!(matches!(programs()[..], [only] if only != newest));
}

#[test]
fn by_clsact_a_successor_takes_the_place_of_the_program() {
    let namespace = Namespace::new();
    namespace.ip(&format!("link add {UPLINK} type veth peer name wire\nlink set {UPLINK} up\n"));
    let bpffs = BpfFs::new();
    let pins = Pins::under(&bpffs.path(""));

    let (first, _) = agent(&pins, 1024, TcMode::Clsact);
    let [old] = filters()[..] else { panic!("one agent, one program") };
    drop(first);
    assert_eq!(filters(), [old], "it stays when the agent goes");
    let (_second, _) = agent(&pins, 1024, TcMode::Clsact);
    assert!(matches!(filters()[..], [only] if only != old));
}

#[test]
fn programs_that_somebody_has_taken_off_come_back() {
    let namespace = Namespace::new();
    namespace.ip(&format!("link add {UPLINK} type veth peer name wire\nlink set {UPLINK} up\n"));
    let bpffs = BpfFs::new();
    let pins = Pins::under(&bpffs.path(""));
    let (mut agent, _) = agent(&pins, 1024, TcMode::Clsact);
    assert_eq!(filters().len(), 1);
    agent.look_again();
    assert_eq!(filters().len(), 1, "what is there stays, and once");
    let take_off = ["qdisc", "del", "dev", UPLINK, "clsact"];
    let status = Command::new("tc").args(take_off).status().expect("iproute2's `tc` can be run");
    assert!(status.success());
    assert!(filters().is_empty());
    agent.look_again();
    assert_eq!(filters().len(), 1);
}

/// An agent on the uplink.
fn agent(pins: &Pins, flows: u32, mode: TcMode) -> (Attachments, Migration) {
    let (_, ebpf, migration) = kernel::load(pins, Sizes { flows, backends: 256 }).expect("an agent starts");
    let unread = Arc::new(UnreadPorts::open(pins).expect("the table is pinned"));
    let mut attachments = Attachments::new(ebpf, pins.clone(), mode, unread);
    let name = CString::new(UPLINK).expect("a name");
    // SAFETY: the name ends with a zero byte.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let uplink = Interface { index, name: UPLINK.to_owned(), ..Interface::default() };
    let errors = attachments.sync(Hooked { uplinks: &[uplink], ..Hooked::default() });
    assert!(errors.is_empty(), "{errors:?}");
    (attachments, migration)
}

/// The ids of the programs for what comes in, in their order.
fn programs() -> Vec<u32> {
    let (_, programs) =
        SchedClassifier::query_tcx(UPLINK, TcAttachType::Ingress).expect("the kernel lists programs");
    programs.iter().map(aya::programs::ProgramInfo::id).collect()
}

/// The same of a clsact qdisc.
fn filters() -> Vec<u32> {
    let show = ["filter", "show", "dev", UPLINK, "ingress"];
    let output = Command::new("tc").args(show).output().expect("iproute2's `tc` can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(" id ").skip(1).filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
}
