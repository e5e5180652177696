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
    /// The current g: the goroutine on a user stack, g0 on the system stack.
    current_g = r14;
    /// The caller's frame pointer, as long as the prologue has not pushed it.
    frame_pointer = rbp;
    /// Where the return address is, as long as the prologue has not moved it.
    stack_pointer = rsp;
    /// The probed instruction, as the process sees it.
    instruction_pointer = rip;
    flags = eflags;
}

/// Whether the `jbe` of a stack check at this instruction would be taken: CF or ZF.
#[inline(always)]
pub fn stack_check_fails(ctx: &ProbeContext) -> bool {
    flags(ctx) & 0x41 != 0
}
