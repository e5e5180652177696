//! Goroutines read from outside: the runtime's own tables in the memory of a running target. Nothing is written and
//! nothing is stopped; a goroutine that moves while it is read is marked [`Trust::InMotion`].

mod args;
mod labels;
mod objects;
mod poll;
mod raw;
mod take;
#[cfg(test)]
mod tests;
mod threads;
mod types;
mod unwind;

pub(crate) use objects::of_one_time;
pub use objects::{has_object, parking_function, waited_for};
pub(crate) use poll::descriptor;
pub(crate) use raw::{Offsets, Raw};
pub use take::{Options, Reading, SnapshotError, take, take_only};
pub use threads::{ThreadCounts, threads};
pub use types::{Goroutine, Object, ObjectKind, Pc, Sampled, Snapshot, StackId, Stacks, Trust, Wait, Wants};
pub(crate) use unwind::{Frame, Registers, Unwinder};

use crate::binary::GoBinary;
use crate::clock;
use crate::memory::Memory;

/// A target's memory with its binary: what every reader of runtime structs needs.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The target's memory, live or from a core file.
    pub memory: &'a (dyn Memory + Sync),
    /// The executable that the target runs.
    pub binary: &'a GoBinary,
    /// Load bias: an address in memory minus the link-time address.
    pub bias: u64,
    /// Whether the target's time goes on.
    pub clock: Clock,
}

/// Whether a target's time goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The target runs: its time is `CLOCK_MONOTONIC` now.
    Live,
    /// The memory is a core file: time stopped when it was written.
    Stopped,
}

impl View<'_> {
    /// The target's time: `CLOCK_MONOTONIC`, nanoseconds; 0 for a core file, which does not have it.
    pub fn now_ns(&self) -> u64 {
        match self.clock {
            Clock::Live => clock::now(),
            Clock::Stopped => 0,
        }
    }

    /// The word at `addr`. `None`: it cannot be read.
    pub fn word(&self, addr: u64) -> Option<u64> {
        self.memory.word(addr).ok()
    }

    /// The address of a field of the runtime's struct `of` at `base`. `None`: this version has no such field.
    pub fn at(&self, base: u64, of: &str, field: &str) -> Option<u64> {
        base.checked_add(u64::from(self.binary.layout().field(of, field)?))
    }

    /// The word in a field of the runtime's struct `of` at `base`. `None`: no such field, or unreadable memory.
    pub fn field(&self, base: u64, of: &str, field: &str) -> Option<u64> {
        self.word(self.at(base, of, field)?)
    }
}
