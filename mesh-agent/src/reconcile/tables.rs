//! What is in the kernel's maps, and the changes that can be made to it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::backend::{Backend, LocalTask, TaskKey};
use mesh_common::flow::FlowKey;
use mesh_common::frontend::{Frontend, SlotKey};
use mesh_common::net::{Address, protocol};
use mesh_common::overlay::VipFlowKey;
use mesh_common::peer::Peer;
use mesh_common::settings::Settings;

use crate::desired::FrontendId;
use crate::swarm::snapshot::Protocol;

/// A mirror of the maps that the agent writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    pub settings: Option<Settings>,
    pub addresses: BTreeSet<Address>,
    /// The other nodes, and how each is reached.
    pub peers: BTreeMap<Address, Peer>,
    /// Interface indexes.
    pub uplinks: BTreeSet<u32>,
    /// The same, of ports of bridges among them, each with its bridge's.
    pub uplink_ports: BTreeMap<u32, u32>,
    /// Words of `PORTS` that are not 0.
    pub ports: BTreeMap<u32, u64>,
    pub frontends: BTreeMap<FrontendId, Frontend>,
    pub slots: BTreeMap<SlotKey, u32>,
    /// Ids that were ever used.
    pub backends: BTreeMap<u32, Backend>,
    pub tasks: BTreeMap<TaskKey, LocalTask>,
    /// See [`mesh_common::asker`].
    pub askers: BTreeMap<u64, u32>,
    pub docker_flows: BTreeSet<DockerFlow>,
}

/// A connection that Docker's mesh carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DockerFlow {
    Published(FlowKey),
    Vip(VipFlowKey),
}

impl DockerFlow {
    /// What its client has dialled.
    pub fn frontend(&self) -> Option<FrontendId> {
        match self {
            Self::Published(key) => {
                let protocol = match key.protocol {
                    protocol::TCP => Protocol::Tcp,
                    protocol::UDP => Protocol::Udp,
                    _ => return None,
                };
                Some(FrontendId::Published { port: key.frontend_port.number(), protocol })
            }
            Self::Vip(key) => Some(FrontendId::Vip { network: key.network, address: key.vip.into() }),
        }
    }
}

/// One change of one map. All of them may be done twice; deleting what is not there succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    SetSettings(Settings),
    AddAddress(Address),
    DeleteAddress(Address),
    SetPeer(Address, Peer),
    DeletePeer(Address),
    AddUplink(u32),
    DeleteUplink(u32),
    SetUplinkPort(u32, u32),
    DeleteUplinkPort(u32),
    SetPorts(u32, u64),
    SetFrontend(FrontendId, Frontend),
    DeleteFrontend(FrontendId),
    SetSlot(SlotKey, u32),
    DeleteSlot(SlotKey),
    SetBackend(u32, Backend),
    /// What was counted for an earlier backend with this id.
    ClearCounters(u32),
    SetTask(TaskKey, LocalTask),
    DeleteTask(TaskKey),
    SetAsker(u64, u32),
    DeleteAsker(u64),
    AddDockerFlow(DockerFlow),
    DeleteDockerFlow(DockerFlow),
}

impl Tables {
    /// Notes that an operation was carried out.
    pub fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::SetSettings(settings) => self.settings = Some(settings),
            Operation::AddAddress(address) => {
                self.addresses.insert(address);
            }
            Operation::DeleteAddress(address) => {
                self.addresses.remove(&address);
            }
            Operation::SetPeer(address, peer) => {
                self.peers.insert(address, peer);
            }
            Operation::DeletePeer(address) => {
                self.peers.remove(&address);
            }
            Operation::AddUplink(interface) => {
                self.uplinks.insert(interface);
            }
            Operation::DeleteUplink(interface) => {
                self.uplinks.remove(&interface);
            }
            Operation::SetUplinkPort(port, bridge) => {
                self.uplink_ports.insert(port, bridge);
            }
            Operation::DeleteUplinkPort(port) => {
                self.uplink_ports.remove(&port);
            }
            Operation::SetPorts(word, 0) => {
                self.ports.remove(&word);
            }
            Operation::SetPorts(word, bits) => {
                self.ports.insert(word, bits);
            }
            Operation::SetFrontend(key, frontend) => {
                self.frontends.insert(key, frontend);
            }
            Operation::DeleteFrontend(key) => {
                self.frontends.remove(&key);
            }
            Operation::SetSlot(key, backend) => {
                self.slots.insert(key, backend);
            }
            Operation::DeleteSlot(key) => {
                self.slots.remove(&key);
            }
            Operation::SetBackend(id, backend) => {
                self.backends.insert(id, backend);
            }
            Operation::ClearCounters(_) => {}
            Operation::SetTask(key, task) => {
                self.tasks.insert(key, task);
            }
            Operation::DeleteTask(key) => {
                self.tasks.remove(&key);
            }
            Operation::SetAsker(cookie, place) => {
                self.askers.insert(cookie, place);
            }
            Operation::DeleteAsker(cookie) => {
                self.askers.remove(&cookie);
            }
            Operation::AddDockerFlow(flow) => {
                self.docker_flows.insert(flow);
            }
            Operation::DeleteDockerFlow(flow) => {
                self.docker_flows.remove(&flow);
            }
        }
    }
}
