//! Attaching TC programs so that they stay when the agent goes, and taking them off again.
//!
//! tcx where the kernel has it (6.6), because its links can be pinned and replaced in one step; a clsact filter elsewhere.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcAttachType, TcHandle,
    qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};
use tracing::debug;

use super::object::program;
use super::pins::{self, Pins};

/// Our filters' place among others on a clsact qdisc.
const PRIORITY: u16 = 0x6d65;
/// Of those that come ahead of others of ours.
const PRIORITY_AHEAD: u16 = PRIORITY - 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TcMode {
    /// tcx where the kernel has it, clsact elsewhere.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

/// Where a program goes, in the calling thread's network namespace.
pub(super) struct Place<'a> {
    pub(super) interface: &'a str,
    /// Where a tcx link is pinned.
    pub(super) link: PathBuf,
    /// The pinned link of the program that this one comes right behind; else it comes first.
    pub(super) behind: Option<PathBuf>,
    /// A folder that tells that the interface's clsact qdisc is ours.
    pub(super) marker: PathBuf,
    pub(super) pins: &'a Pins,
}

impl Place<'_> {
    /// Whether an agent has attached a program there before.
    pub(super) fn is_taken(&self) -> bool {
        self.link.exists() || self.marker.is_dir()
    }
}

/// How a program was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// `tcx` or `clsact`.
    pub(super) hook: &'static str,
    /// Whether it took the place of one of ours.
    pub(super) was_there: bool,
}

/// Attaches a program, in the place of the one that an agent, this one or one before it, has left there.
pub(super) fn attach(
    program: &mut SchedClassifier,
    name: &str,
    place: &Place<'_>,
    mode: TcMode,
) -> Result<Hold> {
    if mode != TcMode::Clsact {
        match attach_tcx(program, name, place) {
            Ok(was_there) => return Ok(Hold { hook: "tcx", was_there }),
            Err(error) if mode == TcMode::Tcx => return Err(error),
            Err(error) => debug!(interface = place.interface, "no tcx, trying clsact: {error:#}"),
        }
    }
    let was_there = attach_clsact(program, name, place)?;
    Ok(Hold { hook: "clsact", was_there })
}

/// Takes our filters off an interface's clsact qdisc. Returns whether there were any.
pub(super) fn detach_clsact(interface: &str) -> bool {
    let mut any = false;
    for name in program::TC.into_iter().chain(program::TC_L3).chain(program::OVERLAY).chain(program::NETWORK)
    {
        any |= qdisc_detach_program(interface, direction(name), name).is_ok();
    }
    any
}

fn attach_tcx(program: &mut SchedClassifier, name: &str, place: &Place<'_>) -> Result<bool> {
    keep_predecessor(place);
    if let Ok(link) = pinned(&place.link) {
        if let Ok(id) = program.attach_to_link(link) {
            // The pin alone shall hold it: whoever removes that takes the program off.
            drop(program.take_link(id)?);
            return Ok(true);
        }
        // The interface that it was for is gone, or somebody has detached it.
        pins::unpin(&place.link)?;
    }
    let ahead = place.behind.as_ref().map(pinned).transpose()?;
    let order = ahead.as_ref().map_or_else(|| Ok(LinkOrder::first()), LinkOrder::after_link)?;
    let options = TcAttachOptions::TcxOrder(order);
    let id = program.attach_with_options(place.interface, direction(name), options)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(&place.link).with_context(|| format!("pin {}", place.link.display()))?;
    Ok(false)
}

fn pinned(link: &PathBuf) -> Result<SchedClassifierLink> {
    let pinned = PinnedLink::from_pin(link).with_context(|| format!("open {}", link.display()))?;
    Ok(SchedClassifierLink::try_from(FdLink::from(pinned))?)
}

/// While tables are taken over, the program of the agent before stays, behind ours: it has the flows that ours do not know yet.
fn keep_predecessor(place: &Place<'_>) {
    let predecessor = place.pins.predecessor(&place.link);
    if place.pins.predecessors().is_dir() && !predecessor.exists() {
        // Where it is not to be moved, it is replaced.
        let _ = fs::rename(&place.link, predecessor);
    }
}

fn attach_clsact(program: &mut SchedClassifier, name: &str, place: &Place<'_>) -> Result<bool> {
    match qdisc_add_clsact(place.interface) {
        Ok(()) => drop(fs::create_dir(&place.marker)),
        // Most often, because there is one already.
        Err(error) => debug!(interface = place.interface, "adding clsact: {error}"),
    }
    let priority = if program::NETWORK.contains(&name) { PRIORITY_AHEAD } else { PRIORITY };
    let options = NlOptions { priority, handle: HANDLE, ..NlOptions::default() };
    let attach = |program: &mut SchedClassifier| -> Result<SchedClassifierLinkId, ProgramError> {
        program.attach_with_options(place.interface, direction(name), TcAttachOptions::Netlink(options))
    };
    // Replaces the filter that an agent has left; where there is none, that fails.
    let replaced = SchedClassifierLink::attached(place.interface, direction(name), priority, HANDLE, None)
        .ok()
        .and_then(|link| program.attach_to_link(link).ok());
    let was_there = replaced.is_some();
    let id = replaced.map_or_else(|| attach(program), Ok)?;
    // Dropping the link would take the filter off; it must outlive the agent.
    std::mem::forget(program.take_link(id)?);
    Ok(was_there)
}

fn direction(name: &str) -> TcAttachType {
    if program::is_egress(name) { TcAttachType::Egress } else { TcAttachType::Ingress }
}
