//! Runs a sweep each second on a thread of its own. If that thread hangs, because an executable lies on a file system
//! that does not answer, it is replaced, and the next one leaves that process out.

use super::{
    sweep::{Changes, Sweep},
    target::Binaries,
};
use crate::agent::{Config, picture::Seen};
use sfgi_core::clock;
use std::{
    collections::HashSet,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// The pause between two sweeps: a new process is found within about a second.
const PAUSE: Duration = Duration::from_secs(1);
/// A look at one process that takes longer than this counts as hanging.
const HANGS_NS: u64 = 10_000_000_000;
/// The most threads that are given up, because a thread that hangs cannot be ended. With more, discovery stands still.
const MAX_HANGING: usize = 8;

/// The result of a sweep. `first`: the first sweep of its thread, which reports every Go process as started; a target
/// that it does not report has ended.
pub(crate) struct Swept {
    pub(crate) changes: Changes,
    pub(crate) seen: Seen,
    pub(crate) first: bool,
}

type Tell = Arc<dyn Fn(Swept) + Send + Sync>;

pub(crate) struct Discovery {
    binaries: Arc<Binaries>,
    tell: Tell,
    thread: Arc<Shared>,
    skipped: HashSet<i32>,
}

struct Shared {
    config: Mutex<Arc<Config>>,
    /// PIDs that the next sweep looks at anew.
    again: Mutex<Vec<i32>>,
    /// The PID that is being looked at (0: none), and since when (monotonic clock, ns).
    current: AtomicI32,
    since_ns: AtomicU64,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Discovery {
    /// Starts the thread, which calls `tell` with the result of each sweep.
    pub(crate) fn start(config: Arc<Config>, binaries: Arc<Binaries>, tell: Tell) -> io::Result<Discovery> {
        let thread = spawn(config, Sweep::skipping(HashSet::new(), Arc::clone(&binaries)), &tell)?;
        Ok(Discovery { binaries, tell, thread, skipped: HashSet::new() })
    }

    /// Continues with another configuration. Processes that are known already keep their identities.
    pub(crate) fn set(&self, config: Arc<Config>) {
        *lock(&self.thread.config) = config;
    }

    /// Has the next sweep look at this process anew: it may have executed another program.
    pub(crate) fn look_again(&self, pid: u32) {
        lock(&self.thread.again).push(pid.cast_signed());
    }

    /// Replaces the thread if it hangs. Returns the PID that it hangs on.
    pub(crate) fn check(&mut self) -> Option<u32> {
        let (since_ns, pid) =
            (self.thread.since_ns.load(Ordering::Relaxed), self.thread.current.load(Ordering::Relaxed));
        let hangs = pid != 0 && clock::now().saturating_sub(since_ns) >= HANGS_NS;
        if !hangs || self.skipped.len() >= MAX_HANGING || !self.skipped.insert(pid) {
            return None;
        }
        self.thread.stop.store(true, Ordering::Relaxed);
        let config = Arc::clone(&lock(&self.thread.config));
        // A sweep of its own: the one of the hanging thread cannot be taken from it.
        let sweep = Sweep::skipping(self.skipped.clone(), Arc::clone(&self.binaries));
        match spawn(config, sweep, &self.tell) {
            Ok(thread) => self.thread = thread,
            Err(err) => log::error!("no thread can be started to look for processes with: {err}"),
        }
        Some(pid.unsigned_abs())
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.thread.stop.store(true, Ordering::Relaxed);
    }
}

fn spawn(config: Arc<Config>, sweep: Sweep, tell: &Tell) -> io::Result<Arc<Shared>> {
    let shared = Arc::new(Shared {
        config: Mutex::new(config),
        again: Mutex::default(),
        current: AtomicI32::new(0),
        since_ns: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let (thread, tell) = (Arc::clone(&shared), Arc::clone(tell));
    thread::Builder::new().name("discover".to_owned()).spawn(move || run(&thread, sweep, &tell))?;
    Ok(shared)
}

fn run(shared: &Shared, mut sweep: Sweep, tell: &Tell) {
    let mut first = true;
    while !shared.stop.load(Ordering::Relaxed) {
        let config = Arc::clone(&lock(&shared.config));
        let again = std::mem::take(&mut *lock(&shared.again));
        let result = sweep.run(&config, &again, &mut |pid| {
            shared.since_ns.store(clock::now(), Ordering::Relaxed);
            shared.current.store(pid, Ordering::Relaxed);
        });
        // The pause must not count as hanging.
        shared.current.store(0, Ordering::Relaxed);
        // A thread that was given up and came back must not report: its successor has reported everything anew.
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        match result {
            Ok(changes) => {
                tell(Swept { changes, seen: sweep.seen(), first });
                first = false;
            }
            Err(err) => log::error!("/proc cannot be listed: {err}"),
        }
        thread::sleep(PAUSE);
    }
}
