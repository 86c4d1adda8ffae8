//! What the agent writes into the tables.

use std::net::UdpSocket;

use mesh_agent::dataplane::clock::monotonic_nanoseconds;
use mesh_common::backend::{Backend, LocalTask, Suspicion};
use mesh_common::frontend::{Frontend, FrontendKey, PortBit, SlotKey};
use mesh_common::maps::taking_over;
use mesh_common::net::{Address, Port, protocol};
use mesh_common::overlay::VipKey;
use mesh_common::peer::{Peer, flags};
use mesh_common::settings::Settings;
use mesh_common::socket::{SocketFlow, SocketKey};

use super::{World, task_key};
use crate::support::cast::{self, Ip};
use crate::support::cookies;

impl World {
    pub(crate) fn settings(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = cast::settings();
        change(&mut settings);
        self.set("SETTINGS", 0, settings);
    }

    /// Whether the programs have those of another agent behind them, which know more flows.
    pub(crate) fn taking_over(&mut self, taking_over: bool) {
        self.set("TAKING_OVER", 0, if taking_over { taking_over::PREDECESSORS } else { taking_over::NOBODY });
    }

    /// The programs are on all hooks of the node, and no others are.
    pub(crate) fn claim_hooks(&mut self) {
        self.set("TAKING_OVER", 0, taking_over::ALL_HOOKS);
    }

    /// Programs of another version may be on some hooks.
    pub(crate) fn share_hooks(&mut self) {
        self.set("TAKING_OVER", 0, taking_over::NOBODY);
    }

    /// There is another node, whose packets come in by this interface.
    pub(crate) fn peer(&mut self, address: Ip, uplink: u32) {
        self.insert("PEERS", Address::new(address), Peer { uplink, ..Peer::default() });
    }

    /// There is another node, to which the tunnel carries IP packets of so many bytes.
    pub(crate) fn peer_takes(&mut self, address: Ip, inner_mtu: u16) {
        self.insert("PEERS", Address::new(address), Peer { inner_mtu, ..Peer::default() });
    }

    /// There is another node, whose packets are taken only with a cookie.
    pub(crate) fn peer_with_cookie(&mut self, address: Ip) {
        self.insert(
            "PEERS",
            Address::new(address),
            Peer { flags: flags::COOKIE_REQUIRED, ..Peer::default() },
        );
    }

    /// The agent of this node has a socket with this cookie.
    pub(crate) fn agent_socket(&mut self, cookie: u64) {
        self.insert("AGENT_SOCKETS", cookie, 1_u32);
    }

    /// The node's process with this UDP socket has dialled the other node, and was given the first backend.
    pub(crate) fn gave_task_elsewhere(&mut self, socket: &UdpSocket) {
        let key = SocketKey {
            cookie: cookies::of(socket),
            destination: Address::new(cast::OTHER),
            port: Port::new(cast::PUBLISHED),
            protocol: protocol::UDP,
            padding: 0,
        };
        self.insert("SOCKETS", key, SocketFlow { backend: 1, generation: 1, ..SocketFlow::default() });
    }

    /// The agent's resolver gives a sign of life.
    pub(crate) fn beat(&mut self) {
        self.set("HEARTBEAT", 0, monotonic_nanoseconds());
    }

    /// The last sign of life of the agent's resolver was long ago.
    pub(crate) fn stop_heart(&mut self) {
        self.set("HEARTBEAT", 0, 1_u64);
    }

    /// Gives the backends ids.
    pub(crate) fn backends(&mut self, backends: &[Backend]) -> Vec<u32> {
        backends
            .iter()
            .map(|backend| {
                self.backends += 1;
                self.set_backend(self.backends, *backend);
                self.backends
            })
            .collect()
    }

    pub(crate) fn set_backend(&mut self, id: u32, backend: Backend) {
        self.set("BACKENDS", id, backend);
    }

    pub(crate) fn change_backend(&mut self, id: u32, change: impl FnOnce(&mut Backend)) {
        let mut backend = self.array::<Backend>("BACKENDS").get(&id, 0).expect("the id is in range");
        change(&mut backend);
        self.set_backend(id, backend);
    }

    /// Publishes a port with these backends, or replaces the ones that it has.
    pub(crate) fn frontend(&mut self, port: u16, protocol: u8, ids: &[u32]) {
        let next = self.next_turn();
        let turn = *self.frontends.entry((port, protocol)).or_insert(next);
        let frontend = self.set_of(turn, ids);
        self.insert("FRONTENDS", FrontendKey::published(Port::new(port), protocol), frontend);
        self.publish(port, protocol, true);
    }

    /// Changes how a frontend of a published port is served.
    pub(crate) fn change_frontend(&mut self, port: u16, protocol: u8, change: impl FnOnce(&mut Frontend)) {
        let key = FrontendKey::published(Port::new(port), protocol);
        let mut frontend: Frontend = self.hash("FRONTENDS").get(&key, 0).expect("the port is published");
        change(&mut frontend);
        self.insert("FRONTENDS", key, frontend);
    }

    /// Gives a published port a set without this backend.
    pub(crate) fn leave_out(&mut self, port: u16, protocol: u8, id: u32) {
        let rest: Vec<u32> = (1..=self.backends).filter(|other| *other != id).collect();
        let turn = self.turn(port, protocol);
        let set = self.set_of(turn, &rest);
        self.change_frontend(port, protocol, |frontend| {
            (frontend.set, frontend.count) = (set.set, set.count);
        });
    }

    pub(crate) fn turn(&self, port: u16, protocol: u8) -> u32 {
        self.frontends[&(port, protocol)]
    }

    pub(crate) fn set_connections(&mut self, id: u32, count: u64) {
        self.set("CONNECTIONS", id, count);
    }

    /// Lets these backends serve a virtual address, or replaces the ones that it has.
    pub(crate) fn vip(&mut self, network: u32, address: Ip, ids: &[u32]) {
        let next = self.next_turn();
        let turn = *self.vips.entry((network, address)).or_insert(next);
        let frontend = self.set_of(turn, ids);
        self.insert("VIPS", VipKey { network, address: Address::new(address) }, frontend);
    }

    /// Publishes the usual port of task `number` on this node to other nodes, for TCP and UDP.
    pub(crate) fn task(&mut self, number: u8, flags: u8) {
        for protocol in [protocol::TCP, protocol::UDP] {
            let value = LocalTask {
                bridge: Address::new(cast::task(number)),
                mac: cast::task_mac(number),
                flags,
                ..LocalTask::default()
            };
            self.insert("TASKS", task_key(number, protocol), value);
        }
    }

    pub(crate) fn publish(&mut self, port: u16, protocol: u8, published: bool) {
        let bit = PortBit::of(protocol, Port::new(port));
        let word = self.array::<u64>("PORTS").get(&bit.word, 0).expect("the word is in range");
        self.set("PORTS", bit.word, if published { word | bit.mask } else { word & !bit.mask });
    }

    pub(crate) fn local_address(&mut self, address: Ip) {
        self.insert("LOCAL_ADDRESSES", Address::new(address), 1_u32);
    }

    pub(crate) fn set_suspect(&mut self, id: u32, until: u64) {
        self.set("SUSPECTS", id, Suspicion { until, answered: 0 });
    }

    fn next_turn(&self) -> u32 {
        (self.frontends.len() + self.vips.len()) as u32
    }

    /// A new set of these backends.
    fn set_of(&mut self, turn: u32, ids: &[u32]) -> Frontend {
        self.sets += 1;
        let set = self.sets;
        for (slot, id) in ids.iter().enumerate() {
            self.insert("SLOTS", SlotKey { set, slot: slot as u32 }, *id);
        }
        Frontend { turn, set, count: ids.len() as u32, ..Frontend::default() }
    }
}
