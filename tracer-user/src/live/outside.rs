//! What a trace reads of the target's memory beside its probes: the goroutines that existed before the probes, the
//! states of all goroutines after a loss, and the stacks of long blocks.

use sfgi_core::{
    event::Stack,
    goruntime::State,
    model::{Goroutines, Seen, Step, What},
    patience,
    session::{Input, SnapshotInput, WholeStack},
    snapshot,
    snapshot::{Goroutine, Options, Reading, Snapshot, Trust, View},
};
use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{RecvTimeoutError, Sender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Blocks that are remembered until they have lasted long enough, a bound for our memory. Beyond it the oldest is
/// dropped.
const CAPACITY: usize = 1_000_000;
/// How often a stack is tried. The first try can fail although the block lasts: the kernel may hold up the thread
/// right at the probe, and the goroutine that the event calls waiting has not left its thread yet.
const TRIES: u8 = 5;
/// The pause between two snapshots after losses: at least `PAUSE_NS`, and `PAUSE_TIMES` × the duration of the last
/// one. Under permanent loss the reads then take at most a twentieth of the time.
const PAUSE_NS: u64 = 1_000_000_000;
const PAUSE_TIMES: u64 = 20;

/// A read that makes no progress for so long is given up: the kernel keeps who reads a page that nobody fills. It bounds how long
/// Ctrl-C has to wait.
const STUCK: Duration = Duration::from_secs(1);
/// Between two drains of the rings while something is read: as often as a trace drains them.
const BETWEEN: Duration = Duration::from_millis(1);

/// Decides what is to be read next, and when.
pub(crate) struct Outside {
    /// How long a block must last for its stack to be read, nanoseconds; `None`: no stacks.
    threshold_ns: Option<u64>,
    /// A snapshot is due: at the start, and after a loss.
    wanted: bool,
    /// Before this time no snapshot is taken; `u64::MAX` after [`Outside::give_up`] (`CLOCK_MONOTONIC`, ns).
    not_before_ts: u64,
    /// Blocks that have not lasted `threshold_ns` yet, ordered by `due_ts`.
    young: VecDeque<Young>,
}

/// A block whose stack is to be read.
#[derive(Clone, Copy)]
struct Young {
    goid: u64,
    since_ts: u64,
    due_ts: u64,
    tries: u8,
}

impl Outside {
    /// `threshold_ns`: how long a block must last for its stack to be read. `running`: the target already has
    /// goroutines, so a first snapshot is due.
    pub(crate) fn new(threshold_ns: Option<u64>, running: bool) -> Outside {
        Outside { threshold_ns, wanted: running, not_before_ts: 0, young: VecDeque::new() }
    }

    /// Notes that events were lost: only a snapshot can say which state each goroutine is in.
    pub(crate) fn lost(&mut self) {
        self.wanted = true;
    }

    pub(crate) fn wants_snapshot(&self, now_ts: u64) -> bool {
        self.wanted && now_ts >= self.not_before_ts
    }

    pub(crate) fn options() -> Options {
        Options { stacks: true, ..Options::default() }
    }

    /// Turns a snapshot into inputs: the goroutines that were seen, and the whole stacks of those that wait.
    pub(crate) fn take(&mut self, snapshot: &Snapshot) -> (Input, Input) {
        let (began_ts, ended_ts) = snapshot.taken_ns;
        self.wanted = false;
        self.not_before_ts = ended_ts + PAUSE_NS.max((ended_ts - began_ts).saturating_mul(PAUSE_TIMES));
        let stacks = if self.threshold_ns.is_some() { whole_stacks(snapshot, |_| None) } else { Vec::new() };
        let complete = snapshot.lacks().is_none() && snapshot.unreadable == 0;
        let seen = snapshot.goroutines.iter().map(|goroutine| seen(goroutine, snapshot)).collect();
        (Input::Snapshot(SnapshotInput { seen, began_ts, ended_ts, complete }), Input::Stacks(stacks))
    }

    /// Reads no more stacks: the memory does not answer.
    pub(crate) fn give_up_stacks(&mut self) {
        self.threshold_ns = None;
        self.young.clear();
    }

    /// Asks for no more snapshots. The caller has reported the reason.
    pub(crate) fn give_up(&mut self) {
        self.wanted = false;
        self.not_before_ts = u64::MAX;
    }

    /// Remembers the blocks that began in these steps.
    pub(crate) fn note(&mut self, steps: &[Step]) {
        let Some(threshold_ns) = self.threshold_ns else { return };
        for step in steps.iter().filter(|step| matches!(step.what, What::Block | What::SyscallEnter)) {
            // The threshold is the same for all and steps come in order of time, so pushing at the back keeps the
            // order.
            if self.young.len() >= CAPACITY {
                self.young.pop_front();
            }
            let due_ts = step.ts.saturating_add(threshold_ns);
            self.young.push_back(Young { goid: step.goid, since_ts: step.ts, due_ts, tries: 0 });
        }
    }

    /// Has `read` read the stacks of the blocks that have lasted long enough at `now_ts`, by the addresses of their `g`. `None`: no
    /// block has, or the memory cannot be read.
    pub(crate) fn read_long(
        &mut self,
        goroutines: &Goroutines,
        now_ts: u64,
        read: impl FnOnce(Vec<u64>) -> Option<Snapshot>,
    ) -> Option<Input> {
        let threshold_ns = self.threshold_ns?;
        let mut due = HashMap::new();
        while let Some(block) = self.young.pop_front_if(|block| block.due_ts <= now_ts) {
            if let Some(known) = goroutines.get(block.goid)
                // The same block still: another start means that this one has ended, and a later one is noted itself.
                && known.since_ts == block.since_ts
                && known.state.stays()
            {
                due.insert(block.goid, (block, known.g));
            }
        }
        if due.is_empty() {
            return None;
        }
        let addrs: Vec<u64> = due.values().map(|(_, g)| *g).collect();
        // What cannot be read has no stack to show.
        let snapshot = read(addrs)?;
        let stacks = whole_stacks(&snapshot, |goid| due.get(&goid).map(|(block, _)| block.since_ts));
        for stack in &stacks {
            due.remove(&stack.goid);
        }
        // `due_ts` is later than that of every block noted so far, so the order is kept.
        let due_ts = now_ts.saturating_add(threshold_ns);
        let again = due.into_values().map(|(block, _)| Young { due_ts, tries: block.tries + 1, ..block });
        self.young.extend(again.filter(|block| block.tries < TRIES));
        Some(Input::Stacks(stacks))
    }
}

/// The whole stacks of the goroutines that wait and did not move during the read. Goroutines with one stack share one
/// list.
fn whole_stacks(snapshot: &Snapshot, since_ts: impl Fn(u64) -> Option<u64>) -> Vec<WholeStack> {
    let mut shared: HashMap<_, Arc<[u64]>> = HashMap::new();
    let still = |goroutine: &&Goroutine| goroutine.trust == Trust::Still && goroutine.state.stays();
    let stack = |goroutine: &Goroutine| {
        let pcs = shared
            .entry(goroutine.stack)
            .or_insert_with(|| snapshot.stacks.get(goroutine.stack).iter().map(|pc| pc.lookup()).collect());
        let (goid, read_ts) = (goroutine.goid, snapshot.taken_ns.1);
        WholeStack { goid, since_ts: since_ts(goid), read_ts, pcs: Arc::clone(pcs) }
    };
    snapshot.goroutines.iter().filter(still).map(stack).collect()
}

fn seen(goroutine: &Goroutine, snapshot: &Snapshot) -> Seen {
    // The model compares this with what the probes walk, and there every address is a return address: hence the 1.
    let pcs = snapshot.stacks.get(goroutine.stack).iter().take(tracer_common::MAX_FRAMES);
    let site: Vec<u64> = pcs.map(|pc| pc.lookup().wrapping_add(1)).collect();
    // The state of a goroutine that moved during the read may be none that it ever had.
    let still = matches!(goroutine.trust, Trust::Still | Trust::Running | Trust::Broken);
    Seen {
        g: goroutine.g,
        goid: goroutine.goid,
        state: if still { goroutine.state } else { State::Unknown },
        reason: goroutine.reason,
        since_ts: goroutine.waiting_since_ns,
        tid: goroutine.tid,
        birth: goroutine.birth(),
        site: Stack::of(&site),
    }
}

/// Reads all goroutines, with the stacks. Tells `progress` after each chunk.
pub(crate) fn read_all(view: &View<'_>, progress: impl Fn()) -> Result<Snapshot, snapshot::SnapshotError> {
    let mut reading = Reading::begin(view, Outside::options())?;
    while reading.chunk() {
        progress();
    }
    Ok(reading.finish())
}

/// A thread that reads for another one, which is not kept by a read that never ends. It is started when it is first needed.
#[derive(Default)]
pub(crate) struct Aside(Option<Sender<Job>>);

type Job = Box<dyn FnOnce() + Send>;

impl Aside {
    /// Has the thread do `read`, and calls `between` meanwhile, so that the caller can drain the rings before they overflow. `None`:
    /// it made no progress for [`STUCK`]; the thread is left behind then and ends with this process, since nothing but SIGKILL ends
    /// such a read. `read` gets a number that it raises where it makes progress. The error is that of `between`.
    pub(crate) fn patiently<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(&AtomicU64) -> T + Send + 'static,
        mut between: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<T>> {
        let progress = Arc::<AtomicU64>::default();
        let (say, said) = sync_channel(1);
        let theirs = Arc::clone(&progress);
        let job: Job = Box::new(move || {
            // Nobody may wait for it any more.
            let _ = say.send(read(&theirs));
        });
        let jobs = match self.0.take() {
            Some(jobs) => jobs,
            None => start()?,
        };
        // Where the thread has panicked, the answer is missing, too.
        let _ = jobs.send(job);
        let (mut last, mut since) = (0, Instant::now());
        loop {
            match said.recv_timeout(BETWEEN) {
                Ok(read) => {
                    self.0 = Some(jobs);
                    return Ok(Some(read));
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
            between()?;
            let now = progress.load(Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > STUCK {
                return Ok(None);
            }
        }
    }
}

fn start() -> io::Result<Sender<Job>> {
    let (jobs, todo) = channel::<Job>();
    thread::Builder::new().name("reading".to_owned()).spawn(move || {
        // Who waits in `patiently` watches over it.
        patience::unwatch();
        todo.iter().for_each(|job| job());
    })?;
    Ok(jobs)
}
