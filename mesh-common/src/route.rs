//! Ways out that the programs remember, so that they need not ask the kernel's routing table for every packet.

use crate::clock;
use crate::net::Address;

/// How long a way is followed before the kernel is asked again: so late at most is a change of routes or of a neighbour's
/// hardware address noticed. A router that moves its address to another machine announces it and is believed within
/// seconds; TCP waits four times as long before it repeats anything (RFC 6298: `RTO_MIN` is 200 ms in Linux).
pub const LASTS_NANOSECONDS: u64 = 50_000_000;

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
    pub padding: u32,
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
