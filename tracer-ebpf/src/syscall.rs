//! The edges of system calls and cgo calls. All but `exitsyscall0` and its successor, which run on g0, are nosplit
//! and run on the goroutine's own stack.

use crate::{
    abi,
    emit::{emit, enter, wanted},
    goroutine::{G, ParkedBy, read, walk},
    status::plain,
};
use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use tracer_common::{
    Kind, Stack,
    status::{RUNNABLE, RUNNING, SYSCALL, UNSAID},
};

/// `func entersyscall()`, Go 1.19–1.27.
#[uprobe]
pub fn entersyscall(ctx: ProbeContext) -> u32 {
    enter_syscall(&ctx, Kind::SyscallEnter);
    0
}

/// `func reentersyscall(pc, sp[, bp] uintptr)`, Go 1.19–1.27: called by entersyscall, and directly at the end of
/// a callback from C (`cgocallbackg`).
#[uprobe]
pub fn reentersyscall(ctx: ProbeContext) -> u32 {
    enter_syscall(&ctx, Kind::SyscallEnter);
    0
}

/// `func entersyscallblock()`, Go 1.19–1.27.
#[uprobe]
pub fn entersyscallblock(ctx: ProbeContext) -> u32 {
    enter_syscall(&ctx, Kind::SyscallBlock);
    0
}

#[inline(always)]
fn enter_syscall(ctx: &ProbeContext, kind: Kind) -> Option<()> {
    let hit = enter(ctx, kind)?;
    let g = G::read(&hit, abi::current_g(ctx));
    if !wanted(g.goid) {
        return None;
    }
    emit::<Stack>(&hit, g.header(RUNNING, SYSCALL), kind, |stack| own_stack(ctx, stack))
}

/// The callers of the function that is probed, of a probe on the goroutine's own stack.
#[inline(always)]
pub fn own_stack(ctx: &ProbeContext, stack: &mut Stack) {
    // No bound: the plumbing of system calls is deep, as that of the network is.
    walk(abi::frame_pointer(ctx), 0, ParkedBy::NOBODY, stack);
    // The direct caller has not pushed a frame pointer of ours yet: it is at the stack's top.
    if stack.len == 0
        && let Some(pc) = read(abi::stack_pointer(ctx))
    {
        stack.pcs[0] = pc;
        stack.len = 1;
    }
}

/// `func exitsyscall()`, Go 1.19–1.27.
#[uprobe]
pub fn exitsyscall(ctx: ProbeContext) -> u32 {
    try_exitsyscall(&ctx);
    0
}

#[inline(always)]
fn try_exitsyscall(ctx: &ProbeContext) -> Option<()> {
    let hit = enter(ctx, Kind::SyscallExit)?;
    let g = G::read(&hit, abi::current_g(ctx));
    if !wanted(g.goid) {
        return None;
    }
    emit::<()>(&hit, g.header(SYSCALL, RUNNING), Kind::SyscallExit, |_| ())
}

/// `func exitsyscall0(gp *g)`, Go ≤ 1.25; `func exitsyscallNoP(gp *g)`, Go 1.26+.
#[uprobe]
pub fn exitsyscallnop(ctx: ProbeContext) -> u32 {
    plain(&ctx, Kind::SyscallExitNoP, |g| g.header(UNSAID, RUNNABLE));
    0
}
