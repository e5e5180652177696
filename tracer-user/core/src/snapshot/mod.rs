//! Goroutines read from outside: the runtime's own tables in the memory of a target that goes on
//! running. Nothing is written, nothing is stopped; what moves while it is read is said to be in
//! motion.

mod args;
mod labels;
mod objects;
mod raw;
mod take;
#[cfg(test)]
mod tests;
mod types;
mod unwind;

pub(crate) use raw::{Offsets, Raw};
pub use take::{Options, Reading, SnapshotError, take, take_only};
pub use types::{Goroutine, Object, ObjectKind, Pc, Snapshot, StackId, Stacks, Trust, Wait, Wants};
pub(crate) use unwind::{Frame, Registers, Unwinder};

use crate::binary::GoBinary;
use crate::clock;
use crate::memory::Memory;

/// A target's memory together with what its binary says about it: what every reader looks through.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub memory: &'a (dyn Memory + Sync),
    pub binary: &'a GoBinary,
    /// What the kernel added to the binary's link-time addresses.
    pub bias: u64,
    pub clock: Clock,
}

/// What time it is for the goroutines of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Now: it runs.
    Live,
    /// When its memory was written to a core file.
    Stopped,
}

impl View<'_> {
    /// What time it is for the target: `CLOCK_MONOTONIC`, nanoseconds; 0 for a core file.
    pub fn now_ns(&self) -> u64 {
        match self.clock {
            Clock::Live => clock::now(),
            Clock::Stopped => 0,
        }
    }

    /// The word at `addr`; `None` where it cannot be read.
    pub fn word(&self, addr: u64) -> Option<u64> {
        self.memory.word(addr).ok()
    }

    /// The address of a field of the runtime's struct `of` at `base`; `None` where this version has
    /// none.
    pub fn at(&self, base: u64, of: &str, field: &str) -> Option<u64> {
        base.checked_add(u64::from(self.binary.layout().field(of, field)?))
    }

    /// The word in a field of the runtime's struct `of` at `base`.
    pub fn field(&self, base: u64, of: &str, field: &str) -> Option<u64> {
        self.word(self.at(base, of, field)?)
    }
}
