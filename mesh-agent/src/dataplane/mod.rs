//! Out: the kernel. The only folder that names aya.
//!
//! ```text
//! reconcile ─► Dataplane::apply ─► maps, pinned under <bpffs>/mesh/maps
//! node      ─► Attachments      ─► programs on interfaces (XDP, TC) and the cgroup; links pinned under <bpffs>/mesh/links
//! core      ─► Overlays         ─► programs on the ports of Docker's overlays, in their namespaces
//! core      ─► Migration        ─► tables of another size or version, taken over with their entries
//! status    ─► Counters         ─► reads the pinned maps
//! agent     ─► Flows            ─► removes flows that are over, counts the others
//! reach     ─► AgentSockets     ─► whose probes the programs let pass
//! handover  ─► UnreadPorts      ─► interfaces whose earlier connections are still to be read
//! dns       ─► Answers          ─► what was answered about names, for the kernel to answer again
//! ```
//!
//! What is pinned stays when the agent goes: programs, maps and flows serve on, and the next agent takes them over.

pub mod agent_sockets;
pub mod answers;
pub mod attachments;
pub mod batch;
pub mod clock;
pub mod counters;
pub mod flows;
pub mod heartbeat;
pub mod kernel;
pub mod local_addresses;
pub mod memory;
pub mod migration;
pub mod object;
pub mod overlays;
pub mod pins;
mod raw_map;
pub mod remove;
mod task_ports;
pub mod tc;
pub mod unread_ports;
pub mod xdp;

use std::collections::BTreeMap;

use aya::maps::{Map, MapData, MapError};
use mesh_common::backend::Backend;

use self::pins::Pins;
use crate::reconcile::tables::{Operation, Tables};

/// The maps that the agent writes.
pub trait Dataplane: Send {
    fn apply(&mut self, operation: &Operation) -> Result<(), DataplaneError>;

    /// What the maps hold. Of the backends, of which there is room for many more than there are, only those with these ids;
    /// all of them if there are none given.
    fn dump(&self, ids: Option<&BTreeMap<u32, Backend>>) -> Result<Tables, DataplaneError>;
}

/// Trouble with the kernel: what was tried, what it said, what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    #[error(
        "{path} is not a BPF file system: mount one on the host (`mount -t bpf bpf {path}`) and give it to the agent"
    )]
    NoBpffs { path: String },
    #[error("cannot {what} {path}: {source}")]
    Pin { what: &'static str, path: String, source: std::io::Error },
    #[error(
        "the kernel does not take the programs: {source:#}. The agent needs Linux 6.1 or later and the capabilities \
         SYS_ADMIN (or BPF and PERFMON) and NET_ADMIN; `mesh-agent preflight` tells which is missing"
    )]
    Load { source: anyhow::Error },
    #[error("cannot attach {program} to {place}: {source:#}")]
    Attach { program: &'static str, place: String, source: anyhow::Error },
    #[error("cannot {what} the map {map}: {source:#}")]
    Map { what: &'static str, map: &'static str, source: anyhow::Error },
    #[error("{0}")]
    Injected(&'static str),
}

/// A map as an agent has pinned it; `kind` says which kind it is.
fn open<M>(pins: &Pins, map: &'static str, kind: fn(MapData) -> Map) -> Result<M, DataplaneError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let data = MapData::from_pin(pins.map(map)).map_err(failed("open", map))?;
    M::try_from(kind(data)).map_err(failed("open", map))
}

/// What could not be done with a map.
fn failed<E: Into<anyhow::Error>>(what: &'static str, map: &'static str) -> impl Fn(E) -> DataplaneError {
    move |error| DataplaneError::Map { what, map, source: error.into() }
}
