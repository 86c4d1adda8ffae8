//! Interfaces that have had the programs for a moment only. Docker's mesh may carry connections that came in by them before, and
//! keeps what the programs do not know until that has been read ([`crate::handover`]).

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, Map, MapData};
use mesh_common::unread::UnreadPort;
use tokio::sync::Notify;

use super::pins::Pins;
use super::{DataplaneError, failed, open};

const UNREAD_PORTS: &str = "UNREAD_PORTS";

/// The one writer of `UNREAD_PORTS`. What an agent before this one has not read is in it too.
pub struct UnreadPorts {
    map: Mutex<HashMap<MapData, UnreadPort, u32>>,
    attached: Notify,
}

impl UnreadPorts {
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        let map = open(pins, UNREAD_PORTS, Map::HashMap)?;
        Ok(Self { map: Mutex::new(map), attached: Notify::new() })
    }

    /// To be called before an interface gets the programs.
    pub(super) fn add(&self, port: UnreadPort) -> Result<(), DataplaneError> {
        self.map().insert(port, 1, 0).map_err(failed("change", UNREAD_PORTS))
    }

    /// To be called when it has them.
    pub(super) fn attached(&self) {
        self.attached.notify_one();
    }

    /// Waits until an interface has got programs.
    pub async fn wait(&self) {
        self.attached.notified().await;
    }

    pub fn all(&self) -> BTreeSet<UnreadPort> {
        self.map().keys().flatten().collect()
    }

    /// It has been read which connections came in by them.
    pub fn forget(&self, ports: &BTreeSet<UnreadPort>) {
        let mut map = self.map();
        for port in ports {
            // It may be gone already.
            let _ = map.remove(port);
        }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<MapData, UnreadPort, u32>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for UnreadPorts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(UNREAD_PORTS)
    }
}
