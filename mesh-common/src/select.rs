//! Which backend of a set serves a flow.

use crate::flow::FlowKey;

/// Round robin: the slot for the `turn`-th new flow. Without any slots it is the first, which then is not there.
#[inline(always)]
pub const fn slot_in_turn(turn: u64, count: u32) -> u32 {
    if count == 0 { 0 } else { (turn % count as u64) as u32 }
}

/// The slot for a packet whose flow is unknown though it does not start one: the same on every node that has the same
/// set, so that a flow survives a lost entry or a new entry node as well as it can.
#[inline(always)]
pub const fn slot_by_hash(hash: u32, count: u32) -> u32 {
    ((hash as u64 * count as u64) >> 32) as u32
}

/// A hash of a flow that is the same on every node.
#[inline(always)]
pub const fn hash(flow: &FlowKey) -> u32 {
    let ports = ((flow.client_port.wire() as u32) << 16) | flow.frontend_port.wire() as u32;
    let mut value = mix(flow.client.wire() ^ 0x6d65_7368);
    value = mix(value ^ flow.frontend.wire());
    mix(value ^ ports ^ ((flow.protocol as u32) << 8))
}

/// The finalizer of Murmur3, a bijection in which every input bit reaches every output bit.
#[inline(always)]
const fn mix(mut value: u32) -> u32 {
    value ^= value >> 16;
    value = value.wrapping_mul(0x85eb_ca6b);
    value ^= value >> 13;
    value = value.wrapping_mul(0xc2b2_ae35);
    value ^ (value >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Address, Port, protocol};

    #[test]
    fn turns_visit_every_slot_before_any_twice() {
        for count in 1..20 {
            for start in [0_u64, 7, u64::from(u32::MAX) - 3] {
                let mut seen = std::vec![0; count as usize];
                for turn in start..start + u64::from(count) {
                    seen[slot_in_turn(turn, count) as usize] += 1;
                }
                assert!(seen.iter().all(|visits| *visits == 1));
            }
        }
    }

    #[test]
    fn hashed_slots_stay_inside_the_set_and_spread() {
        let mut seen = [0_u32; 5];
        for port in 1024..11_024 {
            let key = FlowKey {
                client: Address::new([10, 99, 0, 254]),
                frontend: Address::new([10, 99, 0, 1]),
                client_port: Port::new(port),
                frontend_port: Port::new(80),
                protocol: protocol::TCP,
                padding: [0; 3],
            };
            seen[slot_by_hash(hash(&key), 5) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (1_800..2_200).contains(count)), "{seen:?}");
    }
}
