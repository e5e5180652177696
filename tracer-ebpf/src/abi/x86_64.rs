//! amd64: integer arguments in RAX, RBX, RCX, …, the current g in R14, frame pointer in RBP.

use aya_ebpf::programs::ProbeContext;

macro_rules! registers {
    ($($(#[$doc:meta])* $name:ident = $field:ident;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(ctx: &ProbeContext) -> u64 {
            // SAFETY: the kernel hands a valid `pt_regs` to every uprobe program.
            unsafe { (*ctx.regs).$field }
        }
    )*};
}

registers! {
    /// First integer argument.
    arg0 = rax;
    /// Second integer argument.
    arg1 = rbx;
    /// Third integer argument.
    arg2 = rcx;
    /// Fourth integer argument.
    arg3 = rdi;
    /// The current g: the goroutine on a user stack, g0 on the system stack. Not valid in C code, in ABI0 assembly
    /// and in `needm`.
    current_g = r14;
    /// The caller's frame pointer, up to and including the prologue's `push %rbp`.
    frame_pointer = rbp;
    /// The address of the return address, up to and including the prologue's `push %rbp`.
    stack_pointer = rsp;
    /// The address of the probed instruction in the process (load bias included).
    instruction_pointer = rip;
    flags = eflags;
}

/// Whether the `jbe` of a stack check at this instruction would be taken: CF (bit 0) or ZF (bit 6) is set.
#[inline(always)]
pub fn stack_check_fails(ctx: &ProbeContext) -> bool {
    flags(ctx) & 0x41 != 0
}
