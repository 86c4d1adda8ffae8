//! The resolver's sign of life: while it is fresh, the hooks send tasks' queries to the agent.

use aya::maps::{Array, Map, MapData};

use super::pins::Pins;
use super::{DataplaneError, failed, open};

/// Writes `HEARTBEAT`.
pub struct Heartbeat {
    map: Array<MapData, u64>,
}

impl Heartbeat {
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self { map: open(pins, "HEARTBEAT", Map::Array)? })
    }

    /// `now` is the coarse monotonic clock in nanoseconds.
    pub fn beat(&mut self, now: u64) -> Result<(), DataplaneError> {
        self.map.set(0, now, 0).map_err(failed("change", "HEARTBEAT"))
    }
}
