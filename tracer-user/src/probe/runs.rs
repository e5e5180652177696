//! What the kernel counts of our eBPF programs, while someone has asked it to.

use aya::Ebpf;
use std::{
    io, ops,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// How often the programs of a session ran, and for how long all in all, as the kernel counts it while someone
/// has asked it to ([`count_runs`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Programs {
    /// Runs.
    pub runs: u64,
    /// Nanoseconds of all of them.
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
/// is as of when [`super::Session::programs`] was asked last. `None`: nobody has had the kernel count.
pub fn ran_ns() -> Option<u64> {
    COUNTED.load(Ordering::Relaxed).then(|| RAN_NS.load(Ordering::Relaxed))
}

/// Loaded programs, whose runs are added to those of this process.
pub(super) struct Counted {
    ebpf: Ebpf,
    /// What of it was added.
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
    pub(super) fn of(ebpf: &Ebpf) -> Option<Programs> {
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
