//! Set B: the functions that change `g.atomicstatus` and say so in their arguments. Ordinary
//! builds only; a PGO build inlines them.

use crate::{
    abi,
    config::{bias, config},
    emit::{Hit, emit, enter, wanted},
    goroutine::{G, Parked, birth, current_goid, enough, goid_is_stale, next_goid, read, walk},
};
use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use tracer_common::{
    Birth, By, Header, Kind, Stack, Switch,
    status::{DEAD, RUNNABLE, RUNNING, WAITING},
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
    // Stacks being copied, and g structs being made, are not the goroutine's doing.
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
        (WAITING, RUNNING) if is_fake(g.reason) => None,
        _ if wanted(g.goid) => emit::<()>(&hit, g.header(from, to), Kind::Status, |_| ()),
        _ => None,
    }
}

/// Whether this wait reason marks a goroutine that goes on executing on the system stack.
#[inline(always)]
fn is_fake(reason: u8) -> bool {
    reason < 64 && config!(fake_reasons) & (1 << reason) != 0
}

/// running → waiting. Nothing is sent for a fake wait, which is known by its reason, by a
/// goroutine that calls from its own stack (nobody parks himself without `mcall`), or by a
/// `sched.pc` that `systemstack` left (up to 1.19 the reason can be stale).
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
        walk(parked.bp, enough(ctx, probe, g), stack);
    })
}

/// waiting → runnable, and who did it.
#[inline(always)]
pub fn wake(ctx: &ProbeContext, hit: &Hit, g: &G, kind: Kind, from: u8) -> Option<()> {
    if !wanted(g.goid) {
        return None;
    }
    let by_goid = current_goid(ctx, hit);
    emit::<By>(hit, g.header(from, RUNNABLE), kind, |by| by.by_goid = by_goid)
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

/// `func casGToPreemptScan(gp *g, old, new uint32)`, Go 1.19–1.27: running → preempted, with the
/// scan bit, so that casgstatus cannot do it.
#[uprobe]
pub fn casgtopreemptscan(ctx: ProbeContext) -> u32 {
    plain(&ctx, Kind::PreemptScan, |g| g.header(abi::arg1(&ctx) as u8, abi::arg2(&ctx) as u8));
    0
}

/// `func casGFromPreempted(gp *g, old, new uint32) bool`, Go 1.19–1.27. It may fail.
#[uprobe]
pub fn casgfrompreempted(ctx: ProbeContext) -> u32 {
    plain(&ctx, Kind::FromPreempted, |g| g.header(abi::arg1(&ctx) as u8, abi::arg2(&ctx) as u8));
    0
}

/// `func coroswitch_m(gp *g)`, Go 1.22+: two goroutines change places with a CAS each. The other
/// one is `gp.coroarg.gp`.
#[uprobe]
pub fn coroswitch_m(ctx: ProbeContext) -> u32 {
    try_coroswitch(&ctx);
    0
}

/// The goroutine to run next, and whether this one ends.
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
    if !wanted(g.goid) && !wanted(next.goid) {
        return None;
    }
    let to = if exit != 0 { DEAD } else { WAITING };
    emit::<Switch>(&hit, g.header(RUNNING, to), Kind::CoroSwitch, |switch| {
        *switch = Switch { next_g: next.addr, next_goid: next.goid, exit: u64::from(exit) };
    })
}
