//! A node of its own, with the programs and what the agent would have put into their tables.

use std::{fs, io, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues, ProgramArray},
    programs::{Program, ProgramFd, TestRun, TestRunOptions, XdpMode},
};
use mesh_common::{
    backend::{Backend, LocalTask, Suspicion, TaskKey, state},
    flow::{FlowKey, Opening},
    frontend::{Frontend, FrontendKey, PortBit, SlotKey},
    maps,
    net::{Address, Mac, Port, protocol},
    outcome::Outcome,
    overlay::{NetworkTag, VipKey},
    peer::Peer,
    route::RememberedRoute,
    settings::Settings,
};
use mesh_tests::cmd::Cmd;

use super::frames::{self, Ip};

/// Interfaces by number.
const UPLINK: u32 = 10;
const BRIDGE: u32 = 11;
/// What an uplink of 1500 bytes leaves for a packet in the tunnel.
const INNER_MTU: u16 = 1450;

/// Backends by id.
const ELSEWHERE: u32 = 1;
const HERE: u32 = 2;
const SERVER: u32 = 3;

/// Words of `struct __sk_buff` (linux/bpf.h), and which of them is the interface.
const SKB_WORDS: usize = 48;
const SKB_INTERFACE: usize = 10;
const SKB_CONTROL_BLOCK: usize = 12;
/// The word of a packet that ends the client's address.
const CLIENT: usize = 14;
/// A packet and what the kernel keeps around it have to fit into one page.
const LARGEST: usize = 3520;

/// Where a program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// On what comes in by the uplink.
    Xdp,
    /// The same.
    Uplink,
    /// On what comes from tasks.
    Bridge,
    /// On what a task sends on an overlay network, and on what it is about to get there.
    OverlayIn,
    OverlayOut,
}

pub(super) struct Node {
    mesh: Ebpf,
    /// On the same tables.
    mesh_xdp: Option<Ebpf>,
    bench: Ebpf,
    /// How many clients' addresses have been used up.
    clients: u16,
}

/// What a number of runs came to.
pub(super) struct Runs {
    pub(super) verdict: u32,
    pub(super) nanoseconds: f64,
}

impl Hook {
    pub(super) const fn is_xdp(self) -> bool {
        matches!(self, Self::Xdp)
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Xdp => "uplink_xdp",
            Self::Uplink => "uplink_in",
            Self::Bridge => "bridge_in",
            Self::OverlayIn => "overlay_in",
            Self::OverlayOut => "overlay_out",
        }
    }

    /// Names in the benchmark's own object.
    fn named(self, name: &str) -> String {
        format!("{name}_{}", if self.is_xdp() { "xdp" } else { "tc" })
    }
}

impl Node {
    /// With the objects in this folder. This thread is on the node from now on.
    pub(super) fn new(objects: &Path) -> Result<Self> {
        namespaces()
            .context("cannot make namespaces: this measures programs in the kernel, run it as root")?;
        interfaces()?;
        let read = |name: &str| fs::read(objects.join(name)).with_context(|| format!("no object {name}"));
        let mut mesh = Ebpf::load(&read("mesh-ebpf")?)?;
        for name in maps::NAMES {
            let map = mesh.map(name).with_context(|| format!("there is no map {name}"))?;
            map.pin(Path::new(PINS).join(name))?;
        }
        let hooks = [Hook::Uplink, Hook::Bridge, Hook::OverlayIn, Hook::OverlayOut];
        load(&mut mesh, &hooks.map(Hook::program))?;
        let mesh_xdp = match read("mesh-ebpf-xdp") {
            Ok(object) => Some(on_same_tables(&object)?),
            Err(_) => None,
        };
        let mut bench = Ebpf::load(&read("mesh-ebpf-bench")?)?;
        let names: Vec<String> = bench.programs().map(|(name, _)| name.to_owned()).collect();
        load(&mut bench, &names)?;
        let mut node = Self { mesh, mesh_xdp, bench, clients: 0 };
        node.attach()?;
        node.fill()?;
        Ok(node)
    }

    pub(super) const fn has_xdp(&self) -> bool {
        self.mesh_xdp.is_some()
    }

    /// One packet through the node's program.
    pub(super) fn receive(&self, hook: Hook, frame: &[u8]) -> Result<u32> {
        let (verdict, _) = test_run(self.program(hook)?, hook, frame, 1)?;
        Ok(verdict)
    }

    /// Forgets the SYNs that nobody has answered: measurements last longer than clients' patience, and the only backend would
    /// be suspected for it.
    pub(super) fn forgive(&mut self) -> Result<()> {
        let map = self.mesh.map_mut("OPENING").context("there is no map OPENING")?;
        let mut opening = HashMap::<_, FlowKey, Opening>::try_from(map)?;
        for port in [frames::PORT_ELSEWHERE, frames::PORT_HERE] {
            let key = FlowKey {
                client: Address::new(frames::CLIENT),
                frontend: Address::new(frames::NODE),
                client_port: Port::new(frames::OTHER_CLIENT_PORT),
                frontend_port: Port::new(port),
                protocol: protocol::TCP,
                padding: [0; 3],
            };
            if opening.get(&key, 0).is_ok() {
                opening.remove(&key)?;
            }
        }
        [ELSEWHERE, HERE]
            .iter()
            .try_for_each(|backend| set(&mut self.mesh, "SUSPECTS", *backend, Suspicion::default()))
    }

    /// Forgets the ways out. Once a second XDP leaves a packet to TC, for the kernel to ask the neighbour, and there is no TC here: a
    /// repetition, which takes less, begins with ways that are new.
    pub(super) fn forget_ways(&mut self) -> Result<()> {
        let map = self.mesh.map_mut("ROUTES").context("there is no map ROUTES")?;
        let mut ways = PerCpuArray::<_, RememberedRoute>::try_from(map)?;
        for place in 0..maps::ROUTES {
            let known = ways.get(&place, 0)?;
            if known.iter().any(|way| way.asked != 0) {
                let none = vec![RememberedRoute::default(); known.len()];
                ways.set(place, PerCpuValues::try_from(none)?, 0)?;
            }
        }
        Ok(())
    }

    /// Has the packet made what it is here before each run, and `varies`: coming from another client, none of whom has been
    /// there before.
    pub(super) fn restore(&mut self, frame: &[u8], varies: bool) -> Result<()> {
        let header = frame.get(..frames::HEADER).context("the packet is too short to be restored")?;
        let mut words = [0_u16; frames::HEADER / 2];
        for (word, bytes) in words.iter_mut().zip(header.chunks(2)) {
            *word = u16::from_ne_bytes([bytes[0], bytes[1]]);
        }
        if varies {
            // More than what one measurement uses up.
            self.clients = self.clients.wrapping_add(64);
            words[CLIENT] = words[CLIENT].wrapping_add(self.clients);
        }
        set(&mut self.bench, "ORIGINAL", 0, words)?;
        set(&mut self.bench, "SHAPE", 0, [frame.len() as u32, u32::from(varies)])
    }

    /// Runs the node's program so often on the packet, which has to be what [`Node::restore`] was told.
    pub(super) fn run(&mut self, hook: Hook, frame: &[u8], count: u32) -> Result<Runs> {
        let program = self.program(hook)?.fd()?.try_clone()?;
        self.run_behind_wrapper(hook, &program, frame, count)
    }

    /// The same with a program of the benchmark's own object, of which `name` is the part before the hook.
    pub(super) fn run_other(&mut self, hook: Hook, name: &str, frame: &[u8], count: u32) -> Result<Runs> {
        let program = program(&self.bench, &hook.named(name))?.fd()?.try_clone()?;
        self.run_behind_wrapper(hook, &program, frame, count)
    }

    fn run_behind_wrapper(
        &mut self,
        hook: Hook,
        inner: &ProgramFd,
        frame: &[u8],
        count: u32,
    ) -> Result<Runs> {
        let name = if hook.is_xdp() { "PROGRAM_XDP" } else { "PROGRAM_TC" };
        let map = self.bench.map_mut(name).with_context(|| format!("there is no map {name}"))?;
        ProgramArray::try_from(map)?.set(0, inner, 0)?;
        let wrapper = program(&self.bench, &hook.named("again"))?;
        let (verdict, time) = test_run(wrapper, hook, frame, count)?;
        Ok(Runs { verdict, nanoseconds: time.as_nanos() as f64 / f64::from(count) })
    }

    /// How often each outcome has been counted.
    pub(super) fn outcomes(&self) -> Result<Vec<u64>> {
        let map = self.mesh.map("OUTCOMES").context("there is no map OUTCOMES")?;
        let map: PerCpuArray<_, u64> = map.try_into()?;
        let count = |outcome: &Outcome| Ok(map.get(&(*outcome as u32), 0)?.iter().sum());
        Outcome::ALL.iter().map(count).collect()
    }

    fn program(&self, hook: Hook) -> Result<&Program> {
        let object = if hook.is_xdp() { self.mesh_xdp.as_ref() } else { Some(&self.mesh) };
        program(object.context("there is no XDP program")?, hook.program())
    }

    /// The kernel runs no XDP program in the name of an interface that has none.
    fn attach(&mut self) -> Result<()> {
        let program = self.bench.program_mut("empty_xdp").context("there is no empty_xdp")?;
        let Program::Xdp(xdp) = program else { bail!("empty_xdp is no XDP program") };
        xdp.attach_to_if_index(UPLINK, XdpMode::Driver)?;
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        let settings = Settings {
            node: Address::new(frames::NODE),
            bridge: BRIDGE,
            vni: frames::VNI,
            inner_mtu: INNER_MTU,
            tunnel_port: Port::new(frames::TUNNEL_PORT),
            bridge_mac: frames::BRIDGE_MAC,
            uplink_macs: [frames::NODE_MAC, [0; 6], [0; 6], [0; 6]],
            ..Settings::default()
        };
        set(&mut self.mesh, "SETTINGS", 0, settings)?;
        insert(&mut self.mesh, "LOCAL_ADDRESSES", Address::new(frames::NODE), 1_u32)?;
        insert(&mut self.mesh, "PEERS", Address::new(frames::OTHER), Peer::default())?;
        self.publish(frames::TUNNEL_PORT, protocol::UDP)?;
        set(&mut self.mesh, "BACKENDS", ELSEWHERE, elsewhere())?;
        set(&mut self.mesh, "BACKENDS", HERE, here())?;
        self.frontend(frames::PORT_ELSEWHERE, protocol::TCP, ELSEWHERE, 1)?;
        self.frontend(frames::PORT_HERE, protocol::TCP, HERE, 2)?;
        self.frontend(frames::PORT_HERE, protocol::UDP, HERE, 3)?;
        self.virtual_address()?;
        let port = Port::new(frames::TARGET);
        let identity = Address::new(frames::TASK_IDENTITY);
        let task =
            LocalTask { bridge: Address::new(frames::TASK), mac: frames::TASK_MAC, ..LocalTask::default() };
        insert(&mut self.mesh, "TASKS", TaskKey { identity, port, protocol: protocol::TCP, padding: 0 }, task)
    }

    /// A port with one backend, in the set with this number.
    fn frontend(&mut self, port: u16, protocol: u8, backend: u32, set: u32) -> Result<()> {
        insert(&mut self.mesh, "SLOTS", SlotKey { set, slot: 0 }, backend)?;
        let frontend = Frontend { turn: set, set, count: 1, ..Frontend::default() };
        insert(&mut self.mesh, "FRONTENDS", FrontendKey::published(Port::new(port), protocol), frontend)?;
        self.publish(port, protocol)
    }

    /// One that a task serves, in a set of its own.
    fn virtual_address(&mut self) -> Result<()> {
        const SET: u32 = 4;

        let server = Backend {
            generation: 1,
            identity: Address::new(frames::SERVER),
            state: state::ACTIVE,
            mac: frames::SERVER_MAC,
            ..Backend::default()
        };
        set(&mut self.mesh, "BACKENDS", SERVER, server)?;
        insert(&mut self.mesh, "SLOTS", SlotKey { set: SET, slot: 0 }, SERVER)?;
        let frontend = Frontend { turn: SET, set: SET, count: 1, ..Frontend::default() };
        let key = VipKey { network: frames::NETWORK, address: Address::new(frames::VIP) };
        insert(&mut self.mesh, "VIPS", key, frontend)
    }

    fn publish(&mut self, port: u16, protocol: u8) -> Result<()> {
        let bit = PortBit::of(protocol, Port::new(port));
        let map = self.mesh.map("PORTS").context("there is no map PORTS")?;
        let word = Array::<&MapData, u64>::try_from(map)?.get(&bit.word, 0)?;
        set(&mut self.mesh, "PORTS", bit.word, word | bit.mask)
    }
}

fn here() -> Backend {
    Backend {
        generation: 1,
        identity: Address::new(frames::TASK_IDENTITY),
        bridge: Address::new(frames::TASK),
        port: Port::new(frames::TARGET),
        state: state::ACTIVE,
        mac: frames::TASK_MAC,
        ..Backend::default()
    }
}

fn elsewhere() -> Backend {
    Backend {
        generation: 1,
        node: Address::new(frames::OTHER),
        identity: Address::new(frames::OTHER_IDENTITY),
        interface: UPLINK,
        port: Port::new(frames::TARGET),
        state: state::ACTIVE,
        ..Backend::default()
    }
}

/// A BPF file system that only this process sees.
const PINS: &str = "/sys/fs/bpf";

fn namespaces() -> io::Result<()> {
    // SAFETY: the strings end with a zero byte, and the calls keep none of them.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS))?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()))?;
        // That of the new network namespace.
        check(libc::mount(c"none".as_ptr(), c"/sys".as_ptr(), c"sysfs".as_ptr(), 0, std::ptr::null()))?;
        check(libc::mount(c"none".as_ptr(), c"/sys/fs/bpf".as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null()))
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn interfaces() -> Result<()> {
    let mac = |mac: Mac| mac.map(|byte| format!("{byte:02x}")).join(":");
    let address = |ip: Ip| ip.map(|byte| byte.to_string()).join(".");
    let links = [
        ("uplink", UPLINK, frames::NODE_MAC, format!("{}/24", address(frames::NODE))),
        ("bridge", BRIDGE, frames::BRIDGE_MAC, "172.18.0.1/16".to_owned()),
    ]
    .map(|(name, index, hardware, prefix)| {
        format!(
            "link add name {name} index {index} address {} type veth peer name {name}-far\n\
             addr add {prefix} dev {name}\nlink set {name} up\nlink set {name}-far up\n",
            mac(hardware)
        )
    });
    let neighbours =
        [(frames::CLIENT, frames::CLIENT_MAC), (frames::OTHER, frames::OTHER_MAC)].map(|(ip, hardware)| {
            format!("neigh replace {} lladdr {} nud permanent dev uplink\n", address(ip), mac(hardware))
        });
    let commands = links.concat() + &neighbours.concat();
    Cmd::new("ip").args(["-batch", "-"]).quiet().read_fed(&commands)?;
    // Or the kernel knows no way for a packet of somebody else.
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot switch forwarding on")
}

fn on_same_tables(object: &[u8]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for name in maps::NAMES {
        loader.map_pin_path(name, Path::new(PINS).join(name));
    }
    let mut ebpf = loader.load(object)?;
    load(&mut ebpf, &[Hook::Xdp.program()])?;
    Ok(ebpf)
}

fn load(ebpf: &mut Ebpf, names: &[impl AsRef<str>]) -> Result<()> {
    for name in names {
        let name = name.as_ref();
        let loaded = match ebpf.program_mut(name) {
            Some(Program::Xdp(program)) => program.load(),
            Some(Program::SchedClassifier(program)) => program.load(),
            _ => bail!("there is no program {name}"),
        };
        loaded.with_context(|| format!("the kernel does not take {name}"))?;
    }
    Ok(())
}

fn program<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a Program> {
    ebpf.program(name).with_context(|| format!("there is no program {name}"))
}

fn set<V: Pod>(ebpf: &mut Ebpf, name: &str, index: u32, value: V) -> Result<()> {
    let map = ebpf.map_mut(name).with_context(|| format!("there is no map {name}"))?;
    Ok(Array::<_, V>::try_from(map)?.set(index, value, 0)?)
}

fn insert<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &str, key: K, value: V) -> Result<()> {
    let map = ebpf.map_mut(name).with_context(|| format!("there is no map {name}"))?;
    Ok(HashMap::<_, K, V>::try_from(map)?.insert(key, value, 0)?)
}

/// The last run's verdict, and the time of this thread that all took.
#[expect(clippy::wildcard_enum_match_arm, reason = "no other kind takes packets")]
fn test_run(program: &Program, hook: Hook, frame: &[u8], count: u32) -> Result<(u32, Duration)> {
    let context = context(hook, frame.len());
    let mut after = vec![0; LARGEST];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut after),
        ctx_in: Some(&context),
        repeat: count,
        ..TestRunOptions::default()
    };
    let before = thread_time()?;
    let result = match program {
        Program::Xdp(program) => program.test_run(options),
        Program::SchedClassifier(program) => program.test_run(options),
        _ => bail!("not a program for packets"),
    };
    let verdict = result.context("the kernel does not run the program")?.return_value;
    Ok((verdict, thread_time()?.saturating_sub(before)))
}

/// `struct xdp_md` or `struct __sk_buff` (linux/bpf.h) of a packet that came in by the hook's interface.
fn context(hook: Hook, length: usize) -> Vec<u8> {
    if hook.is_xdp() {
        return [0, length as u32, 0, UPLINK, 0, 0].map(u32::to_ne_bytes).concat();
    }
    let mut words = [0_u32; SKB_WORDS];
    words[SKB_INTERFACE] = if hook == Hook::Bridge { BRIDGE } else { UPLINK };
    if matches!(hook, Hook::OverlayIn | Hook::OverlayOut) {
        let tag = NetworkTag { network: frames::NETWORK, balancer: [0; 6] }.words();
        words[SKB_CONTROL_BLOCK..][..tag.len()].copy_from_slice(&tag);
    }
    words.map(u32::to_ne_bytes).concat()
}

/// What this thread has run for: the kernel gives whole nanoseconds for each run, too few for some; and a clock on the wall
/// counts what others do in between.
pub(in crate::bench) fn thread_time() -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a valid `timespec`.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    ensure!(result == 0, "no clock of this thread: {}", io::Error::last_os_error());
    Ok(Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned() as u32))
}
