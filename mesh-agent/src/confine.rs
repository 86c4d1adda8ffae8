//! What the agent gives up before it begins. A stack file cannot say most of this (`security_opt`), so it does it itself.

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What it may need: for programs and namespaces, and for ports below 1024. It gets no more of these than it was started with.
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// For the calling thread and those that it will start: to be called before there are others. The agent executes no programs,
/// and nobody needs to look into its memory, where the node's key is.
pub fn confine() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("forbid dumps")?;
    bound().context("bound the capabilities")?;
    let now = capabilities(None).context("read the capabilities")?;
    let sets = CapabilitySets {
        effective: now.effective & KEPT,
        permitted: now.permitted & KEPT,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).context("give up capabilities")?;
    set_no_new_privs(true).context("forbid new privileges")
}

/// Takes all others out of the bounding set. In a container they are not there, and neither is the right to do this.
fn bound() -> Result<()> {
    for capability in (CapabilitySet::all() - KEPT).iter() {
        match capability_is_in_bounding_set(capability) {
            // The kernel does not know it.
            Err(Errno::INVAL) | Ok(false) => {}
            Err(error) => return Err(error).with_context(|| format!("look for {capability:?}")),
            Ok(true) => match remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // Without SETPCAP what may be gained is bounded by those that are permitted, and by no_new_privs.
                Err(Errno::PERM) => return Ok(()),
                Err(error) => return Err(error).with_context(|| format!("remove {capability:?}")),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_the_agent_needs() {
        // Of this thread alone.
        let sets = std::thread::spawn(|| {
            confine().unwrap();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            (capabilities(None).unwrap(), status)
        });
        let (sets, status) = sets.join().unwrap();
        // Dumps are the whole process's, whose other tests may want to look at themselves.
        set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
        assert!(KEPT.contains(sets.permitted) && KEPT.contains(sets.effective), "{sets:?}");
        assert!(sets.inheritable.is_empty());
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
        let bounding = CapabilitySet::from_bits_retain(u64::from_str_radix(bounding, 16).unwrap());
        let had_the_right = bounding & !KEPT == CapabilitySet::empty();
        assert!(had_the_right || !bounding.contains(CapabilitySet::SETPCAP), "{status}");
    }
}
