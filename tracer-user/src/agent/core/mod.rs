//! The core of the agent: one thread that takes in the results of sweeps, scans and probes, decides what is done next
//! and publishes pictures. It never reads a target itself, so no target can hold it up.

mod answer;
mod detail;
mod probes;
mod state;

use super::{
    Config, Handle,
    launcher::Launcher,
    picture::{NodePicture, Picture, ProcessId, Seen},
    request::Request,
    watch::{
        Again, Ask, Bucket, End, Failure, Lost, Pool, PoolNews, ProbeAsk, ProbeSaid, READERS, Sweeper, Swept,
        TargetSpec, Task, scan, trim,
    },
};
use answer::{Trigger, scanned};
use sfgi_core::{budget, clock, process::rss_bytes};
use state::{TargetState, Work};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};

/// The longest time between two decisions; every message and request brings one, too.
const TICK: Duration = Duration::from_millis(200);
/// The time between two pictures.
const PUBLISH: Duration = Duration::from_secs(1);
/// The most looks at heaps that run at the same time. A look takes at least a second, and one reader stays free for scans.
const LOOKS_AT_ONCE: usize = 2;
/// How late a scan must be, in intervals, for a reader to do it that did not scan the target last and so knows less of it.
const LATE: f64 = 0.1;
/// A program that was never scanned is as late as if so many intervals had passed.
const NEW: f64 = 100.0;
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
pub fn start(config: Arc<Config>, earlier: Earlier, launcher: Launcher) -> io::Result<Handle> {
    let (pictures, receiver) = watch::channel(Arc::default());
    let (requests, asked) = mpsc::channel(REQUESTS);
    // Unbounded, so that no report waits for the core; how many workers there are is bounded, and so is what each says.
    let (told, inbox) = mpsc::unbounded_channel();
    let tell = told.clone();
    let tell = move |news| {
        // The agent may have ended.
        let _ = tell.send(Message::Pool(news));
    };
    let core = Core {
        pool: Pool::new(launcher, config.budget.memory, config.scan.timeout, tell)?,
        bucket: Bucket::new(),
        config,
        skipped: BTreeSet::new(),
        sessions: HashMap::new(),
        next_session: 0,
        targets: BTreeMap::new(),
        earlier,
        excluded: BTreeMap::new(),
        seen: Seen::default(),
        node: NodePicture { started_unix_ns: scan::unix_ns(), ..NodePicture::default() },
        errors: VecDeque::new(),
        triggers: Vec::new(),
        achieved: (0.0, 0),
        first_cost: 0.0,
        programs_seconds: 0.0,
        bpf_ns: (0, None),
        told,
        pictures,
        used: (clock::now(), clock::process_cpu()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new()
        .name("agent".to_owned())
        .spawn(move || runtime.block_on(core.run(asked, inbox)))?;
    Ok(Handle { pictures: receiver, requests })
}

/// What comes from workers.
enum Message {
    Pool(PoolNews),
    Done { id: ProcessId, work: Work, cost: f64, result: Result<End, Failure> },
}

struct Core {
    config: Arc<Config>,
    pool: Pool,
    /// Processes on which sweepers hung.
    skipped: BTreeSet<i32>,
    /// Sessions of probes, by their number.
    sessions: HashMap<u64, ProcessId>,
    next_session: u64,
    bucket: Bucket,
    /// By PID: requests name a target so.
    targets: BTreeMap<u32, TargetState>,
    /// What an earlier agent kept; empty after the first sweep.
    earlier: Earlier,
    /// Go processes that a rule excludes.
    excluded: BTreeMap<u32, Arc<TargetSpec>>,
    seen: Seen,
    node: NodePicture,
    errors: VecDeque<String>,
    triggers: Vec<Trigger>,
    /// The sum (seconds) and the number of the pauses between two scans of one target. Both are halved now and then,
    /// so that the quotient is that of late.
    achieved: (f64, u64),
    /// CPU seconds that the first scan of a program has cost of late: it is far dearer than those that follow.
    first_cost: f64,
    /// CPU seconds that probes have cost the targets since the start of the agent.
    programs_seconds: f64,
    /// Run time of BPF programs, nanoseconds: of probers that have ended, and of the one that runs (`None`: the kernel does
    /// not count).
    bpf_ns: (u64, Option<u64>),
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
        self.pool.sweep(Vec::new());
        loop {
            let mut ticked = false;
            tokio::select! {
                _ = tick.tick() => ticked = true,
                Some(message) = inbox.recv() => self.take(message),
                request = asked.recv() => match request {
                    Some(Request::Stop) | None => break,
                    Some(request) => self.answer(request),
                },
            }
            // After every message, not only at a tick: a thread that has become free gets its next task at once.
            self.begin();
            // What probes cost is told once in a while, so a tick is soon enough.
            if ticked {
                self.govern();
            }
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
            Message::Pool(news) => self.pool_news(news),
            Message::Done { id, work, cost, result } => self.done(id, work, cost, result),
        }
    }

    fn pool_news(&mut self, news: PoolNews) {
        match news {
            PoolNews::Report(report) => match self.pool.report(report) {
                None => {}
                Some(Lost::Sweeper) => self.pool.sweep(self.skipped.iter().copied().collect()),
                Some(Lost::Prober { hung, why }) => self.prober_lost(hung, &why),
            },
            PoolNews::Swept(Sweeper::Swept(swept)) => self.swept(swept),
            PoolNews::Swept(Sweeper::Stuck(pid)) => {
                self.skipped.insert(pid);
                self.complain(format!("PID {pid}: its executable cannot be read in time; it is left alone"));
            }
            PoolNews::Probed(ProbeSaid::News { number, news }) => {
                if let Some(id) = self.sessions.get(&number).copied() {
                    self.probe_news(id, news);
                }
            }
            // The prober follows no stream.
            PoolNews::Probed(_) => {}
            PoolNews::Lost { pid, hangs } => self.pool.lost(pid, hangs),
            PoolNews::Free { pid, socket, used, end } => self.pool.free(pid, socket, used, *end),
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
            // The sweeper is new: it names every process that runs, but no process that ended between the two.
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
    fn all(&self) -> impl Iterator<Item = &Arc<TargetSpec>> {
        self.targets.values().map(|state| &state.target).chain(self.excluded.values())
    }

    /// The state of this very target. `None`: it is not a target any more, even if another process has its PID by now.
    fn state(&mut self, id: ProcessId) -> Option<&mut TargetState> {
        self.targets.get_mut(&id.pid).filter(|state| state.target.id == id)
    }

    fn add(&mut self, target: Arc<TargetSpec>) {
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
            self.remove(id.pid);
        }
        if self.excluded.get(&id.pid).is_some_and(|target| target.id == id) {
            self.excluded.remove(&id.pid);
        }
        // A client that waits for a scan of this target must not wait for ever.
        self.untrigger(id, None);
    }

    /// Takes a target out, and its probes.
    fn remove(&mut self, pid: u32) {
        let Some(state) = self.targets.remove(&pid) else { return };
        if let Some(number) = state.probes.session() {
            self.sessions.remove(&number);
            self.pool.send_prober(&ProbeAsk::Stop { number });
        }
    }

    fn done(&mut self, id: ProcessId, work: Work, cost: f64, result: Result<End, Failure>) {
        // In any case, also for a target that is gone: the promise was made when the task began.
        self.bucket.settle(cost);
        let mut result = match result {
            Ok(End::Told(told)) => Ok(told),
            Ok(End::Done | End::Failed(_)) => {
                Err(Failure::Other("its reader answered something else".to_owned()))
            }
            Err(failure) => Err(failure),
        };
        // Memory of the server: whoever starts many programs with long names must not decide how much it takes.
        if let Some(leaks) = result.as_mut().ok().and_then(|told| told.leaks.as_mut()) {
            // One rule for all groups that it found, not one each.
            for group in &mut leaks.groups {
                if let Some(rule) = self.config.leaks.catalogue.find(&group.rule.id) {
                    group.rule = Arc::clone(rule);
                }
            }
        }
        if let Ok(told) = &mut result
            && budget::used() as u64 > self.pool.server_share()
        {
            told.shorten();
        }
        self.node.scans += u64::from(result.is_ok());
        self.node.scan_failures += u64::from(result.is_err());
        if result.is_ok() {
            self.node.last_scan_unix_ns = scan::unix_ns();
        }
        let scanned = match &result {
            Ok(told) => told.leaks.as_ref().map(|leaks| Some(scanned(leaks))),
            Err(_) => Some(None),
        };
        let known = self.state(id).is_some();
        match result.as_ref().err().filter(|_| known) {
            // The sweeper has not noticed the `exec` yet. An end it notices by itself, so nothing is said of that.
            Some(Failure::Replaced) => {
                self.pool.send_sweeper(&Again(vec![id.pid.cast_signed()]));
            }
            None | Some(Failure::Ended) => {}
            Some(error) => self.complain(format!("PID {}: {error}", id.pid)),
        }
        let (config, most) = (Arc::clone(&self.config), self.pool.most());
        let first = result.as_ref().ok().map(|told| told.scan.cpu_seconds);
        let mut average = self.first_cost;
        if let Some(state) = self.state(id) {
            if let Some(first) = first.filter(|_| state.is_new()) {
                average = if average == 0.0 { first } else { 0.7 * average + 0.3 * first };
            }
            state.told(work, result, &config, most);
            if let Some(achieved) = state.achieved.filter(|_| work == Work::Scan) {
                self.achieved.0 += achieved.as_secs_f64();
                self.achieved.1 += 1;
            }
        }
        self.first_cost = average;
        if let Some(scanned) = scanned {
            self.untrigger(id, scanned);
        }
    }

    /// Starts the scans and looks that are due, the most overdue first, as far as the budget and the workers go.
    fn begin(&mut self) {
        let at = clock::now() as f64 / 1e9;
        let used = (clock::process_cpu() + self.pool.cpu_ns().1) as f64 / 1e9 + self.programs_seconds;
        self.bucket.read(at, used, self.config.budget.node);
        let now = Instant::now();
        let looks = self.targets.values().filter(|state| state.running == Some(Work::Look)).count();
        let (paid, mut looks) = (self.bucket.has_left(), looks);
        let share = self.config.budget.node / self.targets.len().max(1) as f64;
        let mut due: Vec<(u32, Work, f64, bool)> = self
            .targets
            .iter()
            .filter_map(|(pid, state)| {
                let (work, late) = state.due(now)?;
                // Infinitely late: somebody asked for it, and what a person asks for is done whatever the budget says.
                // A target whose share of the budget since its last scan pays for this one does not wait until the
                // debts of a dear one are paid off.
                let free =
                    late.is_infinite() || work == Work::Scan && state.has_saved(share, self.first_cost, now);
                // Those that failed before come after those that did not: many of them hold up no new one.
                let late = late / f64::from(1 + state.failures());
                // Of a program that was never scanned nothing is known at all.
                let late = if state.is_new() && state.failures() == 0 { late + NEW } else { late };
                (paid || free).then_some((*pid, work, late, free))
            })
            .collect();
        due.sort_by(|one, other| other.2.total_cmp(&one.2));
        for (pid, work, late, free) in due {
            if !self.bucket.has_left() && !free || (work == Work::Look && looks >= LOOKS_AT_ONCE) {
                continue;
            }
            let Some(state) = self.targets.get(&pid) else { continue };
            let (target, last, unproven) = (Arc::clone(&state.target), state.reader, state.unproven);
            // Those of a user whose programs hold the workers wait; the next in line is not held up by them.
            let Some(reader) = self.pool.reader_for(&target, last, unproven, late >= LATE) else { continue };
            let started = self.start(pid, work, reader);
            looks += usize::from(started && work == Work::Look);
        }
    }

    /// Has a reader do it. `false`: there is no room for it now.
    fn start(&mut self, pid: u32, work: Work, reader: u32) -> bool {
        let Some(state) = self.targets.get_mut(&pid) else { return false };
        let (id, cost) = (state.target.id, state.estimate(work));
        // A reader that did not scan it last starts from what was kept.
        let kept = if state.reader == Some(reader) { None } else { state.kept() };
        let told = self.told.clone();
        let done = Box::new(move |result| {
            let _ = told.send(Message::Done { id, work, cost, result });
        });
        let ask = match work {
            Work::Scan => Ask::Poll { kept },
            Work::Look => Ask::Look { kept },
        };
        let (target, limit, unproven) = (Arc::clone(&state.target), state.limit, state.unproven);
        if !self.pool.scan(reader, Task { target, ask, limit, unproven, pieces: None, done }) {
            return false;
        }
        (state.running, state.reader) = (Some(work), Some(reader));
        // Before the meter sees any of it: otherwise all that are due would start on the same CPU time.
        self.bucket.promise(cost);
        true
    }

    /// CPU time of the server and all its workers, nanoseconds.
    fn cpu_ns(&self) -> u64 {
        let (clients, own) = self.pool.cpu_ns();
        clock::process_cpu() + clients + own
    }

    /// Ends the prober when a session has said nothing for too long: its target does not answer.
    fn check(&mut self) {
        self.pool.refuse_old();
        let silence = self.config.scan.timeout;
        if self.targets.values().any(|state| state.probes.silent_for() > silence) {
            self.pool.end_prober();
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
        let now = (clock::now(), self.cpu_ns());
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
            rss_bytes: rss_bytes(std::process::id()).unwrap_or(0) + self.pool.rss_bytes(),
            bpf_seconds: self.bpf_ns.1.map(|ns| (self.bpf_ns.0 + ns) as f64 / 1e9),
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
            binaries: self.targets.values().map(|state| state.target.build()).collect::<HashSet<_>>().len()
                as u64,
            // Also those that have not been needed yet: one that hangs alone leaves the others to be started.
            workers: READERS as u64,
            workers_hanging: self.pool.silent(),
            workers_hung: self.pool.hung(),
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
        self.pool.renew(self.config.budget.memory, self.config.scan.timeout);
        let all: Vec<Arc<TargetSpec>> = self.all().map(Arc::clone).collect();
        for target in all {
            let (pid, plan) = (target.pid(), self.config.plan(&target.identity));
            if plan.exclude {
                let id = target.id;
                self.remove(pid);
                self.excluded.insert(pid, target);
                self.untrigger(id, None);
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
