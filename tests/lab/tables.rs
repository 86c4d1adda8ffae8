//! The kernel's tables on a node, read past the agent: what packets find there.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context, Result, ensure};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
};
use mesh_common::{
    backend::{Backend, state},
    frontend::{Frontend, FrontendKey, SlotKey},
    net::{Address, Port, protocol},
    overlay::VipKey,
};
use mesh_tests::lab::Node;

/// The tables of one node.
pub(crate) struct Tables {
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    vips: HashMap<MapData, VipKey, Frontend>,
    slots: HashMap<MapData, SlotKey, u32>,
    backends: Array<MapData, Backend>,
}

impl Tables {
    pub(crate) fn of(node: &Node) -> Result<Self> {
        let pinned = |name: &str| {
            let path = node.path(&format!("/sys/fs/bpf/mesh/maps/{name}"));
            MapData::from_pin(&path).with_context(|| format!("{} has no table {name}", node.name))
        };
        Ok(Self {
            frontends: Map::HashMap(pinned("FRONTENDS")?).try_into()?,
            vips: Map::HashMap(pinned("VIPS")?).try_into()?,
            slots: Map::HashMap(pinned("SLOTS")?).try_into()?,
            backends: Map::Array(pinned("BACKENDS")?).try_into()?,
        })
    }

    /// How many active backends packets find at a frontend, which is called as `status` calls it: `:8080/tcp`, `10.0.1.5`.
    pub(crate) fn active(&self, frontend: &str) -> Result<usize> {
        let found = match frontend.strip_prefix(':') {
            Some(published) => found(&self.frontends, &key_of(published)?)?,
            None => self.vip(frontend.parse().with_context(|| format!("what is {frontend}?"))?)?,
        };
        self.count(&found.with_context(|| format!("they do not have {frontend}"))?)
    }

    /// Its network has a number that only the agent knows; no two networks of the lab have the same addresses.
    fn vip(&self, address: Ipv4Addr) -> Result<Option<Frontend>> {
        for key in self.vips.keys() {
            let key = key?;
            if key.address == Address::from(address) {
                return found(&self.vips, &key);
            }
        }
        Ok(None)
    }

    fn count(&self, frontend: &Frontend) -> Result<usize> {
        let mut active = BTreeSet::new();
        for slot in 0..frontend.count {
            let id = found(&self.slots, &SlotKey { set: frontend.set, slot })?;
            // Or the set was replaced at this very moment.
            let id = id.context("a slot is empty")?;
            if self.backends.get(&id, 0)?.state == state::ACTIVE {
                active.insert(id);
            }
        }
        Ok(active.len())
    }
}

fn key_of(published: &str) -> Result<FrontendKey> {
    let (port, name) = published.split_once('/').with_context(|| format!("what is :{published}?"))?;
    let protocol = match name {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        other => anyhow::bail!("what is {other}?"),
    };
    ensure!(!port.is_empty(), "no port in :{published}");
    Ok(FrontendKey::published(Port::new(port.parse()?), protocol))
}

fn found<K: Pod, V: Pod>(table: &HashMap<MapData, K, V>, key: &K) -> Result<Option<V>> {
    match table.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
