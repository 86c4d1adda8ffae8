//! The dataplane's programs, as the build compiled them, and how the kernel gets them.

use std::io::ErrorKind;

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use mesh_common::maps::{self, Sizes};

use super::pins::Pins;

/// An ELF object for `aya::EbpfLoader`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf"));

/// Another one, with the program for XDP. Its maps are those of the first, by name.
pub static XDP_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf-xdp"));

/// A small one, with what is particular to an overlay network. It has no maps.
pub static NETWORK_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf-network"));

/// TC programs, and where each is attached.
pub mod program {
    /// TC ingress of every uplink.
    pub const UPLINK_IN: &str = "uplink_in";
    /// TC egress of every uplink.
    pub const UPLINK_OUT: &str = "uplink_out";
    /// TC ingress of docker_gwbridge.
    pub const BRIDGE_IN: &str = "bridge_in";
    /// XDP of every uplink whose driver can.
    pub const UPLINK_XDP: &str = "uplink_xdp";
    /// The same of uplinks without an Ethernet header; loaded when there is one.
    pub const UPLINK_IN_L3: &str = "uplink_in_l3";
    pub const UPLINK_OUT_L3: &str = "uplink_out_l3";
    pub const TC_L3: [&str; 2] = [UPLINK_IN_L3, UPLINK_OUT_L3];
    /// TC ingress of the ports of an uplink that is a bridge.
    pub const UPLINK_PORT_IN: &str = "uplink_port_in";
    /// The other ones of TC.
    pub const TC: [&str; 4] = [UPLINK_IN, UPLINK_OUT, UPLINK_PORT_IN, BRIDGE_IN];
    /// TC egress and ingress of a task's port in an overlay's namespace. What hears answers comes first: it lets others' pass,
    /// while new calls need it.
    pub const OVERLAY: [&str; 2] = ["overlay_out", "overlay_in"];
    /// Ahead of each of those.
    pub const NETWORK: [&str; 2] = ["network_out", "network_in"];
    /// The root cgroup.
    pub const CGROUP: [&str; 7] =
        ["connect4", "connect6", "sendmsg4", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

    /// Whether a program of TC is for what leaves.
    pub fn is_egress(name: &str) -> bool {
        name.contains("_out")
    }
}

/// Makes the tables as small as they can be: whoever only tries the programs has next to no room for tables beside those of an agent
/// that serves, in whose container preflight is run.
pub(super) fn shrink(loader: &mut EbpfLoader<'_>) {
    const SMALLEST: Sizes = Sizes { flows: 1024, backends: 256 };
    /// Allocated as a whole too.
    const FORGETFUL: [&str; 5] = ["AFFINITIES", "ANSWERS", "FRAGMENTS", "SOCKETS", "TRANSLATIONS"];

    for name in maps::NAMES {
        let capacity = SMALLEST.capacity(name);
        if let Some(capacity) = capacity.or(FORGETFUL.contains(&name).then_some(SMALLEST.flows)) {
            loader.map_max_entries(name, capacity);
        }
    }
}

/// Loads programs of the first object on the maps that are pinned: some that are not needed everywhere, beside those that made them.
pub(super) fn load_beside(pins: &Pins, names: &[&str]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for name in maps::NAMES {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut ebpf = loader.load(OBJECT)?;
    load(&mut ebpf, names)?;
    Ok(ebpf)
}

/// Gives the kernel these programs of an object, one after the other: checking a large one takes it so much memory, which is charged
/// to the agent's container, that several at a time are more than the stack file's limit allows.
pub(super) fn load(ebpf: &mut Ebpf, names: &[&str]) -> Result<()> {
    for name in names {
        let program = ebpf.program_mut(name).with_context(|| format!("{name}: no such program"))?;
        load_one(program).with_context(|| (*name).to_owned())?;
    }
    Ok(())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the kernel has thirty types, and ours are these")]
fn load_one(program: &mut Program) -> Result<()> {
    match program {
        Program::SchedClassifier(program) => Ok(until_undisturbed(|| program.load())?),
        Program::CgroupSockAddr(program) => Ok(until_undisturbed(|| program.load())?),
        Program::Xdp(program) => Ok(until_undisturbed(|| program.load())?),
        _ => bail!("there are no programs of this type among ours"),
    }
}

/// Tries to load a program, again if a signal has come to this thread meanwhile: the verifier then gives up with `EAGAIN`, also when
/// the signal is one that nobody handles (linux/kernel/bpf/verifier.c, `do_check`). libbpf tries five times too.
pub fn until_undisturbed<T>(load: impl FnMut() -> Result<T, ProgramError>) -> Result<T, ProgramError> {
    again_while(
        load,
        |error| matches!(error, ProgramError::LoadError { io_error, .. } if io_error.kind() == ErrorKind::WouldBlock),
    )
}

fn again_while<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_again: impl Fn(&E) -> bool,
) -> Result<T, E> {
    /// On a slow machine a program takes seconds, in which a signal may come more than once.
    const ATTEMPTS: usize = 20;

    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) if is_again(&error) => {}
            outcome => return outcome,
        }
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_costs_another_attempt_and_nothing_else_does() {
        let mut attempts = 0;
        let mut load = |errors: &[ErrorKind]| {
            attempts = 0;
            let attempt = || {
                attempts += 1;
                errors.get(attempts - 1).map_or(Ok(()), |kind| Err(*kind))
            };
            let loaded = again_while(attempt, |kind| *kind == ErrorKind::WouldBlock);
            (loaded.is_ok(), attempts)
        };
        assert_eq!(load(&[]), (true, 1));
        assert_eq!(load(&[ErrorKind::WouldBlock; 19]), (true, 20));
        assert_eq!(load(&[ErrorKind::WouldBlock; 29]), (false, 20));
        assert_eq!(load(&[ErrorKind::PermissionDenied]), (false, 1));
    }
}
