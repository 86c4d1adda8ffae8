//! Where a flow may go: tasks, seen from an entry node ([`Backend`]) and from their home node ([`LocalTask`]).

use crate::net::{Address, Mac, Port};

/// Value of `BACKENDS`, by backend id. Ids are given out in a circle, so that one is not used again soon; `generation`
/// tells a flow of an earlier user of the id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Backend {
    pub generation: u32,
    /// Address of the home node; [`Address::UNSPECIFIED`] when that is this node.
    pub node: Address,
    /// The task's name in the tunnel: its address on the ingress network, else its first overlay address.
    pub identity: Address,
    /// The task's address on docker_gwbridge; only for tasks on this node.
    pub bridge: Address,
    /// Towards the home node; for a task on this node, its port on docker_gwbridge, or 0 if that is unknown.
    pub interface: u32,
    /// The port inside the task.
    pub port: Port,
    /// One of [`state`].
    pub state: u8,
    /// Bits of [`flags`].
    pub flags: u8,
    /// The task's hardware address on docker_gwbridge; only for tasks on this node.
    pub mac: Mac,
    /// The id that the node's network namespace has for the task's, plus one; 0 if it is unknown, and for tasks elsewhere.
    pub namespace: u16,
}

impl Backend {
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.node.is_unspecified()
    }
}

/// States of a [`Backend`].
pub mod state {
    /// The id is not in use, or its task is gone: flows to it are reset.
    pub const DOWN: u8 = 0;
    /// Gets new flows.
    pub const ACTIVE: u8 = 1;
    /// Keeps its TCP flows, gets no new ones.
    pub const DRAINING: u8 = 2;
}

/// Flags of a [`Backend`] and a [`LocalTask`].
pub mod flags {
    /// `mesh.return=direct`: replies go from the home node to the client, not back through the entry node.
    pub const RETURN_DIRECT: u8 = 1;
}

/// Value of `BACKEND_STATS`, per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BackendCounters {
    /// Flows given to this backend by this node.
    pub flows: u64,
    /// Packets from clients.
    pub packets: u64,
    /// Bytes from clients, IP headers included.
    pub bytes: u64,
}

/// Value of `SUSPECTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Suspicion {
    /// Until when the backend gets no new flows, coarse monotonic nanoseconds.
    pub until: u64,
    /// When it last took a client's SYN, likewise.
    pub answered: u64,
}

/// Key of `TASKS`: a task's published port, as the tunnel names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct TaskKey {
    pub identity: Address,
    pub port: Port,
    pub protocol: u8,
    pub padding: u8,
}

/// Value of `TASKS`: how to reach it on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LocalTask {
    /// On docker_gwbridge.
    pub bridge: Address,
    /// On docker_gwbridge.
    pub mac: Mac,
    /// Bits of [`flags`].
    pub flags: u8,
    pub padding: u8,
    /// Its port on docker_gwbridge; 0 if that is unknown.
    pub interface: u32,
}
