//! What a probe costs on this host: measured before a trace on this process itself (a real uprobe, with the real
//! program, on a function of ours that calls itself a goroutine), and counted by the kernel while someone has asked it to.

use super::{
    object::{self, Options, ProbeError},
    session::Session,
};
use aya::{Ebpf, programs::uprobe::UProbeScope};
use rustix::time::{ClockId, clock_gettime};
use std::{
    arch::asm,
    cell::Cell,
    fs::File,
    io,
    num::NonZeroU32,
    ops,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tracer_common::{Config, ProbeOffsets};

/// What the probes of a target have cost up to some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// That moment, `CLOCK_MONOTONIC` nanoseconds; 0: nothing is known.
    pub ts: u64,
    pub hits: u64,
    /// What that took of the target's time, nanoseconds.
    pub ns: f64,
    /// CPU time that the target used, nanoseconds.
    pub cpu_ns: u64,
    pub lost: u64,
    /// What the kernel counts of the programs, where it counts.
    pub programs: Option<Programs>,
}

/// Nanoseconds a hit costs the target, median of several batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// On an instruction that the kernel emulates, event included.
    pub emulated_ns: f64,
    /// On one that it must single-step.
    pub single_stepped_ns: f64,
    /// The part of either that is the program, if the kernel counted meanwhile (see [`count_runs`]).
    pub program_ns: Option<f64>,
}

const BATCHES: usize = 7;
const CALLS: usize = 600;

/// Measures both cost classes. Takes about 100 ms, most of it the kernel's, for putting the
/// probes in place and taking them away.
pub fn calibrate() -> Result<Calibration, ProbeError> {
    let fake = Fake::new();
    let plain = median(|| fake.call(emulated_target as *const () as usize));
    let program_ns = Cell::new(None);
    let cost = |target: usize| -> Result<f64, ProbeError> {
        let (ebpf, _session) = attach_to_self(target, &fake)?;
        let ns = (median(|| fake.call(target)) - plain).max(0.0);
        program_ns.set(Programs::of(&ebpf).map(|programs| programs.ns as f64 / programs.runs as f64));
        Ok(ns)
    };
    Ok(Calibration {
        emulated_ns: cost(emulated_target as *const () as usize)?,
        single_stepped_ns: cost(single_stepped_target as *const () as usize)?,
        program_ns: program_ns.get(),
    })
}

/// Nanoseconds a call, the median of [`BATCHES`] batches.
fn median(mut call: impl FnMut()) -> f64 {
    let mut batches: Vec<u64> = (0..BATCHES)
        .map(|_| {
            let start = cpu_time();
            for _ in 0..CALLS {
                call();
            }
            cpu_time() - start
        })
        .collect();
    batches.sort_unstable();
    batches[BATCHES / 2] as f64 / (CALLS * TRANSITIONS.len()) as f64
}

/// CPU time of this thread, nanoseconds: what else the machine does must not count.
fn cpu_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The life of a busy goroutine: it parks, is woken, runs.
const TRANSITIONS: [(u64, u64); 3] = [(2, 4), (4, 1), (1, 2)];

/// Words of memory that look like a `g` on a thread with a stack of three frames.
struct Fake {
    words: Box<[u64; 64]>,
}

// Word indices within `Fake::words`.
const G: usize = 0;
const G0: usize = 20;
const M: usize = 40;
const FRAMES: usize = 50;

// Byte offsets within a fake `g` and `m`.
const STATUS: u32 = 0;
const SCHED_PC: u32 = 40;
const SCHED_BP: u32 = 72;
const G_M: u32 = 80;
const GOPC: u32 = 96;
const M_CURG: u32 = 0;

impl Fake {
    fn new() -> Self {
        let mut words = Box::new([0u64; 64]);
        let at = |index: usize, words: &[u64; 64]| words.as_ptr() as u64 + 8 * index as u64;
        words[G + 1] = 1;
        words[G + SCHED_BP as usize / 8] = at(FRAMES, &words);
        words[G0 + G_M as usize / 8] = at(M, &words);
        words[M + M_CURG as usize / 8] = at(G, &words);
        for frame in [FRAMES, FRAMES + 2] {
            words[frame] = at(frame + 2, &words);
        }
        Self { words }
    }

    fn config(&self) -> Config {
        Config {
            tgid: std::process::id(),
            rings: 1,
            offsets: ProbeOffsets {
                g_status: STATUS,
                g_m: G_M,
                g_sched_pc: SCHED_PC,
                g_sched_bp: SCHED_BP,
                g_gopc: GOPC,
                m_curg: M_CURG,
                ..ProbeOffsets::ZERO
            },
            ..Config::default()
        }
    }

    /// One call of `target` a transition, with the registers of `casgstatus(gp, old, new)`.
    fn call(&self, target: usize) {
        let (g, g0) = (&raw const self.words[G], &raw const self.words[G0]);
        for (old, new) in TRANSITIONS {
            // SAFETY: `target` is one of the two functions below, which touch nothing but the
            // stack; RBX, which cannot be an operand, is saved around the call.
            unsafe {
                asm!(
                    "push rbx",
                    "mov rbx, rsi",
                    "call rdi",
                    "pop rbx",
                    in("rsi") old,
                    in("rdi") target,
                    in("rax") g,
                    in("rcx") new,
                    in("r14") g0,
                    clobber_abi("C"),
                );
            }
        }
    }
}

/// Begins with `push %rbp`, as a Go function does.
#[unsafe(naked)]
extern "C" fn emulated_target() {
    core::arch::naked_asm!("push rbp", "pop rbp", "ret")
}

/// Begins with `sub`, which the kernel cannot emulate.
#[unsafe(naked)]
extern "C" fn single_stepped_target() {
    core::arch::naked_asm!("sub rsp, 8", "add rsp, 8", "ret")
}

/// The status program on `target`, for this process only.
fn attach_to_self(target: usize, fake: &Fake) -> Result<(aya::Ebpf, Session), ProbeError> {
    let options =
        Options { ring_bytes: 1 << 22, goids: Vec::new(), threads: false, callers: false, from_birth: true };
    let (mut ebpf, session) = Session::load(&fake.config(), &options)?;
    let exe = File::open("/proc/self/exe").map_err(|err| ProbeError::Load(err.into()))?;
    let offset = file_offset(target).ok_or(ProbeError::Object("mapping of its own text"))?;
    let program = object::uprobe(&mut ebpf, "casgstatus")?;
    let me = NonZeroU32::new(std::process::id()).ok_or(ProbeError::Object("process id"))?;
    program
        .attach(
            offset,
            format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&exe)),
            UProbeScope::OneProcess(me),
        )
        .map_err(|source| ProbeError::of_attaching("itself, to measure the cost", offset, source))?;
    Ok((ebpf, session))
}

/// Where in our own executable the code at `addr` comes from.
fn file_offset(addr: usize) -> Option<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let offset = fields.nth(1)?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let addr = addr as u64;
        (start..end).contains(&addr).then_some(addr - start + u64::from_str_radix(offset, 16).ok()?)
    })
}

/// How often the programs of a session ran, and for how long all in all, as the kernel counts it while someone
/// has asked it to ([`count_runs`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Programs {
    pub runs: u64,
    pub ns: u64,
}

/// The kernel counts as long as there is one of these. It stops, too, when this process ends, however it does: it
/// belongs to a file descriptor.
#[derive(Clone, Debug)]
pub struct Counting {
    _open: Arc<OwnedFd>,
}

/// All who want it share a descriptor.
static OPEN: Mutex<Weak<OwnedFd>> = Mutex::new(Weak::new());
/// What all sessions of this process ran, as far as they were asked, and whether the kernel ever counted.
static RAN_NS: AtomicU64 = AtomicU64::new(0);
static COUNTED: AtomicBool = AtomicBool::new(false);

/// Has the kernel count how often eBPF programs run, all on the host, and for how long. It costs each run some 20 ns.
///
/// # Errors
/// It needs `CAP_SYS_ADMIN`.
pub fn count_runs() -> io::Result<Counting> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = open.upgrade() {
        return Ok(Counting { _open: open });
    }
    let opened = Arc::new(aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(io::Error::other)?);
    *open = Arc::downgrade(&opened);
    COUNTED.store(true, Ordering::Relaxed);
    Ok(Counting { _open: opened })
}

/// How long the programs of all sessions of this process have run, those that are over included, nanoseconds. What runs
/// is as of when [`Session::programs`] was asked last. `None`: nobody has had the kernel count.
pub fn ran_ns() -> Option<u64> {
    COUNTED.load(Ordering::Relaxed).then(|| RAN_NS.load(Ordering::Relaxed))
}

/// Loaded programs, whose runs are added to those of this process.
pub(super) struct Counted {
    ebpf: Ebpf,
    /// What of its time `RAN_NS` has already.
    added_ns: AtomicU64,
}

impl Counted {
    pub(super) fn new(ebpf: Ebpf) -> Counted {
        Counted { ebpf, added_ns: AtomicU64::new(0) }
    }

    pub(super) fn programs(&self) -> Option<Programs> {
        let programs = Programs::of(&self.ebpf)?;
        let before = self.added_ns.fetch_max(programs.ns, Ordering::Relaxed);
        RAN_NS.fetch_add(programs.ns.saturating_sub(before), Ordering::Relaxed);
        Some(programs)
    }
}

impl ops::Deref for Counted {
    type Target = Ebpf;

    fn deref(&self) -> &Ebpf {
        &self.ebpf
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.programs();
    }
}

impl Programs {
    fn of(ebpf: &Ebpf) -> Option<Programs> {
        let mut all = Programs::default();
        for (_, program) in ebpf.programs() {
            // Those that are not loaded have none.
            let Ok(info) = program.info() else { continue };
            all.runs += info.run_count();
            all.ns += u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX);
        }
        (all.runs > 0).then_some(all)
    }
}
