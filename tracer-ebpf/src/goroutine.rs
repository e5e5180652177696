//! Reads the runtime's structures from the target's memory. A BPF program cannot wait for a page, so any
//! read may fail, also of mapped memory: the kernel moves pages. The `g` that an event is about stands in
//! a register and is always sent; a field that could not be read stays 0, and the failure is counted.

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

#[inline(always)]
pub fn read<T: Copy>(addr: u64) -> Option<T> {
    // SAFETY: the helper checks the address; a bad one is an error, not a fault.
    unsafe { bpf_probe_read_user(addr as *const T) }.ok()
}

/// The fields of a `g` that one read gives: `param`, `atomicstatus`, `goid`, …, `waitreason` are six adjacent words
/// in Go 1.19–1.27 ([`tracer_common::ProbeOffsets::g_param`]).
pub struct G {
    pub addr: u64,
    pub goid: u64,
    pub reason: u8,
    /// `g.param`: while a goroutine is woken, the `sudog` that was taken from its queue.
    pub param: u64,
}

impl G {
    /// Reads the goroutine at `addr`. On a failed read all else is 0.
    #[inline(always)]
    pub fn read(hit: &Hit, addr: u64) -> G {
        match read::<[u64; 6]>(addr + u64::from(config!(offsets.g_param))) {
            Some(words) => G { addr, goid: words[2], reason: words[5] as u8, param: words[0] },
            None => {
                hit.blur();
                G { addr, goid: 0, reason: 0, param: 0 }
            }
        }
    }

    /// The channel whose case of a `select` was taken, of a goroutine that is woken; 0: it waited in no select. `selectgo`
    /// (`src/runtime/select.go`) waits with a `sudog` for each channel, and who wakes it puts the one into `g.param`.
    #[inline(always)]
    pub fn selected(&self) -> u64 {
        if self.param == 0 || !is_among(config!(select_reasons), self.reason) {
            return 0;
        }
        read(self.param + u64::from(config!(offsets.sudog_c))).unwrap_or(0)
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

/// The saved state of a goroutine that is off its thread. One read fetches [`PARKED`] words from
/// `sched.pc` on, because the price of a read hardly depends on its length: the first costs 100–165 ns
/// and each further one 75–90 ns, be it 1 byte or 256 (measured, Linux 6.18 on a Zen 4 VM).
pub struct Parked {
    pub g: G,
    /// `g.sched.pc`: the address at which the goroutine will resume.
    pub pc: u64,
    pub ctxt: u64,
    pub bp: u64,
    /// `g.parentGoid` (another field in its place up to Go 1.20), `gopc`, `startpc`.
    birth: [u64; 3],
}

/// Words that hold `sched.pc` … `startpc` in every version: 304 + 8 bytes up to offset 64.
const PARKED: usize = 32;

impl Parked {
    /// Reads the goroutine at `addr`. On a failed read every field but the address is 0.
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
            g: G { addr, goid: at(status + 8), reason: at(status + 32) as u8, param: at(status - 8) },
            pc: at(base),
            ctxt: at(base + 16),
            bp: at(config!(offsets.g_sched_bp)),
            birth: [at(gopc - 8), at(gopc), at(gopc + 16)],
        }
    }

    /// The origin of the goroutine. `parent_goid` is 0 up to Go 1.20, which does not record it.
    #[inline(always)]
    pub fn birth(&self, funcval: u64) -> Birth {
        let [parent, gopc, startpc] = self.birth;
        let parent_goid = if config!(offsets.g_parent_goid) != 0 { parent } else { 0 };
        Birth { parent_goid, gopc, startpc, funcval }
    }
}

/// `g.m.curg`: the goroutine that this thread executes, also while the thread is on the system stack.
/// `Some(0)`: no goroutine, the scheduler runs. `None`: the memory could not be read.
#[inline(always)]
pub fn current(ctx: &ProbeContext) -> Option<u64> {
    let m: u64 = read(abi::current_g(ctx) + u64::from(config!(offsets.g_m)))?;
    read(m + u64::from(config!(offsets.m_curg)))
}

/// Goid of [`current`]; 0 for the scheduler, and after a failed read, which is counted.
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

/// The origin of a goroutine, as its `g` records it. `parent` gives the creator's goid where the version
/// keeps no `parentGoid` (≤ 1.20).
#[inline(always)]
pub fn birth(hit: &Hit, g: u64, funcval: u64, parent: impl FnOnce() -> u64) -> Birth {
    // `parentGoid`, `gopc`, `ancestors` and `startpc` are adjacent: one read for all.
    let Some(words) = read::<[u64; 4]>(g + u64::from(config!(offsets.g_gopc)) - 8) else {
        hit.blur();
        return Birth::default();
    };
    let parent_goid = if config!(offsets.g_parent_goid) != 0 { words[0] } else { parent() };
    Birth { parent_goid, gopc: words[1], startpc: words[3], funcval }
}

/// The goid that newproc1 is about to give: the next one of the P's batch (`p.goidcache`). Only for Go ≤ 1.23,
/// where newproc1 calls casgstatus before it writes `g.goid`. `Some(0)`: the batch is used up, newproc1 draws
/// a new one first, and the goid cannot be told yet.
#[inline(always)]
pub fn next_goid(ctx: &ProbeContext) -> Option<u64> {
    let m: u64 = read(abi::current_g(ctx) + u64::from(config!(offsets.g_m)))?;
    let p: u64 = read(m + u64::from(config!(offsets.m_p)))?;
    let [next, end]: [u64; 2] = read(p + u64::from(config!(offsets.p_goidcache)))?;
    Some(if next == end { 0 } else { next })
}

/// Whether `g.goid` still holds the id of the `g`'s previous goroutine at the first transition (Go ≤ 1.23).
#[inline(always)]
pub fn goid_is_stale() -> bool {
    config!(flags) & flags::STALE_GOID != 0
}

/// Whether a set of wait reasons has this one.
#[inline(always)]
pub fn is_among(reasons: u64, reason: u8) -> bool {
    reason < 64 && reasons & (1 << reason) != 0
}

/// Which frame of a parked goroutine is that of the function which parked it.
#[derive(Clone, Copy)]
pub struct ParkedBy {
    /// Frames within it: 1 (`gopark`'s own), or 0 where a profile-guided build inlined `gopark` into that function. 255: what
    /// the goroutine waits for is no argument of that function.
    frame: usize,
    /// Where `goparkunlock` lies in memory: one frame more. Only code that is not optimised has it.
    between: (u64, u64),
}

impl ParkedBy {
    pub const NOBODY: ParkedBy = ParkedBy { frame: 255, between: (0, 0) };

    #[inline(always)]
    pub fn of(ctx: &ProbeContext, probe: u64, parked: &Parked) -> ParkedBy {
        if !is_among(config!(object_reasons), parked.g.reason) {
            return ParkedBy::NOBODY;
        }
        let bias = bias(ctx, probe);
        let pc = parked.pc.wrapping_sub(bias);
        let between =
            (config!(goparkunlock).wrapping_add(bias), config!(goparkunlock_end).wrapping_add(bias));
        ParkedBy { frame: usize::from(pc >= config!(gopark) && pc < config!(gopark_end)), between }
    }
}

/// The lowest address at which a stack walk may stop: functions below it (packages runtime, sync, …) only
/// pass a wait on. 0: the walk has no such bound.
#[inline(always)]
pub fn enough(ctx: &ProbeContext, probe: u64, g: &G) -> u64 {
    let end = config!(plumbing_end);
    // The plumbing of network waits is deep, so their stacks are walked to the end.
    if end == 0 || u32::from(g.reason) == config!(io_wait) { 0 } else { end.wrapping_add(bias(ctx, probe)) }
}

/// Walks frame pointers from `fp` into `stack`, up to and including the first return address at or above
/// `enough` (0: no bound), and at most [`MAX_FRAMES`].
///
/// The first argument of the function that parked the goroutine (`by`) is what it waits for: `chansend`, `chanrecv`,
/// `semacquire1` and `notifyListWait` have it for another call before they park, so the compiler has saved it where the caller
/// leaves room for that, behind the return address (`src/cmd/compile/abi-internal.md`). User space has looked whether the code
/// does ([`Config::object_reasons`](tracer_common::Config::object_reasons)).
#[inline(always)]
pub fn walk(mut fp: u64, enough: u64, mut by: ParkedBy, stack: &mut Stack) {
    stack.len = 0;
    stack.object = 0;
    for i in 0..MAX_FRAMES {
        // The frames so far are right, so a failed read only ends the walk and is no blur. Only the first frames are
        // sure to have a word behind the return address: they have callers.
        let (caller, pc) = if i < 3 {
            let Some([caller, pc, argument]) = read::<[u64; 3]>(fp) else { return };
            if i == by.frame {
                stack.object = argument;
            }
            let (start, end) = by.between;
            if i + 1 == by.frame && pc >= start && pc < end {
                by.frame += 1;
            }
            (caller, pc)
        } else {
            let Some([caller, pc]) = read::<[u64; 2]>(fp) else { return };
            (caller, pc)
        };
        stack.pcs[i] = pc;
        stack.len = i as u64 + 1;
        // A stack grows down, so a caller's frame is above: anything else is no frame.
        if (enough != 0 && pc >= enough) || caller <= fp {
            return;
        }
        fp = caller;
    }
}
