//! Taking over tables that another version has pinned, or that had another size.
//!
//! Within one layout ([`mesh_common::maps::LAYOUT`]) a map's key never changes, and its value only grows at its end. So a
//! table of another shape is set aside, a new one is made in its place, and the entries are copied: flows right before the
//! new programs are attached, and right after, for those that came in between. Going back to an older version works
//! the same way.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mesh_common::maps;
use tracing::{info, warn};

use super::DataplaneError;
use super::object::OBJECT;
use super::pins::{self, Pins};
use super::raw_map::{RawMap, Shape, is_array};

/// Tables that have a successor.
#[derive(Debug)]
#[must_use]
pub struct Migration {
    pins: Pins,
    /// By name.
    aside: BTreeMap<String, Aside>,
}

#[derive(Debug)]
struct Aside {
    map: RawMap,
    /// Its successor is in use already: an agent was ended before it could finish.
    resumed: bool,
}

impl Migration {
    /// Before the maps are loaded: moves those out of the way that are not as this version makes them.
    pub(super) fn begin(pins: &Pins, flows: u32) -> Result<Self, DataplaneError> {
        let shapes = shapes(flows)?;
        let mut aside = BTreeMap::new();
        for (name, shape) in &shapes {
            if let Some(old) = set_aside(pins, name, *shape) {
                aside.insert(name.clone(), old);
            }
        }
        Ok(Self { pins: pins.clone(), aside })
    }

    /// Once the new maps are pinned: all but the flows.
    pub(super) fn copy(&self) {
        for (name, Aside { map, .. }) in
            self.aside.iter().filter(|(name, old)| !old.resumed && !is_of_flows(name))
        {
            let (was, Ok(new)) = (map.shape(), RawMap::open(&self.pins.map(name))) else { continue };
            match map.copy_to(&new, false) {
                Ok(refused) => info!(table = name, ?was, now = ?new.shape(), refused, "table taken over"),
                Err(error) => warn!(table = name, "the table could not be taken over: {error}"),
            }
        }
    }

    /// Right before and right after the programs are replaced: packets go on making flows in the old tables until then.
    /// What is in the new ones already stays as it is.
    pub fn copy_flows(&self) {
        for (name, Aside { map, .. }) in self.aside.iter().filter(|(name, _)| is_of_flows(name)) {
            let Ok(new) = RawMap::open(&self.pins.map(name)) else { continue };
            match map.copy_to(&new, true) {
                Ok(0) => {}
                Ok(refused) => warn!(table = name, refused, "flows had no room in the new table"),
                Err(error) => warn!(table = name, "the flows could not be taken over: {error}"),
            }
        }
    }

    /// Whether something waits for [`Self::finish`].
    pub fn is_pending(&self) -> bool {
        !self.aside.is_empty() || !self.surplus().is_empty()
    }

    /// Once no program uses the old tables any more. What is in an array is the agent's, who has written it anew.
    pub fn finish(self) {
        for (name, Aside { map, .. }) in &self.aside {
            if !is_array(map.shape().kind)
                && let Ok(new) = RawMap::open(&self.pins.map(name))
                && let Err(error) = map.copy_to(&new, true)
            {
                warn!(table = name, "the table's last entries could not be taken over: {error}");
            }
        }
        for pin in Pins::entries(&self.pins.aside()).into_iter().chain(self.surplus()) {
            if let Err(error) = pins::unpin(&pin) {
                warn!("{error}");
            }
        }
        // It is made again when it is needed.
        let _ = fs::remove_dir(self.pins.aside());
    }

    /// Tables of other versions that this one does not have.
    fn surplus(&self) -> Vec<PathBuf> {
        let is_ours = |path: &PathBuf| {
            path.file_name().is_some_and(|name| maps::NAMES.iter().any(|ours| name.to_str() == Some(*ours)))
        };
        let mut pinned = Pins::entries(&self.pins.maps());
        pinned.retain(|path| !is_ours(path));
        pinned
    }
}

fn is_of_flows(name: &str) -> bool {
    maps::SIZED_BY_FLOWS.contains(&name)
}

/// The maps as this version defines them.
fn shapes(flows: u32) -> Result<BTreeMap<String, Shape>, DataplaneError> {
    let object =
        aya_obj::Object::parse(OBJECT).map_err(|error| DataplaneError::Load { source: error.into() })?;
    let shape = |name: &str, map: &aya_obj::Map| Shape {
        kind: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        capacity: if maps::SIZED_BY_FLOWS.contains(&name) {
            maps::flow_capacity(name, flows)
        } else {
            map.max_entries()
        },
    };
    let ours = object.maps.iter().filter(|(name, _)| maps::NAMES.contains(&name.as_str()));
    Ok(ours.map(|(name, map)| (name.clone(), shape(name, map))).collect())
}

/// The pinned map of that name, if it has to make way for another one and its entries are of use; also one that an agent
/// has set aside that did not live to finish.
fn set_aside(pins: &Pins, name: &str, wanted: Shape) -> Option<Aside> {
    let (pin, aside) = (pins.map(name), pins.aside().join(name));
    let earlier = |resumed| RawMap::open(&aside).ok().map(|map| Aside { map, resumed });
    let Ok(pinned) = RawMap::open(&pin) else { return earlier(false) };
    if pinned.shape() == wanted {
        return earlier(true);
    }
    if pinned.shape().key_size != wanted.key_size {
        warn!(table = name, "the pinned table has other keys: starting with an empty one");
        forget(&pin);
        return None;
    }
    match move_pin(&pin, &aside) {
        Ok(()) => Some(Aside { map: pinned, resumed: false }),
        Err(error) => {
            warn!(table = name, "the pinned table cannot be set aside, starting with an empty one: {error}");
            forget(&pin);
            None
        }
    }
}

fn move_pin(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::rename(from, to)
}

fn forget(pin: &Path) {
    if let Err(error) = pins::unpin(pin) {
        warn!("{error}");
    }
}
