//! A program's memory together with what its binary says about it.

use crate::binary::GoBinary;
use crate::clock;
use crate::memory::Memory;

/// What every reader of this module looks through.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The memory.
    pub memory: &'a (dyn Memory + Sync),
    /// The binary that runs in it.
    pub binary: &'a GoBinary,
    /// What the kernel added to the binary's link-time addresses.
    pub bias: u64,
    /// What time it is there.
    pub clock: Clock,
}

/// What time it is for the goroutines of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Now: it runs.
    Live,
    /// When its memory was written to a core file.
    Stopped,
}

impl View<'_> {
    /// What time it is there: `CLOCK_MONOTONIC`, nanoseconds; 0 where it stands still.
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
