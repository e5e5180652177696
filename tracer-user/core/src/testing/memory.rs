//! The memory of a target, made by a test.

use crate::memory::{Fault, Memory};
use std::collections::BTreeMap;

/// Stretches of bytes by their first address; everything else is unmapped.
#[derive(Default)]
pub struct Image {
    stretches: BTreeMap<u64, Vec<u8>>,
}

impl Image {
    /// Puts bytes at an address. Stretches must not overlap. A read fails if it goes beyond one stretch, even if the
    /// next one begins right behind.
    pub fn put(&mut self, addr: u64, bytes: &[u8]) {
        self.stretches.insert(addr, bytes.to_vec());
    }

    /// Puts little-endian words at an address, as [`Image::put`].
    pub fn put_words(&mut self, addr: u64, words: &[u64]) {
        self.put(addr, &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
    }
}

impl Memory for Image {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let unmapped = Fault::Unmapped(addr);
        let (start, bytes) = self.stretches.range(..=addr).next_back().ok_or(unmapped)?;
        let rest = bytes.get((addr - start) as usize..).ok_or(unmapped)?;
        buffer.copy_from_slice(rest.get(..buffer.len()).ok_or(unmapped)?);
        Ok(())
    }
}
