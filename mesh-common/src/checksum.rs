//! The Internet checksum: a one's-complement sum of 16-bit words (RFC 1071), and its update when some of the words change
//! (RFC 1624). Words are read as they stand in memory: the sum works in either byte order as long as it is one.

use crate::net::Address;

/// A sum that has not been folded to 16 bits yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    pub const ZERO: Self = Self(0);

    #[inline(always)]
    #[must_use]
    pub const fn add_word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Takes `word` out: adding the complement is subtracting.
    #[inline(always)]
    #[must_use]
    pub const fn remove_word(self, word: u16) -> Self {
        Self(self.0 + !word as u64)
    }

    #[inline(always)]
    #[must_use]
    pub const fn add_address(self, address: Address) -> Self {
        let wire = address.wire();
        Self(self.0 + (wire & 0xffff) as u64 + (wire >> 16) as u64)
    }

    #[inline(always)]
    #[must_use]
    pub const fn remove_address(self, address: Address) -> Self {
        let wire = !address.wire();
        Self(self.0 + (wire & 0xffff) as u64 + (wire >> 16) as u64)
    }

    #[inline(always)]
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The pseudo-header of TCP and UDP over IPv4 (RFC 9293 §3.1). `length` is of the segment, header included.
    #[inline(always)]
    pub const fn pseudo_header(source: Address, destination: Address, protocol: u8, length: u16) -> Self {
        Self::ZERO
            .add_address(source)
            .add_address(destination)
            .add_word((protocol as u16).to_be())
            .add_word(length.to_be())
    }

    /// The sum in 16 bits, carries added back.
    #[inline(always)]
    pub const fn folded(self) -> u16 {
        let mut sum = self.0;
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The sum in 32 bits, as the kernel's checksum helpers take differences.
    #[inline(always)]
    pub const fn difference(self) -> u32 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((sum & 0xffff_ffff) + (sum >> 32)) as u32
    }

    /// The checksum of a header or segment that sums up to this with its checksum field as zero.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }

    /// `checksum` after the words that this sum added and removed have changed (RFC 1624 equation 3).
    #[inline(always)]
    pub const fn update(self, checksum: u16) -> u16 {
        !self.add_word(!checksum).folded()
    }
}

/// The sum of a whole number of words; an odd last byte counts as the first of a word.
pub fn sum(bytes: &[u8]) -> Sum {
    let mut total = Sum::ZERO;
    let mut chunks = bytes.chunks_exact(2);
    for chunk in &mut chunks {
        total = total.add_word(u16::from_ne_bytes([chunk[0], chunk[1]]));
    }
    if let [last] = chunks.remainder() {
        total = total.add_word(u16::from_ne_bytes([*last, 0]));
    }
    total
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes).folded().to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn the_example_of_rfc_1624_updates() {
        let before = u16::from_ne_bytes([0x55, 0x55]);
        let after = u16::from_ne_bytes([0x32, 0x85]);
        let checksum = u16::from_ne_bytes([0xdd, 0x2f]);
        let updated = Sum::ZERO.remove_word(before).add_word(after).update(checksum);
        assert_eq!(updated.to_ne_bytes(), [0x00, 0x00]);
    }

    proptest! {
        #[test]
        fn an_updated_checksum_is_a_full_one(mut words in prop::collection::vec(any::<u16>(), 2..40), index in any::<prop::sample::Index>(), word: u16) {
            // A header of nothing but zeroes does not exist (the version field of IP is not zero).
            words[0] |= 1;
            let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
            let checksum = sum(&bytes(&words)).checksum();
            let index = 1 + index.index(words.len() - 1);
            let updated = Sum::ZERO.remove_word(words[index]).add_word(word).update(checksum);
            words[index] = word;
            prop_assert_eq!(sum(&bytes(&words)).add_word(updated).folded(), 0xffff);
        }
    }
}
