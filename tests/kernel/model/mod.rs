//! A model beside the programs: what the design promises for a sequence of packets and of changes by the agent, without any code of the
//! dataplane. proptest makes sequences, both get them, and a difference is shrunk to the few steps that it takes.
//!
//! `MESH_MODEL_SECONDS` says how long each way of the programs is tried (2 by default), `MESH_MODEL_SEED` from where.

mod design;
mod drive;
mod ways;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use design::Step;
use drive::play;
use ways::{Node, Way};

#[test]
fn the_programs_of_tc_do_what_the_design_says() {
    try_out(Way::Tc);
}

#[test]
fn the_programs_of_xdp_and_tc_together_do_what_the_design_says() {
    try_out(Way::XdpAndTc);
}

#[test]
fn the_programs_of_overlays_do_what_the_design_says() {
    try_out(Way::Overlay);
}

/// What was found once.
#[test]
fn what_was_found_once_stays_mended() {
    use design::Segment::{Ack, Fin, Rst, Syn};
    use design::Step::{Answer, Segment};

    let found: &[&[Step]] = &[
        // The second conversation's answer was not heard, and the reset behind it taken for a refusal.
        &[Segment(1, Ack), Answer(1, Fin), Segment(2, Syn), Segment(1, Syn), Answer(1, Syn), Answer(1, Rst)],
    ];
    for way in [Way::Tc, Way::XdpAndTc, Way::Overlay] {
        let mut node = Node::new(way);
        for steps in found {
            play(way, &mut node, steps).unwrap_or_else(|problem| panic!("{way:?}, {steps:?}: {problem}"));
        }
    }
}

/// So many sequences are made from one seed.
const CASES: u32 = 20;

fn try_out(way: Way) {
    let mut seed = setting("MESH_MODEL_SEED").unwrap_or_default();
    let (sequences, packets) = (Cell::new(0_u64), Cell::new(0_usize));
    let node = RefCell::new(Node::new(way));
    let try_steps = |steps: &[Step]| play(way, &mut node.borrow_mut(), steps);
    let until = Instant::now() + Duration::from_secs(setting("MESH_MODEL_SECONDS").unwrap_or(2));
    while Instant::now() < until {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        let outcome = TestRunner::new_with_rng(config, random).run(&Step::sequences(), |steps| {
            sequences.set(sequences.get() + 1);
            packets.set(packets.get() + steps.iter().filter(|step| step.is_packet()).count());
            // A machine that stood still for a second has seen other things than the model; the next time it has not.
            try_steps(&steps).or_else(|_| try_steps(&steps)).map_err(TestCaseError::fail)
        });
        if let Err(TestError::Fail(reason, steps)) = outcome {
            let steps: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
            panic!("{way:?}, seed {seed}: {reason}\nafter these steps:\n{}", steps.join("\n"));
        }
        seed += 1;
    }
    let (packets, sequences) = (packets.get(), sequences.get());
    println!("{way:?}: {packets} packets in {sequences} sequences, up to seed {seed}");
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
