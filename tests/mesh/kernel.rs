//! The programs in this machine's kernel: the agent's own code fills the tables, and each packet is put through the program that it
//! would meet.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf,
    maps::{Map, MapData},
    programs::SchedClassifier,
};
use mesh_agent::{
    dataplane::{
        kernel::{self, Kernel},
        object,
        pins::Pins,
    },
    desired::{Frontend, FrontendId},
    reconcile::{plan::NodeFacts, reconciler::Reconciler, tables},
};
use mesh_common::{
    backend::state,
    frontend::SlotKey,
    maps::{self, Sizes},
    net::Address,
};

use crate::{
    core,
    level::{Level, Views, Went},
    packets::{Coming, Door, outside},
    scenario::{Becomes, Tables},
    support::{
        bpffs::BpfFs,
        cast::{self, Ip},
        checks::mac,
        namespace::Namespace,
        overlay,
        run::{self, Hook},
        tables as any_table,
    },
};

const SIZES: Sizes = Sizes { flows: 4096, backends: 4096 };
/// From `linux/pkt_cls.h`.
const PASS: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

pub(crate) struct InKernel {
    namespace: Namespace,
    pins: Pins,
    programs: Ebpf,
    reconciler: Reconciler<Kernel>,
    _files: BpfFs,
}

impl InKernel {
    pub(crate) fn load() -> Result<Self> {
        let files = BpfFs::new();
        let pins = Pins::under(&files.path(""));
        let namespace = Namespace::new();
        namespace.ip(&interfaces());
        namespace.forward();
        let (kernel, mut programs, _) = kernel::load(&pins, SIZES)?;
        for name in object::program::OVERLAY {
            let program: &mut SchedClassifier =
                programs.program_mut(name).context("no such program")?.try_into()?;
            program.load()?;
        }
        let reconciler = Reconciler::new(kernel, SIZES.backends)?;
        Ok(Self { namespace, pins, programs, reconciler, _files: files })
    }

    fn on_overlay(&self, network: &str, hook: Hook, frame: &[u8], views: &Views) -> Result<(i32, Vec<u8>)> {
        let network =
            views.snapshot.networks.get(network).with_context(|| format!("no network {network:?}"))?;
        let program = self.programs.program(hook.program()).context("no such program")?;
        Ok(run::run_on(program.try_into()?, hook, network.vni, frame))
    }

    fn on_node(&self, hook: Hook, frame: &[u8]) -> Result<(i32, Vec<u8>)> {
        let program = self.programs.program(hook.program()).context("no such program")?;
        Ok(run::run(program.try_into()?, hook, frame))
    }

    /// From a task's port through the bridge, and by the port of another one if that is on this node too.
    fn across_overlay(&mut self, network: &str, frame: &[u8], views: &Views) -> Result<(i32, Vec<u8>)> {
        let (verdict, after) = self.on_overlay(network, Hook::OverlayIn, frame, views)?;
        let is_here = |address: &[u8]| {
            let mut containers = views.local.containers.values();
            containers.any(|there| there.addresses.get(network).is_some_and(|its| its.octets() == address))
        };
        if verdict == PASS && after.get(30..34).is_some_and(is_here) {
            let (verdict, at_last) = self.on_overlay(network, Hook::OverlayOut, &after, views)?;
            return Ok((if verdict == PASS && at_last != frame { REDIRECT } else { verdict }, at_last));
        }
        Ok((if verdict == PASS && after != frame { REDIRECT } else { verdict }, after))
    }
}

impl Level for InKernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn begin(&mut self) -> Result<()> {
        for name in maps::NAMES {
            let map = Map::from_map_data(MapData::from_pin(self.pins.map(name))?)?;
            any_table::empty(&map).with_context(|| format!("{name} cannot be emptied"))?;
        }
        self.reconciler.refresh();
        Ok(())
    }

    fn follow(&mut self, views: &Views) -> Result<()> {
        self.namespace.enter();
        let rest = self.reconciler.begin(&views.desired, &facts(), Instant::now());
        self.reconciler.finish(&rest);
        // Docker carries nothing here.
        let all = views.frontends().map(|(id, _)| id).collect();
        self.reconciler.hand_over(&BTreeSet::new(), &all, &BTreeSet::new())?;
        let problems = self.reconciler.problems();
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(())
    }

    fn tables(&mut self, views: &Views) -> Result<Tables> {
        let tables = self.reconciler.tables();
        views
            .frontends()
            .map(|(id, frontend)| {
                let ids = self.reconciler.ids().get(&id).context("a frontend has no ids")?;
                Ok((views.frontend_name(id), backends(tables, id, frontend, ids)?))
            })
            .collect()
    }

    fn packet(&mut self, coming: &Coming, _: &Becomes, views: &Views) -> Result<Option<Went>> {
        self.namespace.enter();
        let frame = &coming.frame;
        let (verdict, after) = match &coming.door {
            Door::Uplink => self.on_node(Hook::UplinkIn, frame)?,
            Door::Bridge => self.on_node(Hook::BridgeIn, frame)?,
            Door::Port { network, .. } => self.across_overlay(network, frame, views)?,
            Door::Overlay { network } => {
                let (verdict, after) = self.on_overlay(network, Hook::OverlayOut, frame, views)?;
                (if verdict == PASS && after != *frame { REDIRECT } else { verdict }, after)
            }
        };
        // What is sent back into the node, as when a task has refused it, comes in by the uplink once more.
        let is_sent_back = verdict == REDIRECT && after.get(30..34) == Some(&cast::NODE);
        let (verdict, after) =
            if is_sent_back { self.on_node(Hook::UplinkIn, &after)? } else { (verdict, after) };
        Ok(Some(match verdict {
            PASS if after == *frame => Went::Left,
            PASS => bail!("it is passed, and changed: {}", crate::packets::described(&after, &views.names)),
            DROP => Went::Nothing,
            REDIRECT => Went::Packet(after),
            other => bail!("verdict {other}"),
        }))
    }

    fn ask(&mut self, by: Ip, message: &[u8], views: &Views) -> Result<Vec<u8>> {
        core::answer(by, message, views)
    }
}

/// The backends of a frontend as the maps have them.
fn backends(
    tables: &tables::Tables,
    id: FrontendId,
    frontend: &Frontend,
    ids: &[Option<(u32, u32)>],
) -> Result<BTreeMap<String, String>> {
    let entry = tables.frontends.get(&id).with_context(|| format!("{id} is not in the tables"))?;
    let in_slots = |backend: u32| {
        (0..entry.count).any(|slot| tables.slots.get(&SlotKey { set: entry.set, slot }) == Some(&backend))
    };
    let state = |task: &String, place: &Option<(u32, u32)>| -> Result<String> {
        let (backend, _) = place.with_context(|| format!("{task} has no place in the tables"))?;
        let its = tables.backends.get(&backend).with_context(|| format!("{task} is not in the tables"))?;
        Ok(match (its.state, in_slots(backend)) {
            (state::ACTIVE, true) => "active".to_owned(),
            (state::DRAINING, false) => "draining".to_owned(),
            (state, chosen) => format!("state {state}, in slots: {chosen}"),
        })
    };
    frontend.backends.keys().zip(ids).map(|(task, place)| Ok((task.clone(), state(task, place)?))).collect()
}

fn facts() -> NodeFacts {
    let settings = cast::settings();
    let addresses = [Address::new(cast::NODE)].into();
    let uplinks = [cast::UPLINK].into();
    NodeFacts { settings, addresses, uplinks, default_uplink: cast::UPLINK, ..NodeFacts::default() }
}

/// What `ip` is told: an uplink with neighbours, the bridge, and a port of an overlay.
fn interfaces() -> String {
    let interfaces = [
        ("uplink", cast::UPLINK, cast::NODE_MAC, "10.99.0.1/24"),
        ("bridge", cast::BRIDGE, cast::BRIDGE_MAC, "172.18.0.1/16"),
        ("port", overlay::PORT, [2, 0, 0, 0, 0, 12], "192.0.2.1/32"),
    ];
    let mut lines = String::new();
    for (name, index, hardware, address) in interfaces {
        let _ = write!(
            lines,
            "link add name {name} index {index} address {} type veth peer name {name}-far\n\
             addr add {address} dev {name}\nlink set {name} up\nlink set {name}-far up\n",
            mac(&hardware)
        );
    }
    for last in 2..=254 {
        let address = [10, 99, 0, last];
        let _ = writeln!(
            lines,
            "neigh replace 10.99.0.{last} lladdr {} nud permanent dev uplink",
            mac(&outside(address))
        );
    }
    lines
}
