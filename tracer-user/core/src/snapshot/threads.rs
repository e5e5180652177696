//! Which thread an `m` is.

use super::raw::Raw;
use crate::memory::{Fault, Memory, Range};
use std::collections::HashMap;

/// Thread ids (`m.procid`, in the target's PID namespace) by the address of the `m`.
#[derive(Default)]
pub(super) struct Threads(HashMap<u64, u32>);

impl Threads {
    /// Reads those that are not known yet. `procid` is the offset of the field.
    pub(super) fn read(
        &mut self,
        memory: &dyn Memory,
        procid: u64,
        raws: &[Option<Raw>],
    ) -> Result<(), Fault> {
        let mut unknown: Vec<u64> = raws.iter().flatten().map(|raw| raw.m).filter(|m| *m != 0).collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown.retain(|m| !self.0.contains_key(m));
        let ranges: Vec<Range> =
            unknown.iter().map(|m| Range { addr: m.wrapping_add(procid), len: 8 }).collect();
        let (mut bytes, mut whole) = (Vec::new(), Vec::new());
        memory.scatter(&ranges, &mut bytes, &mut whole)?;
        for (m, word) in unknown.iter().zip(bytes.as_chunks::<8>().0) {
            self.0.insert(*m, u32::try_from(u64::from_le_bytes(*word)).unwrap_or(0));
        }
        Ok(())
    }

    /// The thread of an `m`; 0 where there is none.
    pub(super) fn tid(&self, m: u64) -> u32 {
        self.0.get(&m).copied().unwrap_or(0)
    }
}
