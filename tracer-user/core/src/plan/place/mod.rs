//! Finds the instruction of a function on which a probe can stand, and the price class of a hit there.
//!
//! A uprobe replaces an instruction by a trap. If the kernel can emulate the instruction, a hit is one trap. If not,
//! the kernel single-steps a copy, which is a second trap and about ten times the price in a virtual machine. A Go
//! function begins with the stack check, which the kernel does not emulate and which can run twice in one call:
//! `morestack` jumps back to the entry. So the probe goes behind the check, on the first instruction that is always
//! executed and that the kernel emulates, while the arguments are still in their registers.
//!
//! Prologues and the list of emulated instructions depend on the processor: one file each.

mod amd64;

use crate::binary::Arch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
/// The price class of a hit.
pub enum CostClass {
    /// One trap: the kernel emulates the instruction.
    Emulated,
    /// Two traps: the kernel single-steps a copy.
    SingleStepped,
}

/// The stack that a function runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stack {
    /// Only the stack of a g0, where the stack check never fails.
    System,
    /// The stack of a goroutine, or either.
    User,
}

/// The registers that the program of a probe reads; they must still be intact at the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ArgUse {
    /// The number of integer arguments, from the first on.
    pub integers: usize,
    /// Whether it walks frame pointers from RBP.
    pub frames: bool,
}

/// The meaning of RBP and RSP at a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackFrame {
    /// Nothing has moved: RBP is the caller's frame pointer, and the return address is at `[RSP]`.
    Callers,
    /// RBP is the function's own frame pointer: the caller's is at `[RBP]`, and the return address at `[RBP+8]`.
    Own,
    /// The frame is half made; no probe that walks frame pointers may stand here.
    Between,
}

#[derive(Clone, Debug, PartialEq, Eq)]
/// The place of a probe.
pub struct Placement {
    /// Link-time address of the instruction.
    pub vaddr: u64,
    pub class: CostClass,
    /// The probe stands on the branch of the stack check. A hit with CF or ZF set goes to `morestack` and comes back,
    /// so the program must drop it.
    pub flags_test: bool,
    /// Where the caller's frame is found at this instruction.
    pub frame: StackFrame,
    /// The instruction in Intel syntax, for people (`sfgi doctor`).
    pub instruction: String,
}

/// Why a function has no place for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The processor of the binary is not supported yet.
    #[error("probes on arm64 are not supported yet")]
    Arch,
    /// The function has no bytes, too many, or bytes that are no instructions.
    #[error("its code cannot be decoded")]
    Undecodable,
    /// The kernel refuses a probe on the only instruction that could hold one.
    #[error("its first instruction can hold no probe")]
    Refused,
}

/// Finds the place for a probe in a function. `code` is its whole body, so that every branch target is seen; `entry`
/// is its link-time address.
///
/// # Errors
/// [`PlaceError`] if there is no place at all. An expensive place is no error; its class says so.
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
