//! Addresses of this node, added to the tables ahead of the round that makes all of them right.

use std::net::Ipv4Addr;

use aya::maps::{HashMap, Map, MapData};
use mesh_common::net::Address;
use tracing::warn;

use super::pins::Pins;
use super::{DataplaneError, open};

const LOCAL_ADDRESSES: &str = "LOCAL_ADDRESSES";

/// A writer of `LOCAL_ADDRESSES` beside the core: what it adds and the core does not want, the core takes away when it reads the table.
pub struct LocalAddresses {
    map: HashMap<MapData, Address, u32>,
}

impl LocalAddresses {
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self { map: open(pins, LOCAL_ADDRESSES, Map::HashMap)? })
    }

    pub fn add(&mut self, address: Ipv4Addr) {
        if let Err(error) = self.map.insert(Address::from(address), 1, 0) {
            warn!(%address, "a new address of this node is served later: cannot change the map {LOCAL_ADDRESSES}: {error}");
        }
    }
}
