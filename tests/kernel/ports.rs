//! A task whose port of `docker_gwbridge` is known: packets go past the bridge, both ways.

use std::thread;
use std::time::Duration;

use mesh_common::backend::{Backend, LocalTask};
use mesh_common::net::{Address, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::reply::{Reply, ReplyKey};

use crate::support::cast::{self, PUBLISHED};
use crate::support::namespace::Namespace;
use crate::support::packet::Packet;
use crate::support::payload::{ACK, PSH, Payload, RST, SYN, answer, data, syn, udp};
use crate::support::tunnel::Tunnel;
use crate::support::wire::{Frame, Wire};
use crate::support::world::{World, local, reply_key, task_key};

const TASK: u8 = 5;
/// Complete checksums, and checksums left to the device.
const WAYS: [fn(Vec<u8>) -> Frame; 2] = [Frame::finished, Frame::unfinished];

struct Node {
    world: World,
    uplink: Wire,
    task: Wire,
    _namespace: Namespace,
}

impl Node {
    fn with(mut world: World) -> Self {
        let [uplink, _bridge] = world.attach();
        let (namespace, task) = world.attach_port();
        Self { world, uplink, task, _namespace: namespace }
    }

    fn serving() -> Self {
        Self::with(World::serving(&[behind_port()]))
    }
}

fn behind_port() -> Backend {
    Backend { interface: cast::TASK_PORT, ..local(TASK) }
}

fn requests() -> [Payload; 3] {
    [syn(), data(b"GET /"), Payload::Udp(udp(b"question"))]
}

#[test]
fn a_request_comes_out_at_the_tasks_end() {
    for way in WAYS {
        let node = Node::serving();
        for payload in requests() {
            let packet = Packet::from_client(payload);
            node.uplink.send(&way(packet.bytes()));
            node.task.carries(&packet.delivered(TASK).bytes());
        }
    }
}

#[test]
fn a_request_out_of_the_tunnel_comes_out_at_the_tasks_end() {
    let mut world = World::home_of(&[]);
    for protocol in [protocol::TCP, protocol::UDP] {
        let task = LocalTask {
            bridge: Address::new(cast::task(TASK)),
            mac: cast::task_mac(TASK),
            interface: cast::TASK_PORT,
            ..LocalTask::default()
        };
        world.insert("TASKS", task_key(TASK, protocol), task);
    }
    let node = Node::with(world);
    for payload in [data(b"GET /"), Payload::Udp(udp(b"question"))] {
        let packet = Packet::from_client(payload).with(|packet| packet.destination = cast::OTHER);
        node.uplink.send(&Frame::finished(Tunnel::to_here(TASK).around(&packet.ip())));
        node.task.carries(&packet.delivered(TASK).bytes());
    }
}

#[test]
fn a_container_does_not_speak_in_another_ones_conversations() {
    let node = Node::serving();
    let mut world = node.world;
    // The task is behind another port than the one that speaks for it.
    let place = |interface| LocalTask {
        bridge: Address::new(cast::task(TASK)),
        mac: cast::task_mac(TASK),
        interface,
        ..LocalTask::default()
    };
    let key = task_key(TASK, protocol::TCP);
    world.insert("TASKS", key, place(cast::TASK_PORT + 1));
    world.change_backend(1, |backend| backend.interface += 1);
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
    let reset = Packet::from_task(TASK, answer(RST | ACK, b""));
    let greeting = Packet::from_task(TASK, answer(SYN | ACK, b""));
    for forged in [&reset, &greeting] {
        node.task.send(&Frame::finished(forged.bytes()));
    }
    // Once it is the port's, the next one shows that those have been dealt with.
    world.change_backend(1, |backend| backend.interface -= 1);
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
    node.task.send(&Frame::finished(greeting.bytes()));
    let expected = greeting.as_frontend(cast::NODE, PUBLISHED).macs(cast::CLIENT_MAC, cast::NODE_MAC).bytes();
    node.uplink.carries(&expected);
    assert_eq!((world.count(Outcome::ForgedSource), world.count(Outcome::Replied)), (2, 1));
    // What has come by a port without programs.
    world.change_backend(1, |backend| backend.interface += 1);
    let _ = world.uplink_in(&Packet::from_client(data(b"more"))).leaves(Outcome::Delivered);
    world.bridge_in(&greeting).leaves_as(Outcome::Replied, &expected);

    // Once the task is gone, its address is whoever's who has it by then.
    world.remove::<_, LocalTask>("TASKS", &key);
    node.task.send(&Frame::finished(reset.bytes()));
    while world.entries::<ReplyKey, Reply>("OPENING_REPLIES") != 0 {
        thread::sleep(Duration::from_millis(1));
    }
    world.bridge_in(&greeting).passes(Outcome::NotOurs);
    assert_eq!(world.count(Outcome::ForgedSource), 2);
}

#[test]
fn nor_in_established_ones() {
    let node = Node::serving();
    let mut world = node.world;
    let said = |payload| {
        let packet = Packet::from_task(TASK, payload);
        let expected = packet.as_frontend(cast::NODE, PUBLISHED).macs(cast::CLIENT_MAC, cast::NODE_MAC);
        (Frame::finished(packet.bytes()), expected.bytes())
    };
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
    let (greeting, expected) = said(answer(SYN | ACK, b""));
    node.task.send(&greeting);
    node.uplink.carries(&expected);
    let _ = world.uplink_in(&Packet::from_client(data(b"GET /"))).leaves(Outcome::Delivered);

    let key = reply_key(TASK, protocol::TCP);
    let reply = world.established_reply(&key).expect("it is established");
    let task = LocalTask {
        bridge: Address::new(cast::task(TASK)),
        mac: cast::task_mac(TASK),
        interface: cast::TASK_PORT + 1,
        ..LocalTask::default()
    };
    world.insert("TASKS", task_key(TASK, protocol::TCP), task);
    world.insert("REPLIES", key, Reply { interface: cast::TASK_PORT + 1, ..reply });
    node.task.send(&said(answer(ACK | PSH, b"a lie")).0);
    world.insert("REPLIES", key, reply);
    let (truth, expected) = said(answer(ACK | PSH, b"the truth"));
    node.task.send(&truth);
    node.uplink.carries(&expected);
    assert_eq!(world.count(Outcome::ForgedSource), 1);
}

#[test]
fn an_answer_is_heard_at_the_port() {
    for way in WAYS {
        let node = Node::serving();
        let _ = node.world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
        for payload in [answer(SYN | ACK, b""), answer(ACK | PSH, b"200 OK")] {
            let packet = Packet::from_task(TASK, payload);
            node.task.send(&way(packet.bytes()));
            let expected = packet.as_frontend(cast::NODE, PUBLISHED);
            node.uplink.carries(&expected.macs(cast::CLIENT_MAC, cast::NODE_MAC).bytes());
        }
    }
}
