//! Tables that another version has pinned, or that had another size, go over to their successors with all that is in them.

use std::path::Path;

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};
use mesh_agent::dataplane::kernel;
use mesh_agent::dataplane::pins::Pins;
use mesh_common::backend::{Backend, LocalTask, TaskKey};
use mesh_common::flow::{Flow, FlowKey};
use mesh_common::frontend::PortBit;
use mesh_common::maps::{self, Sizes};
use mesh_common::net::{Address, Port, protocol};
use mesh_common::reply::{Reply, ReplyKey};

use crate::support::bpffs::BpfFs;

const TABLE: &str = "FLOWS";

fn key(client_port: u16) -> FlowKey {
    FlowKey {
        client: Address::new([10, 99, 0, 254]),
        frontend: Address::new([10, 99, 0, 1]),
        client_port: Port::new(client_port),
        frontend_port: Port::new(80),
        protocol: protocol::TCP,
        padding: [0; 3],
    }
}

fn flow(backend: u32) -> Flow {
    Flow { last_seen: 7, backend, generation: 3, ..Flow::default() }
}

fn table(pin: &Path) -> HashMap<MapData, FlowKey, Flow> {
    hash(pin)
}

/// Hash or LRU: the calls are the same.
fn hash<K: Pod, V: Pod>(pin: &Path) -> HashMap<MapData, K, V> {
    let map = Map::from_map_data(MapData::from_pin(pin).expect("the table is pinned")).expect("a table");
    HashMap::try_from(map).expect("a hash with these keys and values")
}

fn sizes(flows: u32) -> Sizes {
    Sizes { flows, backends: maps::BACKENDS }
}

fn flows_in(pins: &Pins) -> Vec<(u16, u32)> {
    let entries = table(&pins.map(TABLE));
    let mut flows: Vec<_> =
        entries.iter().flatten().map(|(key, flow)| (key.client_port.number(), flow.backend)).collect();
    flows.sort_unstable();
    flows
}

#[test]
fn a_table_of_another_size_is_taken_over_with_what_came_in_meanwhile() {
    let bpffs = BpfFs::new();
    let pins = Pins::under(&bpffs.path(""));
    let (_, _, migration) = kernel::load(&pins, sizes(1024)).expect("the first agent");
    assert!(!migration.is_pending(), "there is nothing to take over");
    table(&pins.map(TABLE)).insert(key(1), flow(1), 0).expect("room");

    let (_, _, mut migration) = kernel::load(&pins, sizes(4096)).expect("an agent with other flags");
    assert_eq!(flows_in(&pins), [], "flows are taken over when the programs are");
    migration.copy_flows();
    assert_eq!(flows_in(&pins), [(1, 1)]);
    assert!(migration.is_pending());
    table(&pins.map(TABLE)).insert(key(3), flow(3), 0).expect("room");
    table(&pins.aside().join(TABLE)).insert(key(4), flow(4), 0).expect("room");
    migration.copy_flows();
    table(&pins.map(TABLE)).remove(&key(4)).expect("it was taken over");
    // The first agent's programs are still attached and use the old table.
    let mut old = table(&pins.aside().join(TABLE));
    old.insert(key(1), flow(9), 0).expect("room");
    old.insert(key(2), flow(2), 0).expect("room");
    drop(old);
    migration.finish();
    let expected = [(1, 1), (2, 2), (3, 3)];
    assert_eq!(flows_in(&pins), expected, "what is in use stays as it is, and what is over is over");
    assert!(Pins::entries(&pins.aside()).is_empty());

    let (_, _, mut migration) = kernel::load(&pins, sizes(1024)).expect("and back");
    migration.copy_flows();
    assert_eq!(flows_in(&pins), expected);
    migration.finish();
}

#[test]
fn an_agent_that_died_in_the_middle_is_finished_for_by_one_of_the_size_before() {
    let bpffs = BpfFs::new();
    let pins = Pins::under(&bpffs.path(""));
    drop(kernel::load(&pins, sizes(1024)).expect("the first agent"));
    drop(kernel::load(&pins, sizes(4096)).expect("an agent that is killed before it could finish"));
    table(&pins.aside().join(TABLE)).insert(key(2), flow(2), 0).expect("room");
    table(&pins.map(TABLE)).insert(key(3), flow(3), 0).expect("room");

    let (_, _, migration) = kernel::load(&pins, sizes(1024)).expect("the first agent once more");
    migration.finish();
    assert_eq!(flows_in(&pins), [(2, 2), (3, 3)]);
}

#[test]
fn tables_of_backends_grow_with_what_is_in_them() {
    let bpffs = BpfFs::new();
    let pins = Pins::under(&bpffs.path(""));
    let backends = || {
        let data = MapData::from_pin(pins.map("BACKENDS")).expect("the table is pinned");
        Array::<_, Backend>::try_from(Map::Array(data)).expect("an array of backends")
    };
    let known = Backend { generation: 3, port: Port::new(8080), ..Backend::default() };
    drop(kernel::load(&pins, Sizes { backends: 256, ..sizes(1024) }).expect("the first agent"));
    backends().set(255, known, 0).expect("room");

    let (_, _, migration) =
        kernel::load(&pins, Sizes { backends: 512, ..sizes(1024) }).expect("a larger one");
    assert_eq!(backends().len(), 512);
    assert_eq!(backends().get(&255, 0).expect("in range"), known);
    backends().set(511, known, 0).expect("room");
    migration.finish();
    let (_, _, migration) = kernel::load(&pins, Sizes { backends: 256, ..sizes(1024) }).expect("and back");
    assert_eq!(backends().get(&255, 0).expect("in range"), known);
    migration.finish();
}

#[test]
fn an_agent_that_died_in_the_middle_is_finished_for() {
    let bpffs = BpfFs::new();
    let pins = Pins::under(&bpffs.path(""));
    drop(kernel::load(&pins, sizes(1024)).expect("the first agent"));
    drop(kernel::load(&pins, sizes(4096)).expect("an agent that is killed before it could finish"));
    table(&pins.aside().join(TABLE)).insert(key(2), flow(2), 0).expect("room");
    table(&pins.map(TABLE)).insert(key(3), flow(3), 0).expect("room");

    let (_, _, migration) = kernel::load(&pins, sizes(4096)).expect("the next one");
    assert!(migration.is_pending());
    migration.finish();
    assert_eq!(flows_in(&pins), [(2, 2), (3, 3)]);
    assert!(Pins::entries(&pins.aside()).is_empty());
}

#[test]
fn values_of_another_length_are_cut_or_filled_up_and_foreign_tables_go() {
    let bpffs = BpfFs::new();
    let pins = Pins::under(&bpffs.path(""));
    drop(kernel::load(&pins, sizes(1024)).expect("an agent that makes the folders"));
    for difference in [-8_i32, 8] {
        let shape = MapData::from_pin(pins.map(TABLE)).expect("pinned").info().expect("information");
        let value = shape.value_size().checked_add_signed(difference).expect("a size");
        let kind = shape.map_type().expect("a known type") as u32;
        let other = aya_obj::Map::new_from_params(kind, shape.key_size(), value, 1024, shape.map_flags());
        let other = MapData::create(other, TABLE, None).expect("a table of another version");
        std::fs::remove_file(pins.map(TABLE)).expect("unpin ours");
        other.pin(pins.map(TABLE)).expect("pin the other");
        put(&other, key(5), value as usize);
        other.pin(pins.map("LATER")).expect("pin what this version does not know");

        let (_, _, mut migration) = kernel::load(&pins, sizes(1024)).expect("this version");
        migration.copy_flows();
        let found = table(&pins.map(TABLE)).get(&key(5), 0).expect("the flow");
        assert_eq!((found.last_seen, found.backend, found.generation), (7, 4, 3));
        assert!(pins.map("LATER").exists(), "programs of the other version may use it");
        migration.finish();
        assert!(!pins.map("LATER").exists());
    }
}

/// Writes a flow as the other version would: the fields that both know, then whatever else it has.
fn put(map: &MapData, key: FlowKey, value_size: usize) {
    use std::os::fd::{AsFd, AsRawFd};

    /// `struct bpf_attr` of `BPF_MAP_UPDATE_ELEM` (linux/bpf.h).
    #[repr(C)]
    struct Update {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;

    let mut value = vec![0xff_u8; value_size];
    value[..8].copy_from_slice(&7_u64.to_ne_bytes());
    value[8..12].copy_from_slice(&4_u32.to_ne_bytes());
    value[12..16].copy_from_slice(&3_u32.to_ne_bytes());
    let update = Update {
        map: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        padding: 0,
        key: (&raw const key).addr() as u64,
        value: value.as_ptr().addr() as u64,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command, and key and value are as long as the map says.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_ELEM, &raw const update, std::mem::size_of::<Update>())
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn where_tasks_answer_from_is_known_of_tables_that_say_nothing_of_it() {
    const TCP: ReplyKey = ReplyKey { task_port: Port::new(8080), protocol: protocol::TCP, ..ZERO };
    const UDP: ReplyKey = ReplyKey { task_port: Port::new(53), protocol: protocol::UDP, ..ZERO };
    const ZERO: ReplyKey = ReplyKey {
        task: Address::UNSPECIFIED,
        client: Address::UNSPECIFIED,
        task_port: Port::new(0),
        client_port: Port::new(0),
        protocol: 0,
        padding: [0; 3],
    };

    let bpffs = BpfFs::new();
    let pins = Pins::under(&bpffs.path(""));
    let ports = || {
        let map = Map::from_map_data(MapData::from_pin(pins.map("TASK_PORTS")).expect("it is pinned"));
        let map: Array<_, u64> = map.expect("a map").try_into().expect("an array of words");
        (0..PortBit::WORDS)
            .filter_map(|word| Some((word, map.get(&word, 0).ok().filter(|bits| *bits != 0)?)))
            .collect::<Vec<_>>()
    };
    let _ = kernel::load(&pins, sizes(1024)).expect("the first agent");
    assert_eq!(ports(), []);
    hash(&pins.map("REPLIES")).insert(TCP, Reply::default(), 0).expect("room");
    hash(&pins.map("UDP_REPLIES")).insert(UDP, Reply::default(), 0).expect("room");
    let key = TaskKey { port: Port::new(9000), protocol: protocol::TCP, ..TaskKey::default() };
    hash(&pins.map("TASKS")).insert(key, LocalTask::default(), 0).expect("room");
    std::fs::remove_file(pins.map("TASK_PORTS")).expect("it is pinned");

    let _ = kernel::load(&pins, sizes(4096)).expect("an agent that knows it, with other tables of flows");
    let bits = [(protocol::TCP, 8080), (protocol::UDP, 53), (protocol::TCP, 9000)];
    let bits = bits.map(|(protocol, port)| PortBit::of(protocol, Port::new(port)));
    let mut expected = bits.map(|bit| (bit.word, bit.mask));
    expected.sort_unstable();
    assert_eq!(ports(), expected);
    hash::<TaskKey, LocalTask>(&pins.map("TASKS")).remove(&key).expect("it is there");
    let _ = kernel::load(&pins, sizes(4096)).expect("the next one");
    assert_eq!(ports(), expected, "the programs go on noting them");
}
