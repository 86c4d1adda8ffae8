//! Which program is where: on the uplinks, on docker_gwbridge and its ports, and on the root cgroup.
//!
//! What a task sends is heard at its port already: on its way to the bridge's own hook it would pass netfilter (Docker loads
//! `br_netfilter`), which costs more than all that is done with it here. The bridge's hook hears what has come in by a port
//! that has no program yet.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use aya::Ebpf;
use aya::programs::cgroup_sock_addr::CgroupSockAddrLink;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, SchedClassifier};
use mesh_common::maps::{self, Sizes};
use mesh_common::unread::UnreadPort;
use tracing::{debug, info, warn};

use super::DataplaneError;
use super::object::{self, program};
use super::pins::{self, Pins};
use super::tc::{self, Hold, Place, TcMode};
use super::unread_ports::UnreadPorts;
use super::xdp::{XdpMode, XdpPrograms, XdpState};
use crate::node::{Interface, LinkLayer};

/// The loaded programs, and the interfaces they are on.
pub struct Attachments {
    ebpf: Ebpf,
    /// Those of uplinks without Ethernet, loaded when there is the first.
    l3: Option<Ebpf>,
    pins: Pins,
    mode: TcMode,
    xdp: XdpPrograms,
    unread: Arc<UnreadPorts>,
    interfaces: BTreeMap<u32, Attached>,
}

/// What is attached to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub interface: String,
    pub programs: &'static [&'static str],
    /// `tcx` or `clsact`.
    pub hook: &'static str,
    /// Of uplinks.
    pub xdp: XdpState,
    /// Whether it is a port of the bridge.
    pub is_port: bool,
}

/// The interfaces that get programs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hooked<'a> {
    pub uplinks: &'a [Interface],
    /// Ports of those that are bridges, as far as netfilter would get what comes in by them first.
    pub uplink_ports: &'a [Interface],
    /// docker_gwbridge.
    pub bridge: Option<&'a Interface>,
    /// Ports of that one.
    pub ports: &'a [Interface],
}

const UPLINK: &[&str] = &[program::UPLINK_IN, program::UPLINK_OUT];
const UPLINK_PORT: &[&str] = &[program::UPLINK_PORT_IN];
const BRIDGE: &[&str] = &[program::BRIDGE_IN];

impl Attachments {
    /// Without XDP.
    pub fn new(ebpf: Ebpf, pins: Pins, mode: TcMode, unread: Arc<UnreadPorts>) -> Self {
        let sizes = Sizes { flows: maps::FLOWS, backends: maps::BACKENDS };
        let xdp = XdpPrograms::new(XdpMode::Off, pins.clone(), sizes);
        Self { ebpf, l3: None, pins, mode, xdp, unread, interfaces: BTreeMap::new() }
    }

    /// With XDP on uplinks. Tables have the sizes that they have for the other programs.
    #[must_use]
    pub fn with_xdp(self, mode: XdpMode, sizes: Sizes) -> Self {
        Self { xdp: XdpPrograms::new(mode, self.pins.clone(), sizes), ..self }
    }

    pub fn interfaces(&self) -> &BTreeMap<u32, Attached> {
        &self.interfaces
    }

    /// Whether `mesh-agent uninstall` has been here.
    pub fn is_removed(&self) -> bool {
        !self.pins.links().is_dir()
    }

    /// Gives every interface its programs, and takes them off those that are not among them any more. Errors are collected: what
    /// can be attached is.
    pub fn sync(&mut self, hooked: Hooked<'_>) -> Vec<DataplaneError> {
        let Hooked { uplinks, uplink_ports, bridge, ports } = hooked;
        let wanted: BTreeMap<u32, (&Interface, &'static [&'static str])> = uplink_ports
            .iter()
            .map(|port| (port.index, (port, UPLINK_PORT)))
            .chain(uplinks.iter().map(|uplink| (uplink.index, (uplink, of_uplink(uplink)))))
            .chain(bridge.into_iter().chain(ports).map(|bridge| (bridge.index, (bridge, BRIDGE))))
            .collect();
        if self.is_removed() {
            // Nothing is put back before the next start.
            return Vec::new();
        }
        let is_port = |index: &u32| ports.iter().any(|port| port.index == *index);
        let mut errors = Vec::new();
        // The bridge first: what hears answers there lets others' pass, while new flows need it. What goes around netfilter last:
        // the uplink's own programs are to have it.
        let mut in_order: Vec<_> = wanted.iter().collect();
        in_order.sort_by_key(|(_, (_, programs))| (*programs != BRIDGE, *programs == UPLINK_PORT));
        for (index, (interface, programs)) in in_order {
            if self.interfaces.get(index).is_some_and(|attached| attached.programs == *programs) {
                continue;
            }
            match self.attach_all(interface, programs) {
                Ok(hook) => {
                    info!(interface = interface.name, hook, ?programs, "attached");
                    let attached = Attached {
                        interface: interface.name.clone(),
                        programs,
                        hook,
                        xdp: XdpState::Off,
                        is_port: is_port(index),
                    };
                    self.interfaces.insert(*index, attached);
                }
                // Most often its container has just gone; and the bridge's hook hears what comes in by it.
                Err(error) if is_port(index) => debug!("{error:#}"),
                Err(error) => errors.push(error),
            }
        }
        for (_, attached) in self.interfaces.extract_if(.., |index, _| !wanted.contains_key(index)) {
            tc::detach_clsact(&attached.interface);
        }
        // Behind TC's: what XDP leaves needs them.
        self.xdp.sync(uplinks);
        for (index, attached) in &mut self.interfaces {
            attached.xdp = self.xdp.state(*index).clone();
        }
        if let Err(error) = self.forget_others() {
            errors.push(error);
        }
        errors
    }

    /// Puts back what somebody has taken off, as whoever sets up queueing anew does (`tc qdisc del … clsact`).
    pub fn look_again(&mut self) {
        // What serves behind these programs then must not be taken for one of them.
        if self.is_removed() || self.pins.predecessors().is_dir() {
            return;
        }
        let attached: Vec<_> =
            self.interfaces.iter().map(|(index, on)| (*index, on.interface.clone(), on.programs)).collect();
        for (index, interface, programs) in attached {
            for name in programs {
                match self.attach(&interface, index, name) {
                    Ok(Hold { was_there: true, .. }) => {}
                    Ok(Hold { hook, was_there: false }) => {
                        warn!(interface, hook, program = name, "a program had been taken off: it is back");
                    }
                    // Most often it has just gone, which is about to be known.
                    Err(error) => debug!(interface, program = name, "not attached again: {error:#}"),
                }
            }
        }
    }

    /// Attaches the programs for the node's own sockets to a cgroup, usually the root.
    pub fn attach_cgroup(&mut self, cgroup: &Path) -> Result<(), DataplaneError> {
        for name in program::CGROUP {
            self.attach_to_cgroup(name, cgroup).map_err(|source| DataplaneError::Attach {
                program: name,
                place: format!("the cgroup {}", cgroup.display()),
                source,
            })?;
        }
        info!(cgroup = %cgroup.display(), "attached to the node's own sockets");
        Ok(())
    }

    fn attach_all(
        &mut self,
        interface: &Interface,
        programs: &[&'static str],
    ) -> Result<&'static str, DataplaneError> {
        let mut hook = "tcx";
        let is_taken = |name: &&str| place(&interface.name, interface.index, name, &self.pins).is_taken();
        if programs != BRIDGE && !programs.iter().any(is_taken) {
            // What comes in by a port is the bridge's from now on.
            let entrance = interface.bridge.filter(|_| programs == UPLINK_PORT).unwrap_or(interface.index);
            self.unread.add(UnreadPort { network: 0, interface: entrance })?;
        }
        for name in programs {
            let hold = self.attach(&interface.name, interface.index, name);
            let hold = hold.map_err(|source| DataplaneError::Attach {
                program: name,
                place: format!("the interface {}", interface.name),
                source,
            })?;
            hook = hold.hook;
        }
        Ok(hook)
    }

    fn attach(&mut self, interface: &str, index: u32, name: &str) -> anyhow::Result<Hold> {
        let pins = self.pins.clone();
        let place = place(interface, index, name, &pins);
        let mode = self.mode;
        tc::attach(self.program(name)?, name, &place, mode)
    }

    fn program(&mut self, name: &str) -> anyhow::Result<&mut SchedClassifier> {
        let ebpf = if program::TC_L3.contains(&name) {
            if self.l3.is_none() {
                self.l3 = Some(object::load_beside(&self.pins, &program::TC_L3)?);
            }
            self.l3.as_mut().context("they have just been loaded")?
        } else {
            &mut self.ebpf
        };
        Ok(ebpf.program_mut(name).context("no such program")?.try_into()?)
    }

    /// cgroup links cannot be replaced through aya; for a moment old and new program both see a call, and the second one
    /// finds nothing left to do.
    fn attach_to_cgroup(&mut self, name: &'static str, cgroup: &Path) -> anyhow::Result<()> {
        let path = self.pins.cgroup_link(name);
        let file = File::open(cgroup).with_context(|| format!("open {}", cgroup.display()))?;
        let program: &mut CgroupSockAddr =
            self.ebpf.program_mut(name).context("no such program")?.try_into()?;
        // A link always allows others beside it, and takes no flags that say so.
        let id = program.attach(file, CgroupAttachMode::Single)?;
        let link: CgroupSockAddrLink = program.take_link(id)?;
        let link = FdLink::try_from(link).context("the kernel has no links for cgroups")?;
        pins::unpin(&path)?;
        link.pin(&path).with_context(|| format!("pin {}", path.display()))?;
        Ok(())
    }

    /// Unpins links of interfaces that are not ours any more.
    fn forget_others(&self) -> Result<(), DataplaneError> {
        for path in Pins::entries(&self.pins.links()) {
            let Some(index) = pins::interface_of(&path) else { continue };
            if !self.interfaces.contains_key(&index) {
                info!(link = %path.display(), "the interface is not ours any more: taking the program off");
                pins::unpin(&path)?;
            }
        }
        Ok(())
    }
}

fn of_uplink(uplink: &Interface) -> &'static [&'static str] {
    match uplink.link_layer {
        LinkLayer::None => &program::TC_L3,
        LinkLayer::Ethernet | LinkLayer::Other => UPLINK,
    }
}

fn place<'a>(interface: &'a str, index: u32, name: &str, pins: &'a Pins) -> Place<'a> {
    Place {
        interface,
        link: pins.interface_link(name, index),
        behind: None,
        marker: pins.qdiscs().join(index.to_string()),
        pins,
    }
}
