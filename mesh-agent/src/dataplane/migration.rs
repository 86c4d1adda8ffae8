//! Taking over tables that another version has pinned, or that had another size.
//!
//! Within one layout ([`mesh_common::maps::LAYOUT`]) a map's key never changes, and its value only grows at its end. So a
//! table of another shape is set aside, a new one is made in its place, and the entries are copied. Going back to an older
//! version works the same way.
//!
//! Packets do not wait for that. The new programs are attached before the old ones on the same hooks, and take what starts;
//! what they do not know they leave to the old ones (`TAKING_OVER`), which go on serving it with the old tables. A flow
//! that has been copied is the new programs'. When all are, the old ones are taken off. With clsact, where programs are
//! replaced in place, flows are copied right before and right after.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use mesh_common::maps::{self, Sizes, taking_over};
use tracing::{info, warn};

use super::object::OBJECT;
use super::pins::{self, Pins};
use super::raw_map::{RawMap, Shape, is_array};
use super::{DataplaneError, failed};

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
    /// Keys of what has been copied: if it is not in the successor any more, it is over.
    copied: HashSet<Vec<u8>>,
}

impl Aside {
    fn new(map: RawMap, resumed: bool) -> Self {
        Self { map, resumed, copied: HashSet::new() }
    }
}

impl Migration {
    /// Before the maps are loaded: moves those out of the way that are not as this version makes them.
    pub(super) fn begin(pins: &Pins, sizes: Sizes) -> Result<Self, DataplaneError> {
        let shapes = shapes(sizes)?;
        let mut aside = BTreeMap::new();
        for (name, shape) in &shapes {
            if let Some(old) = set_aside(pins, name, *shape) {
                aside.insert(name.clone(), old);
            }
        }
        if aside.values().any(|old| !old.resumed) {
            part_from_predecessors(pins)?;
        }
        Ok(Self { pins: pins.clone(), aside })
    }

    /// Once the new maps are pinned: all but the flows, which the programs may leave to those that are attached.
    pub(super) fn copy(&self) {
        self.tell_programs(self.pins.predecessors().is_dir());
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

    /// Before programs are replaced in place. Those that stay behind others keep their flows until then: what is copied is
    /// not theirs to change any more.
    pub fn prepare(&mut self) {
        if !self.pins.predecessors().is_dir() {
            self.copy_flows();
        }
    }

    /// Again and again once programs are replaced: packets go on making flows in the old tables. What is in the new ones
    /// already stays as it is.
    pub fn copy_flows(&mut self) {
        // A flow moves from the opening ones to the established ones: so it is found in one of them at least.
        let mut tables: Vec<_> = self.aside.iter_mut().filter(|(name, _)| is_of_flows(name)).collect();
        tables.sort_by_key(|(name, _)| !name.contains("OPENING"));
        for (name, Aside { map, copied, .. }) in tables {
            let Ok(new) = RawMap::open(&self.pins.map(name)) else { continue };
            match map.copy_new_to(&new, copied) {
                Ok(0) => {}
                Ok(refused) => warn!(table = name, refused, "flows had no room in the new table"),
                Err(error) => warn!(table = name, "the flows could not be taken over: {error}"),
            }
        }
    }

    /// Whether something waits for [`Self::finish`].
    pub fn is_pending(&self) -> bool {
        !self.aside.is_empty() || !self.surplus().is_empty() || self.pins.predecessors().is_dir()
    }

    /// Once the programs are on all hooks. What is in an array is the agent's, who has written it anew.
    pub fn finish(mut self) {
        self.copy_flows();
        self.tell_programs(false);
        // For what came in just before.
        self.copy_flows();
        for link in Pins::entries(&self.pins.predecessors()) {
            if let Err(error) = pins::unpin(&link) {
                warn!("{error}");
            }
        }
        let _ = fs::remove_dir(self.pins.predecessors());
        for (name, Aside { map, .. }) in &self.aside {
            if !is_array(map.shape().kind)
                && !is_of_flows(name)
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

    /// Whether there are programs behind ours that know more flows.
    fn tell_programs(&self, are_there: bool) {
        let programs = if are_there { taking_over::PREDECESSORS } else { taking_over::NOBODY };
        if let Err(error) = write_taking_over(&self.pins, programs) {
            warn!(table = TAKING_OVER, "cannot be written: {error}");
        }
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

/// Which programs there are beside those that read it ([`taking_over`]). Old and new ones have a map of their own.
const TAKING_OVER: &str = "TAKING_OVER";

/// Once this version's programs are on all hooks, and nobody comes after them.
pub fn claim_hooks(pins: &Pins) -> Result<(), DataplaneError> {
    write_taking_over(pins, taking_over::ALL_HOOKS).map_err(failed("change", TAKING_OVER))
}

fn write_taking_over(pins: &Pins, programs: u32) -> io::Result<()> {
    RawMap::open(&pins.map(TAKING_OVER)).and_then(|map| map.set_number(0, programs))
}

/// The programs that are attached shall have nobody behind them, and stay while others come before them.
fn part_from_predecessors(pins: &Pins) -> Result<(), DataplaneError> {
    if pins.map(TAKING_OVER).exists()
        && let Err(error) = write_taking_over(pins, taking_over::NOBODY)
    {
        warn!(table = TAKING_OVER, "cannot be written: {error}");
    }
    pins::unpin(&pins.map(TAKING_OVER))?;
    for link in Pins::entries(&pins.predecessors()) {
        pins::unpin(&link)?;
    }
    let folder = pins.predecessors();
    if !pins.interface_links().is_empty()
        && let Err(error) = fs::create_dir_all(&folder)
    {
        warn!("programs are replaced in place: cannot make {}: {error}", folder.display());
    }
    Ok(())
}

/// The maps as this version defines them.
fn shapes(sizes: Sizes) -> Result<BTreeMap<String, Shape>, DataplaneError> {
    let object =
        aya_obj::Object::parse(OBJECT).map_err(|error| DataplaneError::Load { source: error.into() })?;
    let shape = |name: &str, map: &aya_obj::Map| Shape {
        kind: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        capacity: sizes.capacity(name).unwrap_or_else(|| map.max_entries()),
    };
    let ours = object.maps.iter().filter(|(name, _)| maps::NAMES.contains(&name.as_str()));
    Ok(ours.map(|(name, map)| (name.clone(), shape(name, map))).collect())
}

/// The pinned map of that name, if it has to make way for another one and its entries are of use; also one that an agent
/// has set aside that did not live to finish.
fn set_aside(pins: &Pins, name: &str, wanted: Shape) -> Option<Aside> {
    let (pin, aside) = (pins.map(name), pins.aside().join(name));
    let earlier = |resumed| RawMap::open(&aside).ok().map(|map| Aside::new(map, resumed));
    let Ok(pinned) = RawMap::open(&pin) else { return earlier(false) };
    if pinned.shape() == wanted {
        return earlier(true);
    }
    if pinned.shape().key_size != wanted.key_size {
        warn!(table = name, "the pinned table has other keys: starting with an empty one");
        forget(&pin);
        return None;
    }
    if let Some(mut unfinished) = earlier(true)
        && let Err(error) = unfinished.map.copy_new_to(&pinned, &mut unfinished.copied)
    {
        warn!(table = name, "what was not taken over yet is lost: {error}");
    }
    match pins::move_pin(&pin, &aside) {
        Ok(()) => Some(Aside::new(pinned, false)),
        Err(error) => {
            warn!(table = name, "the pinned table cannot be set aside, starting with an empty one: {error}");
            forget(&pin);
            None
        }
    }
}

fn forget(pin: &Path) {
    if let Err(error) = pins::unpin(pin) {
        warn!("{error}");
    }
}
