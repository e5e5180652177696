//! The workers that look at targets, as the server has them: which are there, what each does, how much memory it may take, and
//! when it is ended.
//!
//! A worker that says nothing for `scan.timeout` is killed: its target does not answer, or has it compute without end.
//! So whatever a target does costs one worker for that long, and its program waits for the next try twice as long each time.
//! Targets that were never read to the end, or were not the last time, share one worker, and those of one user never take
//! all: the others are read at their interval.

use super::wire::{self, Ask, End, Failure, Job, ProbeAsk, ProbeSaid, Role, Said, Sweeper};
use crate::agent::{
    alert::hook::HookJob,
    launcher::{Ended, Launcher, Report},
    picture::ProcessId,
    watch::target::TargetSpec,
};
use bytes::Bytes;
use sfgi_core::{budget, clock, process::rss_bytes};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::unix::net::UnixStream as StdStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::UnixStream,
    sync::mpsc,
    time::{sleep_until, timeout},
};

/// Workers that scan, started when they are needed, and those that answer requests: a client's questions hold up no scan.
pub(crate) const READERS: usize = 3;
const ANSWERERS: usize = 2;
/// Streams at the same time that clients asked for, and those that alerts asked for, as many as `alert/act.rs` begins:
/// what clients trace must not keep evidence from being taken.
const CLIENT_STREAMS: usize = 4;
const ALERT_STREAMS: usize = 4;
/// Reads that wait for a worker; beyond that they are refused. Streams have `CLIENT_STREAMS` and `ALERT_STREAMS`.
const MAX_WAITING: usize = 8;
/// How long a read or a stream waits for a worker and for memory before it is refused: as long as clients usually wait.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// The longest that one job may take, however steadily its worker beats.
const LONGEST: Duration = Duration::from_secs(180);
/// How long a client may leave a piece of its document unread.
const UNREAD: Duration = Duration::from_secs(30);
/// Jobs after which a reader is replaced: whatever leaked or fragmented in it is gone with it.
const JOBS: u32 = 10_000;
/// What a process needs beside what it allocates: stacks, page tables, the pages of the program that it alone touches.
const OVERHEAD: u64 = 4 << 20;

/// The shares of the memory budget, in sixteenths. What is left is for readers and streams.
const SIXTEENTHS_SERVER: u64 = 4;
const SIXTEENTHS_PROGRAM: u64 = 2;
const SIXTEENTHS_SWEEPER: u64 = 1;
const SIXTEENTHS_PROBER: u64 = 2;
/// Those that are not granted to workers one by one.
const SIXTEENTHS_FIXED: u64 = SIXTEENTHS_SERVER + SIXTEENTHS_PROGRAM + SIXTEENTHS_SWEEPER;
/// A job has this share where nobody knows better.
const SIXTEENTHS_JOB: u64 = 2;

/// For whom a reader works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Scans,
    Requests,
}

/// News from the workers, for the core.
#[derive(Debug)]
pub(crate) enum PoolNews {
    Report(Report),
    Swept(Sweeper),
    Probed(ProbeSaid),
    /// It said something that is no message, or fell silent.
    Lost {
        pid: u32,
        hangs: bool,
    },
    /// A reader has done its job, and its socket is free again.
    Free {
        pid: u32,
        socket: UnixStream,
        used: u64,
        end: Box<End>,
    },
}

type Tell = Arc<dyn Fn(PoolNews) + Send + Sync>;

/// Called with how a job ended.
pub(crate) type Done = Box<dyn FnOnce(Result<End, Failure>) + Send>;

/// What is to be done with a target.
pub(crate) struct Task {
    pub(crate) target: Arc<TargetSpec>,
    pub(crate) ask: Ask,
    /// Bytes that the worker may hold; 0: the usual share.
    pub(crate) limit: u64,
    /// It was never read to the end, or was not the last time.
    pub(crate) unproven: bool,
    /// Where the pieces of a document go; `None` for a scan.
    pub(crate) pieces: Option<mpsc::Sender<Bytes>>,
    pub(crate) done: Done,
}

/// A stream that is to be followed by a worker of its own.
pub(crate) struct Following {
    pub(crate) ask: ProbeAsk,
    pub(crate) for_alert: bool,
    pub(crate) pieces: mpsc::Sender<Bytes>,
    /// Called once the probes stand.
    pub(crate) begun: Box<dyn FnOnce() + Send>,
    pub(crate) done: Box<dyn FnOnce(Result<(), Failure>) + Send>,
}

/// What waits for a worker or for memory.
enum Waiting {
    Read(Task),
    Follow(Box<Following>),
}

impl Waiting {
    /// Whether nobody would take what it makes any more.
    fn is_given_up(&self) -> bool {
        match self {
            Waiting::Read(task) => task.pieces.as_ref().is_some_and(mpsc::Sender::is_closed),
            Waiting::Follow(following) => following.pieces.is_closed(),
        }
    }

    /// Ends without a worker.
    fn refuse(self, failure: Failure) {
        match self {
            Waiting::Read(task) => (task.done)(Err(failure)),
            Waiting::Follow(following) => (following.done)(Err(failure)),
        }
    }
}

/// What a worker was ordered for.
enum Purpose {
    Sweep,
    Read(Lane),
    Probe,
    Follow(Box<Following>),
    Hook(Box<HookJob>, HookDone),
}

/// Called with how a hook ended.
pub(crate) type HookDone = Box<dyn FnOnce(Result<(), String>) + Send>;

/// What a worker does.
enum State {
    Idle(UnixStream),
    Busy {
        about: ProcessId,
        uid: u32,
        unproven: bool,
        done: Option<Done>,
        limit: u64,
        /// When it said something last, on the monotonic clock.
        heard: Heard,
    },
    /// Its messages come by themselves; frames for it go here.
    Talks(mpsc::UnboundedSender<Vec<u8>>),
    Follows {
        for_alert: bool,
    },
    RunsHook,
    /// It is being killed; the core hears of it when it has ended.
    Dying {
        why: Failure,
        done: Option<Done>,
    },
}

/// When a worker said something last, shared with the task that listens to it. Relaxed: it guards no data.
#[derive(Clone, Default)]
struct Heard(Arc<AtomicU64>);

impl Heard {
    fn now(&self) {
        self.0.store(clock::now(), Ordering::Relaxed);
    }

    fn ago(&self) -> Duration {
        Duration::from_nanos(clock::now().saturating_sub(self.0.load(Ordering::Relaxed)))
    }
}

struct Worker {
    purpose: Kind,
    state: State,
    /// Bytes that it may take, of the budget.
    grant: u64,
    jobs: u32,
    /// It was forked before the configuration changed: it is given no other job.
    old: bool,
}

impl Worker {
    fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle(_))
    }

    fn takes_jobs(&self) -> bool {
        self.is_idle() && !self.old
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sweeper,
    Reader(Lane),
    Prober,
    Follower,
    Hook,
}

impl Kind {
    fn is_for_clients(self) -> bool {
        match self {
            Kind::Reader(Lane::Requests) | Kind::Follower | Kind::Hook => true,
            Kind::Reader(Lane::Scans) | Kind::Sweeper | Kind::Prober => false,
        }
    }
}

/// What became of the worker that swept or probed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    Sweeper,
    Prober {
        hung: bool,
        /// Why, as a clause.
        why: String,
    },
}

pub(crate) struct Pool {
    launcher: Launcher,
    tell: Tell,
    /// How long a worker may say nothing.
    silence: Duration,
    /// Bytes that all processes of the agent may take.
    memory: u64,
    workers: BTreeMap<u32, Worker>,
    /// In the order in which the launcher was asked.
    ordered: VecDeque<Purpose>,
    /// Frames for a prober that is ordered and not there yet.
    unsent: Vec<Vec<u8>>,
    /// Reads and streams that have not begun, the oldest first.
    waiting: VecDeque<(Instant, Waiting)>,
    /// CPU time of workers that have ended, nanoseconds: of those that worked for clients, and of the others.
    ended_cpu_ns: (u64, u64),
    /// Workers that were ended because they hung.
    hung: u64,
}

impl Pool {
    pub(crate) fn new(
        launcher: Launcher,
        memory: u64,
        silence: Duration,
        tell: impl Fn(PoolNews) + Send + Sync + 'static,
    ) -> io::Result<Pool> {
        let tell: Tell = Arc::new(tell);
        let (mut reports, told) = (launcher.reports()?, Arc::clone(&tell));
        std::thread::Builder::new().name("reports".to_owned()).spawn(move || {
            while let Some(report) = reports.next() {
                told(PoolNews::Report(report));
            }
        })?;
        let (workers, ordered, waiting) = (BTreeMap::new(), VecDeque::new(), VecDeque::new());
        let (unsent, ended_cpu_ns, hung) = (Vec::new(), (0, 0), 0);
        Ok(Pool { launcher, tell, silence, memory, workers, ordered, unsent, waiting, ended_cpu_ns, hung })
    }

    /// Bytes for the server itself.
    pub(crate) fn server_share(&self) -> u64 {
        self.share(SIXTEENTHS_SERVER)
    }

    /// The most that one job may have: half of what readers share. A job that needs all of it would wait until nothing else runs,
    /// which on a busy host is never.
    pub(crate) fn most(&self) -> u64 {
        (self.share(16 - SIXTEENTHS_FIXED) / 2).saturating_sub(OVERHEAD)
    }

    /// What this job may have.
    fn limit_of(&self, task: &Task) -> u64 {
        if task.limit == 0 { self.share(SIXTEENTHS_JOB) } else { task.limit.min(self.most()) }
    }

    fn share(&self, sixteenths: u64) -> u64 {
        self.memory / 16 * sixteenths
    }

    fn left(&self) -> u64 {
        let fixed = self.share(SIXTEENTHS_FIXED);
        let granted = self.workers.values().filter(|worker| worker.purpose != Kind::Sweeper);
        let granted: u64 = granted.map(|worker| worker.grant).sum();
        // Workers that are ordered and not there yet: otherwise two streams would be given the same room.
        let ordered = self.ordered.iter().filter(|purpose| !matches!(purpose, Purpose::Sweep));
        let ordered: u64 = ordered.map(|purpose| self.grant_of(purpose)).sum();
        self.memory.saturating_sub(fixed + granted + ordered)
    }

    /// Bytes that a worker may take from its start on.
    fn grant_of(&self, purpose: &Purpose) -> u64 {
        match purpose {
            Purpose::Sweep => self.share(SIXTEENTHS_SWEEPER),
            Purpose::Probe | Purpose::Follow(_) => self.share(SIXTEENTHS_PROBER) + OVERHEAD,
            Purpose::Read(_) | Purpose::Hook(..) => OVERHEAD,
        }
    }

    /// Workers that were ended because they hung, ever.
    pub(crate) fn hung(&self) -> u64 {
        self.hung
    }

    /// Workers that scan and have been silent for more than half of what they may.
    pub(crate) fn silent(&self) -> u64 {
        let half = self.silence / 2;
        let silent =
            |worker: &&Worker| matches!(&worker.state, State::Busy { heard, .. } if heard.ago() > half);
        self.readers(Lane::Scans).filter(silent).count() as u64
    }

    /// Ends the prober, because a session of it hangs.
    pub(crate) fn end_prober(&mut self) {
        let prober = self.workers.iter().find(|(_, worker)| {
            worker.purpose == Kind::Prober && !matches!(worker.state, State::Dying { .. })
        });
        if let Some(pid) = prober.map(|(pid, _)| *pid) {
            self.hung += 1;
            self.kill(pid, Failure::Hangs);
        }
    }

    fn readers(&self, lane: Lane) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(move |worker| worker.purpose == Kind::Reader(lane))
    }

    /// The reader for a scan of this target, if it may begin now; `last` is the one that scanned it last, and knows it.
    pub(crate) fn reader_for(
        &mut self,
        target: &TargetSpec,
        last: Option<u32>,
        unproven: bool,
        late: bool,
    ) -> Option<u32> {
        let busy: Vec<(u32, bool)> = self
            .readers(Lane::Scans)
            .filter_map(|worker| match worker.state {
                State::Busy { uid, unproven, .. } => Some((uid, unproven)),
                _ => None,
            })
            .collect();
        let of_user = busy.iter().filter(|(uid, _)| *uid == target.uid).count();
        if of_user >= READERS - 1 || (unproven && busy.iter().any(|(_, unproven)| *unproven)) {
            return None;
        }
        if let Some((pid, worker)) = last.and_then(|pid| self.workers.get_key_value(&pid)) {
            if worker.takes_jobs() {
                return Some(*pid);
            }
            if !late {
                return None;
            }
        }
        let found = self.idle_reader(Lane::Scans);
        if found.is_none() {
            self.order_reader(Lane::Scans, READERS);
        }
        found
    }

    /// A reader of this lane that may be given a job.
    fn idle_reader(&self, lane: Lane) -> Option<u32> {
        let mut readers = self.workers.iter().filter(|(_, worker)| worker.purpose == Kind::Reader(lane));
        readers.find(|(_, worker)| worker.takes_jobs()).map(|(pid, _)| *pid)
    }

    fn order_reader(&mut self, lane: Lane, most: usize) {
        let ordered =
            self.ordered.iter().filter(|one| matches!(one, Purpose::Read(other) if *other == lane)).count();
        let there = self.readers(lane).filter(|worker| !worker.old).count();
        if ordered + there < most {
            self.order(Role::Reader, Purpose::Read(lane));
        }
    }

    fn order(&mut self, role: Role, purpose: Purpose) {
        match self.launcher.start(role) {
            Ok(()) => self.ordered.push_back(purpose),
            Err(error) => log::error!("no worker can be ordered: {error}"),
        }
    }

    /// Orders the worker that finds processes.
    pub(crate) fn sweep(&mut self, skipped: Vec<i32>) {
        self.order(Role::Sweeper { skipped }, Purpose::Sweep);
    }

    /// Sends a frame to the sweeper. Where there is none, the next one looks at all processes anyway.
    pub(crate) fn send_sweeper(&self, again: &wire::Again) {
        self.send(Kind::Sweeper, again);
    }

    /// Sends a frame to the prober; where there is none, one is ordered, and gets it.
    pub(crate) fn send_prober(&mut self, ask: &ProbeAsk) {
        if self.send(Kind::Prober, ask) || matches!(ask, ProbeAsk::Stop { .. }) {
            return;
        }
        self.unsent.extend(wire::frame(ask));
        if !self.ordered.iter().any(|one| matches!(one, Purpose::Probe)) {
            self.order(Role::Prober { limit: self.share(SIXTEENTHS_PROBER) }, Purpose::Probe);
        }
    }

    fn send(&self, kind: Kind, message: &impl serde::Serialize) -> bool {
        let to = self.workers.values().find_map(|worker| match &worker.state {
            State::Talks(to) if worker.purpose == kind && !worker.old => Some(to),
            _ => None,
        });
        let (Some(to), Ok(frame)) = (to, wire::frame(message)) else { return false };
        to.send(frame).is_ok()
    }

    /// Has a reader do it. Call only with what [`Pool::reader_for`] gave. `false`: there is no room for it now, and nothing was
    /// begun.
    pub(crate) fn scan(&mut self, pid: u32, task: Task) -> bool {
        let limit = self.limit_of(&task);
        let fits = self.make_room(pid, limit + OVERHEAD);
        if fits {
            self.begin(pid, limit, task);
        }
        fits
    }

    /// Whether `grant` fits for this worker; idle ones are ended where that makes it fit.
    fn make_room(&mut self, pid: u32, grant: u64) -> bool {
        let own = self.workers.get(&pid).map_or(0, |worker| worker.grant);
        if grant <= own + self.left() {
            return true;
        }
        let idle: Vec<u32> = self
            .workers
            .iter()
            .filter(|(other, worker)| **other != pid && worker.is_idle())
            .map(|(pid, _)| *pid)
            .collect();
        let more: u64 = idle.iter().filter_map(|pid| self.workers.get(pid)).map(|worker| worker.grant).sum();
        if grant <= own + self.left() + more {
            // The room is there when they have ended.
            idle.into_iter().for_each(|pid| self.kill(pid, Failure::Ended));
        }
        false
    }

    /// Answers a request as soon as a worker is free.
    pub(crate) fn ask(&mut self, task: Task) {
        let reads = self.waiting.iter().filter(|(_, waiting)| matches!(waiting, Waiting::Read(_)));
        if reads.count() >= MAX_WAITING {
            let why = "too many requests wait for a worker already: try again later";
            return (task.done)(Err(Failure::TooDear(why.to_owned())));
        }
        self.waiting.push_back((Instant::now(), Waiting::Read(task)));
        self.begin_waiting();
    }

    /// Refuses reads and streams that have waited too long for a worker or for memory.
    pub(crate) fn refuse_old(&mut self) {
        let mut refused = false;
        while let Some((_, waiting)) = self.waiting.pop_front_if(|(since, _)| since.elapsed() > LONGEST_WAIT)
        {
            let why = format!(
                "there was no worker or no memory for it within {LONGEST_WAIT:?}: try again later, or raise --memory"
            );
            waiting.refuse(Failure::TooDear(why));
            refused = true;
        }
        if refused {
            self.begin_waiting();
        }
    }

    /// Begins what there are workers and memory for. A read that waits holds up the reads behind it, and a stream the streams,
    /// so that each has its turn. A stream may wait for the end of a long one, which is no reason to read nothing.
    fn begin_waiting(&mut self) {
        let (mut reads_wait, mut streams_wait) = (false, false);
        for (since, waiting) in std::mem::take(&mut self.waiting) {
            let (line_waits, left) = match waiting {
                // One that waits for a client who has gone needs no worker.
                waiting if waiting.is_given_up() => continue,
                Waiting::Read(task) if reads_wait => (&mut reads_wait, Some(Waiting::Read(task))),
                Waiting::Read(task) => (&mut reads_wait, self.begin_read(task).map(Waiting::Read)),
                Waiting::Follow(stream) if streams_wait => (&mut streams_wait, Some(Waiting::Follow(stream))),
                Waiting::Follow(stream) => {
                    (&mut streams_wait, self.begin_stream(stream).map(Waiting::Follow))
                }
            };
            if let Some(left) = left {
                *line_waits = true;
                self.waiting.push_back((since, left));
            }
        }
    }

    /// Gives the task to a reader; where there is none for it, or no room, returns it.
    fn begin_read(&mut self, task: Task) -> Option<Task> {
        let same =
            |worker: &Worker| matches!(&worker.state, State::Busy { about, .. } if *about == task.target.id);
        let of_target = self.readers(Lane::Requests).any(same);
        let Some(pid) = self.idle_reader(Lane::Requests) else {
            self.order_reader(Lane::Requests, ANSWERERS);
            return Some(task);
        };
        let limit = self.limit_of(&task);
        if of_target || !self.make_room(pid, limit + OVERHEAD) {
            return Some(task);
        }
        self.begin(pid, limit, task);
        None
    }

    /// Orders a worker for the stream; where there is no room for it, returns it.
    fn begin_stream(&mut self, following: Box<Following>) -> Option<Box<Following>> {
        let limit = self.share(SIXTEENTHS_PROBER);
        if !self.make_room(0, limit + OVERHEAD) {
            return Some(following);
        }
        self.order(Role::Prober { limit }, Purpose::Follow(following));
        None
    }

    fn begin(&mut self, pid: u32, limit: u64, task: Task) {
        let Some(worker) = self.workers.get_mut(&pid) else { return (task.done)(Err(Failure::Hangs)) };
        let Task { target, ask, unproven, pieces, done, .. } = task;
        let heard = Heard::default();
        heard.now();
        let busy = State::Busy {
            about: target.id,
            uid: target.uid,
            unproven,
            done: Some(done),
            limit,
            heard: heard.clone(),
        };
        let State::Idle(socket) = std::mem::replace(&mut worker.state, busy) else { return };
        worker.grant = limit + OVERHEAD;
        worker.jobs += 1;
        let (tell, silence) = (Arc::clone(&self.tell), self.silence);
        let job = Job { target, limit, ask };
        tokio::spawn(async move { tell(converse(pid, socket, job, pieces, silence, &heard).await) });
    }

    /// Follows a target with a worker of its own, as soon as there is memory for it.
    pub(crate) fn follow(&mut self, following: Following) {
        let for_alert = following.for_alert;
        let (most, word) =
            if for_alert { (ALERT_STREAMS, "for alerts") } else { (CLIENT_STREAMS, "for clients") };
        let there = self.workers.values().filter(
            |worker| matches!(worker.state, State::Follows { for_alert: other } if other == for_alert),
        );
        let ordered = self
            .ordered
            .iter()
            .filter(|purpose| matches!(purpose, Purpose::Follow(other) if other.for_alert == for_alert));
        let waiting = self
            .waiting
            .iter()
            .filter(|(_, waiting)| matches!(waiting, Waiting::Follow(other) if other.for_alert == for_alert));
        if there.count() + ordered.count() + waiting.count() >= most {
            let why = format!("{most} processes are followed {word} already: try again later");
            return (following.done)(Err(Failure::TooDear(why)));
        }
        self.waiting.push_back((Instant::now(), Waiting::Follow(Box::new(following))));
        self.begin_waiting();
    }

    /// Has a worker run a hook.
    pub(crate) fn hook(&mut self, job: HookJob, done: HookDone) {
        self.order(Role::Hook, Purpose::Hook(Box::new(job), done));
    }

    /// Takes in a report of the launcher. Returns what became of the sweeper or the prober.
    pub(crate) fn report(&mut self, report: Report) -> Option<Lost> {
        match report {
            Report::Started { pid, socket } => {
                let Some(purpose) = self.ordered.pop_front() else {
                    self.end(pid);
                    return None;
                };
                self.started(pid, socket, purpose);
                None
            }
            Report::Refused(why) => {
                log::error!("no worker can be started: {why}");
                match self.ordered.pop_front()? {
                    Purpose::Sweep => Some(Lost::Sweeper),
                    Purpose::Probe => {
                        Some(Lost::Prober { hung: false, why: format!("it cannot be started: {why}") })
                    }
                    Purpose::Read(_) => None,
                    Purpose::Follow(following) => {
                        (following.done)(Err(Failure::Other(format!("no worker can be started: {why}"))));
                        None
                    }
                    Purpose::Hook(_, done) => {
                        done(Err(format!("no worker can be started: {why}")));
                        None
                    }
                }
            }
            Report::Ended(ended) => self.ended(ended),
        }
    }

    fn started(&mut self, pid: u32, socket: StdStream, purpose: Purpose) {
        let socket = socket.set_nonblocking(true).and_then(|()| UnixStream::from_std(socket));
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                log::error!("a worker cannot be talked to: {error}");
                return self.end(pid);
            }
        };
        let (tell, silence) = (Arc::clone(&self.tell), self.silence);
        let grant = self.grant_of(&purpose);
        let (kind, state) = match purpose {
            Purpose::Sweep => {
                let to = talk(pid, socket, silence, tell, PoolNews::Swept);
                (Kind::Sweeper, State::Talks(to))
            }
            Purpose::Probe => {
                // Sessions beat each half second, but there may be none.
                let to = talk(pid, socket, Duration::MAX, tell, PoolNews::Probed);
                for frame in self.unsent.drain(..) {
                    let _ = to.send(frame);
                }
                (Kind::Prober, State::Talks(to))
            }
            Purpose::Read(lane) => (Kind::Reader(lane), State::Idle(socket)),
            Purpose::Hook(job, done) => {
                tokio::spawn(async move {
                    done(run_hook(socket, *job).await);
                    tell(PoolNews::Lost { pid, hangs: false });
                });
                (Kind::Hook, State::RunsHook)
            }
            Purpose::Follow(following) => {
                let for_alert = following.for_alert;
                tokio::spawn(async move {
                    let hangs = follow(socket, *following, silence).await;
                    tell(PoolNews::Lost { pid, hangs });
                });
                (Kind::Follower, State::Follows { for_alert })
            }
        };
        self.workers.insert(pid, Worker { purpose: kind, state, grant, jobs: 0, old: false });
        self.begin_waiting();
    }

    /// A reader has done its job.
    pub(crate) fn free(&mut self, pid: u32, socket: UnixStream, used: u64, end: End) {
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        let State::Busy { done, limit, .. } = &mut worker.state else { return };
        let (done, limit) = (done.take(), *limit);
        worker.state = State::Idle(socket);
        worker.grant = used.min(limit) + OVERHEAD;
        let spent = worker.old || worker.jobs >= JOBS;
        if let Some(done) = done {
            done(match end {
                End::Failed(failure) => Err(failure),
                end => Ok(end),
            });
        }
        if spent {
            self.kill(pid, Failure::Ended);
        }
        self.begin_waiting();
    }

    /// A worker fell silent, said nonsense, or has ended within its work.
    pub(crate) fn lost(&mut self, pid: u32, hangs: bool) {
        self.hung += u64::from(hangs);
        let state = self.workers.get(&pid).map(|worker| &worker.state);
        let why = match state {
            _ if hangs => Failure::Hangs,
            // Whether it is so is told by its exit code.
            Some(State::Busy { limit, .. }) => Failure::Exhausted { limit: *limit },
            _ => Failure::Ended,
        };
        self.kill(pid, why);
    }

    fn kill(&mut self, pid: u32, why: Failure) {
        if let Some(worker) = self.workers.get_mut(&pid) {
            let done = match &mut worker.state {
                State::Busy { done, .. } => done.take(),
                _ => None,
            };
            worker.state = State::Dying { why, done };
        }
        self.end(pid);
    }

    fn end(&self, pid: u32) {
        if let Err(error) = self.launcher.kill(pid) {
            log::error!("a worker cannot be ended: {error}");
        }
    }

    fn ended(&mut self, ended: Ended) -> Option<Lost> {
        let worker = self.workers.remove(&ended.pid);
        match worker.as_ref().is_some_and(|worker| worker.purpose.is_for_clients()) {
            true => self.ended_cpu_ns.0 += ended.cpu_ns,
            false => self.ended_cpu_ns.1 += ended.cpu_ns,
        }
        let worker = worker?;
        let exhausted = ended.code == Some(budget::EXIT_CODE);
        let hung = matches!(worker.state, State::Dying { why: Failure::Hangs, .. });
        let (why, done) = match worker.state {
            State::Dying { why: Failure::Hangs, done } => (Failure::Hangs, done),
            State::Dying { why: Failure::Exhausted { limit }, done } if exhausted => {
                (Failure::Exhausted { limit }, done)
            }
            State::Busy { done, limit, .. } if exhausted => (Failure::Exhausted { limit }, done),
            State::Dying { done, .. } | State::Busy { done, .. } => {
                (Failure::Other("the process that looked at it was ended".to_owned()), done)
            }
            State::Idle(_) | State::Talks(_) | State::Follows { .. } | State::RunsHook => {
                (Failure::Ended, None)
            }
        };
        if let Some(done) = done {
            done(Err(why));
        }
        let lost = match worker.purpose {
            Kind::Sweeper => Some(Lost::Sweeper),
            Kind::Prober => Some(Lost::Prober { hung, why: how(&ended) }),
            Kind::Reader(_) | Kind::Follower | Kind::Hook => None,
        };
        self.begin_waiting();
        lost
    }

    /// The configuration has changed: all that is idle is ended now, the rest after what it does.
    pub(crate) fn renew(&mut self, memory: u64, silence: Duration) {
        (self.memory, self.silence) = (memory, silence);
        let mut idle = Vec::new();
        for (pid, worker) in &mut self.workers {
            match worker.purpose {
                Kind::Reader(_) => {
                    worker.old = true;
                    if worker.is_idle() {
                        idle.push(*pid);
                    }
                }
                // It names processes by the configuration.
                Kind::Sweeper => idle.push(*pid),
                Kind::Prober | Kind::Follower | Kind::Hook => {}
            }
        }
        idle.into_iter().for_each(|pid| self.kill(pid, Failure::Ended));
    }

    /// CPU time of workers, ended ones included, nanoseconds: of those that work for clients, and of the others. Clients have a
    /// pace of their own; what they ask for must not keep scans from the budget.
    pub(crate) fn cpu_ns(&self) -> (u64, u64) {
        let (mut clients, mut own) = self.ended_cpu_ns;
        for (pid, worker) in &self.workers {
            // Nothing of one that has ended meanwhile: its report says it all.
            let cpu_ns = clock::cpu_of(*pid).unwrap_or(0);
            if worker.purpose.is_for_clients() { clients += cpu_ns } else { own += cpu_ns }
        }
        (clients, own)
    }

    /// Memory of all workers, bytes.
    pub(crate) fn rss_bytes(&self) -> u64 {
        self.workers.keys().filter_map(|pid| rss_bytes(*pid)).sum()
    }
}

/// Has a reader do a job, and hands on the pieces of the document that it makes.
async fn converse(
    pid: u32,
    mut socket: UnixStream,
    job: Job,
    pieces: Option<mpsc::Sender<Bytes>>,
    silence: Duration,
    heard: &Heard,
) -> PoolNews {
    let lost = |hangs| PoolNews::Lost { pid, hangs };
    let until = tokio::time::Instant::now() + LONGEST;
    if !matches!(timeout(silence, wire::send_to(&mut socket, &job)).await, Ok(Ok(()))) {
        return lost(false);
    }
    loop {
        let said = tokio::select! {
            said = timeout(silence, wire::receive_from::<Said>(&mut socket)) => said,
            () = sleep_until(until) => return lost(true),
        };
        heard.now();
        match said {
            Err(_) => return lost(true),
            Ok(Err(_)) => return lost(false),
            Ok(Ok(Said::Beat)) => {}
            Ok(Ok(Said::Chunk(bytes))) => {
                let Some(pieces) = &pieces else { return lost(false) };
                // A client that has gone, or does not read: its worker is ended, because it cannot be told.
                if !matches!(timeout(UNREAD, pieces.send(bytes.into())).await, Ok(Ok(()))) {
                    return lost(false);
                }
            }
            Ok(Ok(Said::End { end, used })) => {
                return PoolNews::Free { pid, socket, used, end: Box::new(end) };
            }
        }
    }
}

/// How a worker ended, as a clause.
fn how(ended: &Ended) -> String {
    match (ended.code, ended.signal) {
        (Some(budget::EXIT_CODE), _) => "it had used up its memory: raise --memory".to_owned(),
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(libc::SIGKILL)) => {
            "it was killed (signal 9): by the kernel for want of memory, by the agent for its silence, or by hand".to_owned()
        }
        (None, Some(signal)) => format!("signal {signal} killed it"),
        (None, None) => "nothing says why".to_owned(),
    }
}

/// How long the worker of a hook may take beyond the hook's own time limit: to kill what the hook has started.
const HOOK_KILLED: Duration = Duration::from_secs(10);

async fn run_hook(mut socket: UnixStream, job: HookJob) -> Result<(), String> {
    let until = job.timeout + HOOK_KILLED;
    let ended = timeout(until, async {
        wire::send_to(&mut socket, &job).await?;
        wire::receive_from::<Result<(), String>>(&mut socket).await
    });
    match ended.await {
        Ok(Ok(ended)) => ended,
        Ok(Err(error)) => Err(format!("the process that ran the hook was ended: {error}")),
        Err(_) => Err("the hook cannot be killed".to_owned()),
    }
}

/// Hands on what a worker says by itself. Returns where frames for it go.
fn talk<T: serde::de::DeserializeOwned + Send + 'static>(
    pid: u32,
    socket: UnixStream,
    silence: Duration,
    tell: Tell,
    news: fn(T) -> PoolNews,
) -> mpsc::UnboundedSender<Vec<u8>> {
    let (to, mut frames) = mpsc::unbounded_channel::<Vec<u8>>();
    let (mut read, mut write) = socket.into_split();
    tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if tokio::io::AsyncWriteExt::write_all(&mut write, &frame).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        loop {
            match timeout(silence, wire::receive_from::<T>(&mut read)).await {
                Ok(Ok(said)) => tell(news(said)),
                Ok(Err(_)) => return tell(PoolNews::Lost { pid, hangs: false }),
                Err(_) => return tell(PoolNews::Lost { pid, hangs: true }),
            }
        }
    });
    to
}

/// Follows a stream to its end. Returns whether its worker hung.
async fn follow(mut socket: UnixStream, following: Following, silence: Duration) -> bool {
    let Following { ask, pieces, begun, done, .. } = following;
    let mut begun = Some(begun);
    let lost = || Failure::Other("the process that followed it was ended".to_owned());
    if wire::send_to(&mut socket, &ask).await.is_err() {
        done(Err(lost()));
        return false;
    }
    loop {
        let said = tokio::select! {
            said = timeout(silence, wire::receive_from::<ProbeSaid>(&mut socket)) => said,
            // The client has gone: so do the probes.
            () = pieces.closed() => {
                done(Ok(()));
                return false;
            }
        };
        match said {
            Err(_) => {
                done(Err(Failure::Hangs));
                return true;
            }
            Ok(Err(_)) | Ok(Ok(ProbeSaid::News { .. })) => {
                done(Err(lost()));
                return false;
            }
            Ok(Ok(ProbeSaid::Beat)) => {}
            Ok(Ok(ProbeSaid::StreamBegun)) => {
                if let Some(begun) = begun.take() {
                    begun();
                }
            }
            Ok(Ok(ProbeSaid::Chunk(bytes))) => {
                if !matches!(timeout(UNREAD, pieces.send(bytes.into())).await, Ok(Ok(()))) {
                    done(Ok(()));
                    return false;
                }
            }
            Ok(Ok(ProbeSaid::StreamEnded(failure))) => {
                done(failure.map_or(Ok(()), Err));
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::OwnedFd;
    use std::sync::mpsc::{Receiver, TryRecvError, channel};

    /// A pool without workers, and the other end of its launcher.
    fn pool() -> (Pool, OwnedFd) {
        let (launcher, orders) = Launcher::of_a_test().unwrap();
        (Pool::new(launcher, 256 << 20, Duration::from_secs(30), |_| {}).unwrap(), orders)
    }

    /// A worker that takes so much of the memory.
    fn takes(pool: &mut Pool, pid: u32, grant: u64) {
        let worker = Worker { purpose: Kind::Hook, state: State::RunsHook, grant, jobs: 0, old: false };
        pool.workers.insert(pid, worker);
    }

    fn ends(pool: &mut Pool, pid: u32) {
        pool.report(Report::Ended(Ended { pid, code: Some(0), signal: None, cpu_ns: 0 }));
    }

    /// A stream for a client, and how it ends.
    fn follow(pool: &mut Pool) -> (Receiver<Result<(), Failure>>, mpsc::Receiver<Bytes>) {
        let ((pieces, taken), (end, ended)) = (mpsc::channel(1), channel());
        let done = Box::new(move |how| drop(end.send(how)));
        let ask = ProbeAsk::Stop { number: 0 };
        pool.follow(Following { ask, for_alert: false, pieces, begun: Box::new(|| {}), done });
        (ended, taken)
    }

    #[test]
    fn a_stream_waits_for_memory() {
        let (mut pool, _orders) = pool();
        let all = pool.left();
        takes(&mut pool, 1, all);
        let (ended, _taken) = follow(&mut pool);
        assert_eq!(ended.try_recv().unwrap_err(), TryRecvError::Empty);
        assert!(pool.ordered.is_empty());
        ends(&mut pool, 1);
        assert!(matches!(pool.ordered.make_contiguous(), [Purpose::Follow(_)]));
        assert_eq!(ended.try_recv().unwrap_err(), TryRecvError::Empty);
    }

    #[test]
    fn a_stream_that_is_ordered_has_its_memory_already() {
        let (mut pool, _orders) = pool();
        let one = pool.share(SIXTEENTHS_PROBER) + OVERHEAD;
        let all = pool.left();
        takes(&mut pool, 1, all - 2 * one + 1);
        let (_first, _second) = (follow(&mut pool), follow(&mut pool));
        assert_eq!((pool.ordered.len(), pool.waiting.len()), (1, 1));
    }

    #[test]
    fn a_stream_that_waits_for_too_long_is_refused_and_one_that_nobody_takes_needs_no_worker() {
        let (mut pool, _orders) = pool();
        let all = pool.left();
        takes(&mut pool, 1, all);
        let (ended, _taken) = follow(&mut pool);
        pool.refuse_old();
        assert_eq!(ended.try_recv().unwrap_err(), TryRecvError::Empty);
        pool.waiting[0].0 -= LONGEST_WAIT + Duration::from_secs(1);
        pool.refuse_old();
        assert!(matches!(ended.try_recv(), Ok(Err(Failure::TooDear(_)))));
        drop(follow(&mut pool));
        ends(&mut pool, 1);
        assert!(pool.ordered.is_empty() && pool.waiting.is_empty());
    }

    #[test]
    fn streams_that_wait_count_as_streams() {
        let (mut pool, _orders) = pool();
        let all = pool.left();
        takes(&mut pool, 1, all);
        let _wait: Vec<_> = (0..CLIENT_STREAMS).map(|_| follow(&mut pool)).collect();
        let (ended, _taken) = follow(&mut pool);
        assert!(matches!(ended.try_recv(), Ok(Err(Failure::TooDear(_)))));
    }
}
