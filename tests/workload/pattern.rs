//! The bytes that transfers carry: the same on both sides, different at every offset.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// The first `left` bytes of the pattern.
#[derive(Debug)]
pub(crate) struct Pattern {
    block: u64,
    left: u64,
    bytes: Vec<u8>,
    read: usize,
}

const BLOCK: usize = 64 * 1024;

impl Pattern {
    pub(crate) fn new(length: u64) -> Self {
        Self { block: 0, left: length, bytes: Vec::with_capacity(BLOCK), read: 0 }
    }

    fn refill(&mut self) {
        self.bytes.clear();
        for word in 0..(BLOCK / 8) as u64 {
            self.bytes.extend_from_slice(&mixed(self.block * (BLOCK / 8) as u64 + word).to_le_bytes());
        }
        self.block += 1;
        self.read = 0;
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        if self.read == self.bytes.len() {
            self.refill();
        }
        let available = (self.bytes.len() - self.read).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = buffer.len().min(available);
        buffer[..count].copy_from_slice(&self.bytes[self.read..self.read + count]);
        self.read += count;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Length and SHA-256 of all that can be read.
pub(crate) fn measure(mut source: impl Read) -> io::Result<(u64, String)> {
    let mut buffer = vec![0; BLOCK];
    let (mut length, mut hash) = (0, Sha256::new());
    loop {
        match source.read(&mut buffer)? {
            0 => return Ok((length, format!("{:x}", hash.finalize()))),
            count => {
                hash.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
}

/// splitmix64.
fn mixed(index: u64) -> u64 {
    let mut word = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
