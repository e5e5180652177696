//! The processes that look at targets: what each does between its first frame and its last. The launcher forks them
//! ([`crate::agent::launcher`]); the server owns the other ends of their sockets.

use super::{
    documents,
    prober::probe,
    scan::{self, Past},
    sweep::Sweep,
    target::{Binaries, Target, TargetSpec},
    wire::{self, Again, Ask, End, Failure, Job, Role, Said, Sweeper, Swept},
};
use crate::{
    agent::{Config, alert::hook, picture::ProcessId},
    confine::{self, Needs},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use sfgi_core::{budget, clock};
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    io::{self, Write},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Between two sweeps.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a sweep may look at one process. The rest of a sweep waits meanwhile.
const SWEEP_PATIENCE_NS: u64 = 5_000_000_000;
/// Between two returns of unused memory to the system: each walks all of the heap, and most jobs take milliseconds.
const TRIM: Duration = Duration::from_secs(1);
/// Between two beats: the server waits many times that long.
const BEAT_NS: u64 = 500_000_000;

thread_local! {
    /// Where this thread's beats go, and when the last one went.
    static BEAT: RefCell<Option<(UnixStream, u64)>> = const { RefCell::new(None) };
}

/// Tells the server that this thread gets on with its job, however long that takes. On other threads it does nothing.
pub(super) fn beat() {
    BEAT.with_borrow_mut(|beat| {
        let Some((socket, last)) = beat else { return };
        let now = clock::now();
        if now.saturating_sub(*last) >= BEAT_NS {
            *last = now;
            // A server that is gone is noticed when the job ends.
            let _ = wire::send(socket, &Said::Beat);
        }
    });
}

/// Works until the server closes the socket.
pub(crate) fn work(role: Role, socket: UnixStream, config: &Arc<Config>) -> ExitCode {
    few_heaps();
    let needs = match &role {
        Role::Sweeper { .. } => Some(Needs::reader()),
        Role::Reader => Some(Needs::reader().with_registers()),
        Role::Prober { .. } => Some(Needs::prober()),
        // It executes a command, which gives up everything itself (`alert/hook.rs`).
        Role::Hook => None,
    };
    if let Some(needs) = needs {
        // Not within the macro: that evaluates nothing where the level is off.
        let in_force = confine::apply(&needs);
        log::debug!("{role:?}: {in_force}");
    }
    let worked = match role {
        Role::Sweeper { skipped } => sweep(skipped, &socket, config),
        Role::Reader => read(socket, config),
        Role::Hook => hook::work(socket, config),
        Role::Prober { limit } => {
            budget::set_limit(usize::try_from(limit).unwrap_or(usize::MAX));
            probe(socket)
        }
    };
    match worked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::debug!("a worker ends: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Two heaps for all threads, in place of one for each: the free memory that each heap keeps adds up.
fn few_heaps() {
    // SAFETY: changes a setting of the allocator.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}

/// Gives unused memory back to the system: the allocator would keep for ever what a large snapshot needed.
pub(in crate::agent) fn trim() {
    // SAFETY: takes no pointer, and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// What a sweep looks at now; read by the thread that watches it.
static SWEPT_PID: AtomicI32 = AtomicI32::new(0);
static SWEPT_SINCE_NS: AtomicU64 = AtomicU64::new(0);

fn sweep(skipped: Vec<i32>, socket: &UnixStream, config: &Arc<Config>) -> io::Result<()> {
    let watched = socket.try_clone()?;
    thread::Builder::new().name("patience".to_owned()).spawn(move || watch(watched))?;
    let mut sweep = Sweep::skipping(skipped.into_iter().collect::<HashSet<_>>());
    let mut first = true;
    let mut to = socket;
    let mut from = socket;
    let mut again = Vec::new();
    loop {
        let changes = sweep.run(config, &again, &mut |pid| {
            SWEPT_SINCE_NS.store(clock::now(), Ordering::Relaxed);
            SWEPT_PID.store(pid, Ordering::Relaxed);
        });
        SWEPT_PID.store(0, Ordering::Relaxed);
        match changes {
            Ok(changes) => {
                let swept = Swept { changes, seen: sweep.seen(), first };
                wire::send(&mut to, &Sweeper::Swept(swept))?;
                first = false;
            }
            Err(error) => log::error!("/proc cannot be listed: {error}"),
        }
        let pause = Timespec::try_from(PAUSE).map_err(io::Error::other)?;
        again = match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&pause)) {
            Ok(0) | Err(Errno::INTR) => Vec::new(),
            Ok(_) => match wire::receive::<Again>(&mut from)? {
                Some(Again(pids)) => {
                    // The pause holds whoever asks: each sweep costs a few milliseconds.
                    thread::sleep(PAUSE);
                    pids
                }
                None => return Ok(()),
            },
            Err(error) => return Err(error.into()),
        };
    }
}

/// Ends this process when a look at one process takes too long, and says at which.
fn watch(mut socket: UnixStream) {
    loop {
        thread::sleep(Duration::from_millis(200));
        let (since_ns, pid) = (SWEPT_SINCE_NS.load(Ordering::Relaxed), SWEPT_PID.load(Ordering::Relaxed));
        if pid != 0 && clock::now().saturating_sub(since_ns) >= SWEEP_PATIENCE_NS {
            let _ = wire::send(&mut socket, &Sweeper::Stuck(pid));
            // SAFETY: takes no pointer. The other thread hangs, so nothing of this process can be wound up.
            unsafe { libc::_exit(1) };
        }
    }
}

/// A target that this reader has read before.
struct Known {
    target: Target,
    past: Past,
}

fn read(socket: UnixStream, config: &Arc<Config>) -> io::Result<()> {
    let (mut from, mut to) = (socket.try_clone()?, socket);
    let mut known: HashMap<ProcessId, Known> = HashMap::new();
    let binaries = Arc::<Binaries>::default();
    let mut trimmed = Instant::now();
    while let Some(Job { target, limit, ask }) = wire::receive::<Job>(&mut from)? {
        budget::set_limit(usize::try_from(limit).unwrap_or(usize::MAX));
        binaries.keep_bytes(limit / 4);
        BEAT.set(Some((to.try_clone()?, clock::now())));
        // What a target can make us do was tested, but not all of it.
        let done =
            catch_unwind(AssertUnwindSafe(|| do_it(&mut known, &binaries, &target, ask, config, &mut to)));
        let (end, broken) = match done {
            Ok(Ok(end)) => (end, false),
            Ok(Err(failure)) => (End::Failed(failure), false),
            Err(_) => (
                End::Failed(Failure::Other("looking at it failed inside sfgi, which is a bug".to_owned())),
                true,
            ),
        };
        if matches!(end, End::Failed(_)) {
            known.remove(&target.id);
        }
        // Each holds a descriptor of its process.
        known.retain(|_, known| known.target.process.alive());
        if trimmed.elapsed() >= TRIM {
            trimmed = Instant::now();
            trim();
        }
        wire::send(&mut to, &Said::End { end, used: budget::used() as u64 })?;
        if broken {
            return Err(io::Error::other("it met a bug"));
        }
    }
    Ok(())
}

fn do_it(
    known: &mut HashMap<ProcessId, Known>,
    binaries: &Arc<Binaries>,
    spec: &Arc<TargetSpec>,
    ask: Ask,
    config: &Config,
    to: &mut UnixStream,
) -> Result<End, Failure> {
    let open = || Ok(Target::open_process(Arc::clone(spec), Arc::clone(binaries))?);
    match ask {
        Ask::Poll { kept } => {
            let known = remembered(known, spec, kept, open)?;
            Ok(End::Told(Box::new(scan::poll(&known.target, &mut known.past, config)?)))
        }
        Ask::Look { kept } => {
            let known = remembered(known, spec, kept, open)?;
            Ok(End::Told(Box::new(scan::look(&known.target, &mut known.past, config)?)))
        }
        Ask::Goroutines { filter, form } => {
            documents::goroutines(&open()?, &filter, form, &mut Chunks::new(to))?;
            Ok(End::Done)
        }
        Ask::Profile(kind) => {
            documents::profile(&open()?, kind, config, &mut Chunks::new(to))?;
            Ok(End::Done)
        }
    }
}

/// What is known of a target; `kept` comes where another reader scanned it last.
fn remembered<'k>(
    known: &'k mut HashMap<ProcessId, Known>,
    spec: &Arc<TargetSpec>,
    kept: Option<Arc<[u8]>>,
    open: impl FnOnce() -> Result<Target, Failure>,
) -> Result<&'k mut Known, Failure> {
    if kept.is_some() {
        known.remove(&spec.id);
    }
    match known.entry(spec.id) {
        std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
        std::collections::hash_map::Entry::Vacant(entry) => {
            Ok(entry.insert(Known { target: open()?, past: Past::remembering(kept) }))
        }
    }
}

/// Bytes of a piece of a document.
const CHUNK: usize = 64 << 10;

/// Sends a document in pieces: no document is ever whole in memory, and the server's reading sets the pace.
struct Chunks<'s> {
    to: &'s mut UnixStream,
    buffer: Vec<u8>,
}

impl<'s> Chunks<'s> {
    fn new(to: &'s mut UnixStream) -> Chunks<'s> {
        Chunks { to, buffer: Vec::with_capacity(CHUNK) }
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            for piece in self.buffer.chunks(CHUNK) {
                wire::send(self.to, &Said::Chunk(piece.to_vec()))?;
            }
            self.buffer.clear();
        }
        Ok(())
    }
}
