//! Stretches of memory that are read together, into buffers that are used again.

use crate::memory::{Fault, Memory, Range};

/// Stretches that were read together.
#[derive(Default)]
pub(super) struct Scattered {
    ranges: Vec<Range>,
    bytes: Vec<u8>,
    whole: Vec<bool>,
}

impl Scattered {
    /// Reads these stretches; what was here before is gone.
    pub(super) fn read(
        &mut self,
        memory: &dyn Memory,
        ranges: impl Iterator<Item = Range>,
    ) -> Result<(), Fault> {
        self.ranges.clear();
        self.ranges.extend(ranges);
        memory.scatter(&self.ranges, &mut self.bytes, &mut self.whole)
    }

    /// Each stretch with its bytes, if it could be read.
    pub(super) fn parts(&self) -> impl Iterator<Item = (Range, Option<&[u8]>)> {
        let mut rest = &self.bytes[..];
        self.ranges.iter().zip(&self.whole).map(move |(range, whole)| {
            let bytes = rest.split_off(..range.len).unwrap_or_default();
            (*range, whole.then_some(bytes))
        })
    }
}
