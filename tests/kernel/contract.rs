//! The compiled object and mesh-common agree, and the kernel is content with it.

use std::collections::BTreeMap;
use std::mem::size_of;

use aya::maps::{Map, MapType};
use aya::programs::{Program, ProgramInfo, ProgramType};
use aya::{Ebpf, EbpfLoader};
use mesh_agent::dataplane::object::{NETWORK_OBJECT, XDP_OBJECT, program};
use mesh_common::answer::{Answer, QuestionKey};
use mesh_common::backend::{Backend, BackendCounters, LocalTask, Suspicion, TaskKey};
use mesh_common::flow::{Flow, FlowKey, FragmentKey, FragmentPorts, Opening};
use mesh_common::frontend::{Affinity, AffinityKey, Frontend, FrontendKey, PortBit, SlotKey};
use mesh_common::maps;
use mesh_common::net::{Address, Port};
use mesh_common::outcome::Outcome;
use mesh_common::overlay::{VipFlowKey, VipKey, VipReply, VipReplyKey};
use mesh_common::peer::Peer;
use mesh_common::pressure::Pressure;
use mesh_common::reply::{Reply, ReplyKey, TranslationKey};
use mesh_common::route::RememberedRoute;
use mesh_common::settings::Settings;
use mesh_common::socket::{SocketFlow, SocketKey};
use mesh_common::unread::UnreadPort;

use crate::support::world::object;

/// The kernel gives up at a million.
const MOST_INSTRUCTIONS: u32 = 800_000;

/// Kind, sizes of key and value, and capacity.
type Shape = (MapType, u32, u32, u32);

#[test]
fn the_maps_are_what_the_contract_says() {
    let ebpf = load();
    let actual: BTreeMap<&str, Shape> = shared_maps(&ebpf).map(|(name, map)| (name, shape(map))).collect();
    let expected = BTreeMap::from([
        ("SETTINGS", array::<Settings>(1)),
        ("PORTS", array::<u64>(PortBit::WORDS)),
        ("LOCAL_ADDRESSES", hash::<Address, u32>(maps::LOCAL_ADDRESSES)),
        ("FRONTENDS", hash::<FrontendKey, Frontend>(maps::FRONTENDS)),
        ("SLOTS", hash::<SlotKey, u32>(maps::SLOTS)),
        ("BACKENDS", array::<Backend>(maps::BACKENDS)),
        ("BACKEND_STATS", per_cpu_array::<BackendCounters>(maps::BACKENDS)),
        ("TURNS", array::<u64>(maps::TURNS)),
        ("SUSPECTS", array::<Suspicion>(maps::BACKENDS)),
        ("CONNECTIONS", array::<u64>(maps::BACKENDS)),
        ("AFFINITIES", lru_hash::<AffinityKey, Affinity>(maps::AFFINITIES)),
        ("FLOWS", hash::<FlowKey, Flow>(maps::FLOWS)),
        ("OPENING", lru_hash::<FlowKey, Opening>(maps::OTHER_FLOWS)),
        ("SCRATCH", per_cpu_array::<Opening>(1)),
        ("PRESSURE", array::<Pressure>(1)),
        ("UDP_FLOWS", lru_hash::<FlowKey, Flow>(maps::OTHER_FLOWS)),
        ("REPLIES", hash::<ReplyKey, Reply>(maps::FLOWS)),
        ("OPENING_REPLIES", lru_hash::<ReplyKey, Reply>(maps::OTHER_FLOWS)),
        ("UDP_REPLIES", lru_hash::<ReplyKey, Reply>(maps::OTHER_FLOWS)),
        ("TRANSLATIONS", lru_hash::<TranslationKey, Port>(maps::TRANSLATIONS)),
        ("TASK_PORTS", array::<u64>(PortBit::WORDS)),
        ("ROUTES", per_cpu_array::<RememberedRoute>(maps::ROUTES)),
        ("FRAGMENTS", lru_hash::<FragmentKey, FragmentPorts>(maps::FRAGMENTS)),
        ("PEERS", hash::<Address, Peer>(maps::PEERS)),
        ("UPLINKS", hash::<u32, u32>(maps::UPLINKS)),
        ("UPLINK_PORTS", hash::<u32, u32>(maps::UPLINK_PORTS)),
        ("OUTGOING", lru_hash::<FlowKey, u64>(maps::OUTGOING)),
        ("AGENT_SOCKETS", hash::<u64, u32>(maps::AGENT_SOCKETS)),
        ("TASKS", hash::<TaskKey, LocalTask>(maps::TASKS)),
        ("SOCKETS", lru_hash::<SocketKey, SocketFlow>(maps::SOCKETS)),
        ("VIPS", hash::<VipKey, Frontend>(maps::VIPS)),
        ("VIP_FLOWS", hash::<VipFlowKey, Flow>(maps::FLOWS)),
        ("VIP_OPENING", lru_hash::<VipFlowKey, Opening>(maps::OTHER_FLOWS)),
        ("VIP_UDP_FLOWS", lru_hash::<VipFlowKey, Flow>(maps::OTHER_FLOWS)),
        ("VIP_REPLIES", lru_hash::<VipReplyKey, VipReply>(maps::FLOWS)),
        ("VIP_ESTABLISHED", hash::<VipReplyKey, VipReply>(maps::FLOWS)),
        ("ASKERS", hash::<u64, u32>(maps::ASKERS)),
        ("HEARTBEAT", array::<u64>(1)),
        ("ANSWERS", lru_hash::<QuestionKey, Answer>(maps::ANSWERS)),
        ("ANSWERS_VERSION", array::<u64>(1)),
        ("ANSWERED", per_cpu_array::<u64>(maps::ANSWERED)),
        ("TAKING_OVER", array::<u32>(1)),
        ("DOCKER_FLOWS", hash::<FlowKey, u32>(maps::DOCKER_FLOWS)),
        ("DOCKER_VIPFLOWS", hash::<VipFlowKey, u32>(maps::DOCKER_FLOWS)),
        ("UNREAD_PORTS", hash::<UnreadPort, u32>(maps::UNREAD_PORTS)),
        ("OUTCOMES", per_cpu_array::<u64>(Outcome::CAPACITY)),
    ]);
    assert_eq!(actual, expected);
}

#[test]
fn the_maps_of_xdp_are_those_of_tc() {
    let (tc, xdp) = (load(), load_xdp());
    let shapes: BTreeMap<&str, Shape> = shared_maps(&tc).map(|(name, map)| (name, shape(map))).collect();
    assert!(shared_maps(&xdp).count() > 10);
    for (name, map) in shared_maps(&xdp) {
        assert_eq!(Some(&shape(map)), shapes.get(name), "{name}");
    }
}

#[test]
fn the_contract_names_every_map_and_no_other() {
    let ebpf = load();
    let mut actual: Vec<&str> = shared_maps(&ebpf).map(|(name, _)| name).collect();
    let mut expected = maps::NAMES.to_vec();
    actual.sort_unstable();
    expected.sort_unstable();
    assert_eq!(actual, expected);
}

#[test]
fn the_object_holds_the_programs_that_the_agent_attaches() {
    let ebpf = load();
    let mut kinds = BTreeMap::new();
    for (name, program) in ebpf.programs() {
        let kind = if matches!(program, Program::SchedClassifier(_)) {
            "TC"
        } else if matches!(program, Program::CgroupSockAddr(_)) {
            "cgroup"
        } else {
            panic!("{name} is a {:?}", program.prog_type());
        };
        kinds.entry(kind).or_insert_with(Vec::new).push(name);
    }
    for names in kinds.values_mut() {
        names.sort_unstable();
    }
    assert_eq!(
        kinds["TC"],
        [
            "bridge_in",
            "overlay_in",
            "overlay_out",
            "uplink_in",
            "uplink_in_l3",
            "uplink_out",
            "uplink_out_l3",
            "uplink_port_in"
        ]
    );
    assert_eq!(
        kinds["cgroup"],
        ["connect4", "connect6", "getpeername4", "getpeername6", "recvmsg4", "recvmsg6", "sendmsg4"]
    );
}

#[test]
fn the_object_for_xdp_holds_one_program() {
    let ebpf = load_xdp();
    let programs: Vec<_> = ebpf.programs().map(|(name, program)| (name, program.prog_type())).collect();
    assert_eq!(programs, [(program::UPLINK_XDP, ProgramType::Xdp)]);
}

#[test]
fn the_object_for_networks_holds_two_small_programs() {
    let mut ebpf = EbpfLoader::new().load(NETWORK_OBJECT).expect("the object is accepted");
    let mut programs: Vec<_> = ebpf.programs_mut().collect();
    programs.sort_by_key(|(name, _)| name.to_owned());
    let verified = programs.into_iter().map(|(name, program)| {
        let info = load_program(name, program);
        assert_eq!(info.gpl_compatible(), Some(true), "{name}");
        (name, info.verified_instruction_count().expect("this kernel counts them") < 50)
    });
    assert_eq!(verified.collect::<Vec<_>>(), [("network_in", true), ("network_out", true)]);
}

#[test]
fn the_verifier_accepts_every_program_with_room_to_spare() {
    for mut ebpf in [load(), load_xdp()] {
        for (name, program) in ebpf.programs_mut() {
            let info = load_program(name, program);
            let instructions = info.verified_instruction_count().expect("this kernel counts them");
            assert!(instructions < MOST_INSTRUCTIONS, "{name}: {instructions} instructions verified");
        }
    }
}

#[test]
fn the_license_lets_the_programs_call_every_helper() {
    const LICENSE: &[u8] = b"Dual MIT/GPL\0";
    assert!(object().windows(LICENSE.len()).any(|bytes| bytes == LICENSE));
    for mut ebpf in [load(), load_xdp()] {
        for (name, program) in ebpf.programs_mut() {
            assert_eq!(load_program(name, program).gpl_compatible(), Some(true), "{name}");
        }
    }
}

fn load() -> Ebpf {
    EbpfLoader::new().load(object()).unwrap_or_else(|error| panic!("the object is not accepted: {error}"))
}

fn load_xdp() -> Ebpf {
    EbpfLoader::new().load(XDP_OBJECT).unwrap_or_else(|error| panic!("the object is not accepted: {error}"))
}

/// All but the constants that the compiler keeps in memory.
fn shared_maps(ebpf: &Ebpf) -> impl Iterator<Item = (&str, &Map)> {
    ebpf.maps().filter(|(name, _)| !name.starts_with(".rodata"))
}

fn load_program(name: &str, program: &mut Program) -> ProgramInfo {
    let loaded = if let Program::SchedClassifier(program) = program {
        program.load()
    } else if let Program::CgroupSockAddr(program) = program {
        program.load()
    } else if let Program::Xdp(program) = program {
        program.load()
    } else {
        panic!("{name} is a {:?}", program.prog_type());
    };
    loaded.unwrap_or_else(|error| panic!("{name}: {error}"));
    program.info().unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn shape(map: &Map) -> Shape {
    let (Map::Array(data) | Map::PerCpuArray(data) | Map::HashMap(data) | Map::LruHashMap(data)) = map else {
        panic!("a kind of map that the contract does not know: {map:?}");
    };
    let info = data.info().expect("the kernel describes its maps");
    (info.map_type().expect("the kind is known"), info.key_size(), info.value_size(), info.max_entries())
}

fn array<V>(capacity: u32) -> Shape {
    (MapType::Array, 4, size_of::<V>() as u32, capacity)
}

fn per_cpu_array<V>(capacity: u32) -> Shape {
    (MapType::PerCpuArray, 4, size_of::<V>() as u32, capacity)
}

fn hash<K, V>(capacity: u32) -> Shape {
    (MapType::Hash, size_of::<K>() as u32, size_of::<V>() as u32, capacity)
}

fn lru_hash<K, V>(capacity: u32) -> Shape {
    (MapType::LruHash, size_of::<K>() as u32, size_of::<V>() as u32, capacity)
}
