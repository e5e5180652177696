//! Reading the runtime's structures from user memory. A program cannot wait for a page, so any read
//! may fail, also of memory that is there: the kernel moves pages. What an event is about is in
//! registers and is always sent; what could not be read is left out, and counted.

use crate::{
    abi,
    config::{bias, config},
    emit::Hit,
};
use aya_ebpf::{
    helpers::{bpf_probe_read_user, generated::bpf_probe_read_user as bpf_probe_read_user_raw},
    programs::ProbeContext,
};
use core::mem::MaybeUninit;
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
        match read::<[u64; 5]>(addr + u64::from(config!(offsets.g_status))) {
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

/// What a goroutine that is off its thread has in its `g`, in one read of [`PARKED`] words from
/// `sched.pc` on: a read costs about as much as everything else here, whatever its length.
pub struct Parked {
    pub g: G,
    /// `g.sched`: where it will go on.
    pub pc: u64,
    pub ctxt: u64,
    pub bp: u64,
    /// `g.parentGoid` (or what stands there up to 1.20), `gopc`, `startpc`.
    birth: [u64; 3],
}

/// Words that hold `sched.pc` … `startpc` in every version: 304 + 8 bytes up to offset 64.
const PARKED: usize = 32;

impl Parked {
    /// Reads the goroutine at `addr`; everything stays 0 where that fails.
    #[inline(always)]
    pub fn read(hit: &Hit, addr: u64) -> Parked {
        let base = config!(offsets.g_sched_pc);
        let mut buffer = MaybeUninit::<[u64; PARKED]>::uninit();
        let words = buffer.as_mut_ptr().cast::<u64>();
        // SAFETY: the helper checks the address, and fills the whole buffer: with zeros, if it
        // cannot read.
        let failed = unsafe {
            bpf_probe_read_user_raw(words.cast(), 8 * PARKED as u32, (addr + u64::from(base)) as *const _)
        };
        if failed != 0 {
            hit.blur();
        }
        // SAFETY: within the buffer. The offsets are constants to the verifier.
        let at = |offset: u32| unsafe { *words.add((offset.wrapping_sub(base) / 8) as usize % PARKED) };
        let (status, gopc) = (config!(offsets.g_status), config!(offsets.g_gopc));
        Parked {
            g: G { addr, goid: at(status + 8), reason: at(status + 32) as u8 },
            pc: at(base),
            ctxt: at(base + 16),
            bp: at(config!(offsets.g_sched_bp)),
            birth: [at(gopc - 8), at(gopc), at(gopc + 16)],
        }
    }

    /// Where it comes from. The parent is not known up to Go 1.20.
    #[inline(always)]
    pub fn birth(&self, funcval: u64) -> Birth {
        let [parent, gopc, startpc] = self.birth;
        let parent_goid = if config!(offsets.g_parent_goid) != 0 { parent } else { 0 };
        Birth { parent_goid, gopc, startpc, funcval }
    }
}

/// `g.m.curg`: the goroutine whose thread this is, also while it runs on the system stack.
/// 0 where there is none (the scheduler itself).
#[inline(always)]
pub fn current(ctx: &ProbeContext) -> Option<u64> {
    let m: u64 = read(abi::current_g(ctx) + u64::from(config!(offsets.g_m)))?;
    read(m + u64::from(config!(offsets.m_curg)))
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
    let Some(words) = read::<[u64; 4]>(g + u64::from(config!(offsets.g_gopc)) - 8) else {
        hit.blur();
        return Birth::default();
    };
    let parent_goid = if config!(offsets.g_parent_goid) != 0 { words[0] } else { parent() };
    Birth { parent_goid, gopc: words[1], startpc: words[3], funcval }
}

/// The goid newproc1 is about to give (≤ 1.23, where casgstatus comes first): the next of the P's
/// batch. 0 when the batch is used up and another one must be drawn first.
#[inline(always)]
pub fn next_goid(ctx: &ProbeContext) -> Option<u64> {
    let m: u64 = read(abi::current_g(ctx) + u64::from(config!(offsets.g_m)))?;
    let p: u64 = read(m + u64::from(config!(offsets.m_p)))?;
    let [next, end]: [u64; 2] = read(p + u64::from(config!(offsets.p_goidcache)))?;
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
