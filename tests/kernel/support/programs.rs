//! Loaded programs, which go from test to test: the verifier takes two seconds for them, and most tests milliseconds.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;
use std::thread;

use aya::programs::cgroup_sock_addr::CgroupSockAddrLink;
use aya::programs::tc::{NlOptions, SchedClassifierLinkId, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use mesh_agent::dataplane::object::{self, NETWORK_OBJECT, program};
use mesh_common::maps;
use mesh_common::overlay::NetworkTag;

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
    /// The programs that say what network a port is on, which are attached for as long as they are there.
    tags: Vec<Ebpf>,
}

struct Loaded {
    ebpf: Ebpf,
}

impl Programs {
    pub(crate) fn take() -> Self {
        let idle = IDLE.lock().expect("nobody panics with it").pop();
        let loaded = idle.unwrap_or_else(|| Loaded::new(SMALL_SIZE));
        for (name, map) in tables::of(&loaded.ebpf) {
            tables::empty(map).unwrap_or_else(|error| panic!("{name} cannot be emptied: {error}"));
        }
        Self { loaded: Some(loaded), is_usual: true, links: Vec::new(), tags: Vec::new() }
    }

    /// As [`Programs::take`], with a table for so many established flows.
    pub(crate) fn with_flows(flows: u32) -> Self {
        Self { loaded: Some(Loaded::new(flows)), is_usual: false, links: Vec::new(), tags: Vec::new() }
    }

    /// Attaches a program for as long as the test has them.
    pub(crate) fn attach(&mut self, hook: Hook, interface: &str, place: TcAttachType) {
        match hook {
            Hook::OverlayIn => self.attach_tag("network_in", interface, place),
            Hook::OverlayOut => self.attach_tag("network_out", interface, place),
            Hook::UplinkIn
            | Hook::UplinkOut
            | Hook::BridgeIn
            | Hook::UplinkInL3
            | Hook::UplinkOutL3
            | Hook::UplinkPortIn => {}
        }
        let program = classifier_mut(self, hook);
        if program.fd().is_err() {
            object::until_undisturbed(|| program.load()).expect("the verifier accepts it");
        }
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
                object::until_undisturbed(|| program.load()).expect("the verifier accepts it");
            }
            let id = program.attach(cgroup, CgroupAttachMode::Single).expect("it is a cgroup");
            program.take_link(id).expect("it has just been attached")
        };
        program::CGROUP.into_iter().map(&mut attach).collect()
    }

    /// Has all packets by this port be of the usual network.
    fn attach_tag(&mut self, name: &str, interface: &str, place: TcAttachType) {
        let mut ebpf = tag(NetworkTag { network: overlay::NETWORK, balancer: [0; 6] });
        let program = tag_program(&mut ebpf, name);
        if kernel::attaches_by_clsact() {
            let _ = qdisc_add_clsact(interface);
            // Left to the kernel, what is attached later would come earlier.
            let first = NlOptions { priority: 1, ..NlOptions::default() };
            program.attach_with_options(interface, place, TcAttachOptions::Netlink(first))
        } else {
            program.attach(interface, place)
        }
        .unwrap_or_else(|error| panic!("{name}: {error}"));
        self.tags.push(ebpf);
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
            // An interface that is gone has taken what a clsact qdisc held along. Programs that may be attached serve no other test.
            if classifier_mut(self, hook).detach(link).is_err() {
                return;
            }
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
        let mut ebpf = loader.load(object()).expect("the object is accepted");
        for hook in Hook::ALL {
            let program = classifier_mut(&mut ebpf, hook);
            object::until_undisturbed(|| program.load()).expect("the verifier accepts it");
        }
        Self { ebpf }
    }
}

pub(crate) fn classifier(ebpf: &Ebpf, hook: Hook) -> &SchedClassifier {
    ebpf.program(hook.program()).expect("it is loaded").try_into().expect("it is a TC program")
}

fn classifier_mut(ebpf: &mut Ebpf, hook: Hook) -> &mut SchedClassifier {
    ebpf.program_mut(hook.program()).expect("it is loaded").try_into().expect("it is a TC program")
}

/// The programs that say that a port is on this network.
pub(crate) fn tag(content: NetworkTag) -> Ebpf {
    let words = content.words();
    let mut loader = EbpfLoader::new();
    loader.override_global("TAG", &words, true);
    loader.load(NETWORK_OBJECT).expect("the object is accepted")
}

/// One of them, loaded.
pub(crate) fn tag_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program = ebpf.program_mut(name).expect("the object has it");
    let program: &mut SchedClassifier = program.try_into().expect("it is a TC program");
    object::until_undisturbed(|| program.load()).expect("the verifier accepts it");
    program
}
