//! Ways out that the programs remember, so that they need not ask the kernel's routing table for every packet.

use crate::clock;
use crate::net::Address;

/// How long a way is followed before the kernel is asked again: so late at most is a change of routes or of a neighbour's
/// hardware address noticed. A router that moves its address to another machine announces it and is believed within
/// seconds; TCP waits four times as long before it repeats anything (RFC 6298: `RTO_MIN` is 200 ms in Linux).
pub const LASTS_NANOSECONDS: u64 = 50_000_000;

/// How often a packet on a remembered way is left to the kernel's own output: only that asks a neighbour whose hardware address has
/// not been heard of for a while whether it still has it (RFC 1122 §2.3.2.1). Packets that leave with an address do not, and a
/// lookup takes a stale one for good.
const CONFIRMED_TICKS: u32 = 1_000_000_000_u64.div_ceil(1 << TICK_BITS) as u32;
/// A tick is about a millisecond.
const TICK_BITS: u32 = 20;

/// Value of `ROUTES`: what the kernel has answered, and to what question. Only neighbours whose hardware address is known are
/// remembered; no interface has number 0, so nothing is remembered in a place that is all zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RememberedRoute {
    /// When the kernel was asked, coarse monotonic nanoseconds.
    pub asked: u64,
    /// The interface that the packet came in by.
    pub incoming: u32,
    pub source: Address,
    pub destination: Address,
    /// The interface that it goes out of.
    pub interface: u32,
    /// The destination's and the source's hardware address as they stand in a frame.
    pub macs: [u32; 3],
    /// When the kernel last sent a packet to this neighbour itself, or it was first remembered; in ticks, which wrap around.
    pub confirmed: u32,
}

impl RememberedRoute {
    /// Whether this is the way from `source` to `destination` for what came in by `incoming`, and still is to be followed.
    #[inline(always)]
    pub const fn answers(&self, incoming: u32, source: Address, destination: Address, now: u64) -> bool {
        self.incoming == incoming
            && self.source.wire() == source.wire()
            && self.destination.wire() == destination.wire()
            && clock::elapsed(self.asked, now) < LASTS_NANOSECONDS
    }
}

/// A time of the coarse monotonic clock in ticks.
#[inline(always)]
pub const fn ticks(now: u64) -> u32 {
    (now >> TICK_BITS) as u32
}

/// Whether the kernel shall send the next packet of a way itself.
#[inline(always)]
pub const fn is_to_be_confirmed(confirmed: u32, now: u64) -> bool {
    ticks(now).wrapping_sub(confirmed) >= CONFIRMED_TICKS
}

/// Where in a table of 2 to the power of `bits` places the way to an address is remembered.
#[inline(always)]
pub const fn place(destination: Address, bits: u32) -> u32 {
    // Fibonacci hashing: addresses of one network fall into different places.
    destination.wire().swap_bytes().wrapping_mul(0x9e37_79b1) >> (32 - bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Address = Address::new([10, 99, 0, 254]);
    const NODE: Address = Address::new([10, 99, 0, 1]);

    #[test]
    fn a_way_is_that_of_one_question_for_a_while() {
        let asked = 7_000_000_000;
        let known = RememberedRoute {
            asked,
            incoming: 2,
            source: NODE,
            destination: CLIENT,
            ..RememberedRoute::default()
        };
        assert!(known.answers(2, NODE, CLIENT, asked));
        assert!(known.answers(2, NODE, CLIENT, asked + LASTS_NANOSECONDS - 1));
        assert!(!known.answers(2, NODE, CLIENT, asked + LASTS_NANOSECONDS));
        assert!(!known.answers(3, NODE, CLIENT, asked));
        assert!(!known.answers(2, CLIENT, CLIENT, asked));
        assert!(!known.answers(2, NODE, NODE, asked));
    }

    #[test]
    fn a_neighbour_is_to_be_confirmed_once_a_second_also_when_the_count_wraps_around() {
        for confirmed in [7_000_000_000, u64::from(u32::MAX) << 20] {
            let begun = ticks(confirmed);
            assert!(!is_to_be_confirmed(begun, confirmed));
            assert!(!is_to_be_confirmed(begun, confirmed + 990_000_000));
            assert!(is_to_be_confirmed(begun, confirmed + 1_010_000_000));
        }
    }

    #[test]
    fn nothing_is_remembered_in_an_empty_place() {
        assert!(!RememberedRoute::default().answers(1, NODE, CLIENT, 0));
    }

    #[test]
    fn addresses_of_a_network_share_no_places_without_need() {
        let mut taken = std::vec![0; 1024];
        for host in 0..=u8::MAX {
            taken[place(Address::new([10, 99, 0, host]), 10) as usize] += 1;
        }
        assert_eq!(taken.iter().sum::<u32>(), 256);
        assert!(taken.iter().all(|count| *count <= 1));
    }
}
