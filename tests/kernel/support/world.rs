//! A node with the real programs, and its tables as the agent would fill them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::thread;
use std::time::Duration;

use aya::Pod;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues};
use aya::programs::cgroup_sock_addr::CgroupSockAddrLink;
use aya::programs::{SchedClassifier, TcAttachType};
use mesh_agent::dataplane::clock::monotonic_nanoseconds;
use mesh_agent::dataplane::pins::Pins;
use mesh_common::backend::{Backend, BackendCounters, LocalTask, TaskKey, state};
use mesh_common::flow::{Flow, FlowKey, Opening};
use mesh_common::frontend::{Frontend, FrontendKey, PortBit, SlotKey};
use mesh_common::maps::{self, taking_over};
use mesh_common::net::{Address, Mac, Port, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::overlay::{VipFlowKey, VipKey, VipReply, VipReplyKey};
use mesh_common::reply::{Reply, ReplyKey};
use mesh_common::route::RememberedRoute;
use mesh_common::settings::Settings;

use super::bpffs::BpfFs;
use super::cast::{self, Ip};
use super::checks;
use super::namespace::Namespace;
use super::overlay;
use super::packet::Packet;
use super::programs::{self, Programs};
use super::run::{self, Hook, Run};
use super::wire::Wire;

pub(crate) struct World {
    ebpf: Programs,
    /// Backend ids and set numbers that have been given out.
    backends: u32,
    sets: u32,
    frontends: BTreeMap<(u16, u8), u32>,
    vips: BTreeMap<(u32, Ip), u32>,
    namespace: Namespace,
}

/// The compiled programs.
pub(crate) fn object() -> &'static [u8] {
    mesh_agent::dataplane::object::OBJECT
}

/// Task `number` on this node.
pub(crate) fn local(number: u8) -> Backend {
    Backend {
        generation: 1,
        identity: Address::new(cast::identity(number)),
        bridge: Address::new(cast::task(number)),
        port: Port::new(cast::TARGET),
        state: state::ACTIVE,
        mac: cast::task_mac(number),
        ..Backend::default()
    }
}

/// Task `number` on the other node.
pub(crate) fn remote(number: u8) -> Backend {
    Backend {
        node: Address::new(cast::OTHER),
        bridge: Address::UNSPECIFIED,
        interface: cast::UPLINK,
        mac: [0; 6],
        ..local(number)
    }
}

impl World {
    /// A node with an uplink, a bridge, a neighbour on every address, and no frontends.
    pub(crate) fn new() -> Self {
        Self::of(Programs::take())
    }

    /// As [`World::new`], with a table for so many established flows.
    pub(crate) fn with_flows(flows: u32) -> Self {
        Self::of(Programs::with_flows(flows))
    }

    fn of(ebpf: Programs) -> Self {
        let namespace = Namespace::new();
        namespace.ip(&interfaces());
        namespace.forward();
        let mut world =
            Self { ebpf, backends: 0, sets: 0, frontends: BTreeMap::new(), vips: BTreeMap::new(), namespace };
        world.settings(|_| {});
        world.insert("LOCAL_ADDRESSES", Address::new(cast::NODE), 1_u32);
        world.peer(cast::OTHER, cast::UPLINK);
        world.insert("UPLINKS", cast::UPLINK, 1_u32);
        world.publish(cast::TUNNEL_PORT, protocol::UDP, true);
        world
    }

    /// A new world in which the usual port is published for TCP and UDP with these backends; their ids count from 1.
    pub(crate) fn serving(backends: &[Backend]) -> Self {
        Self::new().serves(backends)
    }

    /// This world, with the usual port published for TCP and UDP with these backends.
    pub(crate) fn serves(mut self, backends: &[Backend]) -> Self {
        let ids = self.backends(backends);
        self.frontend(cast::PUBLISHED, protocol::TCP, &ids);
        self.frontend(cast::PUBLISHED, protocol::UDP, &ids);
        self
    }

    /// As [`World::serving`], and the local tasks can be reached through the tunnel, too: by both protocols.
    pub(crate) fn home_of(numbers: &[u8]) -> Self {
        let mut world = Self::new();
        for number in numbers {
            world.task(*number, 0);
        }
        world
    }

    /// A new world in which these tasks serve the virtual address; their ids count from 1.
    pub(crate) fn calling(numbers: &[u8]) -> Self {
        Self::new().calls(numbers)
    }

    /// This world, with a virtual address that these tasks serve.
    pub(crate) fn calls(mut self, numbers: &[u8]) -> Self {
        let members: Vec<Backend> = numbers.iter().map(|number| overlay::member(*number)).collect();
        let ids = self.backends(&members);
        self.vip(overlay::NETWORK, overlay::VIP, &ids);
        self
    }

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

    pub(crate) fn settings(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = cast::settings();
        change(&mut settings);
        self.set("SETTINGS", 0, settings);
    }

    /// Whether the programs have those of another agent behind them, which know more flows.
    pub(crate) fn taking_over(&mut self, taking_over: bool) {
        self.set("TAKING_OVER", 0, if taking_over { taking_over::PREDECESSORS } else { taking_over::NOBODY });
    }

    /// The programs are on all hooks of the node, and no others are.
    pub(crate) fn claim_hooks(&mut self) {
        self.set("TAKING_OVER", 0, taking_over::ALL_HOOKS);
    }

    /// There is another node, whose packets come in by this interface.
    pub(crate) fn peer(&mut self, address: Ip, uplink: u32) {
        self.insert("PEERS", Address::new(address), uplink);
    }

    /// The agent of this node has a socket with this cookie.
    pub(crate) fn agent_socket(&mut self, cookie: u64) {
        self.insert("AGENT_SOCKETS", cookie, 1_u32);
    }

    /// The agent's resolver gives a sign of life.
    pub(crate) fn beat(&mut self) {
        self.set("HEARTBEAT", 0, monotonic_nanoseconds());
    }

    /// The last sign of life of the agent's resolver was long ago.
    pub(crate) fn stop_heart(&mut self) {
        self.set("HEARTBEAT", 0, 1_u64);
    }

    /// Gives the backends ids.
    pub(crate) fn backends(&mut self, backends: &[Backend]) -> Vec<u32> {
        backends
            .iter()
            .map(|backend| {
                self.backends += 1;
                self.set_backend(self.backends, *backend);
                self.backends
            })
            .collect()
    }

    pub(crate) fn set_backend(&mut self, id: u32, backend: Backend) {
        self.set("BACKENDS", id, backend);
    }

    pub(crate) fn change_backend(&mut self, id: u32, change: impl FnOnce(&mut Backend)) {
        let mut backend = self.array::<Backend>("BACKENDS").get(&id, 0).expect("the id is in range");
        change(&mut backend);
        self.set_backend(id, backend);
    }

    /// Publishes a port with these backends, or replaces the ones that it has.
    pub(crate) fn frontend(&mut self, port: u16, protocol: u8, ids: &[u32]) {
        let next = self.next_turn();
        let turn = *self.frontends.entry((port, protocol)).or_insert(next);
        let frontend = self.set_of(turn, ids);
        self.insert("FRONTENDS", FrontendKey::published(Port::new(port), protocol), frontend);
        self.publish(port, protocol, true);
    }

    /// Changes how a frontend of a published port is served.
    pub(crate) fn change_frontend(&mut self, port: u16, protocol: u8, change: impl FnOnce(&mut Frontend)) {
        let key = FrontendKey::published(Port::new(port), protocol);
        let mut frontend: Frontend = self.hash("FRONTENDS").get(&key, 0).expect("the port is published");
        change(&mut frontend);
        self.insert("FRONTENDS", key, frontend);
    }

    /// Gives a published port a set without this backend.
    pub(crate) fn leave_out(&mut self, port: u16, protocol: u8, id: u32) {
        let rest: Vec<u32> = (1..=self.backends).filter(|other| *other != id).collect();
        let turn = self.turn(port, protocol);
        let set = self.set_of(turn, &rest);
        self.change_frontend(port, protocol, |frontend| {
            (frontend.set, frontend.count) = (set.set, set.count);
        });
    }

    pub(crate) fn turn(&self, port: u16, protocol: u8) -> u32 {
        self.frontends[&(port, protocol)]
    }

    pub(crate) fn connections(&self, id: u32) -> u64 {
        self.array("CONNECTIONS").get(&id, 0).expect("the id is in range")
    }

    pub(crate) fn set_connections(&mut self, id: u32, count: u64) {
        self.set("CONNECTIONS", id, count);
    }

    /// Lets these backends serve a virtual address, or replaces the ones that it has.
    pub(crate) fn vip(&mut self, network: u32, address: Ip, ids: &[u32]) {
        let next = self.next_turn();
        let turn = *self.vips.entry((network, address)).or_insert(next);
        let frontend = self.set_of(turn, ids);
        self.insert("VIPS", VipKey { network, address: Address::new(address) }, frontend);
    }

    /// Publishes the usual port of task `number` on this node to other nodes, for TCP and UDP.
    pub(crate) fn task(&mut self, number: u8, flags: u8) {
        for protocol in [protocol::TCP, protocol::UDP] {
            let value = LocalTask {
                bridge: Address::new(cast::task(number)),
                mac: cast::task_mac(number),
                flags,
                ..LocalTask::default()
            };
            self.insert("TASKS", task_key(number, protocol), value);
        }
    }

    pub(crate) fn publish(&mut self, port: u16, protocol: u8, published: bool) {
        let bit = PortBit::of(protocol, Port::new(port));
        let word = self.array::<u64>("PORTS").get(&bit.word, 0).expect("the word is in range");
        self.set("PORTS", bit.word, if published { word | bit.mask } else { word & !bit.mask });
    }

    pub(crate) fn local_address(&mut self, address: Ip) {
        self.insert("LOCAL_ADDRESSES", Address::new(address), 1_u32);
    }

    /// Puts the programs where the agent puts them, and returns the far ends of the uplink and of the bridge.
    pub(crate) fn attach(&mut self) -> [Wire; 2] {
        self.namespace.enter();
        for (hook, interface, place) in [
            (Hook::UplinkIn, "uplink", TcAttachType::Ingress),
            (Hook::UplinkOut, "uplink", TcAttachType::Egress),
            (Hook::BridgeIn, "bridge", TcAttachType::Ingress),
        ] {
            self.ebpf.attach(hook, interface, place);
        }
        ["uplink", "bridge"].map(Wire::at_far_end_of)
    }

    /// Makes a port of the bridge that a task is behind, in a namespace of its own, with the bridge's program on it. Returns the
    /// task's end.
    pub(crate) fn attach_port(&mut self) -> (Namespace, Wire) {
        let task = Namespace::new();
        let (index, namespace) = (cast::TASK_PORT, task.path());
        self.namespace.ip(&format!(
            "link add name task index {index} type veth peer name task-far netns {namespace}\nlink set task up\n"
        ));
        task.ip("link set task-far up\n");
        let wire = Wire::at_far_end_of("task");
        self.namespace.enter();
        self.ebpf.attach(Hook::BridgeIn, "task", TcAttachType::Ingress);
        (task, wire)
    }

    /// Puts the overlay's programs on the caller's port of a bridge, which takes no aggregates, and returns the caller's end and that of the rest of
    /// the network.
    pub(crate) fn attach_overlay(&mut self) -> [Wire; 2] {
        self.namespace.ip("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n\
             link add rest type veth peer name rest-far\nlink set rest-far up\nlink set rest up\n\
             link set port gso_max_size 1500 master br0\nlink set rest gso_max_size 1500 master br0\n");
        let forwards = |text: &str| text.matches("state forwarding").count() == 2;
        while !forwards(&self.namespace.ask(&["-details", "link", "show", "master", "br0"])) {
            thread::sleep(Duration::from_millis(10));
        }
        for (hook, place) in
            [(Hook::OverlayIn, TcAttachType::Ingress), (Hook::OverlayOut, TcAttachType::Egress)]
        {
            self.ebpf.attach(hook, "port", place);
        }
        ["port", "rest"].map(Wire::at_far_end_of)
    }

    /// From now on the interfaces take no aggregates, so that the kernel cuts them before it sends them.
    pub(crate) fn cut_aggregates(&self) {
        self.namespace.ip("link set uplink gso_max_size 1500\nlink set bridge gso_max_size 1500\n");
    }

    /// From now on the bridge takes packets as large as netfilter puts them together.
    pub(crate) fn widen_bridge(&self) {
        self.namespace.ip("link set bridge-far mtu 9000\nlink set bridge mtu 9000\n");
    }

    /// Empties these tables.
    pub(crate) fn forget(&mut self, names: impl IntoIterator<Item = &'static str>) {
        for name in names {
            let map = self.ebpf.map(name).unwrap_or_else(|| panic!("there is a map {name}"));
            super::tables::empty(map).unwrap_or_else(|error| panic!("{name} cannot be emptied: {error}"));
        }
    }

    /// How often `outcome` has been counted.
    pub(crate) fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes().into_iter().find(|(counted, _)| *counted == outcome).map_or(0, |(_, count)| count)
    }

    /// The packet through the hook's program.
    pub(crate) fn run(&self, hook: Hook, packet: &[u8]) -> Run {
        self.counted(packet, || run::run(self.program(hook), hook, packet))
    }

    /// As [`World::run`], on the other network.
    pub(crate) fn run_on_other_network(&self, hook: Hook, packet: &[u8]) -> Run {
        self.counted(packet, || run::run_on(self.program(hook), hook, overlay::OTHER_NETWORK, packet))
    }

    /// As [`World::run`], with these words in the control block.
    pub(crate) fn run_tagged(&self, hook: Hook, tag: [u32; 4], packet: &[u8]) -> Run {
        self.counted(packet, || run::run_tagged(self.program(hook), hook, tag, packet))
    }

    fn counted(&self, packet: &[u8], run: impl FnOnce() -> (i32, Vec<u8>)) -> Run {
        self.namespace.enter();
        let counted = self.outcomes();
        let (verdict, after) = run();
        let outcomes = self
            .outcomes()
            .into_iter()
            .zip(counted)
            .filter(|((_, now), (_, then))| now != then)
            .map(|((outcome, now), (_, then))| (outcome, now - then))
            .collect();
        Run { verdict, before: packet.to_vec(), after, outcomes }
    }

    pub(crate) fn uplink_in(&self, packet: &Packet) -> Run {
        self.run(Hook::UplinkIn, &packet.bytes())
    }

    pub(crate) fn bridge_in(&self, packet: &Packet) -> Run {
        self.run(Hook::BridgeIn, &packet.bytes())
    }

    pub(crate) fn overlay_in(&self, packet: &Packet) -> Run {
        self.run(Hook::OverlayIn, &packet.bytes())
    }

    pub(crate) fn overlay_out(&self, packet: &Packet) -> Run {
        self.run(Hook::OverlayOut, &packet.bytes())
    }

    /// Puts the programs for sockets on a cgroup, for as long as what is returned lives.
    pub(crate) fn attach_to_cgroup(&mut self, cgroup: &File) -> Vec<CgroupSockAddrLink> {
        self.ebpf.attach_to_cgroup(cgroup)
    }

    pub(crate) fn program(&self, hook: Hook) -> &SchedClassifier {
        programs::classifier(&self.ebpf, hook)
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

    /// Until when a backend gets no new flows; 0 if it does.
    pub(crate) fn suspected_until(&self, id: u32) -> u64 {
        self.array::<u64>("SUSPECTS").get(&id, 0).expect("the id is in range")
    }

    pub(crate) fn set_suspect(&mut self, id: u32, until: u64) {
        self.set("SUSPECTS", id, until);
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

    fn next_turn(&self) -> u32 {
        (self.frontends.len() + self.vips.len()) as u32
    }

    /// A new set of these backends.
    fn set_of(&mut self, turn: u32, ids: &[u32]) -> Frontend {
        self.sets += 1;
        let set = self.sets;
        for (slot, id) in ids.iter().enumerate() {
            self.insert("SLOTS", SlotKey { set, slot: slot as u32 }, *id);
        }
        Frontend { turn, set, count: ids.len() as u32, ..Frontend::default() }
    }

    fn outcomes(&self) -> Vec<(Outcome, u64)> {
        let map: PerCpuArray<_, u64> = self.map("OUTCOMES");
        let count = |outcome: Outcome| map.get(&(outcome as u32), 0).expect("it is in range").iter().sum();
        Outcome::ALL.iter().map(|outcome| (*outcome, count(*outcome))).collect()
    }

    fn set<V: Pod>(&mut self, name: &str, index: u32, value: V) {
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

    fn map<'a, M: TryFrom<&'a aya::maps::Map, Error = aya::maps::MapError>>(&'a self, name: &str) -> M {
        let map = self.ebpf.map(name).unwrap_or_else(|| panic!("there is a map {name}"));
        M::try_from(map).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

pub(crate) fn task_key(number: u8, protocol: u8) -> TaskKey {
    TaskKey {
        identity: Address::new(cast::identity(number)),
        port: Port::new(cast::TARGET),
        protocol,
        padding: 0,
    }
}

/// The key of the client's flow to the usual port.
pub(crate) fn flow_key(protocol: u8) -> FlowKey {
    FlowKey {
        client: Address::new(cast::CLIENT),
        frontend: Address::new(cast::NODE),
        client_port: Port::new(cast::CLIENT_PORT),
        frontend_port: Port::new(cast::PUBLISHED),
        protocol,
        padding: [0; 3],
    }
}

/// The lines for `ip` that make the node's interfaces, and its neighbours known for good.
fn interfaces() -> String {
    let address = |ip: Ip| ip.map(|byte| byte.to_string()).join(".");
    let link = |name: &str, index: u32, hardware: Mac, prefix: &str| {
        [
            format!(
                "link add name {name} index {index} address {} type veth peer name {name}-far",
                checks::mac(&hardware)
            ),
            format!("addr add {prefix} dev {name}"),
            format!("link set {name} up"),
            format!("link set {name}-far up"),
        ]
    };
    let neighbour = |ip: Ip, hardware: Mac| {
        format!("neigh replace {} lladdr {} nud permanent dev uplink", address(ip), checks::mac(&hardware))
    };
    let mut lines = Vec::new();
    lines.extend(link("uplink", cast::UPLINK, cast::NODE_MAC, &format!("{}/24", address(cast::NODE))));
    lines.extend(link("bridge", cast::BRIDGE, cast::BRIDGE_MAC, "172.18.0.1/16"));
    lines.extend(link("port", overlay::PORT, [0x02, 0, 0, 0, 0, 0x0c], "192.0.2.1/32"));
    lines.push(neighbour(cast::CLIENT, cast::CLIENT_MAC));
    lines.push(neighbour(cast::OTHER, cast::OTHER_MAC));
    lines.join("\n") + "\n"
}
