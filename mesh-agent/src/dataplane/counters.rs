//! What the kernel counted, read from the pinned maps while the reconciler writes others.

use std::collections::BTreeMap;

use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use mesh_common::backend::BackendCounters;
use mesh_common::flow::{Flow, FlowKey, Opening};
use mesh_common::outcome::Outcome;
use mesh_common::settings::UDP_IDLE_NANOSECONDS;
use mesh_common::tcp;

use super::pins::Pins;
use super::{DataplaneError, batch, failed, open};

/// A reader of the kernel's own maps.
pub struct Counters {
    outcomes: PerCpuArray<MapData, u64>,
    backends: PerCpuArray<MapData, BackendCounters>,
    established: HashMap<MapData, FlowKey, Flow>,
    opening: HashMap<MapData, FlowKey, Opening>,
    udp: HashMap<MapData, FlowKey, Flow>,
}

/// How full the flow table is, and with what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowSummary {
    /// Established ones of TCP.
    pub established: usize,
    /// Flows that are open at the moment, by backend id and generation.
    pub open: BTreeMap<(u32, u32), u64>,
}

impl Counters {
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self {
            outcomes: open(pins, "OUTCOMES", Map::PerCpuArray)?,
            backends: open(pins, "BACKEND_STATS", Map::PerCpuArray)?,
            established: open(pins, "FLOWS", Map::HashMap)?,
            opening: open(pins, "OPENING", Map::LruHashMap)?,
            udp: open(pins, "UDP_FLOWS", Map::LruHashMap)?,
        })
    }

    /// How often each outcome was the end of a packet or a call.
    pub fn outcomes(&self) -> Result<BTreeMap<&'static str, u64>, DataplaneError> {
        let mut counts = BTreeMap::new();
        for outcome in Outcome::ALL {
            let values = self.outcomes.get(&u32::from(outcome.number()), 0);
            let values = values.map_err(failed("read", "OUTCOMES"))?;
            counts.insert(outcome.as_str(), values.iter().sum());
        }
        Ok(counts)
    }

    pub fn backend(&self, id: u32) -> Result<BackendCounters, DataplaneError> {
        let values = self.backends.get(&id, 0).map_err(failed("read", "BACKEND_STATS"))?;
        Ok(values.iter().fold(BackendCounters::default(), |sum, value| BackendCounters {
            flows: sum.flows + value.flows,
            packets: sum.packets + value.packets,
            bytes: sum.bytes + value.bytes,
        }))
    }

    /// Looks at every flow: not for often. `now` is the coarse monotonic clock in nanoseconds.
    pub fn flows(&self, now: u64) -> FlowSummary {
        let mut summary = FlowSummary::default();
        let mut count = |flow: Flow, is_open: bool| {
            if is_open {
                *summary.open.entry((flow.backend, flow.generation)).or_default() += 1;
            }
        };
        let open = |flow: Flow| !tcp::is_closed(flow.state);
        // A table that cannot be read to its end gives a count that is too low: it is for people.
        let _ = batch::read(&self.opening, |_, opening| count(opening.flow, open(opening.flow)));
        let is_recent = |flow: Flow| now.saturating_sub(flow.last_seen) < UDP_IDLE_NANOSECONDS;
        let _ = batch::read(&self.udp, |_, flow| count(flow, is_recent(flow)));
        let mut established = 0;
        let _ = batch::read(&self.established, |_, flow| {
            established += 1;
            count(flow, open(flow));
        });
        summary.established = established;
        summary
    }
}
