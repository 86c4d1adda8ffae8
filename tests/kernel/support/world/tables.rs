//! What the programs have written, and tables of any kind.

use std::fs;

use aya::Pod;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues};
use mesh_agent::dataplane::pins::Pins;
use mesh_common::backend::{BackendCounters, Suspicion};
use mesh_common::flow::{Flow, FlowKey, Opening};
use mesh_common::maps;
use mesh_common::outcome::Outcome;
use mesh_common::overlay::{VipFlowKey, VipReply, VipReplyKey};
use mesh_common::pressure::Pressure;
use mesh_common::reply::{Reply, ReplyKey};
use mesh_common::route::RememberedRoute;

use super::World;
use crate::support::bpffs::BpfFs;
use crate::support::tables;

impl World {
    /// The maps as an agent finds them, for as long as the file system lives.
    pub(crate) fn pinned(&mut self) -> (BpfFs, Pins) {
        let files = BpfFs::new();
        let pins = Pins::under(&files.path(""));
        fs::create_dir_all(pins.maps()).expect("folders can be made");
        for name in maps::NAMES {
            let map = self.ebpf.map(name).unwrap_or_else(|| panic!("there is a map {name}"));
            map.pin(pins.map(name)).unwrap_or_else(|error| panic!("{name} can be pinned: {error}"));
        }
        (files, pins)
    }

    pub(crate) fn connections(&self, id: u32) -> u64 {
        self.array("CONNECTIONS").get(&id, 0).expect("the id is in range")
    }

    /// Empties these tables.
    pub(crate) fn forget(&mut self, names: impl IntoIterator<Item = &'static str>) {
        for name in names {
            let map = self.ebpf.map(name).unwrap_or_else(|| panic!("there is a map {name}"));
            tables::empty(map).unwrap_or_else(|error| panic!("{name} cannot be emptied: {error}"));
        }
    }

    /// How often `outcome` has been counted.
    pub(crate) fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes().into_iter().find(|(counted, _)| *counted == outcome).map_or(0, |(_, count)| count)
    }

    /// What backend `id` has been given, on all CPUs.
    pub(crate) fn counters(&self, id: u32) -> BackendCounters {
        let map: PerCpuArray<_, BackendCounters> = self.map("BACKEND_STATS");
        let values = map.get(&id, 0).expect("the id is in range");
        values.iter().fold(BackendCounters::default(), |sum, value| BackendCounters {
            flows: sum.flows + value.flows,
            packets: sum.packets + value.packets,
            bytes: sum.bytes + value.bytes,
        })
    }

    /// The flow, wherever it is.
    pub(crate) fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.established(key)
            .or_else(|| self.opening(key).map(|opening| opening.flow))
            .or_else(|| self.hash::<FlowKey, Flow>("UDP_FLOWS").get(key, 0).ok())
    }

    /// The flow among the established ones.
    pub(crate) fn established(&self, key: &FlowKey) -> Option<Flow> {
        self.hash::<FlowKey, Flow>("FLOWS").get(key, 0).ok()
    }

    pub(crate) fn opening(&self, key: &FlowKey) -> Option<Opening> {
        self.hash::<FlowKey, Opening>("OPENING").get(key, 0).ok()
    }

    /// What a table has for a key.
    pub(crate) fn value<K: Pod, V: Pod>(&self, name: &str, key: &K) -> Option<V> {
        self.hash::<K, V>(name).get(key, 0).ok()
    }

    /// How many entries a table has.
    pub(crate) fn entries<K: Pod, V: Pod>(&self, name: &str) -> usize {
        self.hash::<K, V>(name).keys().flatten().count()
    }

    /// The conversation, wherever it is.
    pub(crate) fn reply(&self, key: &ReplyKey) -> Option<Reply> {
        ["REPLIES", "OPENING_REPLIES", "UDP_REPLIES"]
            .iter()
            .find_map(|name| self.hash::<ReplyKey, Reply>(name).get(key, 0).ok())
    }

    /// The conversation among the established ones.
    pub(crate) fn established_reply(&self, key: &ReplyKey) -> Option<Reply> {
        self.hash::<ReplyKey, Reply>("REPLIES").get(key, 0).ok()
    }

    /// The call, wherever it is.
    pub(crate) fn vip_flow(&self, key: &VipFlowKey) -> Option<Flow> {
        let opening = || self.hash::<VipFlowKey, Opening>("VIP_OPENING").get(key, 0).ok();
        self.established_call(key)
            .or_else(|| opening().map(|opening| opening.flow))
            .or_else(|| self.hash::<VipFlowKey, Flow>("VIP_UDP_FLOWS").get(key, 0).ok())
    }

    /// The call among the established ones.
    pub(crate) fn established_call(&self, key: &VipFlowKey) -> Option<Flow> {
        self.hash::<VipFlowKey, Flow>("VIP_FLOWS").get(key, 0).ok()
    }

    /// Lets the flow, which is not TCP, have been silent for as long as UDP's idle time.
    pub(crate) fn silence_vip_flow(&mut self, key: VipFlowKey) {
        let mut flow = self.vip_flow(&key).expect("the flow is known");
        // Before the machine was started, perhaps: the difference still is what it says.
        flow.last_seen = flow.last_seen.wrapping_sub(181_000_000_000);
        self.insert("VIP_UDP_FLOWS", key, flow);
    }

    /// How many flows begin, and how many senders are told no.
    pub(crate) fn pressure(&self) -> Pressure {
        self.array::<Pressure>("PRESSURE").get(&0, 0).expect("there is one value")
    }

    pub(crate) fn set_pressure(&mut self, pressure: Pressure) {
        self.set("PRESSURE", 0, pressure);
    }

    /// Until when a backend gets no new flows; 0 if it does.
    pub(crate) fn suspected_until(&self, id: u32) -> u64 {
        self.array::<Suspicion>("SUSPECTS").get(&id, 0).expect("the id is in range").until
    }

    /// The ways in this place, by processor.
    pub(crate) fn routes(&self, place: u32) -> Vec<RememberedRoute> {
        let map: PerCpuArray<_, RememberedRoute> = self.map("ROUTES");
        map.get(&place, 0).expect("the place is in range").to_vec()
    }

    /// Puts a way into this place, for every processor.
    pub(crate) fn set_route(&mut self, place: u32, route: RememberedRoute) {
        let routes = vec![route; self.routes(place).len()];
        let map = self.ebpf.map_mut("ROUTES").expect("there is a map ROUTES");
        let mut map: PerCpuArray<_, RememberedRoute> = map.try_into().expect("it is an array per CPU");
        let routes = PerCpuValues::try_from(routes).expect("there is one for each");
        map.set(place, routes, 0).expect("the place is in range");
    }

    /// As if the kernel had been asked for no way yet.
    pub(crate) fn forget_ways(&self) {
        let map = self.ebpf.map("ROUTES").expect("there is a map ROUTES");
        tables::empty(map).expect("arrays can be written in one call");
    }

    /// The way back of a call among those that are not forgotten.
    pub(crate) fn protected_reply(&self, key: &VipReplyKey) -> Option<VipReply> {
        self.hash::<VipReplyKey, VipReply>("VIP_ESTABLISHED").get(key, 0).ok()
    }

    pub(crate) fn vip_reply(&self, key: &VipReplyKey) -> Option<VipReply> {
        self.hash::<VipReplyKey, VipReply>("VIP_REPLIES").get(key, 0).ok()
    }

    pub(crate) fn insert<K: Pod, V: Pod>(&mut self, name: &str, key: K, value: V) {
        let map = self.ebpf.map_mut(name).unwrap_or_else(|| panic!("there is a map {name}"));
        let mut map: HashMap<_, K, V> = map.try_into().expect("it is a hash map with this key and value");
        map.insert(key, value, 0).expect("there is room");
    }

    pub(crate) fn remove<K: Pod, V: Pod>(&mut self, name: &str, key: &K) {
        let map = self.ebpf.map_mut(name).unwrap_or_else(|| panic!("there is a map {name}"));
        let mut map: HashMap<_, K, V> = map.try_into().expect("it is a hash map with this key and value");
        map.remove(key).expect("the key is there");
    }

    pub(super) fn outcomes(&self) -> Vec<(Outcome, u64)> {
        let map: PerCpuArray<_, u64> = self.map("OUTCOMES");
        let count = |outcome: Outcome| map.get(&(outcome as u32), 0).expect("it is in range").iter().sum();
        Outcome::ALL.iter().map(|outcome| (*outcome, count(*outcome))).collect()
    }

    pub(super) fn set<V: Pod>(&mut self, name: &str, index: u32, value: V) {
        let map = self.ebpf.map_mut(name).unwrap_or_else(|| panic!("there is a map {name}"));
        let mut map: Array<_, V> = map.try_into().expect("it is an array of this value");
        map.set(index, value, 0).expect("the index is in range");
    }

    pub(crate) fn array<V: Pod>(&self, name: &str) -> Array<&MapData, V> {
        self.map(name)
    }

    pub(crate) fn hash<K: Pod, V: Pod>(&self, name: &str) -> HashMap<&MapData, K, V> {
        self.map(name)
    }

    pub(super) fn map<'a, M: TryFrom<&'a aya::maps::Map, Error = aya::maps::MapError>>(
        &'a self,
        name: &str,
    ) -> M {
        let map = self.ebpf.map(name).unwrap_or_else(|| panic!("there is a map {name}"));
        M::try_from(map).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}
