//! One packet through one program.

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use mesh_common::outcome::Outcome;
use mesh_common::overlay::NetworkTag;

use super::cast;
use super::checks;
use super::overlay;
use super::tunnel::Tunnel;

/// From `linux/pkt_cls.h`.
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;

/// A packet has to leave room for the kernel's own data in one page.
const LARGEST: usize = 4096;

/// Words of `struct __sk_buff` (linux/bpf.h), and where the interface and the control block are.
pub(crate) const CONTEXT_WORDS: usize = 48;
const CONTEXT_INTERFACE: usize = 10;
pub(crate) const CONTEXT_CONTROL_BLOCK: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    UplinkIn,
    UplinkOut,
    BridgeIn,
    OverlayIn,
    OverlayOut,
    /// Of an uplink without Ethernet, which no test run can have packets for.
    UplinkInL3,
    UplinkOutL3,
    /// What goes on from a port to its bridge is seen there only.
    UplinkPortIn,
}

impl Hook {
    /// Those of test runs.
    pub(crate) const ALL: [Self; 5] =
        [Self::UplinkIn, Self::UplinkOut, Self::BridgeIn, Self::OverlayIn, Self::OverlayOut];

    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::UplinkIn => "uplink_in",
            Self::UplinkOut => "uplink_out",
            Self::BridgeIn => "bridge_in",
            Self::OverlayIn => "overlay_in",
            Self::OverlayOut => "overlay_out",
            Self::UplinkInL3 => "uplink_in_l3",
            Self::UplinkOutL3 => "uplink_out_l3",
            Self::UplinkPortIn => "uplink_port_in",
        }
    }

    fn interface(self) -> u32 {
        match self {
            Self::UplinkIn | Self::UplinkOut | Self::UplinkInL3 | Self::UplinkOutL3 => cast::UPLINK,
            Self::UplinkPortIn => cast::UPLINK_PORT,
            Self::BridgeIn => cast::BRIDGE,
            Self::OverlayIn | Self::OverlayOut => overlay::PORT,
        }
    }
}

/// What the program did with a packet.
#[derive(Debug)]
#[must_use]
pub(crate) struct Run {
    pub(crate) verdict: i32,
    pub(crate) before: Vec<u8>,
    pub(crate) after: Vec<u8>,
    /// The outcomes that were counted, and how often.
    pub(crate) outcomes: Vec<(Outcome, u64)>,
}

/// The verdict and the packet, without a look at the counters.
pub(crate) fn run(program: &SchedClassifier, hook: Hook, packet: &[u8]) -> (i32, Vec<u8>) {
    run_on(program, hook, overlay::NETWORK, packet)
}

/// As [`run`], on a network of that number if the hook is on any.
pub(crate) fn run_on(program: &SchedClassifier, hook: Hook, network: u32, packet: &[u8]) -> (i32, Vec<u8>) {
    let tag = NetworkTag { network, balancer: [0; 6] };
    run_tagged(program, hook, tag.words(), packet)
}

/// As [`run`], with these words in the control block if the hook is on an overlay.
pub(crate) fn run_tagged(
    program: &SchedClassifier,
    hook: Hook,
    tag: [u32; 4],
    packet: &[u8],
) -> (i32, Vec<u8>) {
    let mut context = [0; CONTEXT_WORDS];
    context[CONTEXT_INTERFACE] = hook.interface();
    if matches!(hook, Hook::OverlayIn | Hook::OverlayOut) {
        context[CONTEXT_CONTROL_BLOCK..][..tag.len()].copy_from_slice(&tag);
    }
    let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut after = vec![0; LARGEST];
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut after),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        })
        .unwrap_or_else(|error| {
            panic!("{} cannot be run on {}: {error:?}", hook.program(), checks::hex(packet))
        });
    after.truncate(result.data_size_out as usize);
    (result.return_value.cast_signed(), after)
}

impl Run {
    /// The kernel has the packet as it was.
    #[track_caller]
    pub(crate) fn passes(&self, outcome: Outcome) {
        self.ends(TC_ACT_UNSPEC, outcome);
        checks::assert_same(&self.before, &self.after);
    }

    /// The kernel has the packet as `expected`.
    #[track_caller]
    pub(crate) fn passes_as(&self, outcome: Outcome, expected: &[u8]) {
        self.ends(TC_ACT_UNSPEC, outcome);
        checks::assert_same(expected, &self.after);
        checks::assert_checksums(&self.after);
    }

    #[track_caller]
    pub(crate) fn is_dropped(&self, outcome: Outcome) {
        self.ends(TC_ACT_SHOT, outcome);
    }

    /// The packet is sent on as `expected`.
    #[track_caller]
    pub(crate) fn leaves_as(&self, outcome: Outcome, expected: &[u8]) {
        self.ends(TC_ACT_REDIRECT, outcome);
        checks::assert_same(expected, &self.after);
        checks::assert_checksums(&self.after);
    }

    /// As [`Run::leaves_as`], for a frame that is no IPv4 packet, or has a checksum that is not complete.
    #[track_caller]
    pub(crate) fn leaves_as_frame(&self, outcome: Outcome, expected: &[u8]) {
        self.ends(TC_ACT_REDIRECT, outcome);
        checks::assert_same(expected, &self.after);
    }

    /// The packet is sent on in the tunnel, with `inner` in it. Returns the outer source port.
    #[track_caller]
    pub(crate) fn enters_tunnel(&self, outcome: Outcome, tunnel: Tunnel, inner: &[u8]) -> u16 {
        let tunnel = tunnel.hashed_as(&self.after);
        self.leaves_as(outcome, &tunnel.around(inner));
        assert!(tunnel.source_port >= 49_152, "no dynamic port: {}", tunnel.source_port);
        tunnel.source_port
    }

    /// The packet is sent on; what as is for the caller to look at.
    #[track_caller]
    pub(crate) fn leaves(self, outcome: Outcome) -> Vec<u8> {
        self.ends(TC_ACT_REDIRECT, outcome);
        checks::assert_checksums(&self.after);
        self.after
    }

    #[track_caller]
    fn ends(&self, verdict: i32, outcome: Outcome) {
        assert!(
            self.verdict == verdict && self.outcomes == [(outcome, 1)],
            "expected {} and one {outcome:?}, got {} and {:?}\n before: {}\n after:  {}",
            name(verdict),
            name(self.verdict),
            self.outcomes,
            checks::describe(&self.before),
            checks::describe(&self.after),
        );
    }
}

fn name(verdict: i32) -> String {
    match verdict {
        TC_ACT_UNSPEC => "pass".to_owned(),
        TC_ACT_SHOT => "drop".to_owned(),
        TC_ACT_REDIRECT => "redirect".to_owned(),
        other => format!("verdict {other}"),
    }
}
