//! Which backend stands in which slot of a set: the part of a policy that is worked out once for each set, so that the
//! dataplane only has to pick a slot. Pure, and the same on every node.

use std::cmp::Reverse;

/// Slots of a Maglev table: a prime, so that every backend's walk over it visits every slot. When one of ten backends
/// leaves, 0.6 % of the others' slots move; with 1021 slots it would be 2.9 %.
pub const MAGLEV_SLOTS: u32 = 16_381;
/// A set has no more slots than this, whatever the weights: they are scaled down.
const MOST_SLOTS: u64 = 1024;
/// The largest weight that can be given.
pub const MOST_WEIGHT: u32 = 1000;

/// A backend as far as its share goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share<'a> {
    /// The same on every node.
    pub name: &'a str,
    /// At least 1.
    pub weight: u32,
}

/// The places of `shares` in the slots of a set, each as often as its weight says and as evenly apart as can be: with a
/// weight of 2, 1 and 1, the first serves every other flow (the "smooth" order of weighted round robin).
pub fn in_turns(shares: &[Share<'_>]) -> Vec<usize> {
    let weights = scaled(shares);
    let total: i64 = weights.iter().sum();
    let mut credits = vec![0_i64; weights.len()];
    let mut slots = Vec::new();
    for _ in 0..total {
        for (credit, weight) in credits.iter_mut().zip(&weights) {
            *credit += weight;
        }
        let Some(best) = (0..credits.len()).max_by_key(|place| (credits[*place], Reverse(*place))) else {
            break;
        };
        credits[best] -= total;
        slots.push(best);
    }
    slots
}

/// Weights in their lowest terms that add up to no more than [`MOST_SLOTS`], unless there are more backends than that.
fn scaled(shares: &[Share<'_>]) -> Vec<i64> {
    let common = shares.iter().fold(0, |common, share| greatest_common_divisor(common, share.weight.max(1)));
    let total: u64 = shares.iter().map(|share| u64::from(share.weight.max(1) / common.max(1))).sum();
    let scale = |share: &Share<'_>| {
        let weight = u64::from(share.weight.max(1) / common.max(1));
        let scaled = if total > MOST_SLOTS { (weight * MOST_SLOTS / total).max(1) } else { weight };
        scaled.cast_signed()
    };
    shares.iter().map(scale).collect()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The places of `shares` in a Maglev table (Eisenbud et al., NSDI 2016, §3.4): each backend claims slots along a walk of
/// its own, in turns, as often as its weight says. When one leaves, nearly all slots of the others stay theirs.
pub fn maglev(shares: &[Share<'_>], size: u32) -> Vec<usize> {
    if shares.is_empty() {
        return Vec::new();
    }
    let mut walks: Vec<Walk> = shares.iter().map(|share| Walk::of(share.name, size)).collect();
    // The same order on every node, whatever order they came in.
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|place| shares[*place].name);
    let heaviest = shares.iter().map(|share| u64::from(share.weight.max(1))).max().unwrap_or(1);
    let mut table = vec![None; size as usize];
    let mut free = table.len();
    // In round n a backend has claimed n times its part of the heaviest weight, rounded up.
    let mut claimed = vec![0_u64; shares.len()];
    for round in 1.. {
        for place in order.iter().copied() {
            let due = (round * u64::from(shares[place].weight.max(1))).div_ceil(heaviest);
            if claimed[place] >= due {
                continue;
            }
            claimed[place] += 1;
            walks[place].claim(&mut table, place);
            free -= 1;
            if free == 0 {
                return table.into_iter().flatten().collect();
            }
        }
    }
    Vec::new()
}

/// A backend's order of preference for the slots of a table.
struct Walk {
    at: u64,
    step: u64,
    size: u64,
}

impl Walk {
    fn of(name: &str, size: u32) -> Self {
        let size = u64::from(size);
        let hash = hash(name);
        Self { at: (hash >> 32) % size, step: (hash & 0xffff_ffff) % (size - 1).max(1) + 1, size }
    }

    /// Takes the next slot on the walk that is free. There must be one.
    fn claim(&mut self, table: &mut [Option<usize>], place: usize) {
        loop {
            let slot = usize::try_from(self.at).unwrap_or(0);
            self.at = (self.at + self.step) % self.size;
            if table[slot].is_none() {
                table[slot] = Some(place);
                return;
            }
        }
    }
}

/// FNV-1a, and a finalizer, since ids that differ in one letter must not walk alike.
fn hash(name: &str) -> u64 {
    let mut hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares<'a>(names: &'a [String], weights: &[u32]) -> Vec<Share<'a>> {
        names.iter().zip(weights).map(|(name, weight)| Share { name, weight: *weight }).collect()
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("x7d{number}kq0zzz9vl2v1c3t5mq8p0a{number}")).collect()
    }

    fn count(slots: &[usize], place: usize) -> usize {
        slots.iter().filter(|slot| **slot == place).count()
    }

    #[test]
    fn without_weights_turns_are_in_order_and_with_them_evenly_apart() {
        let three = names(3);
        assert_eq!(in_turns(&shares(&three, &[1, 1, 1])), [0, 1, 2]);
        assert_eq!(in_turns(&shares(&three, &[100, 100, 100])), [0, 1, 2], "in lowest terms");
        assert_eq!(in_turns(&shares(&three, &[2, 1, 1])), [0, 1, 2, 0]);
        assert_eq!(in_turns(&[]), Vec::<usize>::new());
    }

    #[test]
    fn weights_that_make_too_many_slots_are_scaled_and_nobody_is_forgotten() {
        let many = names(5);
        let slots = in_turns(&shares(&many, &[997, 991, 983, 977, 1]));
        assert!(slots.len() <= 1024, "{}", slots.len());
        assert_eq!(count(&slots, 4), 1);
    }

    #[test]
    fn maglev_shares_follow_the_weights() {
        let four = names(4);
        let table = maglev(&shares(&four, &[2, 13, 111, 10]), 1021);
        assert_eq!(table.len(), 1021);
        for (place, expected) in [16, 98, 832, 75].into_iter().enumerate() {
            assert!(count(&table, place).abs_diff(expected) <= 2, "{place}: {}", count(&table, place));
        }
    }

    #[test]
    fn maglev_is_the_same_whatever_order_the_backends_came_in() {
        let many = names(7);
        let table = maglev(&shares(&many, &[1, 2, 3, 4, 5, 6, 7]), MAGLEV_SLOTS);
        let mut turned = shares(&many, &[1, 2, 3, 4, 5, 6, 7]);
        turned.reverse();
        let other = maglev(&turned, MAGLEV_SLOTS);
        assert!(table.iter().zip(&other).all(|(a, b)| many[*a] == turned[*b].name));
    }

    #[test]
    fn when_a_backend_leaves_few_flows_of_the_others_move() {
        for backends in [2_usize, 3, 5, 10] {
            let (mut moved, mut looked) = (0_usize, 0_usize);
            let all = names(backends);
            let before = maglev(&shares(&all, &vec![1; backends]), MAGLEV_SLOTS);
            for leaver in 0..backends {
                let rest: Vec<String> = all.iter().filter(|name| **name != all[leaver]).cloned().collect();
                let after = maglev(&shares(&rest, &vec![1; backends - 1]), MAGLEV_SLOTS);
                for (old, new) in before.iter().zip(&after).filter(|(old, _)| **old != leaver) {
                    looked += 1;
                    moved += usize::from(all[*old] != rest[*new]);
                }
            }
            assert!(moved * 100 < looked, "{backends} backends: {moved} of {looked} unrelated slots moved");
        }
    }

    proptest! {
        #[test]
        fn every_backend_gets_its_part_of_the_turns(weights in prop::collection::vec(1..20_u32, 1..12)) {
            let names = names(weights.len());
            let slots = in_turns(&shares(&names, &weights));
            for (place, weight) in weights.iter().enumerate() {
                let part = count(&slots, place) as f64 / slots.len() as f64;
                let wanted = f64::from(*weight) / f64::from(weights.iter().sum::<u32>());
                prop_assert!((part - wanted).abs() < 1e-9);
            }
        }

        #[test]
        fn maglev_fills_every_slot(weights in prop::collection::vec(1..1000_u32, 1..40)) {
            let names = names(weights.len());
            let table = maglev(&shares(&names, &weights), 251);
            prop_assert_eq!(table.len(), 251);
            prop_assert!(table.iter().all(|place| *place < weights.len()));
        }
    }
}
