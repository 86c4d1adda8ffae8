//! The real maps: loaded with the programs, pinned, and written one entry at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, Pod};
use mesh_common::backend::{Backend, BackendCounters, LocalTask, TaskKey};
use mesh_common::flow::FlowKey;
use mesh_common::frontend::{Frontend, FrontendKey, SlotKey};
use mesh_common::maps::{self, Sizes};
use mesh_common::net::{Address, Port};
use mesh_common::overlay::{VipFlowKey, VipKey};
use mesh_common::peer::Peer;
use mesh_common::settings::Settings;
use tracing::warn;

use super::batch;
use super::migration::Migration;
use super::object::{self, NETWORK_OBJECT, OBJECT, program};
use super::pins::{self, Pins};
use super::task_ports;
use super::{Dataplane, DataplaneError, failed};
use crate::desired::{FrontendId, protocol_number};
use crate::reconcile::tables::{DockerFlow, Operation, Tables};
use crate::swarm::snapshot::Protocol;

const UPLINK_PORTS: &str = "UPLINK_PORTS";

/// The maps that the agent writes, by type.
pub struct Kernel {
    settings: Array<MapData, Settings>,
    addresses: HashMap<MapData, Address, u32>,
    peers: HashMap<MapData, Address, Peer>,
    uplinks: HashMap<MapData, u32, u32>,
    uplink_ports: HashMap<MapData, u32, u32>,
    ports: Array<MapData, u64>,
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    vips: HashMap<MapData, VipKey, Frontend>,
    slots: HashMap<MapData, SlotKey, u32>,
    backends: Array<MapData, Backend>,
    backend_stats: PerCpuArray<MapData, BackendCounters>,
    tasks: HashMap<MapData, TaskKey, LocalTask>,
    askers: HashMap<MapData, u64, u32>,
    docker_flows: HashMap<MapData, FlowKey, u32>,
    docker_vip_flows: HashMap<MapData, VipFlowKey, u32>,
    /// That there may be: as many values has each entry of a map per processor.
    processors: usize,
}

/// Loads the programs and takes over the pinned maps, or makes them. Nothing is attached yet; once everything is, the
/// migration is to be finished.
pub fn load(pins: &Pins, sizes: Sizes) -> Result<(Kernel, Ebpf, Migration), DataplaneError> {
    pins.create()?;
    forget_other_layouts(pins)?;
    let knows_ports = task_ports::is_known(pins);
    let migration = Migration::begin(pins, sizes)?;
    let mut loader = EbpfLoader::new();
    for name in maps::NAMES {
        loader.map_pin_path(name, pins.map(name));
    }
    for name in maps::NAMES {
        if let Some(capacity) = sizes.capacity(name) {
            loader.map_max_entries(name, capacity);
        }
    }
    let load = |source: anyhow::Error| DataplaneError::Load { source };
    let mut ebpf = loader.load(OBJECT).map_err(|error| load(error.into()))?;
    migration.copy();
    if !knows_ports {
        task_ports::note(pins, &mut ebpf);
    }
    // Those for overlays are loaded once for each.
    load_programs(&mut ebpf, &program::TC)?;
    let kernel = Kernel {
        settings: take(&mut ebpf, "SETTINGS")?,
        addresses: take(&mut ebpf, "LOCAL_ADDRESSES")?,
        peers: take(&mut ebpf, "PEERS")?,
        uplinks: take(&mut ebpf, "UPLINKS")?,
        uplink_ports: take(&mut ebpf, UPLINK_PORTS)?,
        ports: take(&mut ebpf, "PORTS")?,
        frontends: take(&mut ebpf, "FRONTENDS")?,
        vips: take(&mut ebpf, "VIPS")?,
        slots: take(&mut ebpf, "SLOTS")?,
        backends: take(&mut ebpf, "BACKENDS")?,
        backend_stats: take(&mut ebpf, "BACKEND_STATS")?,
        tasks: take(&mut ebpf, "TASKS")?,
        askers: take(&mut ebpf, "ASKERS")?,
        docker_flows: take(&mut ebpf, "DOCKER_FLOWS")?,
        docker_vip_flows: take(&mut ebpf, "DOCKER_VIPFLOWS")?,
        processors: nr_cpus().map_err(|(_, error)| load(error.into()))?,
    };
    Ok((kernel, ebpf, migration))
}

/// How many backends there may be if nobody says it: as many as there is room for, but no more than that their counters,
/// which each processor has for itself, take 32 MB.
pub fn default_backends() -> u32 {
    const MOST_BYTES: usize = 32 << 20;

    let processors = nr_cpus().unwrap_or(1).max(1);
    let room = MOST_BYTES / size_of::<BackendCounters>() / processors;
    u32::try_from(room).unwrap_or(u32::MAX).min(maps::BACKENDS)
}

/// Lets the kernel check the programs, and forgets them again. Returns how many there are.
pub fn try_load() -> Result<usize, DataplaneError> {
    let load = |source: anyhow::Error| DataplaneError::Load { source };
    let mut loader = EbpfLoader::new();
    object::shrink(&mut loader);
    let mut ebpf = loader.load(OBJECT).map_err(|error| load(error.into()))?;
    let count = load_programs(&mut ebpf, &[&program::TC[..], &program::TC_L3, &program::OVERLAY].concat())?;
    let mut network = EbpfLoader::new().load(NETWORK_OBJECT).map_err(|error| load(error.into()))?;
    object::load(&mut network, &program::NETWORK).map_err(load)?;
    Ok(count + program::NETWORK.len())
}

fn load_programs(ebpf: &mut Ebpf, tc: &[&str]) -> Result<usize, DataplaneError> {
    let names = [tc, &program::CGROUP].concat();
    object::load(ebpf, &names).map_err(|source| DataplaneError::Load { source })?;
    Ok(names.len())
}

impl Dataplane for Kernel {
    fn apply(&mut self, operation: &Operation) -> Result<(), DataplaneError> {
        let (map, result) = match *operation {
            Operation::SetSettings(settings) => ("SETTINGS", self.settings.set(0, settings, 0)),
            Operation::AddAddress(address) => ("LOCAL_ADDRESSES", self.addresses.insert(address, 1, 0)),
            Operation::DeleteAddress(address) => ("LOCAL_ADDRESSES", delete(&mut self.addresses, &address)),
            Operation::SetPeer(address, peer) => ("PEERS", self.peers.insert(address, peer, 0)),
            Operation::DeletePeer(address) => ("PEERS", delete(&mut self.peers, &address)),
            Operation::AddUplink(interface) => ("UPLINKS", self.uplinks.insert(interface, 1, 0)),
            Operation::DeleteUplink(interface) => ("UPLINKS", delete(&mut self.uplinks, &interface)),
            Operation::SetUplinkPort(port, bridge) => {
                (UPLINK_PORTS, self.uplink_ports.insert(port, bridge, 0))
            }
            Operation::DeleteUplinkPort(port) => (UPLINK_PORTS, delete(&mut self.uplink_ports, &port)),
            Operation::SetPorts(word, bits) => ("PORTS", self.ports.set(word, bits, 0)),
            Operation::SetFrontend(id, frontend) => match map_key(id) {
                MapKey::Published(key) => ("FRONTENDS", self.frontends.insert(key, frontend, 0)),
                MapKey::Vip(key) => ("VIPS", self.vips.insert(key, frontend, 0)),
            },
            Operation::DeleteFrontend(id) => match map_key(id) {
                MapKey::Published(key) => ("FRONTENDS", delete(&mut self.frontends, &key)),
                MapKey::Vip(key) => ("VIPS", delete(&mut self.vips, &key)),
            },
            Operation::SetSlot(key, backend) => ("SLOTS", self.slots.insert(key, backend, 0)),
            Operation::DeleteSlot(key) => ("SLOTS", delete(&mut self.slots, &key)),
            Operation::SetBackend(id, backend) => ("BACKENDS", self.backends.set(id, backend, 0)),
            Operation::ClearCounters(id) => ("BACKEND_STATS", self.clear_counters(id)),
            Operation::SetTask(key, task) => ("TASKS", self.tasks.insert(key, task, 0)),
            Operation::DeleteTask(key) => ("TASKS", delete(&mut self.tasks, &key)),
            Operation::SetAsker(cookie, place) => ("ASKERS", self.askers.insert(cookie, place, 0)),
            Operation::DeleteAsker(cookie) => ("ASKERS", delete(&mut self.askers, &cookie)),
            Operation::AddDockerFlow(flow) => match flow {
                DockerFlow::Published(key) => ("DOCKER_FLOWS", self.docker_flows.insert(key, 1, 0)),
                DockerFlow::Vip(key) => ("DOCKER_VIPFLOWS", self.docker_vip_flows.insert(key, 1, 0)),
            },
            Operation::DeleteDockerFlow(flow) => match flow {
                DockerFlow::Published(key) => ("DOCKER_FLOWS", delete(&mut self.docker_flows, &key)),
                DockerFlow::Vip(key) => ("DOCKER_VIPFLOWS", delete(&mut self.docker_vip_flows, &key)),
            },
        };
        result.map_err(failed("change", map))
    }

    fn dump(&self, ids: Option<&BTreeMap<u32, Backend>>) -> Result<Tables, DataplaneError> {
        let settings = self.settings.get(&0, 0).map_err(failed("read", "SETTINGS"))?;
        let mut tables = Tables {
            settings: (settings != Settings::default()).then_some(settings),
            addresses: entries(&self.addresses, "LOCAL_ADDRESSES")?.map(|(address, _)| address).collect(),
            peers: entries(&self.peers, "PEERS")?.collect(),
            uplinks: entries(&self.uplinks, "UPLINKS")?.map(|(interface, _)| interface).collect(),
            uplink_ports: entries(&self.uplink_ports, UPLINK_PORTS)?.collect(),
            frontends: self.dump_frontends()?,
            slots: entries(&self.slots, "SLOTS")?.collect(),
            tasks: entries(&self.tasks, "TASKS")?.collect(),
            askers: entries(&self.askers, "ASKERS")?.collect(),
            docker_flows: self.dump_docker_flows()?,
            ..Tables::default()
        };
        let of_ports = batch::read(&self.ports, |word, bits| {
            if bits != 0 {
                tables.ports.insert(word, bits);
            }
        });
        of_ports.map_err(failed("read", "PORTS"))?;
        tables.backends = self.dump_backends(ids).map_err(failed("read", "BACKENDS"))?;
        Ok(tables)
    }
}

/// Where a frontend stands in the maps.
enum MapKey {
    Published(FrontendKey),
    Vip(VipKey),
}

fn map_key(id: FrontendId) -> MapKey {
    match id {
        FrontendId::Published { port, protocol } => {
            MapKey::Published(FrontendKey::published(Port::new(port), protocol_number(protocol)))
        }
        FrontendId::Vip { network, address } => MapKey::Vip(VipKey { network, address: address.into() }),
    }
}

fn protocol_of(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|known| protocol_number(*known) == number)
}

impl Kernel {
    fn dump_frontends(&self) -> Result<BTreeMap<FrontendId, Frontend>, DataplaneError> {
        let published = entries(&self.frontends, "FRONTENDS")?.filter_map(|(key, frontend)| {
            let protocol = protocol_of(key.protocol)?;
            Some((FrontendId::Published { port: key.port.number(), protocol }, frontend))
        });
        let vips = entries(&self.vips, "VIPS")?.map(|(key, frontend)| {
            (FrontendId::Vip { network: key.network, address: key.address.into() }, frontend)
        });
        Ok(published.chain(vips).collect())
    }

    fn dump_docker_flows(&self) -> Result<BTreeSet<DockerFlow>, DataplaneError> {
        let published = entries(&self.docker_flows, "DOCKER_FLOWS")?;
        let vips = entries(&self.docker_vip_flows, "DOCKER_VIPFLOWS")?;
        let vips = vips.map(|(key, _)| DockerFlow::Vip(key));
        Ok(published.map(|(key, _)| DockerFlow::Published(key)).chain(vips).collect())
    }

    fn dump_backends(&self, ids: Option<&BTreeMap<u32, Backend>>) -> anyhow::Result<BTreeMap<u32, Backend>> {
        /// A system call for each takes longer from here on.
        const MANY: usize = 8192;

        let mut backends = BTreeMap::new();
        let mut see = |id: u32, backend: Backend| {
            if backend != Backend::default() {
                backends.insert(id, backend);
            }
        };
        match ids.filter(|ids| ids.len() < MANY) {
            Some(ids) => {
                for id in ids.keys() {
                    see(*id, self.backends.get(id, 0)?);
                }
            }
            None => batch::read(&self.backends, |id, backend| {
                if ids.is_none_or(|ids| ids.contains_key(&id)) {
                    see(id, backend);
                }
            })?,
        }
        Ok(backends)
    }

    fn clear_counters(&mut self, id: u32) -> Result<(), MapError> {
        let zeroes = PerCpuValues::try_from(vec![BackendCounters::default(); self.processors])?;
        self.backend_stats.set(id, zeroes, 0)
    }
}

/// Maps that another version has pinned with another layout are given up: the programs that use them go on until they are
/// replaced, but their flows are lost.
fn forget_other_layouts(pins: &Pins) -> Result<(), DataplaneError> {
    let ours = pins.layout(maps::LAYOUT);
    let is_new = Pins::entries(&pins.maps()).is_empty();
    if !ours.is_dir() {
        if !is_new {
            warn!(
                layout = maps::LAYOUT,
                "the pinned tables have another version's layout: starting with empty ones"
            );
        }
        for map in Pins::entries(&pins.maps()) {
            pins::unpin(&map)?;
        }
        let others = Pins::entries(pins.root()).into_iter().filter(|path| is_layout(path));
        others.for_each(|other| drop(fs::remove_dir(other)));
        let path = ours.display().to_string();
        fs::create_dir(ours).map_err(|source| DataplaneError::Pin { what: "make", path, source })?;
    }
    Ok(())
}

fn is_layout(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("layout-"))
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, DataplaneError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).context("no such map").map_err(failed("open", name))?;
    T::try_from(map).map_err(failed("open", name))
}

fn delete<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, key: &K) -> Result<(), MapError> {
    match map.remove(key) {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn entries<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<impl Iterator<Item = (K, V)> + use<K, V>, DataplaneError> {
    let mut all = Vec::new();
    batch::read(map, |key, value| all.push((key, value))).map_err(failed("read", name))?;
    Ok(all.into_iter())
}
