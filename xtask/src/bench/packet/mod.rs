//! What the programs cost for a packet, with `BPF_PROG_TEST_RUN`: no driver, no wire, one processor, warm caches. The same
//! packet is restored before each run by a wrapper, whose own cost, measured around an empty program in the same repetition, is
//! subtracted. What is left includes undoing what the program did to the packet's head; so does the floor's figure.
//!
//! TC programs that put a packet into the tunnel are not measured: the kernel marks such a packet as a tunnel's
//! (`skb->encapsulation`), refuses to do it twice, and has nothing that takes the mark off. XDP's program does the same work.

mod frames;
mod node;
mod report;

pub(super) use self::node::thread_time;

use anyhow::{Result, ensure};
use mesh_common::outcome::Outcome;
use mesh_tests::{interrupt, terminal::Progress};

use self::{
    frames::{ACK, CLIENT_PORT, PORT_ELSEWHERE, PORT_HERE, PORT_OF_NOBODY, SYN, SYN_ACK},
    node::{Hook, Node, Runs},
    report::{Goal, Report, Sample},
};
use super::machine;
use crate::bpf;

/// Verdicts (linux/bpf.h, `linux/pkt_cls.h`).
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_REDIRECT: u32 = 7;

/// One kind of packet.
struct Case {
    /// As people and as programs read it.
    name: &'static str,
    hook: Hook,
    frame: Vec<u8>,
    /// It comes from another client each time.
    varies: bool,
    verdict: u32,
    /// What the programs count; XDP counts nothing that it leaves to TC.
    outcome: Option<Outcome>,
    /// The benchmark's own program that does no more than must be done.
    floor: &'static str,
    goal: Option<Goal>,
}

/// Measures the cases whose label contains `filter`.
pub(super) fn run(quick: bool, filter: &str) -> Result<()> {
    let (repetitions, runs) = if quick { (5, 100_000) } else { (21, 500_000) };
    let mut node = Node::new(&bpf::build()?)?;
    // It counts the processors that this thread may use.
    let machine = machine::describe();
    stay_on_one_processor()?;
    prime(&node)?;
    let mut cases = cases();
    if !node.has_xdp() {
        println!("these programs have none for XDP");
        cases.retain(|case| !case.hook.is_xdp());
    }
    cases.retain(|case| case.label().contains(filter));
    ensure!(!cases.is_empty(), "no case is called like that");
    let mut report = Report::new(machine, runs, cases.iter().map(|case| (case.label(), case.goal)).collect());
    let mut progress = Progress::new();
    for number in 0..=repetitions {
        let lookup = measure_lookup(&mut node, runs)?;
        if number > 0 {
            report.add_lookup(lookup);
        }
        for (place, case) in cases.iter().enumerate() {
            progress.show(&format!("{number} of {repetitions}: {}", case.label()));
            ensure!(!interrupt::happened(), "interrupted");
            let sample = measure(&mut node, case, runs)?;
            // The first time fills caches and tables.
            if number > 0 {
                report.add(place, sample);
            }
        }
    }
    drop(progress);
    report.show();
    report.save()
}

fn cases() -> Vec<Case> {
    use Outcome::{
        Delivered, DeliveredFromTunnel, ErrorToTask, NotOurs, Replied, RepliedFromTunnel, Tunnelled,
    };

    const NOT_OURS: Goal = Goal { net: 10.0, over_floor: None };
    const TUNNELLED: Goal = Goal { net: 45.0, over_floor: Some(30.0) };
    const NEW: Goal = Goal { net: 90.0, over_floor: None };
    const BACK: Goal = Goal { net: 50.0, over_floor: None };

    let [_, last] = frames::fragments();
    let case = |name, hook: Hook, frame, outcome, floor, goal| {
        let verdict = match (hook.is_xdp(), outcome) {
            (true, None) => XDP_PASS,
            (true, Some(_)) => XDP_TX,
            (false, Some(NotOurs) | None) => TC_ACT_UNSPEC,
            (false, Some(_)) => TC_ACT_REDIRECT,
        };
        Case { name, hook, frame, varies: false, verdict, outcome, floor, goal }
    };
    let nobodys = || frames::from_client(PORT_OF_NOBODY, ACK);
    let known = frames::from_client;
    let opening = |port| frames::from_another_client(port, SYN);
    let (xdp, uplink, bridge) = (Hook::Xdp, Hook::Uplink, Hook::Bridge);
    vec![
        case("not ours", xdp, nobodys(), None, "floor_pass", Some(NOT_OURS)),
        case(
            "established, tunnelled",
            xdp,
            known(PORT_ELSEWHERE, ACK),
            Some(Tunnelled),
            "floor_tunnel",
            Some(TUNNELLED),
        ),
        case("SYN again, tunnelled", xdp, opening(PORT_ELSEWHERE), Some(Tunnelled), "floor_tunnel", None),
        case("new flow, tunnelled", xdp, opening(PORT_ELSEWHERE), Some(Tunnelled), "floor_tunnel", Some(NEW))
            .varying(),
        case(
            "reply from the tunnel",
            xdp,
            frames::answer_by_tunnel(ACK),
            Some(RepliedFromTunnel),
            "floor_answer",
            Some(BACK),
        ),
        case("not ours", uplink, nobodys(), Some(NotOurs), "floor_pass", Some(NOT_OURS)),
        case("established, local", uplink, known(PORT_HERE, ACK), Some(Delivered), "floor_local", None),
        case("SYN again, local", uplink, opening(PORT_HERE), Some(Delivered), "floor_local", None),
        case("new flow, local", uplink, opening(PORT_HERE), Some(Delivered), "floor_local", Some(NEW))
            .varying(),
        case(
            "reply to the client",
            bridge,
            frames::from_task(CLIENT_PORT, ACK),
            Some(Replied),
            "floor_reply",
            Some(BACK),
        ),
        case(
            "decapsulation",
            uplink,
            frames::request_by_tunnel(ACK),
            Some(DeliveredFromTunnel),
            "floor_open",
            Some(BACK),
        ),
        case("ICMP error", uplink, frames::error_from_client(), Some(ErrorToTask), "floor_error", None),
        case("later fragment", uplink, last, Some(Delivered), "floor_fragment", None),
    ]
}

impl Case {
    fn varying(self) -> Self {
        Self { varies: true, ..self }
    }

    fn label(&self) -> String {
        format!("{}: {}", if self.hook.is_xdp() { "XDP" } else { "TC" }, self.name)
    }
}

/// Lets the conversations begin that the packets belong to.
fn prime(node: &Node) -> Result<()> {
    let [first, _] = frames::fragments();
    for (hook, frame) in [
        (Hook::Uplink, frames::from_client(PORT_HERE, SYN)),
        (Hook::Bridge, frames::from_task(CLIENT_PORT, SYN_ACK)),
        (Hook::Uplink, frames::from_client(PORT_HERE, ACK)),
        (Hook::Uplink, frames::from_client(PORT_ELSEWHERE, SYN)),
        (Hook::Uplink, frames::answer_by_tunnel(SYN_ACK)),
        (Hook::Uplink, frames::from_client(PORT_ELSEWHERE, ACK)),
        (Hook::Uplink, frames::request_by_tunnel(SYN)),
        (Hook::Bridge, frames::from_task(CLIENT_PORT + 1, SYN_ACK)),
        (Hook::Uplink, frames::request_by_tunnel(ACK)),
        (Hook::Uplink, first),
    ] {
        let verdict = node.receive(hook, &frame)?;
        ensure!(verdict == TC_ACT_REDIRECT, "verdict {verdict} on {hook:?} for {frame:02x?}");
    }
    Ok(())
}

/// One repetition; all the runs have to come out as the case says.
fn measure(node: &mut Node, case: &Case, runs: u32) -> Result<Sample> {
    let (hook, frame) = (case.hook, &case.frame);
    node.restore(frame, case.varies)?;
    let empty = node.run_other(hook, "empty", frame, runs)?;
    let floor = node.run_other(hook, case.floor, frame, runs)?;
    node.forgive()?;
    node.forget_ways()?;
    let before = node.outcomes()?;
    let ours = node.run(hook, frame, runs)?;
    let after = node.outcomes()?;
    let counted: Vec<(Outcome, u64)> = Outcome::ALL
        .iter()
        .zip(after.iter().zip(before))
        .filter(|(_, (now, then))| **now != *then)
        .map(|(outcome, (now, then))| (*outcome, now - then))
        .collect();
    let expected: Vec<_> = case.outcome.into_iter().map(|outcome| (outcome, u64::from(runs))).collect();
    let Runs { verdict, nanoseconds } = ours;
    ensure!(
        counted == expected && verdict == case.verdict,
        "{}: {counted:?} and verdict {verdict}, not {expected:?} and {}",
        case.label(),
        case.verdict
    );
    ensure!(
        floor.verdict == case.verdict,
        "{} ends with verdict {} for {}",
        case.floor,
        floor.verdict,
        case.label()
    );
    Ok(Sample {
        wrapper: empty.nanoseconds,
        net: nanoseconds - empty.nanoseconds,
        floor: floor.nanoseconds - empty.nanoseconds,
    })
}

/// What one lookup costs, in nanoseconds: the figures of one machine say little about another without it.
fn measure_lookup(node: &mut Node, runs: u32) -> Result<f64> {
    let frame = frames::from_client(PORT_OF_NOBODY, ACK);
    node.restore(&frame, false)?;
    let empty = node.run_other(Hook::Xdp, "empty", &frame, runs)?;
    let lookup = node.run_other(Hook::Xdp, "lookup", &frame, runs)?;
    Ok(lookup.nanoseconds - empty.nanoseconds)
}

/// Moving to another one would empty its caches.
pub(super) fn stay_on_one_processor() -> Result<()> {
    // SAFETY: all zeroes is a set of processors, and the pointers are to it, for its size.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let processor = libc::sched_getcpu();
        libc::CPU_SET(usize::try_from(processor)?, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    ensure!(result == 0, "cannot stay on a processor: {}", std::io::Error::last_os_error());
    Ok(())
}
