//! The agent's own sockets that send to other nodes' tunnels: the programs stop everybody else's.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use aya::maps::{HashMap, Map, MapData};
use tracing::warn;

use super::pins::Pins;
use super::{DataplaneError, failed, open};
use crate::reach::Allowlist;

const AGENT_SOCKETS: &str = "AGENT_SOCKETS";

/// The one writer of `AGENT_SOCKETS`.
pub struct AgentSockets {
    map: Mutex<HashMap<MapData, u64, u32>>,
}

impl AgentSockets {
    /// Forgets the sockets of an agent before this one.
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        let mut map: HashMap<_, u64, u32> = open(pins, AGENT_SOCKETS, Map::HashMap)?;
        let before: Vec<u64> = map.keys().flatten().collect();
        for cookie in before {
            map.remove(&cookie).map_err(failed("change", AGENT_SOCKETS))?;
        }
        Ok(Self { map: Mutex::new(map) })
    }
}

impl Allowlist for AgentSockets {
    fn allow(&self, cookie: u64) {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = map.insert(cookie, 1, 0) {
            warn!(
                "a node cannot be asked for a sign of life: cannot change the map {AGENT_SOCKETS}: {error}"
            );
        }
    }

    fn revoke(&self, cookie: u64) {
        // One that stays is of no use to anybody: no socket gets its cookie again.
        let _ = self.map.lock().unwrap_or_else(PoisonError::into_inner).remove(&cookie);
    }
}

impl fmt::Debug for AgentSockets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(AGENT_SOCKETS)
    }
}
