//! What network a port is on: said by a program ahead of those that all networks share (`mesh_common::overlay::NetworkTag`).

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use mesh_common::outcome::Outcome;
use mesh_common::overlay::NetworkTag;

use crate::support::overlay::{CALLER, NETWORK, VIP, VIP_MAC, address, arp, call, given, mac};
use crate::support::payload::syn;
use crate::support::programs::{tag, tag_program};
use crate::support::run::{CONTEXT_CONTROL_BLOCK, CONTEXT_WORDS, Hook};
use crate::support::world::World;

const BALANCER: [u8; 6] = [0x02, 0x42, 0x0a, 0x00, 0x01, 0x63];
const BROADCAST: [u8; 6] = [0xff; 6];

#[test]
fn the_program_ahead_writes_the_tag_over_whatever_was_there() {
    let said = NetworkTag { network: NETWORK, balancer: BALANCER };
    let mut ebpf = tag(said);
    for name in ["network_in", "network_out"] {
        let program: &SchedClassifier = tag_program(&mut ebpf, name);
        let mut context = [0; CONTEXT_WORDS];
        context[CONTEXT_CONTROL_BLOCK..][..5].copy_from_slice(&[0xdead_beef; 5]);
        let context: Vec<u8> = context.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
        let mut after = vec![0; context.len()];
        let options = TestRunOptions {
            data_in: Some(&[0; 64]),
            ctx_in: Some(&context),
            ctx_out: Some(&mut after),
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).expect("it can be run");
        // TC_ACT_UNSPEC: the next program.
        assert_eq!(result.return_value.cast_signed(), -1, "{name}");
        let words: Vec<u32> = after
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes(word.try_into().expect("they are four")))
            .collect();
        let block = &words[CONTEXT_CONTROL_BLOCK..][..5];
        assert_eq!(block[..4], said.words(), "{name}");
        assert_eq!(block[4], 0xdead_beef, "{name} leaves the rest");
    }
}

#[test]
fn without_a_tag_everything_is_left_to_the_network() {
    let world = World::calling(&[1]);
    let (call, request) = (call(syn()), arp(1, BROADCAST, (mac(CALLER), address(CALLER)), ([0; 6], VIP)));
    for garbage in [[0; 4], [0xdead_beef, NETWORK, 0, 0], [NETWORK; 4]] {
        world.run_tagged(Hook::OverlayIn, garbage, &call.bytes()).passes(Outcome::NotOurs);
        world.run_tagged(Hook::OverlayOut, garbage, &call.bytes()).passes(Outcome::NotOurs);
        world.run_tagged(Hook::OverlayIn, garbage, &request).passes(Outcome::NotOurs);
    }
    world.overlay_in(&call).passes_as(Outcome::VipToTask, &given(&call, 1).bytes());
}

#[test]
fn who_asks_for_a_virtual_address_is_told_of_dockers_balancer_where_it_is_known() {
    let world = World::calling(&[1]);
    let request = arp(1, BROADCAST, (mac(CALLER), address(CALLER)), ([0; 6], VIP));
    for (balancer, told) in [([0; 6], VIP_MAC), (BALANCER, BALANCER)] {
        let tag = NetworkTag { network: NETWORK, balancer };
        let expected = arp(2, mac(CALLER), (told, VIP), (mac(CALLER), address(CALLER)));
        let run = world.run_tagged(Hook::OverlayIn, tag.words(), &request);
        run.leaves_as_frame(Outcome::VipResolved, &expected);
    }
}
