//! Set A: the scheduler's own functions, which see every transition in every build, profile-guided ones too.
//! All but `newproc`, `injectglist` and the two garbage collection marks run on the system stack only, where
//! the stack check never fails, so that each call hits once.

use crate::{
    abi,
    config::config,
    emit::{Hit, emit, enter, wanted},
    goroutine::{G, Parked, ParkedBy, current, current_goid, enough, read, walk},
    status::{plain, wake},
};
use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use aya_log_ebpf::warn;
use tracer_common::{
    Birth, Kind, MAX_INJECT, NewProc, Stack, flags,
    status::{DEAD, PREEMPTED, RUNNABLE, RUNNING, UNSAID, WAITING},
};

/// `func newproc1(fn *funcval, callergp *g, callerpc uintptr[, parked bool, …]) *g`, Go 1.19–1.27.
#[uprobe]
pub fn newproc1(ctx: ProbeContext) -> u32 {
    try_newproc1(&ctx);
    0
}

#[inline(always)]
fn try_newproc1(ctx: &ProbeContext) -> Option<()> {
    let hit = enter(ctx, Kind::NewProc)?;
    // Only the low byte: the upper bits of the register of a bool are undefined (`abi-internal.md`).
    let parked = config!(flags) & flags::PARKED_ARGUMENT != 0 && abi::arg3(ctx) & 0xff != 0;
    let to = if parked { WAITING } else { RUNNABLE };
    announce(&hit, abi::arg1(ctx), abi::arg2(ctx), abi::arg0(ctx), to)
}

/// `func newproc(fn *funcval)`, Go 1.19–1.27. It runs on the creator's own stack. It stands in for newproc1
/// in builds that inline newproc1 into `newproc.func1`.
#[uprobe]
pub fn newproc(ctx: ProbeContext) -> u32 {
    try_newproc(&ctx);
    0
}

#[inline(always)]
fn try_newproc(ctx: &ProbeContext) -> Option<()> {
    let hit = enter(ctx, Kind::NewProc)?;
    // `newproc` has no such argument; the return address on the stack is the one behind the `go` statement.
    let callerpc = read(abi::stack_pointer(ctx)).unwrap_or(0);
    announce(&hit, abi::current_g(ctx), callerpc, abi::arg0(ctx), RUNNABLE)
}

#[inline(always)]
fn announce(hit: &Hit, caller: u64, callerpc: u64, funcval: u64, to: u8) -> Option<()> {
    // A goroutine that the user asked for by its goid exists already, so no creation can be about it.
    if config!(flags) & flags::FILTER_GOIDS != 0 {
        return None; // Whoever is asked for by his id is there already.
    }
    // The new `g` does not exist yet. User space joins this event with the first `execute` by parent, `go`
    // statement and funcval (`model/births.rs`).
    let caller = G::read(hit, caller);
    let startpc = read(funcval).unwrap_or(0);
    emit::<NewProc>(hit, caller.header(UNSAID, to), Kind::NewProc, |new| {
        *new = NewProc { callerpc, funcval, startpc };
    })
}

/// `func execute(gp *g, inheritTime bool)`, Go 1.19–1.27. A goroutine that has never run has its start
/// function in `sched.pc` and the funcval in `sched.ctxt` (`gostartcallfn`).
#[uprobe]
pub fn execute(ctx: ProbeContext) -> u32 {
    try_execute(&ctx);
    0
}

#[inline(always)]
fn try_execute(ctx: &ProbeContext) -> Option<()> {
    let hit = enter(ctx, Kind::Execute)?;
    let parked = Parked::read(&hit, abi::arg0(ctx));
    let g = &parked.g;
    if !wanted(g.goid) {
        return None;
    }
    let from_where = parked.birth(parked.ctxt);
    // `pc` 0: the read failed, and both are 0. Sent as a plain Execute; the blur that was counted makes it doubtful.
    if parked.pc == from_where.startpc && parked.pc != 0 {
        emit::<Birth>(&hit, g.header_to(RUNNING), Kind::FirstRun, |to| *to = from_where)
    } else {
        emit::<()>(&hit, g.header_to(RUNNING), Kind::Execute, |_| ())
    }
}

/// `func park_m(gp *g)`, Go 1.19–1.27. `gopark` and `mcall` have set `gp.waitreason` and `gp.sched` by now.
#[uprobe]
pub fn park_m(ctx: ProbeContext) -> u32 {
    try_park_m(&ctx);
    0
}

#[inline(always)]
fn try_park_m(ctx: &ProbeContext) -> Option<()> {
    let hit = enter(ctx, Kind::Park)?;
    let parked = Parked::read(&hit, abi::arg0(ctx));
    let g = &parked.g;
    if !wanted(g.goid) {
        return None;
    }
    emit::<Stack>(&hit, g.header(RUNNING, WAITING), Kind::Park, |stack| {
        let probe = config!(probes[Kind::Park as usize]);
        walk(parked.bp, enough(ctx, probe, g), ParkedBy::of(ctx, probe, &parked), stack);
    })
}

/// `func ready(gp *g, traceskip int, next bool)`, Go 1.19–1.27.
#[uprobe]
pub fn ready(ctx: ProbeContext) -> u32 {
    try_ready(&ctx);
    0
}

#[inline(always)]
fn try_ready(ctx: &ProbeContext) -> Option<()> {
    let hit = enter(ctx, Kind::Ready)?;
    let g = G::read(&hit, abi::arg0(ctx));
    wake(ctx, &hit, &g, Kind::Ready, UNSAID)
}

/// `func injectglist(glist *gList)`, Go 1.19–1.27: every goroutine on the list becomes runnable. The first
/// word of `gList` is its head; the goroutines are linked through `g.schedlink`.
#[uprobe]
pub fn injectglist(ctx: ProbeContext) -> u32 {
    try_injectglist(&ctx);
    0
}

#[inline(always)]
fn try_injectglist(ctx: &ProbeContext) -> Option<()> {
    let hit = enter(ctx, Kind::Inject)?;
    let mut addr: Option<u64> = read(abi::arg0(ctx));
    for _ in 0..MAX_INJECT {
        let Some(g) = addr else { break };
        if g == 0 {
            return Some(());
        }
        let g = G::read(&hit, g);
        wake(ctx, &hit, &g, Kind::Inject, UNSAID);
        addr = read(g.addr + u64::from(config!(offsets.g_schedlink)));
    }
    // One loss for the whole rest: nobody knows its length, and one is enough to make the model doubt.
    if addr != Some(0) {
        hit.lose(Kind::Inject);
        warn!(ctx, "injectglist: a list was not read to its end");
    }
    Some(())
}

/// `func gosched_m(gp *g)`, Go 1.19–1.27.
#[uprobe]
pub fn gosched_m(ctx: ProbeContext) -> u32 {
    plain(&ctx, Kind::Gosched, |g| g.header(RUNNING, RUNNABLE));
    0
}

/// `func goyield_m(gp *g)`, Go 1.19–1.27.
#[uprobe]
pub fn goyield_m(ctx: ProbeContext) -> u32 {
    plain(&ctx, Kind::Goyield, |g| g.header(RUNNING, RUNNABLE));
    0
}

/// `func goschedImpl(gp *g, preempted bool)` (the second argument since 1.22).
#[uprobe]
pub fn goschedimpl(ctx: ProbeContext) -> u32 {
    plain(&ctx, Kind::GoschedImpl, |g| g.header(RUNNING, RUNNABLE));
    0
}

/// `func preemptPark(gp *g)`, Go 1.19–1.27.
#[uprobe]
pub fn preemptpark(ctx: ProbeContext) -> u32 {
    plain(&ctx, Kind::PreemptPark, |g| g.header(RUNNING, PREEMPTED));
    0
}

/// `func gdestroy(gp *g)`, Go 1.22+; before, `func goexit0(gp *g)`.
#[uprobe]
pub fn gdestroy(ctx: ProbeContext) -> u32 {
    try_gdestroy(&ctx);
    0
}

#[inline(always)]
fn try_gdestroy(ctx: &ProbeContext) -> Option<()> {
    let hit = enter(ctx, Kind::Destroy)?;
    let goroutine = Parked::read(&hit, abi::arg0(ctx));
    if !wanted(goroutine.g.goid) {
        return None;
    }
    let from_where = goroutine.birth(0);
    emit::<Birth>(&hit, goroutine.g.header(RUNNING, DEAD), Kind::Destroy, |to| *to = from_where)
}

/// `func needm()` (since 1.21 with an argument), Go 1.19–1.27: a C thread without a g calls Go.
#[uprobe]
pub fn needm(ctx: ProbeContext) -> u32 {
    if let Some(hit) = enter(&ctx, Kind::NeedM) {
        // R14 is not a g here: the C thread has none yet. The header stays empty.
        emit::<()>(&hit, Default::default(), Kind::NeedM, |_| ());
    }
    0
}

/// `func dropm()`, Go 1.19–1.27. It runs on g0; the extra goroutine that goes back to the list is `m.curg`.
#[uprobe]
pub fn dropm(ctx: ProbeContext) -> u32 {
    try_dropm(&ctx);
    0
}

#[inline(always)]
fn try_dropm(ctx: &ProbeContext) -> Option<()> {
    let hit = enter(ctx, Kind::DropM)?;
    let Some(g) = current(ctx) else {
        hit.lose(Kind::DropM);
        return None;
    };
    let g = G::read(&hit, g);
    emit::<()>(&hit, g.header_to(DEAD), Kind::DropM, |_| ())
}

/// `func (c *gcControllerState) startCycle(…)`, Go 1.19–1.27: once for each collection.
#[uprobe]
pub fn gcstart(ctx: ProbeContext) -> u32 {
    gc(&ctx, Kind::GcStart);
    0
}

/// `func gcMarkTermination(…)`, Go 1.19–1.27: once for each collection, when marking is over.
#[uprobe]
pub fn gcend(ctx: ProbeContext) -> u32 {
    gc(&ctx, Kind::GcEnd);
    0
}

#[inline(always)]
fn gc(ctx: &ProbeContext, kind: Kind) -> Option<()> {
    let hit = enter(ctx, kind)?;
    let header = tracer_common::Header { goid: current_goid(ctx, &hit), ..Default::default() };
    emit::<()>(&hit, header, kind, |_| ())
}
