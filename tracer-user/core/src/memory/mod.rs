//! The target's memory, read from outside: of a live process, of a core file, of a test.
//!
//! Every word that comes from here is hostile. Readers check each length before they allocate, and bound each walk by a
//! number of steps.

mod core;
mod freeze;
mod live;
mod registers;

use crate::budget::{self, Exhausted};
pub use core::{Core, CoreError};
pub use freeze::{FreezeError, Frozen};
pub use live::Live;
pub use registers::{SampleError, Sampler};

/// Why memory could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing readable is mapped at this address, the first one of the read that failed.
    #[error("nothing is mapped at 0x{0:x}")]
    Unmapped(u64),
    #[error("the process has ended")]
    Gone,
    /// The kernel does not allow this user to read.
    #[error("its memory cannot be read: needs root or CAP_SYS_PTRACE (run with sudo)")]
    Denied,
    /// There is no room for what was to be read.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
}

/// One stretch of the target's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub addr: u64,
    pub len: usize,
}

/// Bytes of these together.
fn total(ranges: &[Range]) -> usize {
    ranges.iter().fold(0, |all, range| all.saturating_add(range.len))
}

/// The registers of a thread at the moment of the look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadRegisters {
    /// The thread's id in the target's PID namespace.
    pub tid: u32,
    /// The program counter: an address in the target's memory, load bias included.
    pub pc: u64,
    pub sp: u64,
    /// The words of its other registers, in no particular order: each may be a pointer.
    pub words: Vec<u64>,
}

/// The memory of a target, or what stands for it in a test.
pub trait Memory {
    /// Fills `buffer` with the bytes at `addr`.
    ///
    /// # Errors
    /// Not all bytes could be read; the contents of the buffer are then unspecified.
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault>;

    /// Reads many stretches with as few system calls as possible. `buffer` is resized to hold all of them, one behind
    /// the other, in their order. `whole` tells for each whether it could be read; if not, its bytes are zero.
    ///
    /// # Errors
    /// Only [`Fault::Gone`], [`Fault::Denied`] and [`Fault::Exhausted`], which hold for all stretches.
    fn scatter(&self, ranges: &[Range], buffer: &mut Vec<u8>, whole: &mut Vec<bool>) -> Result<(), Fault> {
        buffer.clear();
        budget::check(total(ranges))?;
        buffer.resize(total(ranges), 0);
        whole.clear();
        let mut rest = &mut buffer[..];
        for range in ranges {
            let (part, behind) = rest.split_at_mut(range.len);
            match self.read(range.addr, part) {
                Ok(()) => whole.push(true),
                Err(Fault::Unmapped(_)) => {
                    part.fill(0);
                    whole.push(false);
                }
                Err(fault) => return Err(fault),
            }
            rest = behind;
        }
        Ok(())
    }

    /// How many bytes there are at most that the target wrote: what it has in memory or swapped out. What it claims to
    /// have beyond that is made up. `None`: it cannot be told.
    fn resident(&self) -> Option<u64> {
        None
    }

    /// The little-endian word at `addr`.
    ///
    /// # Errors
    /// As [`Memory::read`].
    fn word(&self, addr: u64) -> Result<u64, Fault> {
        let mut word = [0; 8];
        self.read(addr, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }
}

/// Reads many stretches as [`Memory::scatter`] does, and hands each that could be read to `then`, with its place among
/// them.
///
/// # Errors
/// As [`Memory::scatter`].
pub(crate) fn read_each(
    memory: &dyn Memory,
    ranges: &[Range],
    mut then: impl FnMut(usize, &[u8]),
) -> Result<(), Fault> {
    let (mut bytes, mut whole) = (Vec::new(), Vec::new());
    memory.scatter(ranges, &mut bytes, &mut whole)?;
    let mut rest = &bytes[..];
    for (index, (range, whole)) in ranges.iter().zip(whole).enumerate() {
        let Some(own) = rest.split_off(..range.len) else { break };
        if whole {
            then(index, own);
        }
    }
    Ok(())
}
