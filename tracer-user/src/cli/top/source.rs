//! Where the pictures come from: probes, or snapshots where probes cannot be had.

use super::Args;
use crate::{
    cli::{
        args::LayoutArg,
        source,
        source::{Attached, Launched, Opened},
        user::User,
    },
    confine::{self, Needs, Writes},
    live::{Attach, Engine, Observers, Outside, read_all},
    probe,
    top::{Publisher, Shared, Source},
};
use anyhow::{Context as _, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec};
use sfgi_core::{
    event::{Batch, Mode, Set},
    memory::Live,
    names::Symbols,
    process::Process,
    session::{About, End, Input, News, Round, Target},
    snapshot::{Clock, View},
};
use std::{
    io::{self, IsTerminal as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Bytes of each ring: the default of `sfgi trace`.
const RING_BYTES: u32 = 16 << 20;
/// Pause between two drains of the rings.
const DRAIN_EVERY: Duration = Duration::from_millis(2);
/// Longest sleep of the [`Poller`], so that it soon sees that it must stop.
const POLL_TURN: Duration = Duration::from_millis(20);

/// The thread that makes the pictures, and the processes they are of.
pub(super) struct Running {
    stop: Arc<AtomicBool>,
    work: Option<JoinHandle<Result<()>>>,
    /// One for each process, readable when it has ended.
    pidfds: Vec<OwnedFd>,
    child: Option<Child>,
    /// In the order of the targets: a target's index is an index here.
    pub(super) pids: Vec<u32>,
}

impl Running {
    /// Whether nothing more will come. Once all processes have ended it asks the thread to stop, and returns true when
    /// that has made its last picture.
    pub(super) fn ended(&mut self) -> bool {
        let gone = |pidfd: &OwnedFd| {
            let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
        };
        let over = self.work.as_ref().is_none_or(JoinHandle::is_finished);
        if !over && self.pidfds.iter().all(gone) {
            self.stop.store(true, Ordering::Relaxed);
        }
        over
    }

    /// Stops the thread and the launched command; returns the thread's error.
    pub(super) fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let result = match self.work.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(anyhow!("the tracing thread ended by a bug, which is said above")),
            None => Ok(()),
        };
        self.child.as_mut().map_or(Ok(()), source::stop)?;
        result
    }
}

/// Starts with probes, or without them where they cannot be had and the user asked for no mode: then also returns why.
pub(super) fn start(args: &Args, shared: &Arc<Shared>) -> Result<(Running, Option<String>)> {
    // A wrong PID is an error in any mode. It must not be taken for a refusal of probes.
    let opened = source::open(&args.pid, &args.layout)?;
    let mode = args.mode.unwrap_or(Mode::Full);
    if mode == Mode::Poll {
        return Ok((poll(args, shared)?, None));
    }
    match trace(args, mode, opened, shared) {
        Ok(running) => Ok((running, None)),
        Err(error) if args.mode.is_none() => {
            let notice = format!("no probes, so goroutines are only read once an interval: {error:#}");
            Ok((poll(args, shared)?, Some(notice)))
        }
        Err(error) => Err(error),
    }
}

fn trace(args: &Args, mode: Mode, opened: Vec<Opened>, shared: &Arc<Shared>) -> Result<Running> {
    probe::check_host()?;
    // Context switches tell time on a CPU only where the slices between them are known, which takes mode full.
    let threads = mode == Mode::Full;
    let probes = Attach {
        mode,
        set: None,
        gc: false,
        threads,
        goids: Vec::new(),
        ring_bytes: RING_BYTES,
        stacks_ns: None,
        callers: false,
        deadlocks: false,
    };
    let attached = if args.command.is_empty() {
        Attached::processes(&args.pid, opened, &probes)?
    } else {
        Attached::command(&args.command, &args.layout, &probes, args.user.chosen()?, true)?
    };
    attached.describe();
    // The engine takes the targets, so what else is needed of them is taken first.
    let (pids, pidfds) = (attached.pids(), attached.pidfds()?);
    let Attached { calibration, targets, launched } = attached;
    let observers = publisher(args, shared, Source::Probes { threads });
    let costs = Arc::clone(shared);
    let engine =
        Engine::new(targets, observers, calibration, DRAIN_EVERY).metered(move |now| costs.tell_costs(now));
    let child = launched.map(Launched::go).transpose()?;
    confine::apply(&needs(args, Needs::attached()));
    run(move |stop| engine.run(stop), pids, pidfds, child)
}

fn poll(args: &Args, shared: &Arc<Shared>) -> Result<Running> {
    let mut child = None;
    let mut pids = args.pid.clone();
    if let Some((name, arguments)) = args.command.split_first() {
        let path = source::resolve(name)?;
        let mut command = Command::new(&path);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(user) = args.user.chosen()? {
            user.tell(&mut command);
            // SAFETY: it makes system calls only.
            unsafe { command.pre_exec(move || User::become_one(&user)) };
        }
        // `spawn` returns after `exec`, so /proc/PID/exe is the program already. No probe has to stand before it runs.
        let launched = command.spawn().with_context(|| format!("cannot run {}", path.display()))?;
        pids = vec![launched.id()];
        child = Some(launched);
    }
    let observers = publisher(args, shared, Source::Snapshots);
    let poller = Poller::new(&pids, &args.layout, observers, args.every)?;
    let pidfds = poller.pidfds()?;
    // The user may ask for a search for leaks, which samples registers.
    confine::apply(&needs(args, Needs::reader().with_registers()));
    run(move |stop| poller.run(stop), pids, pidfds, child)
}

/// What is needed besides reading: signals to end the command, and the terminal, which is opened for its keys where standard input
/// is another one.
fn needs(args: &Args, needs: Needs) -> Needs {
    let needs = if args.command.is_empty() { needs } else { needs.with_signals() };
    if args.draws() && !io::stdin().is_terminal() { needs.with_writes(Writes::Anything) } else { needs }
}

fn publisher(args: &Args, shared: &Arc<Shared>, source: Source) -> Observers {
    let every_ns = u64::try_from(args.every.as_nanos()).unwrap_or(u64::MAX);
    vec![Box::new(Publisher::new(source, Arc::clone(shared), every_ns))]
}

fn run(
    work: impl FnOnce(&AtomicBool) -> Result<()> + Send + 'static,
    pids: Vec<u32>,
    pidfds: Vec<OwnedFd>,
    child: Option<Child>,
) -> Result<Running> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let work = thread::Builder::new().name("tracing".to_owned()).spawn(move || work(&asked))?;
    Ok(Running { stop, work: Some(work), pidfds, child, pids })
}

/// Makes pictures from snapshots alone, one each interval.
struct Poller {
    opened: Vec<(Opened, Process)>,
    targets: Vec<Target>,
    observers: Observers,
    every: Duration,
}

impl Poller {
    fn new(pids: &[u32], layout: &LayoutArg, observers: Observers, every: Duration) -> Result<Poller> {
        let (mut opened, mut targets) = (Vec::new(), Vec::new());
        for pid in pids {
            let mut one = Opened::process(*pid, layout)?;
            let symbols = Symbols::new(Arc::clone(&one.binary), one.bias()?);
            targets.push(Target::new(about(*pid, &one), symbols));
            let process = one.process.take().context("a process was opened")?;
            opened.push((one, process));
        }
        Ok(Poller { opened, targets, observers, every })
    }

    /// One pidfd for each process, readable when it has ended.
    fn pidfds(&self) -> io::Result<Vec<OwnedFd>> {
        self.opened.iter().map(|(_, process)| process.pidfd().try_clone_to_owned()).collect()
    }

    /// Reads all targets once an interval until `stop` is set.
    fn run(mut self, stop: &AtomicBool) -> Result<()> {
        for observer in &mut self.observers {
            observer.begin(&mut self.targets)?;
        }
        let mut next = Instant::now();
        let mut round = Round::default();
        while !stop.load(Ordering::Relaxed) {
            if Instant::now() < next {
                thread::sleep(POLL_TURN);
                continue;
            }
            next = Instant::now() + self.every;
            round.clear(self.targets.len());
            for index in 0..self.targets.len() {
                self.read(index, &mut round.news[index])?;
            }
            for observer in &mut self.observers {
                observer.round(&mut self.targets, &round)?;
            }
        }
        let ends: Vec<End> =
            round.news.iter().map(|news| End { until_ts: news.ts, ..End::default() }).collect();
        for observer in &mut self.observers {
            observer.end(&mut self.targets, &ends)?;
        }
        Ok(())
    }

    fn read(&mut self, index: usize, news: &mut News) -> Result<()> {
        let (opened, process) = &self.opened[index];
        let target = &mut self.targets[index];
        let memory = Live::of(process);
        let view = View { memory: &memory, binary: &opened.binary, bias: target.bias(), clock: Clock::Live };
        let snapshot = match read_all(&view, || {}) {
            Ok(snapshot) => snapshot,
            // The process ended: its last state stays in the pictures.
            Err(_) if !process.alive() => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("PID {}", process.pid())),
        };
        // What was read while the process ended may be of memory that was already torn down.
        if !process.alive() {
            return Ok(());
        }
        let ended_ts = snapshot.taken_ns.1;
        let (snapshot, _) = Outside::new(None, true).take(&snapshot);
        // A snapshot is merged when all events up to its end have been applied; an empty batch says that they have.
        let time = Batch { doubt_until: ended_ts, complete_until: ended_ts, ..Batch::default() };
        for input in [snapshot, Input::Events(time)] {
            target.take(&input, news);
            for observer in &mut self.observers {
                observer.input(index, &input, target)?;
            }
        }
        Ok(())
    }
}

/// What is known of a process without probes; the set is without meaning.
fn about(pid: u32, opened: &Opened) -> About {
    let version = opened.binary.version();
    About {
        pid,
        exe: opened.name.display().to_string(),
        module: opened.binary.info().path.clone().unwrap_or_default(),
        go_version: version.raw.clone(),
        release: version.release,
        wait_reasons: opened.binary.wait_reasons().clone(),
        set: Set::B,
        mode: Mode::Poll,
        blind: Vec::new(),
        from_birth: false,
    }
}
