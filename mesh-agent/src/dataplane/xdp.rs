//! Attaching the XDP program to uplinks, before those of TC, which stay: XDP leaves to them what it cannot do.
//!
//! Native XDP is the driver's business: whether it can is found out by trying. What fails is not tried again until the
//! interface changes, because some drivers stop their hardware for a moment whenever they are asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode as Kind};
use aya::{Ebpf, EbpfLoader};
use mesh_common::maps::{self, Sizes};
use tracing::{info, warn};

use super::object::{self, XDP_OBJECT, program};
use super::pins::{self, Pins};
use crate::node::{Interface, LinkLayer};

/// How often it is tried to take the place of a program that is about to go.
const ATTEMPTS: u32 = 25;
const PAUSE: Duration = Duration::from_millis(20);

/// Which packets the XDP program sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpMode {
    /// Native where it is hardware's driver that can, none elsewhere.
    #[default]
    Auto,
    /// By the driver of every uplink that can.
    Native,
    /// By the kernel, for every driver; only to try it out.
    Generic,
    Off,
}

/// What runs on an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XdpState {
    Native,
    Generic,
    /// TC alone, and why.
    TcAlone(String),
    Off,
}

impl XdpState {
    /// Like `xdp-native`, if it is attached.
    pub fn hook(&self) -> Option<&'static str> {
        match self {
            Self::Native => Some("xdp-native"),
            Self::Generic => Some("xdp-generic"),
            Self::TcAlone(_) | Self::Off => None,
        }
    }
}

/// What is to be tried on an interface.
pub fn wanted(mode: XdpMode, interface: &Interface) -> XdpState {
    match (mode, interface.kind.as_deref()) {
        (XdpMode::Off, _) => XdpState::Off,
        _ if interface.link_layer == LinkLayer::None => {
            XdpState::TcAlone("its packets have no Ethernet header".into())
        }
        (XdpMode::Generic, _) => XdpState::Generic,
        // Where a card takes the tags off, XDP sees packets of a VLAN as if they had come without.
        (XdpMode::Auto, None) if interface.carries_vlans => {
            XdpState::TcAlone("a VLAN is on it, whose tags its card may hide from XDP".into())
        }
        (XdpMode::Native, _) | (XdpMode::Auto, None) => XdpState::Native,
        (XdpMode::Auto, Some("veth")) => {
            // XDP would send them on as they are.
            XdpState::TcAlone("a veth's packets may have unfinished checksums".into())
        }
        (XdpMode::Auto, Some(kind)) => XdpState::TcAlone(format!("XDP is for hardware, not for a {kind}")),
    }
}

/// The program and the uplinks it is on.
pub(super) struct XdpPrograms {
    mode: XdpMode,
    pins: Pins,
    sizes: Sizes,
    /// Loaded when the first uplink wants it.
    ebpf: Option<Ebpf>,
    /// By index.
    uplinks: BTreeMap<u32, Uplink>,
}

struct Uplink {
    /// As it was when this was tried.
    interface: (Option<String>, u32, bool),
    state: XdpState,
}

impl XdpPrograms {
    /// Tables have the sizes that they have for the other programs.
    pub(super) fn new(mode: XdpMode, pins: Pins, sizes: Sizes) -> Self {
        Self { mode, pins, sizes, ebpf: None, uplinks: BTreeMap::new() }
    }

    /// Gives the uplinks what is wanted for them, and takes it off others.
    pub(super) fn sync(&mut self, uplinks: &[Interface]) {
        self.uplinks.retain(|index, _| uplinks.iter().any(|uplink| uplink.index == *index));
        for interface in uplinks {
            let seen = (interface.kind.clone(), interface.mtu, interface.carries_vlans);
            if self.uplinks.get(&interface.index).is_some_and(|uplink| uplink.interface == seen) {
                continue;
            }
            let state = self.attach(interface);
            match &state {
                XdpState::TcAlone(why) if self.mode == XdpMode::Auto => {
                    info!(interface = interface.name, "TC alone: {why}");
                }
                XdpState::TcAlone(why) => warn!(interface = interface.name, "TC alone: {why}"),
                XdpState::Native | XdpState::Generic => {
                    info!(interface = interface.name, hook = state.hook(), "attached");
                }
                XdpState::Off => {}
            }
            self.uplinks.insert(interface.index, Uplink { interface: seen, state });
        }
        self.forget_others();
    }

    pub(super) fn state(&self, interface: u32) -> &XdpState {
        self.uplinks.get(&interface).map_or(&XdpState::Off, |uplink| &uplink.state)
    }

    fn attach(&mut self, interface: &Interface) -> XdpState {
        let wanted = wanted(self.mode, interface);
        let kind = match wanted {
            XdpState::Native => Kind::Driver,
            XdpState::Generic => Kind::Skb,
            XdpState::TcAlone(_) | XdpState::Off => return wanted,
        };
        // A program that is there in the other way would be in the way.
        for other in [XdpState::Native, XdpState::Generic] {
            if other != wanted
                && let Some(path) = self.pin(&other, interface.index)
                && let Err(error) = pins::unpin(&path)
            {
                warn!("{error}");
            }
        }
        match self.try_attach(interface, &wanted, kind) {
            Ok(()) => wanted,
            Err(error) => XdpState::TcAlone(reason(&error, interface)),
        }
    }

    fn try_attach(&mut self, interface: &Interface, state: &XdpState, kind: Kind) -> Result<()> {
        let path = self.pin(state, interface.index).context("there is nothing to attach")?;
        let program = self.program()?;
        if let Ok(pinned) = PinnedLink::from_pin(&path) {
            let link = XdpLink::try_from(FdLink::from(pinned))?;
            if let Ok(id) = program.attach_to_link(link) {
                // It is pinned, and must not hang on this process too.
                drop(program.take_link(id)?);
                return Ok(());
            }
            // The interface that it was for is gone.
            pins::unpin(&path)?;
        }
        let id = attach_once_free(program, interface.index, kind)?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        link.pin(&path).with_context(|| format!("pin {}", path.display()))?;
        Ok(())
    }

    fn program(&mut self) -> Result<&mut Xdp> {
        if self.ebpf.is_none() {
            self.ebpf = Some(load(Some((&self.pins, self.sizes)))?);
        }
        let ebpf = self.ebpf.as_mut().context("it has just been loaded")?;
        Ok(ebpf.program_mut(program::UPLINK_XDP).context("no such program")?.try_into()?)
    }

    /// The kind is in the name, because the kernel does not tell it of a link.
    fn pin(&self, state: &XdpState, interface: u32) -> Option<PathBuf> {
        let kind = match state {
            XdpState::Native => "native",
            XdpState::Generic => "generic",
            XdpState::TcAlone(_) | XdpState::Off => return None,
        };
        Some(self.pins.interface_link(&format!("{}_{kind}", program::UPLINK_XDP), interface))
    }

    /// Takes the program off what has it from an agent before this one, or from another time.
    fn forget_others(&self) {
        let ours: Vec<_> =
            self.uplinks.iter().filter_map(|(index, uplink)| self.pin(&uplink.state, *index)).collect();
        for path in Pins::entries(&self.pins.links()) {
            let is_xdp =
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(program::UPLINK_XDP));
            if is_xdp && !ours.contains(&path) {
                info!(link = %path.display(), "taking the XDP program off");
                if let Err(error) = pins::unpin(&path) {
                    warn!("{error}");
                }
            }
        }
    }
}

/// The kernel takes off a program whose link was unpinned only some time later.
fn attach_once_free(program: &mut Xdp, interface: u32, kind: Kind) -> Result<XdpLinkId, ProgramError> {
    let mut attempts = 0;
    loop {
        match program.attach_to_if_index(interface, kind) {
            Err(error) if is_taken(error_number(&error)) && attempts < ATTEMPTS => {
                attempts += 1;
                thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

fn error_number(error: &ProgramError) -> Option<i32> {
    if let ProgramError::SyscallError(error) = error { error.io_error.raw_os_error() } else { None }
}

fn is_taken(error: Option<i32>) -> bool {
    matches!(error, Some(libc::EBUSY | libc::EEXIST))
}

/// Lets the kernel check the program, and forgets it again.
pub fn try_load() -> Result<()> {
    load(None).map(drop)
}

/// With the maps that are pinned, or with some of its own.
fn load(tables: Option<(&Pins, Sizes)>) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    if tables.is_none() {
        object::shrink(&mut loader);
    }
    if let Some((pins, sizes)) = tables {
        for name in maps::NAMES {
            loader.map_pin_path(name, pins.map(name));
            if let Some(capacity) = sizes.capacity(name) {
                loader.map_max_entries(name, capacity);
            }
        }
    }
    let mut ebpf = loader.load(XDP_OBJECT)?;
    object::load(&mut ebpf, &[program::UPLINK_XDP])?;
    Ok(ebpf)
}

/// Why an attempt has failed, in words.
fn reason(error: &anyhow::Error, interface: &Interface) -> String {
    match error.downcast_ref().and_then(error_number) {
        Some(libc::EOPNOTSUPP) => "its driver has no native XDP".into(),
        taken if is_taken(taken) => "another XDP program is there".into(),
        Some(libc::ERANGE) => format!("its MTU, {}, is too large for XDP", interface.mtu),
        _ => format!("the kernel or its driver does not take the XDP program: {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(kind: Option<&str>) -> Interface {
        Interface { name: "eth0".into(), kind: kind.map(str::to_owned), ..Interface::default() }
    }

    #[test]
    fn only_hardware_is_tried_of_itself() {
        assert_eq!(wanted(XdpMode::Auto, &interface(None)), XdpState::Native);
        for kind in ["veth", "bond", "vlan", "bridge"] {
            assert!(matches!(wanted(XdpMode::Auto, &interface(Some(kind))), XdpState::TcAlone(_)), "{kind}");
        }
        let trunk = Interface { carries_vlans: true, ..interface(None) };
        assert!(matches!(wanted(XdpMode::Auto, &trunk), XdpState::TcAlone(_)));
        assert_eq!(wanted(XdpMode::Native, &trunk), XdpState::Native);
    }

    #[test]
    fn what_is_asked_for_is_tried_everywhere() {
        for kind in [None, Some("veth"), Some("bond")] {
            assert_eq!(wanted(XdpMode::Native, &interface(kind)), XdpState::Native);
            assert_eq!(wanted(XdpMode::Generic, &interface(kind)), XdpState::Generic);
            assert_eq!(wanted(XdpMode::Off, &interface(kind)), XdpState::Off);
        }
    }
}
