//! XDP's program beside those of TC, on the same tables.

use std::process::Command;
use std::thread;
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray};
use aya::programs::{TestRun, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use mesh_agent::dataplane::object::{self, XDP_OBJECT, program};
use mesh_common::maps;
use mesh_common::net::Mac;
use mesh_common::outcome::Outcome;
use mesh_common::route::LASTS_NANOSECONDS;

use super::bpffs::BpfFs;
use super::cast::{self, Ip};
use super::checks;
use super::packet::Packet;
use super::tunnel::Tunnel;
use super::world::World;

/// From `linux/bpf.h`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// The neighbour that [`route_elsewhere`] leads to.
pub(crate) const ELSEWHERE: Mac = [0x02, 0, 0, 0, 0, 0x99];

/// A packet and what the kernel keeps around it have to fit into one page.
const LARGEST: usize = 3520;

/// The program on the node's uplink, as drivers run it.
pub(crate) struct Driver {
    ebpf: Ebpf,
    _files: BpfFs,
}

/// What the program did with a packet.
#[derive(Debug)]
#[must_use]
pub(crate) struct XdpRun {
    pub(crate) verdict: u32,
    pub(crate) before: Vec<u8>,
    pub(crate) after: Vec<u8>,
    /// The outcomes that were counted, and how often.
    pub(crate) outcomes: Vec<(Outcome, u64)>,
}

impl Driver {
    /// Of the world that the thread is in.
    pub(crate) fn of(world: &mut World) -> Self {
        let (files, pins) = world.pinned();
        let mut loader = EbpfLoader::new();
        for name in maps::NAMES {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = loader.load(XDP_OBJECT).expect("the object is accepted");
        let xdp = uplink_xdp(&mut ebpf);
        object::until_undisturbed(|| xdp.load()).expect("the verifier accepts it");
        // The kernel runs nothing in the name of an interface without it.
        xdp.attach_to_if_index(cast::UPLINK, XdpMode::Driver).expect("veth takes XDP programs");
        // XDP leaves ways to TC that no packet has confirmed for a second, which is less than the verifier may take.
        world.forget_ways();
        Self { ebpf, _files: files }
    }

    /// Puts the program on another interface of the namespace that the thread is in, too.
    pub(crate) fn attach(&mut self, interface: &str) {
        uplink_xdp(&mut self.ebpf).attach(interface, XdpMode::Driver).expect("veth takes XDP programs");
    }

    pub(crate) fn run(&self, packet: &[u8]) -> XdpRun {
        let counted = self.outcomes();
        let (verdict, after) = self.run_uncounted(packet);
        let outcomes = self.outcomes().into_iter().zip(counted).filter(|((_, now), (_, then))| now != then);
        let outcomes = outcomes.map(|((outcome, now), (_, then))| (outcome, now - then)).collect();
        XdpRun { verdict, before: packet.to_vec(), after, outcomes }
    }

    pub(crate) fn receives(&self, packet: &Packet) -> XdpRun {
        self.run(&packet.bytes())
    }

    /// The verdict and the packet, without a look at the counters.
    pub(crate) fn run_uncounted(&self, packet: &[u8]) -> (u32, Vec<u8>) {
        // `struct xdp_md`: data, its end, metadata, interface, queue, outgoing interface.
        let context = [0, packet.len() as u32, 0, cast::UPLINK, 0, 0].map(u32::to_ne_bytes).concat();
        let mut after = vec![0; LARGEST];
        let xdp: &Xdp = self
            .ebpf
            .program(program::UPLINK_XDP)
            .expect("the object has it")
            .try_into()
            .expect("it is an XDP program");
        let result = xdp
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut after),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })
            .unwrap_or_else(|error| panic!("it cannot be run on {}: {error:?}", checks::hex(packet)));
        after.truncate(result.data_size_out as usize);
        (result.return_value, after)
    }

    fn outcomes(&self) -> Vec<(Outcome, u64)> {
        let map = self.ebpf.map("OUTCOMES").expect("the object has it");
        let map: PerCpuArray<&MapData, u64> = map.try_into().expect("it is an array per CPU");
        let count = |outcome: Outcome| map.get(&(outcome as u32), 0).expect("it is in range").iter().sum();
        Outcome::ALL.iter().map(|outcome| (*outcome, count(*outcome))).collect()
    }
}

impl XdpRun {
    pub(crate) fn is_left(&self) -> bool {
        self.verdict == XDP_PASS
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.verdict == XDP_TX
    }

    /// TC has the packet as it was, and is to count it.
    #[track_caller]
    pub(crate) fn is_left_to_tc(&self) {
        self.ends(XDP_PASS, &[]);
        checks::assert_same(&self.before, &self.after);
    }

    #[track_caller]
    pub(crate) fn is_dropped(&self, outcome: Outcome) {
        self.ends(XDP_DROP, &[(outcome, 1)]);
    }

    /// The packet is sent by the interface that it came in by, as `expected`.
    #[track_caller]
    pub(crate) fn leaves_as(&self, outcome: Outcome, expected: &[u8]) {
        self.ends(XDP_TX, &[(outcome, 1)]);
        checks::assert_same(expected, &self.after);
        checks::assert_checksums(&self.after);
    }

    /// The same by another interface.
    #[track_caller]
    pub(crate) fn leaves_elsewhere_as(&self, outcome: Outcome, expected: &[u8]) {
        self.ends(XDP_REDIRECT, &[(outcome, 1)]);
        checks::assert_same(expected, &self.after);
        checks::assert_checksums(&self.after);
    }

    /// The packet is sent to the other node, for task `number`, with `inner` in it.
    #[track_caller]
    pub(crate) fn enters_tunnel(&self, number: u8, came: &Packet) {
        let tunnel = Tunnel::to_other(number, &came.macs(cast::OTHER_MAC, cast::NODE_MAC));
        let tunnel = tunnel.hashed_as(&self.after);
        self.leaves_as(Outcome::Tunnelled, &tunnel.around(&came.ip()));
    }

    #[track_caller]
    fn ends(&self, verdict: u32, outcomes: &[(Outcome, u64)]) {
        assert!(
            self.verdict == verdict && self.outcomes == outcomes,
            "expected verdict {verdict} and {outcomes:?}, got {} and {:?}\n before: {}\n after:  {}",
            self.verdict,
            self.outcomes,
            checks::describe(&self.before),
            checks::describe(&self.after),
        );
    }
}

/// The program in its object.
pub(crate) fn uplink_xdp(ebpf: &mut Ebpf) -> &mut Xdp {
    let program = ebpf.program_mut(program::UPLINK_XDP).expect("the object has it");
    program.try_into().expect("it is an XDP program")
}

/// From now on the kernel does not know the hardware address of a neighbour on the uplink.
pub(crate) fn forget_neighbour(address: Ip) {
    ip(&format!("neigh del {} dev uplink", dotted(address)));
    let_ways_be_forgotten();
}

/// From now on the way to an address leads over another interface, with a neighbour that is known.
pub(crate) fn route_elsewhere(address: Ip) {
    let address = dotted(address);
    ip(&format!("route add {address}/32 dev bridge"));
    ip(&format!("neigh replace {address} lladdr 02:00:00:00:00:99 nud permanent dev bridge"));
    let_ways_be_forgotten();
}

/// The programs' clock goes by the kernel's ticks, of which there are 100 a second at least.
fn let_ways_be_forgotten() {
    thread::sleep(Duration::from_nanos(LASTS_NANOSECONDS) + Duration::from_millis(10));
}

fn dotted(address: Ip) -> String {
    address.map(|byte| byte.to_string()).join(".")
}

/// In the namespace that the thread is in.
fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2's `ip` can be run");
    assert!(status.success(), "`ip {arguments}` failed");
}
