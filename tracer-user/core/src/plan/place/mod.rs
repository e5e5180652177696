//! Where in a function a probe may stand, and what a hit there costs.
//!
//! A uprobe replaces an instruction by a trap. If the kernel can emulate that instruction, a hit is
//! one trap; if not, the kernel runs a copy of it under single step, which is a second trap and
//! about ten times the price in a virtual machine. At the entry of a Go function stands the stack
//! check, which is neither cheap nor passed only once: `morestack` begins the function again. So
//! the probe goes behind the check, on the first instruction that is always executed and that the
//! kernel emulates, while the arguments are still in their registers.
//!
//! What a prologue looks like and what the kernel emulates depends on the processor: a file for each.

mod amd64;

use crate::binary::Arch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostClass {
    /// One trap: the kernel emulates the instruction.
    Emulated,
    /// Two traps: the kernel single-steps a copy.
    SingleStepped,
}

/// Which stack a function runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stack {
    /// Only on g0's, where the stack check never fails.
    System,
    /// On a goroutine's, or on either.
    User,
}

/// What a probe reads of the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ArgUse {
    /// How many of the function's integer arguments.
    pub integers: usize,
    /// Whether it walks the frame pointers from RBP.
    pub frames: bool,
}

/// What RBP and RSP say at a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackFrame {
    /// Nothing has moved: RBP is the caller's frame pointer, the return address is at `[RSP]`.
    Callers,
    /// RBP is the function's own frame pointer: the caller's is at `[RBP]`, the return address at
    /// `[RBP+8]`.
    Own,
    /// The frame is being made.
    Between,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Link-time address of the instruction.
    pub vaddr: u64,
    pub class: CostClass,
    /// The probe stands on the branch of the stack check: a hit with CF or ZF set goes to
    /// `morestack` and comes back, so it does not count.
    pub flags_test: bool,
    /// Where the caller's frame is at this instruction.
    pub frame: StackFrame,
    /// The instruction, for people.
    pub instruction: String,
}

/// Why there is no place for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// No file for this processor yet.
    #[error("probes on arm64 are not supported yet")]
    Arch,
    /// The bytes are no code.
    #[error("its code cannot be decoded")]
    Undecodable,
    /// The kernel refuses a probe on the only instruction there is.
    #[error("its first instruction can hold no probe")]
    Refused,
}

/// Finds the place for a probe in a function: `code` is its whole body, `entry` its link-time
/// address.
///
/// # Errors
/// [`PlaceError`], when there is no place at all. A place where a hit is expensive is no error; its
/// class says so.
pub(super) fn place(
    arch: Arch,
    code: &[u8],
    entry: u64,
    args: ArgUse,
    runs_on: Stack,
) -> Result<Placement, PlaceError> {
    match arch {
        Arch::Amd64 => amd64::place(code, entry, args, runs_on),
        Arch::Arm64 => Err(PlaceError::Arch),
    }
}
