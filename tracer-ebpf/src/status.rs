//! Set B: the functions that change `g.atomicstatus` and have the old and the new state as arguments. Only
//! for ordinary builds: a profile-guided build inlines them.

use crate::{
    abi,
    config::{bias, config},
    emit::{Hit, emit, enter, wanted},
    goroutine::{
        G, Parked, ParkedBy, birth, current_goid, enough, goid_is_stale, is_among, next_goid, read, walk,
    },
    syscall::own_stack,
};
use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use tracer_common::{
    Birth, By, Header, Kind, Stack, Switch,
    status::{DEAD, RUNNABLE, RUNNING, SYSCALL, WAITING},
};

/// `func casgstatus(gp *g, oldval, newval uint32)`, Go 1.19–1.27.
#[uprobe]
pub fn casgstatus(ctx: ProbeContext) -> u32 {
    try_casgstatus(&ctx);
    0
}

#[inline(always)]
fn try_casgstatus(ctx: &ProbeContext) -> Option<()> {
    let hit = enter(ctx, Kind::Status)?;
    let (addr, from, to) = (abi::arg0(ctx), abi::arg1(ctx) as u8, abi::arg2(ctx) as u8);
    // running ⇄ copystack (a stack grows), idle → dead and idle → deadextra (a `g` is allocated) are no
    // transitions of a goroutine. They are filtered in the kernel, before anything is read.
    match (from, to) {
        (2, 8) | (8, 2) | (0, 6) | (0, 11) => return None,
        _ => {}
    }
    if (from, to) == (RUNNING, WAITING) {
        return park(ctx, &hit, addr);
    }
    let mut g = G::read(&hit, addr);
    match (from, to) {
        (DEAD, RUNNABLE | WAITING) => {
            // Up to 1.23 `g.goid` still is the previous occupant's; the goid to come stands in the P's cache.
            if goid_is_stale() {
                g.goid = next_goid(ctx).unwrap_or(0);
            }
            if !wanted(g.goid) {
                return None;
            }
            let from_where = birth(&hit, addr, 0, || current_goid(ctx, &hit));
            emit::<Birth>(&hit, g.header(from, to), Kind::StatusCreate, |to| *to = from_where)
        }
        (WAITING, RUNNABLE) => wake(ctx, &hit, &g, Kind::StatusWake, from),
        // `reentersyscall` calls it on the goroutine's own stack (Go up to 1.25).
        (RUNNING, SYSCALL) if wanted(g.goid) => {
            emit::<Stack>(&hit, g.header(from, to), Kind::StatusSyscall, |stack| own_stack(ctx, stack))
        }
        // The way back from a fake wait, whose beginning was not sent either.
        (WAITING, RUNNING) if is_fake(g.reason) => None,
        _ if wanted(g.goid) => emit::<()>(&hit, g.header(from, to), Kind::Status, |_| ()),
        _ => None,
    }
}

/// Whether this wait reason marks a goroutine that keeps executing, on the system stack.
#[inline(always)]
fn is_fake(reason: u8) -> bool {
    is_among(config!(fake_reasons), reason)
}

/// running → waiting. Nothing is sent for a fake wait. Three signs tell one: its wait reason; a call from the
/// goroutine's own stack, because a real park goes through `mcall` to g0; a `sched.pc` within
/// `systemstack_switch`, where `systemstack` leaves it (needed up to 1.19, where the reason can be stale).
#[inline(always)]
fn park(ctx: &ProbeContext, hit: &Hit, addr: u64) -> Option<()> {
    let parked = Parked::read(hit, addr);
    let g = &parked.g;
    if !wanted(g.goid) || is_fake(g.reason) || abi::current_g(ctx) == addr {
        return None;
    }
    let probe = config!(probes[Kind::Status as usize]);
    let pc = parked.pc.wrapping_sub(bias(ctx, probe));
    if pc >= config!(systemstack_switch) && pc < config!(systemstack_switch_end) {
        return None;
    }
    emit::<Stack>(hit, g.header(RUNNING, WAITING), Kind::StatusPark, |stack| {
        walk(parked.bp, enough(ctx, probe, g), ParkedBy::of(ctx, probe, &parked), stack);
    })
}

/// → runnable, with the goid of the waker.
#[inline(always)]
pub fn wake(ctx: &ProbeContext, hit: &Hit, g: &G, kind: Kind, from: u8) -> Option<()> {
    if !wanted(g.goid) {
        return None;
    }
    let by_goid = current_goid(ctx, hit);
    let object = g.selected();
    emit::<By>(hit, g.header(from, RUNNABLE), kind, |by| *by = By { by_goid, object })
}

/// An event without payload about the goroutine in the first argument.
#[inline(always)]
pub fn plain(ctx: &ProbeContext, kind: Kind, header: impl FnOnce(&G) -> Header) -> Option<()> {
    let hit = enter(ctx, kind)?;
    let g = G::read(&hit, abi::arg0(ctx));
    if !wanted(g.goid) {
        return None;
    }
    emit::<()>(&hit, header(&g), kind, |_| ())
}

/// `func casGToPreemptScan(gp *g, old, new uint32)`, Go 1.19–1.27: running → preempted together with the scan
/// bit, which casgstatus refuses. The event carries the state without that bit, which does not fit a byte.
#[uprobe]
pub fn casgtopreemptscan(ctx: ProbeContext) -> u32 {
    plain(&ctx, Kind::PreemptScan, |g| g.header(abi::arg1(&ctx) as u8, abi::arg2(&ctx) as u8));
    0
}

/// `func casGFromPreempted(gp *g, old, new uint32) bool`, Go 1.19–1.27. Its CAS may fail; the caller then retries.
#[uprobe]
pub fn casgfrompreempted(ctx: ProbeContext) -> u32 {
    plain(&ctx, Kind::FromPreempted, |g| g.header(abi::arg1(&ctx) as u8, abi::arg2(&ctx) as u8));
    0
}

/// `func coroswitch_m(gp *g)`, Go 1.22+: two goroutines change places, each with a bare CAS that casgstatus
/// does not see. The other goroutine is `gp.coroarg.gp`.
#[uprobe]
pub fn coroswitch_m(ctx: ProbeContext) -> u32 {
    try_coroswitch(&ctx);
    0
}

/// The `g` to run next, and `g.coroexit`: not 0 if the current goroutine ends. `None`: a read failed.
#[inline(always)]
fn partner(g: u64) -> Option<(u64, u8)> {
    let coro: u64 = read(g + u64::from(config!(offsets.g_coroarg)))?;
    Some((
        read(coro + u64::from(config!(offsets.coro_gp)))?,
        read(g + u64::from(config!(offsets.g_coroexit)))?,
    ))
}

#[inline(always)]
fn try_coroswitch(ctx: &ProbeContext) -> Option<()> {
    let hit = enter(ctx, Kind::CoroSwitch)?;
    let g = G::read(&hit, abi::arg0(ctx));
    let Some((next, exit)) = partner(g.addr) else {
        hit.lose(Kind::CoroSwitch);
        return None;
    };
    let next = G::read(&hit, next);
    // One event tells of both goroutines, so either of them makes it wanted.
    if !wanted(g.goid) && !wanted(next.goid) {
        return None;
    }
    let to = if exit != 0 { DEAD } else { WAITING };
    emit::<Switch>(&hit, g.header(RUNNING, to), Kind::CoroSwitch, |switch| {
        *switch = Switch { next_g: next.addr, next_goid: next.goid, exit: u64::from(exit) };
    })
}
