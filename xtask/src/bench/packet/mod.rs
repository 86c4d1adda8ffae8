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
    [at_xdp(), at_tc(), on_overlays()].into_iter().flatten().collect()
}

fn at_xdp() -> Vec<Case> {
    use Outcome::{RepliedFromTunnel, Tunnelled};

    let case = |name, frame, outcome, floor| Case::new(name, Hook::Xdp, frame, outcome, floor);
    let known = || frames::from_client(PORT_ELSEWHERE, ACK);
    let opening = || frames::from_another_client(PORT_ELSEWHERE, SYN);
    let answer = frames::answer_by_tunnel(ACK);
    vec![
        case("not ours", frames::from_client(PORT_OF_NOBODY, ACK), None, "floor_pass").at_most(5.0),
        case("established, tunnelled", known(), Some(Tunnelled), "floor_tunnel").at_most(60.0),
        case("SYN again, tunnelled", opening(), Some(Tunnelled), "floor_tunnel"),
        case("new flow, tunnelled", opening(), Some(Tunnelled), "floor_tunnel").at_most(220.0).varying(),
        case("reply from the tunnel", answer, Some(RepliedFromTunnel), "floor_answer").at_most(80.0),
    ]
}

fn at_tc() -> Vec<Case> {
    use Outcome::{Delivered, DeliveredFromTunnel, ErrorToTask, NotOurs, Replied};

    let at_uplink = |name, frame, outcome, floor| Case::new(name, Hook::Uplink, frame, Some(outcome), floor);
    let at_bridge = |name, frame, outcome, floor| Case::new(name, Hook::Bridge, frame, Some(outcome), floor);
    let nobodys = frames::from_client(PORT_OF_NOBODY, ACK);
    let known = frames::from_client(PORT_HERE, ACK);
    let opening = || frames::from_another_client(PORT_HERE, SYN);
    let reply = frames::from_task(CLIENT_PORT, ACK);
    let tunnelled = frames::request_by_tunnel(ACK);
    let [_, last] = frames::fragments();
    vec![
        at_uplink("not ours", nobodys, NotOurs, "floor_pass").at_most(10.0),
        at_uplink("established, local", known, Delivered, "floor_local").at_most(125.0),
        at_uplink("SYN again, local", opening(), Delivered, "floor_local"),
        at_uplink("new flow, local", opening(), Delivered, "floor_local").at_most(450.0).varying(),
        at_bridge("reply to the client", reply, Replied, "floor_reply").at_most(110.0),
        at_uplink("decapsulation", tunnelled, DeliveredFromTunnel, "floor_open").at_most(200.0),
        at_uplink("ICMP error", frames::error_from_client(), ErrorToTask, "floor_error"),
        at_uplink("later fragment", last, Delivered, "floor_fragment"),
        at_bridge("a task's own traffic", frames::of_task_itself(), NotOurs, "floor_pass").at_most(15.0),
    ]
}

/// The programs look at packets that Docker's bridge then carries on.
fn on_overlays() -> Vec<Case> {
    let (call, answer) = (frames::call(ACK), frames::answer_to_call(ACK));
    let (called, replied) = (Some(Outcome::VipToTask), Some(Outcome::VipReplied));
    vec![
        Case::new("call of a virtual address", Hook::OverlayIn, call, called, "floor_pass").at_most(130.0),
        Case::new("answer to a call", Hook::OverlayOut, answer, replied, "floor_pass").at_most(100.0),
    ]
}

impl Case {
    /// Without a goal.
    fn new(
        name: &'static str,
        hook: Hook,
        frame: Vec<u8>,
        outcome: Option<Outcome>,
        floor: &'static str,
    ) -> Self {
        use Outcome::{NotOurs, VipReplied, VipToTask};

        let verdict = match (hook.is_xdp(), outcome) {
            (true, None) => XDP_PASS,
            (true, Some(_)) => XDP_TX,
            (false, Some(NotOurs | VipToTask | VipReplied) | None) => TC_ACT_UNSPEC,
            (false, Some(_)) => TC_ACT_REDIRECT,
        };
        Self { name, hook, frame, varies: false, verdict, outcome, floor, goal: None }
    }

    /// With the goal of so many nanoseconds.
    fn at_most(self, net: f64) -> Self {
        Self { goal: Some(Goal { net, over_floor: None }), ..self }
    }

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
        (Hook::OverlayIn, frames::call(SYN)),
        (Hook::OverlayOut, frames::answer_to_call(SYN_ACK)),
        (Hook::OverlayIn, frames::call(ACK)),
    ] {
        let verdict = node.receive(hook, &frame)?;
        ensure!(verdict == TC_ACT_UNSPEC, "verdict {verdict} on {hook:?} for {frame:02x?}");
    }
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
