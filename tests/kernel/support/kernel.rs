//! What this machine's kernel can do, where not every one that the mesh runs on can.

use std::env;
use std::fs;
use std::io::{Write, stderr};
use std::thread;

/// What came later than the oldest kernel that the mesh runs on, 6.1.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Feature {
    /// Links for programs of TC.
    Tcx,
    /// The kernel tells by netlink what an interface's driver can do with XDP.
    XdpFeatures,
}

impl Feature {
    fn since(self) -> (u32, u32) {
        match self {
            Self::Tcx => (6, 6),
            Self::XdpFeatures => (6, 3),
        }
    }

    fn is_there(self) -> bool {
        release() >= self.since()
    }
}

/// Whether the kernel lacks something; the test that asks ends then. That it was left out is said past the harness, which
/// would keep it to itself: `cargo xtask test vm` counts these lines.
pub(crate) fn lacks(feature: Feature) -> bool {
    let lacks = !feature.is_there();
    if lacks {
        let (major, minor) = feature.since();
        let name = thread::current().name().unwrap_or("a test").to_owned();
        let _ = writeln!(stderr(), "left out: {name}: {feature:?} came with Linux {major}.{minor}");
    }
    lacks
}

/// Whether tests attach programs of TC by a clsact qdisc: where there is nothing else, and where `MESH_TC` says so, as it says it to
/// the agent.
pub(crate) fn attaches_by_clsact() -> bool {
    !Feature::Tcx.is_there() || env::var_os("MESH_TC").is_some_and(|mode| mode == "clsact")
}

fn release() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel tells its release");
    let mut numbers = text.split('.').map(|number| number.parse().expect("a number"));
    (numbers.next().expect("a major number"), numbers.next().expect("a minor number"))
}
