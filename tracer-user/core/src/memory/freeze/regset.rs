//! The registers of a stopped thread.

use crate::memory::ThreadRegisters;
use std::ffi::{c_int, c_void};

/// What the kernel calls the sets (`include/uapi/linux/elf.h`).
const NT_PRSTATUS: c_int = 1;

/// amd64 (`struct user_regs_struct` in `arch/x86/include/asm/user_64.h`): fifteen general registers, `orig_rax`, `rip`,
/// `cs`, `eflags`, `rsp`, and segments.
#[cfg(target_arch = "x86_64")]
mod arch {
    /// Words of the set.
    pub(super) const LEN: usize = 27;
    pub(super) const GENERAL: usize = 15;
    pub(super) const PC: usize = 16;
    pub(super) const SP: usize = 19;
    /// `NT_X86_XSTATE`: what the processor's XSAVE wrote, AVX and all.
    pub(super) const VECTOR: super::c_int = 0x202;
}

/// arm64 (`struct user_pt_regs` in `arch/arm64/include/uapi/asm/ptrace.h`): `x0` to `x30`, `sp`, `pc`,
/// `pstate`.
#[cfg(target_arch = "aarch64")]
mod arch {
    /// Words of the set.
    pub(super) const LEN: usize = 34;
    pub(super) const GENERAL: usize = 31;
    pub(super) const SP: usize = 31;
    pub(super) const PC: usize = 32;
    /// `NT_PRFPREG`: `v0` to `v31`.
    pub(super) const VECTOR: super::c_int = 2;
}

/// Words of vector registers that are read: those of AVX-512 and AMX are fewer than half of it.
const MAX_VECTOR: usize = 4096;

/// The registers of a thread that this thread of ours has stopped; `inner` is its id in its own PID
/// namespace. `None`: it has been killed, or is not of our word size.
///
/// A program that copies memory holds pointers in vector registers, and at times nowhere else: they are all
/// told.
pub(super) fn read(tid: i32, inner: u32) -> Option<ThreadRegisters> {
    let mut general = [0; arch::LEN];
    if get(tid, NT_PRSTATUS, &mut general)? != arch::LEN {
        return None;
    }
    let mut vector = vec![0; MAX_VECTOR];
    // A processor without XSAVE does not have this set.
    let len = get(tid, arch::VECTOR, &mut vector).unwrap_or(0);
    let mut words = general.get(..arch::GENERAL)?.to_vec();
    // Most are zero.
    words.extend(vector.get(..len)?.iter().filter(|word| **word != 0));
    Some(ThreadRegisters { tid: inner, pc: *general.get(arch::PC)?, sp: *general.get(arch::SP)?, words })
}

/// How many words of the set were written.
fn get(tid: i32, set: c_int, words: &mut [u64]) -> Option<usize> {
    let mut into = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size_of_val(words) };
    let set = set as usize as *mut c_void;
    // SAFETY: the kernel writes no more than the vector says, and that is `words`.
    let done = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, set, (&raw mut into).cast::<c_void>()) };
    (done == 0).then_some(into.iov_len / 8)
}
