//! The core of the agent: one thread that takes in the results of sweeps, scans and probes, decides what is done next
//! and publishes pictures. It never reads a target itself, so no target can hold it up.

mod answer;
mod detail;
mod probes;
mod state;
mod stream;

use super::{
    Config, Handle,
    picture::{NodePicture, Picture, ProcessId, Seen},
    request::Request,
    watch::{Binaries, Bucket, Discovery, News, Pool, Swept, Target, TargetError, Task, scan, scan::Told},
};
use crate::probe;
use answer::{Trigger, scanned};
use sfgi_core::clock;
use state::{TargetState, Work};
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fs, io,
    sync::{Arc, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};

/// The longest time between two decisions; every message and request brings one, too.
const TICK: Duration = Duration::from_millis(100);
/// The time between two pictures.
const PUBLISH: Duration = Duration::from_secs(1);
/// The most scans and looks that run at the same time, and how many of them may be looks at a heap. A look takes at
/// least a second, and one thread stays free for scans.
const AT_ONCE: usize = 3;
const LOOKS_AT_ONCE: usize = 2;
/// The first scan of a target is due `FIRST` after it was found, and `FIRST_APART` later for each target that waits
/// for its first: when the agent starts, all are found at once.
const FIRST: Duration = Duration::from_secs(1);
const FIRST_APART: Duration = Duration::from_millis(150);
/// Requests that the channel holds; further senders wait.
const REQUESTS: usize = 64;
/// Sentences about errors of the agent itself that a picture holds, the latest ones.
const ERRORS: usize = 16;
/// The time between two returns of unused memory to the system ([`trim`]).
const TRIM: Duration = Duration::from_secs(60);

/// What an earlier agent knew of its targets ([`super::picture::ProcessPicture::kept`]), by PID and start time (ticks
/// since boot). Only of the same boot: PIDs and ticks begin anew with the next.
pub type Earlier = HashMap<(u32, u64), Arc<[u8]>>;

/// Starts the agent on threads of its own.
///
/// # Errors
/// The system refuses a thread.
pub fn start(config: Arc<Config>, earlier: Earlier) -> io::Result<Handle> {
    let (pictures, receiver) = watch::channel(Arc::default());
    let (requests, asked) = mpsc::channel(REQUESTS);
    // Unbounded, so that no scan, sweep or probe waits for the core; how many of these there are is bounded.
    let (told, inbox) = mpsc::unbounded_channel();
    let tell = told.clone();
    let sweeps = move |swept| {
        let _ = tell.send(Message::Swept(swept));
    };
    // Before the agent's threads start: the setting does not take back heaps that exist.
    few_heaps();
    let binaries = Arc::default();
    let core = Core {
        discovery: Discovery::start(Arc::clone(&config), Arc::clone(&binaries), Arc::new(sweeps))?,
        bucket: Bucket::new(),
        config,
        binaries,
        pool: Pool::default(),
        targets: BTreeMap::new(),
        earlier,
        excluded: BTreeMap::new(),
        seen: Seen::default(),
        node: NodePicture { started_unix_ns: scan::unix_ns(), ..NodePicture::default() },
        errors: VecDeque::new(),
        triggers: Vec::new(),
        achieved: (0.0, 0),
        programs_seconds: 0.0,
        told,
        pictures,
        used: (clock::now(), clock::process_cpu()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    thread::Builder::new()
        .name("agent".to_owned())
        .spawn(move || runtime.block_on(core.run(asked, inbox)))?;
    Ok(Handle { pictures: receiver, requests })
}

/// The results of other threads.
enum Message {
    Swept(Swept),
    Probes { id: ProcessId, news: News },
    Done { id: ProcessId, work: Work, cost: f64, result: Result<Box<Told>, TargetError> },
}

/// Sends its message when it is dropped, so that a task that panics reports, too.
struct Report {
    message: Option<Message>,
    to: mpsc::UnboundedSender<Message>,
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            // The agent may have ended.
            let _ = self.to.send(message);
        }
    }
}

struct Core {
    config: Arc<Config>,
    discovery: Discovery,
    binaries: Arc<Binaries>,
    pool: Pool,
    bucket: Bucket,
    /// By PID: requests name a target so.
    targets: BTreeMap<u32, TargetState>,
    /// What an earlier agent kept; empty after the first sweep.
    earlier: Earlier,
    /// Go processes that a rule excludes.
    excluded: BTreeMap<u32, Arc<Target>>,
    seen: Seen,
    node: NodePicture,
    errors: VecDeque<String>,
    triggers: Vec<Trigger>,
    /// The sum (seconds) and the number of the pauses between two scans of one target. Both are halved now and then,
    /// so that the quotient is that of late.
    achieved: (f64, u64),
    /// CPU seconds that probes have cost the targets since the start of the agent.
    programs_seconds: f64,
    told: mpsc::UnboundedSender<Message>,
    pictures: watch::Sender<Arc<Picture>>,
    /// The monotonic clock and our CPU time at the last picture, nanoseconds: the quotient of their growth is the
    /// share in use.
    used: (u64, u64),
}

impl Core {
    async fn run(mut self, mut asked: mpsc::Receiver<Request>, mut inbox: mpsc::UnboundedReceiver<Message>) {
        let mut tick = tokio::time::interval(TICK);
        // Ticks that were missed (a suspended host) are not made up for.
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut published, mut trimmed) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Some(message) = inbox.recv() => self.take(message),
                request = asked.recv() => match request {
                    Some(Request::Stop) | None => break,
                    Some(request) => self.answer(request),
                },
            }
            // After every message, not only at a tick: a thread that has become free gets its next task at once.
            self.begin();
            self.govern();
            if published.elapsed() >= PUBLISH {
                published = Instant::now();
                self.check();
                self.publish();
            }
            if trimmed.elapsed() >= TRIM {
                trimmed = Instant::now();
                trim();
            }
        }
        log::info!("ends: {} processes were watched", self.targets.len());
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Swept(swept) => self.swept(swept),
            Message::Probes { id, news } => self.probe_news(id, news),
            Message::Done { id, work, cost, result } => self.done(id, work, cost, result),
        }
    }

    fn swept(&mut self, swept: Swept) {
        let Swept { changes, seen, first } = swept;
        self.seen = seen;
        for note in changes.notes {
            self.complain(note);
        }
        for id in changes.ended {
            self.forget(id);
        }
        if first {
            // The thread of discovery is new: it names every process that runs, but no process that ended between the
            // two threads.
            let there: HashSet<ProcessId> = changes.started.iter().map(|target| target.id).collect();
            let all = self.all().map(|target| target.id);
            let gone: Vec<ProcessId> = all.filter(|id| !there.contains(id)).collect();
            gone.into_iter().for_each(|id| self.forget(id));
        }
        for target in changes.started {
            self.add(target);
        }
        // The first sweep finds every target that an earlier agent can have known and that still runs.
        self.earlier = Earlier::new();
    }

    /// All Go processes, including those that a rule excludes.
    fn all(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.targets.values().map(|state| &state.target).chain(self.excluded.values())
    }

    /// The state of this very target. `None`: it is not a target any more, even if another process has its PID by now.
    fn state(&mut self, id: ProcessId) -> Option<&mut TargetState> {
        self.targets.get_mut(&id.pid).filter(|state| state.target.id == id)
    }

    fn add(&mut self, target: Arc<Target>) {
        if self.state(target.id).is_some() {
            return;
        }
        let (pid, plan) = (target.pid(), self.config.plan(&target.identity));
        let identity = &target.identity;
        log::debug!("PID {pid}: {} ({}, {})", identity.exe.display(), identity.module, identity.go_version);
        if plan.exclude {
            self.excluded.insert(pid, target);
            return;
        }
        // Spread, but never beyond an interval of the target itself.
        let waiting = self.targets.values().filter(|state| state.waits_for_first()).count();
        let apart = FIRST_APART * u32::try_from(waiting).unwrap_or(u32::MAX);
        let first = (FIRST + apart).min(plan.interval.max(FIRST));
        let kept = self.earlier.remove(&(pid, target.id.start_ticks));
        self.targets.insert(pid, TargetState::new(target, plan, first, kept));
    }

    fn forget(&mut self, id: ProcessId) {
        if self.state(id).is_some() {
            self.targets.remove(&id.pid);
        }
        if self.excluded.get(&id.pid).is_some_and(|target| target.id == id) {
            self.excluded.remove(&id.pid);
        }
        // A client that waits for a scan of this target must not wait for ever.
        self.untrigger(id, None);
    }

    fn done(&mut self, id: ProcessId, work: Work, cost: f64, result: Result<Box<Told>, TargetError>) {
        // In any case, also for a target that is gone: the promise was made when the task began.
        self.bucket.settle(cost);
        self.node.scans += u64::from(result.is_ok());
        self.node.scan_failures += u64::from(result.is_err());
        let scanned = match &result {
            Ok(told) => told.leaks.as_ref().map(|leaks| Some(scanned(leaks))),
            Err(_) => Some(None),
        };
        let known = self.state(id).is_some();
        match result.as_ref().err().filter(|_| known) {
            // Discovery has not noticed the `exec` yet. An end it notices by itself, so nothing is said of that.
            Some(TargetError::Replaced) => self.discovery.look_again(id.pid),
            None | Some(TargetError::Ended) => {}
            Some(error) => log::warn!("PID {}: {error}", id.pid),
        }
        let config = Arc::clone(&self.config);
        if let Some(state) = self.state(id) {
            state.told(work, result, &config);
            if let Some(achieved) = state.achieved.filter(|_| work == Work::Scan) {
                self.achieved.0 += achieved.as_secs_f64();
                self.achieved.1 += 1;
            }
        }
        if let Some(scanned) = scanned {
            self.untrigger(id, scanned);
        }
    }

    /// Starts the scans and looks that are due, the most overdue first, as far as the budget goes.
    fn begin(&mut self) {
        let at = clock::now() as f64 / 1e9;
        let used = clock::process_cpu() as f64 / 1e9 + self.programs_seconds;
        self.bucket.read(at, used, self.config.budget.node);
        let now = Instant::now();
        while self.pool.busy() < AT_ONCE {
            let looks = self.targets.values().filter(|state| state.running == Some(Work::Look)).count();
            let (paid, may_look) = (self.bucket.has_left(), looks < LOOKS_AT_ONCE);
            let due = self.targets.iter().filter_map(|(pid, state)| {
                let (work, late) = state.due(now)?;
                // Infinitely late: somebody asked for it, and what a person asks for is done whatever the budget says.
                let allowed = (paid || late.is_infinite()) && (may_look || work != Work::Look);
                allowed.then_some((*pid, work, late))
            });
            let Some((pid, work, _)) = due.max_by(|one, other| one.2.total_cmp(&other.2)) else { break };
            self.start(pid, work);
        }
    }

    fn start(&mut self, pid: u32, work: Work) {
        let Some(state) = self.targets.get_mut(&pid) else { return };
        state.running = Some(work);
        let (id, cost) = (state.target.id, state.estimate(work));
        // Before the meter sees any of it: otherwise all that are due would start on the same CPU time.
        self.bucket.promise(cost);
        let (target, past) = (Arc::clone(&state.target), Arc::clone(&state.past));
        let (config, told) = (Arc::clone(&self.config), self.told.clone());
        let run = Box::new(move || {
            // In place until the real result is there: this is what a panic of the task reports.
            let failed = Message::Done { id, work, cost, result: Err(TargetError::Bug) };
            let mut done = Report { message: Some(failed), to: told };
            let mut past = past.lock().unwrap_or_else(PoisonError::into_inner);
            let result = match work {
                Work::Scan => scan::poll(&target, &mut past, &config),
                Work::Look => scan::look(&target, &mut past, &config),
            };
            done.message = Some(Message::Done { id, work, cost, result: result.map(Box::new) });
        });
        self.pool.run(Task { about: pid, run });
    }

    /// Gives up targets on which a thread hangs because their memory or executable does not answer.
    fn check(&mut self) {
        for pid in self.pool.check() {
            self.complain(format!("PID {pid}: reading it does not end; it is left alone"));
            self.targets.remove(&pid);
        }
        if let Some(pid) = self.discovery.check() {
            self.complain(format!("PID {pid}: its executable cannot be read in time; it is left alone"));
        }
    }

    fn complain(&mut self, error: String) {
        log::warn!("{error}");
        if self.errors.len() >= ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(error);
    }

    fn publish(&mut self) {
        let now = (clock::now(), clock::process_cpu());
        let passed = now.0.saturating_sub(self.used.0).max(1);
        let used_cores = now.1.saturating_sub(self.used.1) as f64 / passed as f64;
        self.used = now;
        let (instant, top) = (Instant::now(), self.config.metrics.sites);
        let budget_cores = (self.config.budget.node, self.config.budget.process());
        let probes: f64 = self.targets.values().map(|state| state.probes.program_cores()).sum();
        let processes: Vec<_> = self.targets.values_mut().map(|state| state.picture(top)).collect();
        let unsupported = self.targets.values().filter(|state| state.unsupported()).count() as u64;
        let (sum, number) = self.achieved;
        // About two pauses a target, and at least 32 in all: fewer would be noise.
        if number >= 2 * self.targets.len().max(16) as u64 {
            self.achieved = (sum / 2.0, number / 2);
        }
        self.node = NodePicture {
            cpu_seconds: now.1 as f64 / 1e9,
            rss_bytes: rss_bytes(),
            bpf_seconds: probe::ran_ns().map(|ns| ns as f64 / 1e9),
            budget_cores,
            used_cores: used_cores + probes,
            seen: Seen {
                tracked: self.targets.len() as u64 - unsupported,
                excluded: self.excluded.len() as u64,
                unsupported,
                ..self.seen
            },
            scans_waiting: self.targets.values().filter(|state| state.waits(instant)).count() as u64,
            interval_seconds: (
                self.config.scan.interval.as_secs_f64(),
                if number == 0 { 0.0 } else { sum / number as f64 },
            ),
            binaries: self.binaries.len(),
            errors: self.errors.iter().cloned().collect(),
            // The counters that only rise (scans, failures, changes of mode, raises) stay.
            ..std::mem::take(&mut self.node)
        };
        let picture =
            Picture { unix_ns: scan::unix_ns(), monotonic_ns: now.0, node: self.node.clone(), processes };
        self.pictures.send_replace(Arc::new(picture));
    }

    /// Continues with another configuration. What is known of targets stays, except of those that it excludes.
    fn reload(&mut self, config: Arc<Config>) {
        self.config = config;
        self.discovery.set(Arc::clone(&self.config));
        let all: Vec<Arc<Target>> = self.all().map(Arc::clone).collect();
        for target in all {
            let (pid, plan) = (target.pid(), self.config.plan(&target.identity));
            if plan.exclude {
                self.targets.remove(&pid);
                self.excluded.insert(pid, target);
            } else if let Some(state) = self.targets.get_mut(&pid) {
                state.replan(plan);
            } else {
                self.excluded.remove(&pid);
                self.add(target);
            }
        }
        log::info!("goes on with other settings");
    }
}

/// The resident memory of the agent, bytes; 0 where `/proc` does not tell.
fn rss_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Returns unused memory to the system. The allocator would keep for ever what one large snapshot needed.
fn trim() {
    // SAFETY: takes no pointer, and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Limits the allocator to two heaps for all threads. By default glibc makes up to eight for each CPU, and
/// each keeps free memory of its own.
fn few_heaps() {
    // SAFETY: changes a setting of the allocator.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}
