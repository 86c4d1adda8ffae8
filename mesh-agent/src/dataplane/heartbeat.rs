//! The resolver's sign of life: while it is fresh, the hooks send tasks' queries to the agent.

use aya::maps::{Array, Map, MapData};

use super::DataplaneError;
use super::pins::Pins;

/// Writes `HEARTBEAT`.
pub struct Heartbeat {
    map: Array<MapData, u64>,
}

impl Heartbeat {
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        let open = |source: anyhow::Error| DataplaneError::Map { what: "open", map: "HEARTBEAT", source };
        let pinned = MapData::from_pin(pins.map("HEARTBEAT")).map_err(|error| open(error.into()))?;
        let map = Array::try_from(Map::Array(pinned)).map_err(|error| open(error.into()))?;
        Ok(Self { map })
    }

    /// `now` is the coarse monotonic clock in nanoseconds.
    pub fn beat(&mut self, now: u64) -> Result<(), DataplaneError> {
        let write = |error: aya::maps::MapError| DataplaneError::Map {
            what: "change",
            map: "HEARTBEAT",
            source: error.into(),
        };
        self.map.set(0, now, 0).map_err(write)
    }
}
