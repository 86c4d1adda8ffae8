//! What packets of a client cost the program on the uplink. Each run of the program gets a fresh packet, so that a figure
//! has the kernel's own effort for one run in it (`other_ns` is hardly more than that): they are for comparing, not for
//! quoting.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use mesh_agent::dataplane::clock::monotonic_nanoseconds;
use mesh_agent::dataplane::pins::Pins;
use mesh_agent::reconcile::plan::NodeFacts;
use mesh_common::flow::{Flow, FlowKey};
use mesh_common::net::{Address, Port, protocol};
use serde_json::{Value, json};

use crate::support::cast;
use crate::support::namespace::Namespace;
use crate::support::packet::Packet;
use crate::support::payload::{self, Payload, Tcp};

/// From `linux/pkt_cls.h`.
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_REDIRECT: u32 = 7;
/// Words of `struct __sk_buff` (linux/bpf.h), and where the interface is.
const CONTEXT_WORDS: usize = 48;
const CONTEXT_INTERFACE: usize = 10;

const RUNS: u16 = 20_000;
const FIRST_PORT: u16 = 20_000;

/// A node with an uplink, and a neighbour on every address that packets are sent to.
pub(crate) fn node(nodes: usize) -> Namespace {
    let namespace = Namespace::new();
    let mut lines = vec![
        format!("link add name uplink index {} type veth peer name far", cast::UPLINK),
        "addr add 10.99.0.1/24 dev uplink".to_owned(),
        "link set uplink up".to_owned(),
        "link set far up".to_owned(),
    ];
    let neighbours = (2..nodes + 2).chain([usize::from(cast::CLIENT[3])]);
    lines.extend(neighbours.map(|last| {
        format!("neigh replace 10.99.0.{last} lladdr 02:00:00:00:00:{last:02x} nud permanent dev uplink")
    }));
    namespace.ip(&lines.join("\n"));
    namespace
}

pub(crate) fn facts() -> NodeFacts {
    let settings = cast::settings();
    let addresses = [Address::new(cast::NODE)].into();
    NodeFacts { settings, addresses, default_uplink: cast::UPLINK, ..NodeFacts::default() }
}

/// Medians, for a frontend at `port` whose tasks run elsewhere; `backend` is one of them.
pub(crate) fn measure(programs: &mut Ebpf, pins: &Pins, port: u16, backend: (u32, u32)) -> Result<Value> {
    let key = FlowKey {
        client: Address::new(cast::CLIENT),
        frontend: Address::new(cast::NODE),
        client_port: Port::new(cast::CLIENT_PORT),
        frontend_port: Port::new(port),
        protocol: protocol::TCP,
        padding: [0; 3],
    };
    let flow = Flow {
        last_seen: monotonic_nanoseconds(),
        backend: backend.0,
        generation: backend.1,
        ..Flow::default()
    };
    let map = Map::from_map_data(MapData::from_pin(pins.map("FLOWS"))?)?;
    HashMap::<_, FlowKey, Flow>::try_from(map)?.insert(key, flow, 0)?;
    let program: &mut SchedClassifier =
        programs.program_mut("uplink_in").context("no program uplink_in")?.try_into()?;
    let tcp = |source, destination, flags| {
        let segment = Tcp { source, destination, ..payload::tcp(flags) };
        Packet::from_client(Payload::Tcp(segment)).bytes()
    };
    let other = median(program, TC_ACT_UNSPEC, |_| tcp(cast::CLIENT_PORT, 9, payload::ACK))?;
    let established = median(program, TC_ACT_REDIRECT, |_| tcp(cast::CLIENT_PORT, port, payload::ACK))?;
    let new = median(program, TC_ACT_REDIRECT, |number| tcp(FIRST_PORT + number, port, payload::SYN))?;
    Ok(json!({ "other_ns": other, "established_ns": established, "new_ns": new }))
}

fn median(program: &SchedClassifier, verdict: u32, packet: impl Fn(u16) -> Vec<u8>) -> Result<u64> {
    let mut context = [0_u8; 4 * CONTEXT_WORDS];
    context[4 * CONTEXT_INTERFACE..][..4].copy_from_slice(&cast::UPLINK.to_ne_bytes());
    let mut times = Vec::new();
    for number in 0..RUNS {
        let packet = packet(number);
        let options =
            TestRunOptions { data_in: Some(&packet), ctx_in: Some(&context), ..TestRunOptions::default() };
        let result = program.test_run(options)?;
        ensure!(result.return_value == verdict, "verdict {}, not {verdict}", result.return_value);
        times.push(result.duration);
    }
    times.sort_unstable();
    let middle: Duration = times[times.len() / 2];
    Ok(u64::try_from(middle.as_nanos())?)
}
