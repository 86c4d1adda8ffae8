//! Loaded programs, which go from test to test: the verifier takes two seconds for them, and most tests milliseconds.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;
use std::thread;

use aya::programs::cgroup_sock_addr::CgroupSockAddrLink;
use aya::programs::tc::{NlOptions, SchedClassifierLinkId, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use mesh_agent::dataplane::object::program;
use mesh_common::maps;

use super::bpffs::BpfFs;
use super::kernel;
use super::overlay;
use super::run::Hook;
use super::tables;
use super::world::object;

/// Tables that the tests need not be large, beside those of flows: the kernel allocates their elements when they are made,
/// and each test leaves them empty.
const SMALL: [&str; 6] = ["TRANSLATIONS", "FRAGMENTS", "SOCKETS", "AFFINITIES", "SLOTS", "TURNS"];
const SMALL_SIZE: u32 = 4096;
/// The kernel forgets by batches.
const SMALLEST_LRU: u32 = 512;

/// Those that no test has now.
static IDLE: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

/// The programs of one node, on tables that are as new.
pub(crate) struct Programs {
    /// Always there; taken out to be given back.
    loaded: Option<Loaded>,
    /// Whether other tests can use them.
    is_usual: bool,
    links: Vec<(Hook, SchedClassifierLinkId)>,
}

struct Loaded {
    ebpf: Ebpf,
    /// The overlay programs for the other network, on the same tables.
    other_network: Option<Ebpf>,
}

impl Programs {
    pub(crate) fn take() -> Self {
        let idle = IDLE.lock().expect("nobody panics with it").pop();
        let loaded = idle.unwrap_or_else(|| Loaded::new(SMALL_SIZE));
        for (name, map) in tables::of(&loaded.ebpf) {
            tables::empty(map).unwrap_or_else(|error| panic!("{name} cannot be emptied: {error}"));
        }
        Self { loaded: Some(loaded), is_usual: true, links: Vec::new() }
    }

    /// As [`Programs::take`], with a table for so many established flows.
    pub(crate) fn with_flows(flows: u32) -> Self {
        Self { loaded: Some(Loaded::new(flows)), is_usual: false, links: Vec::new() }
    }

    /// Attaches a program for as long as the test has them.
    pub(crate) fn attach(&mut self, hook: Hook, interface: &str, place: TcAttachType) {
        let program = classifier_mut(self, hook);
        let link = if kernel::attaches_by_clsact() {
            // It fails where there is one already; where there can be none, what follows fails too.
            let _ = qdisc_add_clsact(interface);
            program.attach_with_options(interface, place, TcAttachOptions::Netlink(NlOptions::default()))
        } else {
            program.attach(interface, place)
        };
        let link = link.unwrap_or_else(|error| panic!("{hook:?}: {error}"));
        self.links.push((hook, link));
    }

    /// Attaches the programs for sockets for as long as the links live.
    pub(crate) fn attach_to_cgroup(&mut self, cgroup: &File) -> Vec<CgroupSockAddrLink> {
        let mut attach = |name: &str| {
            let program = self.program_mut(name).expect("the object has it");
            let program: &mut CgroupSockAddr = program.try_into().expect("it is for sockets");
            if program.fd().is_err() {
                program.load().expect("the verifier accepts it");
            }
            let id = program.attach(cgroup, CgroupAttachMode::Single).expect("it is a cgroup");
            program.take_link(id).expect("it has just been attached")
        };
        program::CGROUP.into_iter().map(&mut attach).collect()
    }

    /// Loads the overlay programs once more, for the other network, as the agent does it: all tables are shared.
    pub(crate) fn join_other_network(&mut self) {
        let loaded = self.loaded.as_mut().expect("it is there");
        loaded.other_network.get_or_insert_with(|| for_other_network(&loaded.ebpf));
    }

    pub(crate) fn on_other_network(&self, hook: Hook) -> &SchedClassifier {
        let loaded = self.loaded.as_ref().expect("it is there");
        classifier(loaded.other_network.as_ref().expect("the other network has been joined"), hook)
    }
}

impl Deref for Programs {
    type Target = Ebpf;

    fn deref(&self) -> &Ebpf {
        &self.loaded.as_ref().expect("it is there").ebpf
    }
}

impl DerefMut for Programs {
    fn deref_mut(&mut self) -> &mut Ebpf {
        &mut self.loaded.as_mut().expect("it is there").ebpf
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        // A test that failed shall not touch others.
        if !self.is_usual || thread::panicking() {
            return;
        }
        for (hook, link) in std::mem::take(&mut self.links) {
            classifier_mut(self, hook).detach(link).expect("what is attached can be detached");
        }
        IDLE.lock().expect("nobody panics with it").extend(self.loaded.take());
    }
}

impl Loaded {
    fn new(flows: u32) -> Self {
        let mut loader = EbpfLoader::new();
        for name in SMALL.into_iter().chain(maps::SIZED_BY_FLOWS) {
            let is_established = maps::ESTABLISHED.contains(&name);
            loader.map_max_entries(name, if is_established { flows } else { flows.max(SMALLEST_LRU) });
        }
        for name in maps::SIZED_BY_BACKENDS {
            loader.map_max_entries(name, SMALL_SIZE);
        }
        loader.override_global("NETWORK", &overlay::NETWORK, true);
        let mut ebpf = loader.load(object()).expect("the object is accepted");
        load(&mut ebpf, &Hook::ALL);
        Self { ebpf, other_network: None }
    }
}

pub(crate) fn classifier(ebpf: &Ebpf, hook: Hook) -> &SchedClassifier {
    ebpf.program(hook.program()).expect("it is loaded").try_into().expect("it is a TC program")
}

fn classifier_mut(ebpf: &mut Ebpf, hook: Hook) -> &mut SchedClassifier {
    ebpf.program_mut(hook.program()).expect("it is loaded").try_into().expect("it is a TC program")
}

fn for_other_network(ebpf: &Ebpf) -> Ebpf {
    let files = BpfFs::new();
    let mut loader = EbpfLoader::new();
    for name in maps::NAMES {
        let map = ebpf.map(name).unwrap_or_else(|| panic!("there is a map {name}"));
        map.pin(files.path(name)).unwrap_or_else(|error| panic!("{name} can be pinned: {error}"));
        loader.map_pin_path(name, files.path(name));
    }
    loader.override_global("NETWORK", &overlay::OTHER_NETWORK, true);
    let mut other = loader.load(object()).expect("the object is accepted");
    load(&mut other, &[Hook::OverlayIn, Hook::OverlayOut]);
    other
}

fn load(ebpf: &mut Ebpf, hooks: &[Hook]) {
    for hook in hooks {
        classifier_mut(ebpf, *hook).load().expect("the verifier accepts it");
    }
}
