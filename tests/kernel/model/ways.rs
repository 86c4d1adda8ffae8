//! The ways through the programs that the model is held against.

use std::collections::BTreeMap;

use mesh_common::backend::{Backend, state};
use mesh_common::flow::{Flow, FlowKey};
use mesh_common::net::{Address, Port, protocol};
use mesh_common::overlay::VipFlowKey;

use super::design::TASKS;
use crate::support::cast::{self, CLIENT_PORT, PUBLISHED, TARGET};
use crate::support::overlay::{self, call, from_vip, given};
use crate::support::packet::Packet;
use crate::support::payload::{Payload, between};
use crate::support::run::{self, Hook};
use crate::support::tables;
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, flow_key, local, remote};
use crate::support::xdp::Driver;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A published port, two of whose tasks are on another node.
    Tc,
    /// The same, where XDP sees packets first.
    XdpAndTc,
    /// A virtual address.
    Overlay,
}

/// What the programs have done with a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Did {
    SentOn(Vec<u8>),
    Dropped,
    Left,
}

/// A node with the programs.
pub(super) struct Node {
    way: Way,
    world: World,
    driver: Option<Driver>,
    /// How many tasks have had the place of each.
    replaced: BTreeMap<u8, u8>,
}

/// From `linux/pkt_cls.h` and `linux/bpf.h`.
const TC_PASS: i32 = -1;
const TC_DROP: i32 = 2;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

impl Node {
    pub(super) fn new(way: Way) -> Self {
        let mut world = World::new();
        let driver = (way == Way::XdpAndTc).then(|| Driver::of(&mut world));
        Self { way, world, driver, replaced: BTreeMap::new() }
    }

    /// As a new one, in a fraction of the time.
    pub(super) fn begin_again(&mut self) {
        self.world.forget(tables::left_by_packets().chain(["SLOTS"]));
        self.replaced.clear();
        for task in 1..=TASKS {
            self.world.set_backend(task.into(), self.way.backend(task));
        }
        self.serve(&(1..=TASKS).collect::<Vec<_>>());
    }

    /// These tasks get what is new.
    pub(super) fn serve(&mut self, tasks: &[u8]) {
        let ids: Vec<u32> = tasks.iter().copied().map(u32::from).collect();
        if self.way == Way::Overlay {
            self.world.vip(overlay::NETWORK, overlay::VIP, &ids);
        } else {
            for protocol in [protocol::TCP, protocol::UDP] {
                self.world.frontend(PUBLISHED, protocol, &ids);
            }
        }
    }

    pub(super) fn set_state(&mut self, task: u8, is_active: bool) {
        let state = if is_active { state::ACTIVE } else { state::DRAINING };
        self.world.change_backend(task.into(), |backend| backend.state = state);
    }

    /// Another task gets the place, and the address on docker_gwbridge, but is called otherwise.
    pub(super) fn replace(&mut self, task: u8) {
        *self.replaced.entry(task).or_default() += 1;
        let identity = Address::new(cast::identity(self.called(task)));
        let is_named = self.way != Way::Overlay;
        self.world.change_backend(task.into(), |backend| {
            backend.state = state::ACTIVE;
            backend.generation += 1;
            backend.identity = if is_named { identity } else { backend.identity };
        });
    }

    /// The number by which the task that has this place is called in the tunnel.
    fn called(&self, task: u8) -> u8 {
        task + 10 * (self.replaced.get(&task).copied().unwrap_or_default() % 20)
    }

    /// As if a client's last datagram were longer ago than any is remembered.
    pub(super) fn silence(&mut self, client: u8) {
        let port = Port::new(CLIENT_PORT + u16::from(client));
        if self.way == Way::Overlay {
            let key = VipFlowKey { caller_port: port, ..overlay::flow_key(protocol::UDP) };
            self.age("VIP_UDP_FLOWS", key);
        } else {
            let key = FlowKey { client_port: port, ..flow_key(protocol::UDP) };
            self.age("UDP_FLOWS", key);
        }
    }

    fn age<K: aya::Pod>(&mut self, table: &str, key: K) {
        let Some(mut flow) = self.world.value::<K, Flow>(table, &key) else { return };
        flow.last_seen = flow.last_seen.wrapping_sub(181_000_000_000);
        self.world.insert(table, key, flow);
    }

    /// The frame by which a client's packet goes on to a task. What comes from hashes is as in `sent`.
    pub(super) fn towards(&self, task: u8, packet: &Packet, sent: &[u8]) -> Vec<u8> {
        match self.way {
            Way::Overlay => given(packet, task).bytes(),
            Way::Tc | Way::XdpAndTc if is_local(task) => packet.delivered(task).bytes(),
            Way::Tc | Way::XdpAndTc => {
                Tunnel::to_other(self.called(task), packet).hashed_as(sent).around(&packet.ip())
            }
        }
    }

    /// A client's packet.
    pub(super) fn ask(&self, packet: &Packet) -> Did {
        let bytes = packet.bytes();
        match self.way {
            Way::Overlay => self.by_tc(Hook::OverlayIn, &bytes),
            Way::Tc | Way::XdpAndTc => self.by_uplink(&bytes),
        }
    }

    /// A task's packet, from wherever that is.
    pub(super) fn answer(&self, task: u8, packet: &Packet) -> Did {
        match self.way {
            Way::Overlay => self.by_tc(Hook::OverlayOut, &packet.bytes()),
            Way::Tc | Way::XdpAndTc if is_local(task) => self.by_tc(Hook::BridgeIn, &packet.bytes()),
            Way::Tc | Way::XdpAndTc => {
                let inner = packet.as_frontend(cast::NODE, PUBLISHED);
                self.by_uplink(&Tunnel::to_here(self.called(task)).reply().around(&inner.ip()))
            }
        }
    }

    fn by_uplink(&self, bytes: &[u8]) -> Did {
        if let Some(driver) = &self.driver {
            let (verdict, after) = driver.run_uncounted(bytes);
            if verdict != XDP_PASS {
                return if verdict == XDP_DROP { Did::Dropped } else { Did::SentOn(after) };
            }
        }
        self.by_tc(Hook::UplinkIn, bytes)
    }

    fn by_tc(&self, hook: Hook, bytes: &[u8]) -> Did {
        match run::run(self.world.program(hook), hook, bytes) {
            (TC_PASS, after) if after == bytes => Did::Left,
            (TC_DROP, _) => Did::Dropped,
            (_, after) => Did::SentOn(after),
        }
    }
}

/// Whether a task under a published port is on this node.
pub(super) fn is_local(task: u8) -> bool {
    task <= TASKS / 2
}

impl Way {
    fn backend(self, task: u8) -> Backend {
        match self {
            Self::Overlay => overlay::member(task),
            Self::Tc | Self::XdpAndTc if is_local(task) => local(task),
            Self::Tc | Self::XdpAndTc => remote(task),
        }
    }

    /// A packet of a client to what it dials.
    pub(super) fn client_packet(self, client: u8, payload: &Payload) -> Packet {
        let payload = payload.with_source(CLIENT_PORT + u16::from(client));
        if self == Self::Overlay { call(payload) } else { Packet::from_client(payload) }
    }

    /// A packet of a task to a client.
    pub(super) fn task_packet(self, task: u8, client: u8, payload: Payload) -> Packet {
        let client = CLIENT_PORT + u16::from(client);
        if self == Self::Overlay {
            overlay::answer(task, between(payload, PUBLISHED, client))
        } else {
            Packet::from_task(task, between(payload, TARGET, client))
        }
    }

    /// The frame by which a task's packet goes on to its client.
    pub(super) fn back(self, packet: &Packet) -> Vec<u8> {
        match self {
            Self::Overlay => from_vip(packet).bytes(),
            Self::Tc | Self::XdpAndTc => {
                // Its home node has taken the hop, wherever that is.
                let passed = packet.as_frontend(cast::NODE, PUBLISHED);
                passed.macs(cast::CLIENT_MAC, cast::NODE_MAC).bytes()
            }
        }
    }
}
