//! Reading the runtime's structures from user memory. A program cannot wait for a page, so any read
//! may fail, also of memory that is there: the kernel moves pages. What an event is about is in
//! registers and is always sent; what could not be read is left out, and counted.

use crate::{
    abi,
    config::{Hit, bias, config},
};
use aya_ebpf::{helpers::bpf_probe_read_user, programs::ProbeContext};
use tracer_common::{Birth, Header, MAX_FRAMES, Stack, flags, status};

/// Reads a value of the target's memory.
#[inline(always)]
pub fn read<T: Copy>(addr: u64) -> Option<T> {
    // SAFETY: the helper checks the address; a bad one is an error, not a fault.
    unsafe { bpf_probe_read_user(addr as *const T) }.ok()
}

/// What one read of a `g` tells: `atomicstatus` … `waitreason` lie within five words.
pub struct G {
    pub addr: u64,
    pub goid: u64,
    pub reason: u8,
}

impl G {
    /// Reads the goroutine at `addr`; its goid stays 0 where that fails.
    #[inline(always)]
    pub fn read(hit: &Hit, addr: u64) -> G {
        match read::<[u64; 5]>(addr + u64::from(config!(g_status))) {
            Some(words) => G { addr, goid: words[1], reason: words[4] as u8 },
            None => {
                hit.blur();
                G { addr, goid: 0, reason: 0 }
            }
        }
    }

    /// The header of an event about this goroutine; `emit` adds time, thread and kind.
    #[inline(always)]
    pub fn header(&self, from: u8, to: u8) -> Header {
        Header { g: self.addr, goid: self.goid, from, to, reason: self.reason, ..Header::default() }
    }

    /// As [`G::header`], where the probed function does not say what the state was.
    #[inline(always)]
    pub fn header_to(&self, to: u8) -> Header {
        self.header(status::UNSAID, to)
    }
}

/// `g.sched`: where a goroutine that is off its thread will go on. Words from `pc` on: pc, g,
/// ctxt, (ret up to 1.24,) lr, bp.
pub struct Sched {
    pub pc: u64,
    pub ctxt: u64,
    pub bp: u64,
}

impl Sched {
    /// Reads `g.sched`; all 0 where that fails.
    #[inline(always)]
    pub fn read(hit: &Hit, g: u64) -> Sched {
        let Some(words) = read::<[u64; 6]>(g + u64::from(config!(g_sched_pc))) else {
            hit.blur();
            return Sched { pc: 0, ctxt: 0, bp: 0 };
        };
        let bp = if config!(g_sched_bp) - config!(g_sched_pc) == 32 { words[4] } else { words[5] };
        Sched { pc: words[0], ctxt: words[2], bp }
    }
}

/// `g.m.curg`: the goroutine whose thread this is, also while it runs on the system stack.
/// 0 where there is none (the scheduler itself).
#[inline(always)]
pub fn current(ctx: &ProbeContext) -> Option<u64> {
    let m: u64 = read(abi::current_g(ctx) + u64::from(config!(g_m)))?;
    read(m + u64::from(config!(m_curg)))
}

/// Goid of [`current`]; 0: the scheduler.
#[inline(always)]
pub fn current_goid(ctx: &ProbeContext, hit: &Hit) -> u64 {
    match current(ctx) {
        Some(0) => 0,
        Some(g) => G::read(hit, g).goid,
        None => {
            hit.blur();
            0
        }
    }
}

/// Where a goroutine comes from, as its `g` records it. `parent` is used where the version keeps
/// no `parentGoid` (≤ 1.20).
#[inline(always)]
pub fn birth(hit: &Hit, g: u64, funcval: u64, parent: impl FnOnce() -> u64) -> Birth {
    let Some(words) = read::<[u64; 4]>(g + u64::from(config!(g_gopc)) - 8) else {
        hit.blur();
        return Birth::default();
    };
    let parent_goid = if config!(g_parent_goid) != 0 { words[0] } else { parent() };
    Birth { parent_goid, gopc: words[1], startpc: words[3], funcval }
}

/// The goid newproc1 is about to give (≤ 1.23, where casgstatus comes first): the next of the P's
/// batch. 0 when the batch is used up and another one must be drawn first.
#[inline(always)]
pub fn next_goid(ctx: &ProbeContext) -> Option<u64> {
    let m: u64 = read(abi::current_g(ctx) + u64::from(config!(g_m)))?;
    let p: u64 = read(m + u64::from(config!(m_p)))?;
    let [next, end]: [u64; 2] = read(p + u64::from(config!(p_goidcache)))?;
    Some(if next == end { 0 } else { next })
}

/// Whether goids are given after the first transition (≤ 1.23).
#[inline(always)]
pub fn goid_is_stale() -> bool {
    config!(flags) & flags::STALE_GOID != 0
}

/// The first address of the process at which a stack walk may stop: what lies below only passes a
/// wait on. 0: nowhere.
#[inline(always)]
pub fn enough(ctx: &ProbeContext, probe: u64, g: &G) -> u64 {
    let end = config!(plumbing_end);
    if end == 0 || u32::from(g.reason) == config!(io_wait) { 0 } else { end.wrapping_add(bias(ctx, probe)) }
}

/// Walks frame pointers from `fp` into `stack`, as far as the first one at or above `enough`.
#[inline(always)]
pub fn walk(mut fp: u64, enough: u64, stack: &mut Stack) {
    stack.len = 0;
    for i in 0..MAX_FRAMES {
        let Some([caller, pc]) = read::<[u64; 2]>(fp) else { return };
        stack.pcs[i] = pc;
        stack.len = i as u64 + 1;
        // A stack grows down, so a caller's frame is above: anything else is no frame.
        if (enough != 0 && pc >= enough) || caller <= fp {
            return;
        }
        fp = caller;
    }
}
