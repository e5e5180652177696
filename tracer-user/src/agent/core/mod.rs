//! The agent's own thread: takes in what discovery and scans found, decides what is done next, and publishes
//! pictures.

mod answer;
mod asked;
mod detail;
mod follow;
mod node;
mod probed;
mod probes;
mod rules;
mod target;

use super::{
    Handle,
    picture::{NodePicture, Picture, ProcessId, Seen},
    request::Request,
    settings::Settings,
    watch::{Binaries, Bucket, Discovery, Found, News, Pool, Swept, Target, Task, scan, scan::Told},
};
use crate::probe;
use asked::{Trigger, scanned};
use rules::Plan;
use sfgi_core::clock;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    io,
    sync::{Arc, PoisonError},
    thread,
    time::{Duration, Instant},
};
use target::{Tracked, Work, named};
use tokio::sync::{mpsc, watch};

/// How often it is decided what to do.
const TICK: Duration = Duration::from_millis(100);
/// How often a picture is published.
const PUBLISH: Duration = Duration::from_secs(1);
/// Threads that may be at work at the same time, and those of them that look at heaps, which takes a second each.
const AT_ONCE: usize = 3;
const LOOKS_AT_ONCE: usize = 2;
/// The first scan of a process: soon, but not of all at once.
const FIRST: Duration = Duration::from_secs(1);
const FIRST_APART: Duration = Duration::from_millis(150);
/// Requests that wait.
const REQUESTS: usize = 64;
/// Sentences that are kept of what went wrong.
const ERRORS: usize = 16;
/// Memory that is not used goes back to the system so often.
const TRIM: Duration = Duration::from_secs(60);

/// What an earlier agent knew of processes ([`super::picture::ProcessPicture::kept`]), by PID and start time, in the same
/// run of the machine.
pub type Earlier = HashMap<(u32, u64), Arc<[u8]>>;

/// Starts the agent on threads of its own.
///
/// # Errors
/// They cannot be had.
pub fn start(settings: Settings, earlier: Earlier) -> io::Result<Handle> {
    let (pictures, receiver) = watch::channel(Arc::default());
    let (requests, asked) = mpsc::channel(REQUESTS);
    let (told, inbox) = mpsc::unbounded_channel();
    let settings = Arc::new(settings);
    let tell = told.clone();
    let sweeps = move |swept| {
        let _ = tell.send(Message::Swept(swept));
    };
    node::few_heaps();
    let core = Core {
        discovery: Discovery::start(Arc::clone(&settings), Arc::new(sweeps))?,
        bucket: Bucket::new(),
        settings,
        binaries: Arc::default(),
        pool: Pool::default(),
        tracked: BTreeMap::new(),
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

/// What comes from other threads.
enum Message {
    Swept(Swept),
    Watched { id: ProcessId, news: News },
    Done { id: ProcessId, work: Work, cost: f64, result: Result<Box<Told>, String> },
}

/// Tells what came of a task when it is over.
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
    settings: Arc<Settings>,
    discovery: Discovery,
    binaries: Arc<Binaries>,
    pool: Pool,
    bucket: Bucket,
    /// By PID.
    tracked: BTreeMap<u32, Tracked>,
    /// Of processes that were not found yet.
    earlier: Earlier,
    /// Go programs that a rule excludes.
    excluded: BTreeMap<u32, Found>,
    seen: Seen,
    node: NodePicture,
    errors: VecDeque<String>,
    triggers: Vec<Trigger>,
    /// The sum of the pauses between two scans, of late, and their number.
    achieved: (f64, u64),
    /// What probes have cost programs, all in all.
    programs_seconds: f64,
    told: mpsc::UnboundedSender<Message>,
    pictures: watch::Sender<Arc<Picture>>,
    /// When CPU time was last read, and what it was, for what is used now.
    used: (u64, u64),
}

impl Core {
    async fn run(mut self, mut asked: mpsc::Receiver<Request>, mut inbox: mpsc::UnboundedReceiver<Message>) {
        let mut tick = tokio::time::interval(TICK);
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
            self.begin();
            self.govern();
            if published.elapsed() >= PUBLISH {
                published = Instant::now();
                self.check();
                self.publish();
            }
            if trimmed.elapsed() >= TRIM {
                trimmed = Instant::now();
                node::trim();
            }
        }
        log::info!("ends: {} processes were watched", self.tracked.len());
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Swept(swept) => self.swept(swept),
            Message::Watched { id, news } => self.watched(id, news),
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
            let there: HashSet<ProcessId> = changes.started.iter().map(|found| found.id).collect();
            let gone = |id: &ProcessId| !there.contains(id);
            let known = self.tracked.values().map(|tracked| tracked.found.id);
            let gone: Vec<ProcessId> =
                known.chain(self.excluded.values().map(|found| found.id)).filter(gone).collect();
            gone.into_iter().for_each(|id| self.forget(id));
        }
        for found in changes.started {
            self.add(found);
        }
        // Whoever was there is found by the first sweep.
        self.earlier = Earlier::new();
    }

    fn add(&mut self, found: Found) {
        let pid = found.id.pid;
        if self.tracked.get(&pid).is_some_and(|tracked| tracked.found.id == found.id) {
            return;
        }
        let plan = Plan::of(&found.identity, &self.settings);
        let identity = named(&found.identity, &plan);
        log::debug!("PID {pid}: {} ({}, {})", identity.exe.display(), identity.module, identity.go_version);
        if plan.exclude {
            self.excluded.insert(pid, found);
            return;
        }
        let target = Arc::new(Target::new(&found, identity, Arc::clone(&self.binaries)));
        let waiting = self.tracked.values().filter(|tracked| tracked.waits_for_first()).count();
        let apart = FIRST_APART * u32::try_from(waiting).unwrap_or(u32::MAX);
        let first = (FIRST + apart).min(plan.interval.max(FIRST));
        let kept = self.earlier.remove(&(pid, found.id.start_ticks));
        self.tracked.insert(pid, Tracked::new(found, target, plan, first, kept));
    }

    fn forget(&mut self, id: ProcessId) {
        if self.tracked.get(&id.pid).is_some_and(|tracked| tracked.found.id == id) {
            self.tracked.remove(&id.pid);
        }
        if self.excluded.get(&id.pid).is_some_and(|found| found.id == id) {
            self.excluded.remove(&id.pid);
        }
        self.untrigger(id, None);
    }

    fn done(&mut self, id: ProcessId, work: Work, cost: f64, result: Result<Box<Told>, String>) {
        self.bucket.settle(cost);
        self.node.scans += u64::from(result.is_ok());
        self.node.scan_failures += u64::from(result.is_err());
        let scanned = match &result {
            Ok(told) => told.leaks.as_ref().map(|leaks| Some(scanned(leaks))),
            Err(_) => Some(None),
        };
        if let Some(tracked) = self.tracked.get_mut(&id.pid).filter(|tracked| tracked.found.id == id) {
            if let Err(error) = &result {
                if error.contains("replaced its program") {
                    self.discovery.look_again(id.pid);
                } else if !error.contains("has ended") {
                    log::warn!("PID {}: {error}", id.pid);
                }
                tracked.triggered = false;
            }
            tracked.told(work, result, &self.settings);
            if let Some(achieved) = tracked.achieved.filter(|_| work == Work::Scan) {
                self.achieved.0 += achieved.as_secs_f64();
                self.achieved.1 += 1;
            }
        }
        if let Some(scanned) = scanned {
            self.untrigger(id, scanned);
        }
    }

    /// Begins what is due, the latest first, as far as the budget goes.
    fn begin(&mut self) {
        let at = clock::now() as f64 / 1e9;
        let used = clock::process_cpu() as f64 / 1e9 + self.programs_seconds;
        self.bucket.read(at, used, self.settings.budget.node);
        let now = Instant::now();
        while self.pool.busy() < AT_ONCE {
            let looks = self.tracked.values().filter(|tracked| tracked.running == Some(Work::Look)).count();
            let (paid, may_look) = (self.bucket.has_left(), looks < LOOKS_AT_ONCE);
            let due = self.tracked.iter().filter_map(|(pid, tracked)| {
                let (work, late) = tracked.due(now)?;
                let allowed = (paid || late.is_infinite()) && (may_look || work != Work::Look);
                allowed.then_some((*pid, work, late))
            });
            let Some((pid, work, _)) = due.max_by(|one, other| one.2.total_cmp(&other.2)) else { break };
            self.start(pid, work);
        }
    }

    fn start(&mut self, pid: u32, work: Work) {
        let Some(tracked) = self.tracked.get_mut(&pid) else { return };
        tracked.running = Some(work);
        let (id, cost) = (tracked.found.id, tracked.estimate(work));
        self.bucket.promise(cost);
        let (target, past) = (Arc::clone(&tracked.target), Arc::clone(&tracked.past));
        let (settings, told) = (Arc::clone(&self.settings), self.told.clone());
        let run = Box::new(move || {
            // Also told when this panics.
            let failed = Err("looking at it failed inside sfgi, which is a bug".to_owned());
            let mut done =
                Report { message: Some(Message::Done { id, work, cost, result: failed }), to: told };
            let mut past = past.lock().unwrap_or_else(PoisonError::into_inner);
            let result = match work {
                Work::Scan => scan::poll(&target, &mut past, &settings),
                Work::Look => scan::look(&target, &mut past, &settings),
            };
            done.message = Some(Message::Done { id, work, cost, result: result.map(Box::new) });
        });
        self.pool.run(Task { about: pid, run });
    }

    /// Whether something hangs.
    fn check(&mut self) {
        for pid in self.pool.check() {
            self.complain(format!("PID {pid}: reading it does not end; it is left alone"));
            self.tracked.remove(&pid);
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
        let (instant, budget, top) = (Instant::now(), self.settings.budget, self.settings.top);
        let probes: f64 = self.tracked.values().map(|tracked| tracked.probed.program_cores()).sum();
        let processes: Vec<_> = self.tracked.values_mut().map(|tracked| tracked.picture(top)).collect();
        let unsupported = self.tracked.values().filter(|tracked| tracked.unsupported()).count() as u64;
        let (sum, number) = self.achieved;
        if number >= 2 * self.tracked.len().max(16) as u64 {
            self.achieved = (sum / 2.0, number / 2);
        }
        self.node = NodePicture {
            cpu_seconds: now.1 as f64 / 1e9,
            rss_bytes: node::rss_bytes(),
            bpf_seconds: probe::ran_ns().map(|ns| ns as f64 / 1e9),
            budget_cores: (budget.node, budget.process),
            used_cores: used_cores + probes,
            seen: Seen {
                tracked: self.tracked.len() as u64 - unsupported,
                excluded: self.excluded.len() as u64,
                unsupported,
                ..self.seen
            },
            scans_waiting: self.tracked.values().filter(|tracked| tracked.waits(instant)).count() as u64,
            interval_seconds: (
                self.settings.interval.as_secs_f64(),
                if number == 0 { 0.0 } else { sum / number as f64 },
            ),
            binaries: self.binaries.len(),
            errors: self.errors.iter().cloned().collect(),
            ..std::mem::take(&mut self.node)
        };
        let picture =
            Picture { unix_ns: scan::unix_ns(), monotonic_ns: now.0, node: self.node.clone(), processes };
        self.pictures.send_replace(Arc::new(picture));
    }

    /// Goes on by other settings; nothing that is known is lost.
    fn reload(&mut self, settings: Settings) {
        self.settings = Arc::new(settings);
        self.discovery.set(Arc::clone(&self.settings));
        let all = self.tracked.values().map(|tracked| &tracked.found).chain(self.excluded.values());
        let all: Vec<Found> = all.cloned().collect();
        for found in all {
            let plan = Plan::of(&found.identity, &self.settings);
            let pid = found.id.pid;
            if plan.exclude {
                self.tracked.remove(&pid);
                self.excluded.insert(pid, found);
            } else if let Some(tracked) = self.tracked.get_mut(&pid) {
                let identity = named(&found.identity, &plan);
                tracked.replan(plan, Arc::new(Target::new(&found, identity, Arc::clone(&self.binaries))));
            } else {
                self.excluded.remove(&pid);
                self.add(found);
            }
        }
        log::info!("goes on with other settings");
    }
}
