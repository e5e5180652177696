//! What a probe costs on this host. [`calibrate`] measures it before a trace, on this process itself: a real uprobe
//! with the real program, on a function of ours, with registers and memory that look like a goroutine's.
//! [`count_runs`] has the kernel count how long the programs run.

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
    /// The moment of the reading, `CLOCK_MONOTONIC` nanoseconds; 0: no reading yet.
    pub ts: u64,
    pub hits: u64,
    /// What the hits took of the target's time: hits times the calibrated price, nanoseconds.
    pub ns: f64,
    /// CPU time that the target used since the probes were attached, nanoseconds.
    pub cpu_ns: u64,
    pub lost: u64,
    /// Runs as the kernel counts them; `None`: nobody has it count.
    pub programs: Option<Programs>,
}

/// Nanoseconds a hit costs the target, median of several batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// A hit on an instruction that the kernel emulates, sending the event included.
    pub emulated_ns: f64,
    /// A hit on an instruction that the kernel single-steps.
    pub single_stepped_ns: f64,
    /// The program's part of either price; `None` unless the kernel counted meanwhile ([`count_runs`]).
    pub program_ns: Option<f64>,
}

/// Batches, of which the median counts, and calls in a batch. Odd, so that there is a middle one.
const BATCHES: usize = 7;
const CALLS: usize = 600;

/// Measures both cost classes. Takes about 100 ms, most of it the kernel's, for putting the
/// probes in place and taking them away.
pub fn calibrate() -> Result<Calibration, ProbeError> {
    let fake = Fake::new();
    // The same calls without a probe: their price is subtracted.
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

/// CPU nanoseconds of one hit: the median of [`BATCHES`] batches, divided by calls and transitions.
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

/// CPU time of this thread, nanoseconds. Not the wall clock: what else the machine does must not count.
fn cpu_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The transitions of a busy goroutine, by state: running → waiting → runnable → running. A park
/// walks a stack and a wake-up reads the waker, so the average covers dear events and cheap ones.
const TRANSITIONS: [(u64, u64); 3] = [(2, 4), (4, 1), (1, 2)];

/// Words of memory that look like a `g`, its g0 and its m, with a stack of three frames.
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
        // The goid: 0 would mean that it is not known yet.
        words[G + 1] = 1;
        words[G + SCHED_BP as usize / 8] = at(FRAMES, &words);
        words[G0 + G_M as usize / 8] = at(M, &words);
        words[M + M_CURG as usize / 8] = at(G, &words);
        // The third frame has no caller (0), which ends the walk of the program.
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

    /// Calls `target` once for each transition, with the registers of `casgstatus(gp, old, new)`.
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

/// Begins with `push %rbp`, which the kernel emulates and on which most probes of a real trace stand.
#[unsafe(naked)]
extern "C" fn emulated_target() {
    core::arch::naked_asm!("push rbp", "pop rbp", "ret")
}

/// Begins with `sub`, which the kernel cannot emulate.
#[unsafe(naked)]
extern "C" fn single_stepped_target() {
    core::arch::naked_asm!("sub rsp, 8", "add rsp, 8", "ret")
}

/// Attaches the program of set B to `target`, for this process only.
fn attach_to_self(target: usize, fake: &Fake) -> Result<(aya::Ebpf, Session), ProbeError> {
    let options =
        // 4 MiB hold all events of the measurement, during which nobody drains.
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

/// The offset in our own executable of the code that is mapped at `addr`; a uprobe is attached to a file offset.
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

/// How often the programs of a session ran, and for how many nanoseconds in all. The kernel counts it while a
/// [`Counting`] exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Programs {
    pub runs: u64,
    pub ns: u64,
}

/// The kernel counts runs as long as one of these exists. The setting belongs to a file descriptor, so it also ends
/// with this process, even with `kill -9`.
#[derive(Clone, Debug)]
pub struct Counting {
    _open: Arc<OwnedFd>,
}

/// The one descriptor of this process, shared by all [`Counting`]s.
static OPEN: Mutex<Weak<OwnedFd>> = Mutex::new(Weak::new());
/// Run time of all sessions of this process up to their last [`Session::programs`], nanoseconds; and whether the
/// kernel ever counted. Both are statistics on their own, so relaxed order is enough.
static RAN_NS: AtomicU64 = AtomicU64::new(0);
static COUNTED: AtomicBool = AtomicBool::new(false);

/// Has the kernel count runs and run time of all eBPF programs on the host (`BPF_ENABLE_STATS`). It makes each run
/// some 20 ns dearer.
///
/// # Errors
/// The kernel refuses it without `CAP_SYS_ADMIN`.
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

/// Run time of the programs of all sessions of this process, ended ones included, nanoseconds. For a live session the
/// figure is that of its last [`Session::programs`]. `None`: nobody has had the kernel count.
pub fn ran_ns() -> Option<u64> {
    COUNTED.load(Ordering::Relaxed).then(|| RAN_NS.load(Ordering::Relaxed))
}

/// Loaded programs whose run time is added to `RAN_NS`.
pub(super) struct Counted {
    ebpf: Ebpf,
    /// The part of its run time that `RAN_NS` already contains.
    added_ns: AtomicU64,
}

impl Counted {
    pub(super) fn new(ebpf: Ebpf) -> Counted {
        Counted { ebpf, added_ns: AtomicU64::new(0) }
    }

    pub(super) fn programs(&self) -> Option<Programs> {
        let programs = Programs::of(&self.ebpf)?;
        // `fetch_max`: two readings at once must not add the same nanoseconds twice.
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
        // The last runs: once the programs are unloaded the kernel forgets their counts.
        self.programs();
    }
}

impl Programs {
    fn of(ebpf: &Ebpf) -> Option<Programs> {
        let mut all = Programs::default();
        for (_, program) in ebpf.programs() {
            // The object has a program for every probe of every mode; those that were not loaded have no counts.
            let Ok(info) = program.info() else { continue };
            all.runs += info.run_count();
            all.ns += u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX);
        }
        (all.runs > 0).then_some(all)
    }
}
