//! What threads that run hold in their registers, where that can be had.

use crate::memory::{FreezeError, Frozen, Sampler, ThreadRegisters};
use crate::process::Process;

/// Stack pointers that are kept: what one that runs had in the last minute, about.
const MAX_DEPTHS: usize = 1 << 16;
/// Samples of one stack from which on the deepest of them tells how much of it is used.
const ENOUGH: usize = 8;
/// Bytes below the deepest stack pointer that was sampled that count as used, too.
const MARGIN: u64 = 1 << 10;

/// Where registers come from.
#[derive(Debug)]
pub enum Registers<'p> {
    /// From samples, while the program runs on.
    Sampled(Sampler<'p>),
    /// From its threads, which are stopped for the last pass.
    Frozen(&'p Process),
    /// They cannot be had: of a core file, or where the kernel does not allow it.
    Unknown,
}

impl Registers<'_> {
    /// What was sampled since the last time.
    pub(super) fn take(&mut self) -> Vec<ThreadRegisters> {
        match self {
            Registers::Sampled(sampler) => sampler.take(),
            Registers::Frozen(_) | Registers::Unknown => Vec::new(),
        }
    }

    /// Stops the program, if that is wanted.
    pub(super) fn freeze(&self) -> Result<Option<Frozen>, FreezeError> {
        match self {
            Registers::Frozen(process) => Frozen::stop(process).map(Some),
            Registers::Sampled(_) | Registers::Unknown => Ok(None),
        }
    }

    /// Whether they cannot be had.
    pub(super) fn are_unknown(&self) -> bool {
        matches!(self, Registers::Unknown)
    }
}

/// How deep the stacks of running goroutines were seen to reach. What lies below is left over from calls that
/// are over, often of another goroutine that had the stack before.
#[derive(Clone, Debug, Default)]
pub(super) struct Depths {
    /// Stack pointers, ascending.
    sampled: Vec<u64>,
    /// The program stands still: they are exact.
    exact: bool,
}

impl Depths {
    /// Those of threads that are stopped.
    pub(super) fn exact(registers: &[ThreadRegisters]) -> Depths {
        let mut depths = Depths { exact: true, ..Depths::default() };
        depths.add(registers);
        depths
    }

    /// Remembers samples.
    pub(super) fn add(&mut self, registers: &[ThreadRegisters]) {
        if self.sampled.len() + registers.len() > MAX_DEPTHS {
            self.sampled.clear();
        }
        self.sampled.extend(registers.iter().map(|thread| thread.sp));
        self.sampled.sort_unstable();
    }

    /// From where on a stack is used.
    pub(super) fn used_from(&self, (lo, hi): (u64, u64)) -> u64 {
        let first = self.sampled.partition_point(|sp| *sp < lo);
        let behind = self.sampled.partition_point(|sp| *sp < hi);
        let enough = behind.saturating_sub(first) >= if self.exact { 1 } else { ENOUGH };
        let deepest = self.sampled.get(first).filter(|_| enough);
        let margin = if self.exact { 0 } else { MARGIN };
        deepest.map_or(lo, |sp| sp.saturating_sub(margin).max(lo))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sp: u64) -> ThreadRegisters {
        ThreadRegisters { tid: 1, pc: 0, sp, words: Vec::new() }
    }

    #[test]
    fn the_deepest_of_enough_samples_tells_how_much_is_used() {
        let stack = (0x1_0000, 0x2_0000);
        let few: Vec<_> = (0..7).map(|n| at(0x1_f000 + n * 8)).collect();
        let mut depths = Depths::default();
        depths.add(&few);
        assert_eq!(depths.used_from(stack), 0x1_0000, "seven samples may all be of a shallow moment");
        depths.add(&[at(0x1_8000), at(0x2_0008), at(0xfff8)]);
        assert_eq!(depths.used_from(stack), 0x1_8000 - MARGIN);
        depths.add(&[at(0x1_0010)]);
        assert_eq!(depths.used_from(stack), 0x1_0000, "never below the stack");
        assert_eq!(Depths::exact(&[at(0x1_8000)]).used_from(stack), 0x1_8000);
        assert_eq!(Depths::exact(&[]).used_from(stack), 0x1_0000);
    }
}
