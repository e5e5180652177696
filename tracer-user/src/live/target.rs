//! One live target: its binary, its process with the probes, and the reads of its memory.

use super::outside::{self, Aside, Outside};
use super::rings::{self, Rings};
use crate::{
    output::say,
    probe::{Calibration, Cost, Options, Session, Totals},
};
use anyhow::{Context as _, Result};
use sfgi_core::{
    binary::GoBinary,
    clock::{self, duration},
    event::{Batch, Kind, Mode, Set},
    memory::Live,
    names::Symbols,
    plan::{CostClass, Plan, ProbeSite},
    process::{Process, ProcessError},
    session::{About, End, Input, News, Observer, Target},
    snapshot::{self, Clock, View},
};
use std::{
    fs::File,
    io,
    num::NonZeroU32,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// What is said where a read does not end.
const NO_ANSWER: &str = "its memory does not answer";

/// A Go program that a process executes or is about to.
pub(crate) struct Opened {
    /// The process that runs it; `None` for a file that no process runs yet.
    pub(crate) process: Option<Process>,
    pub(crate) exe: File,
    /// The path of the executable in the mount namespace of the process.
    pub(crate) name: PathBuf,
    pub(crate) binary: Arc<GoBinary>,
}

impl Opened {
    /// The load bias: what the kernel added to the link-time addresses; 0 where no process runs it.
    ///
    /// # Errors
    /// The process has ended.
    pub(crate) fn bias(&self) -> Result<u64, ProcessError> {
        let of = |process: &Process| process.load_bias(self.binary.image().entry());
        Ok(self.process.as_ref().map(of).transpose()?.unwrap_or(0))
    }
}

/// What to trace of a target.
pub(crate) struct Attach {
    pub(crate) mode: Mode,
    /// `None`: the binary decides ([`Plan::choose`]).
    pub(crate) set: Option<Set>,
    /// Also report begin and end of garbage collections.
    pub(crate) gc: bool,
    pub(crate) threads: bool,
    pub(crate) goids: Vec<u64>,
    /// Bytes of one event ring, a power of two.
    pub(crate) ring_bytes: u32,
    /// How long a block must last for its stack to be read, nanoseconds; `None`: no stacks.
    pub(crate) stacks_ns: Option<u64>,
    /// Walk each stack to its twelve frames, see [`Options::callers`].
    pub(crate) callers: bool,
    /// Look for goroutines that wait for each other in a ring.
    pub(crate) deadlocks: bool,
}

pub(crate) type Observers = Vec<Box<dyn Observer + Send>>;

/// For each target the live side (process, probes) and the session's side (model, names).
pub(crate) type Targets = Vec<(LiveTarget, Target)>;

/// Where the inputs of a target go: first to the model, then to the observers.
pub(crate) struct Feed<'a> {
    pub(crate) index: usize,
    pub(crate) target: &'a mut Target,
    pub(crate) news: &'a mut News,
    pub(crate) observers: &'a mut Observers,
}

impl Feed<'_> {
    /// Applies an input. Returns whether the process has begun to run the binary (its `exec` was seen).
    fn take(&mut self, input: &Input) -> io::Result<bool> {
        let taken = self.target.take(input, self.news);
        // An input that changed nothing is not recorded.
        if taken.changed {
            for observer in &mut *self.observers {
                observer.input(self.index, input, self.target)?;
            }
        }
        Ok(taken.executed)
    }
}

/// The live side of a target: its process, its probes, and the decisions what to read of its memory.
pub(crate) struct LiveTarget {
    pub(crate) pid: u32,
    /// `None` until a launched command has executed: until then the process is a fork of ours.
    process: Option<Arc<Process>>,
    binary: Arc<GoBinary>,
    plan: Plan,
    session: Session,
    outside: Outside,
    /// `None`: rings are not looked for.
    rings: Option<Rings>,
    /// Events were lost, and no snapshot has put right since what is known of goroutines.
    unsure: bool,
    /// Reads the target's memory.
    aside: Aside,
    mode: Mode,
    /// The user chose the probe set; only the wording of [`in_words`] depends on it.
    forced: bool,
    batch: Batch,
    /// CPU time of the target: when the probes were attached, and at the last drain.
    cpu: (Duration, Duration),
}

impl LiveTarget {
    /// Attaches to process `pid`, which runs `opened` or is about to.
    pub(crate) fn attach(pid: u32, opened: Opened, attach: &Attach) -> Result<(LiveTarget, Target)> {
        let bias = opened.bias()?;
        let Opened { process, exe, binary, name } = opened;
        let mut live = Self::start(pid, &exe, binary, attach, process.is_none())?;
        // After the probes stand: attaching takes up to some hundred milliseconds, which must not dilute the share of
        // the cost.
        live.cpu.0 = process.as_ref().and_then(|process| process.cpu_time().ok()).unwrap_or_default();
        let about = live.about(&name, process.is_none());
        let target = Target::new(about, Symbols::new(Arc::clone(&live.binary), bias));
        live.process = process.map(Arc::new);
        Ok((live, target))
    }

    fn start(
        pid: u32,
        exe: &File,
        binary: Arc<GoBinary>,
        attach: &Attach,
        from_birth: bool,
    ) -> Result<LiveTarget> {
        let plan = Plan::choose(&binary, attach.mode, attach.set, attach.gc)?;
        let options = Options {
            ring_bytes: attach.ring_bytes,
            goids: attach.goids.clone(),
            threads: attach.threads,
            callers: attach.callers,
            from_birth,
        };
        let rings = attach.deadlocks.then(|| Rings::new(binary.wait_reasons())).transpose()?;
        let id = NonZeroU32::new(pid).context("process 0 is the kernel's")?;
        let session = Session::start(id, exe, &binary, &plan, &options)?;
        Ok(LiveTarget {
            pid,
            process: None,
            binary,
            plan,
            session,
            outside: Outside::new(attach.stacks_ns, !from_birth),
            rings,
            unsure: false,
            aside: Aside::default(),
            mode: attach.mode,
            forced: attach.set.is_some(),
            batch: Batch::default(),
            cpu: Default::default(),
        })
    }

    fn about(&self, exe: &Path, from_birth: bool) -> About {
        About {
            pid: self.pid,
            exe: exe.display().to_string(),
            module: self.binary.info().path.clone().unwrap_or_default(),
            go_version: self.binary.version().raw.clone(),
            release: self.binary.version().release,
            wait_reasons: self.binary.wait_reasons().clone(),
            set: self.plan.set,
            mode: self.mode,
            blind: self.plan.missing.iter().map(|missing| missing.kind as u8).collect(),
            from_birth,
        }
    }

    /// See [`Session::since`].
    pub(crate) fn since(&self) -> u64 {
        self.session.since()
    }

    /// A pidfd of its own, which becomes readable when the process ends.
    pub(crate) fn pidfd(&self) -> io::Result<OwnedFd> {
        let pid = rustix::process::Pid::from_raw(self.pid.cast_signed()).ok_or(io::ErrorKind::NotFound)?;
        Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
    }

    /// The lines at the start of a trace: the target, its probes and their price; then one for each probe that is
    /// single-stepped and each function without a probe.
    pub(crate) fn describe(&self, calibration: &Calibration) -> Vec<String> {
        let mut text = format!(
            "attached to PID {}: {}, {}, {} probes ({}), about {:.0} ns a hit",
            self.pid,
            self.binary.version().raw,
            self.binary.info().path.as_deref().unwrap_or("unknown module"),
            self.plan.probes.len(),
            in_words(&self.plan, self.mode, self.forced),
            calibration.emulated_ns,
        );
        let layout = self.binary.layout().source();
        if layout.is_unusual() {
            text += &format!("; layout: {layout}");
        }
        let mut lines = vec![text];
        for probe in self.plan.probes.iter().filter(|probe| probe.cost() == CostClass::SingleStepped) {
            lines.push(format!(
                "{} can only be probed at `{}`, which the kernel single-steps: about {:.0} ns a hit",
                probe.function, probe.placement.instruction, calibration.single_stepped_ns
            ));
        }
        for missing in &self.plan.missing {
            lines.push(format!("without {}: {}", missing.function, missing.reason));
        }
        lines
    }

    /// Drains the rings into the model, and reads the target's memory where a snapshot or a stack is due. `finish`
    /// removes the probes first. Returns whether a ring still holds records.
    pub(crate) fn collect(&mut self, finish: bool, feed: &mut Feed<'_>) -> Result<bool> {
        let mut more = self.drain(finish, feed)?;
        let looks = !finish && feed.target.runs();
        // One snapshot at a time: a pending one waits until the events of its time have been applied.
        if looks && !feed.target.has_pending() && self.outside.wants_snapshot(clock::now()) {
            more = self.take_snapshot(feed)?;
        }
        self.outside.note(&feed.news.steps);
        self.look_for_rings(finish, feed)?;
        if let Some(process) = self.process.clone()
            && !finish
        {
            let (binary, bias) = (Arc::clone(&self.binary), feed.target.bias());
            // By the time up to which events are complete, not by the clock: a block may have ended in an event not
            // drained yet.
            let until = self.batch.complete_until;
            let mut stuck = false;
            let stacks = self.outside.read_long(feed.target.goroutines(), until, |addrs| {
                let read = self.aside.patiently(
                    move |_| {
                        let memory = Live::of(&process);
                        snapshot::take_only(&view(&memory, &binary, bias), Outside::options(), &addrs).ok()
                    },
                    || Ok(()),
                );
                stuck = matches!(read, Ok(None));
                // What cannot be read has no stack to show.
                read.ok().flatten().flatten()
            });
            if stuck {
                say(format_args!("PID {}: no more stacks are read: {NO_ANSWER}", self.pid));
                self.outside.give_up_stacks();
            }
            if let Some(stacks) = stacks {
                feed.take(&stacks)?;
            }
        }
        Ok(more)
    }

    /// Finds goroutines that wait for each other, and tells of those that were found and still stand.
    fn look_for_rings(&mut self, finish: bool, feed: &mut Feed<'_>) -> Result<()> {
        let Some(mut rings) = self.rings.take() else { return Ok(()) };
        rings.note(&feed.news.steps);
        self.unsure &= feed.news.resync.is_none() || feed.news.lost != 0;
        if self.unsure {
            rings.forget();
            self.rings = Some(rings);
            return Ok(());
        }
        let until = self.batch.complete_until;
        let (known, runs) = (feed.target.goroutines(), feed.target.runs() && !feed.target.has_pending());
        feed.news.deadlocks.extend(rings.confirmed(known, until));
        let process = self.process.clone().filter(|_| runs && !finish);
        if let Some(process) = process.filter(|_| rings.are_due(known, until)) {
            let (binary, bias, wakers) = (Arc::clone(&self.binary), feed.target.bias(), rings.lend());
            let noted = feed.news.steps.len();
            let read = move |progress: &AtomicU64| {
                let memory = Live::of(&process);
                let further = || {
                    progress.fetch_add(1, Ordering::Relaxed);
                };
                (rings::look(&view(&memory, &binary, bias), &binary, &wakers, &further), wakers)
            };
            // Taken out, because draining takes the rest of this.
            let mut aside = std::mem::take(&mut self.aside);
            let read = aside.patiently(read, || self.drain(false, feed).map(|_| ()))?;
            self.aside = aside;
            rings.note(feed.news.steps.get(noted..).unwrap_or_default());
            match read {
                Some(looked) => rings.take(looked),
                None => {
                    say(format_args!("PID {}: deadlocks are no longer looked for: {NO_ANSWER}", self.pid));
                    return Ok(());
                }
            }
        }
        self.rings = Some(rings);
        Ok(())
    }

    fn drain(&mut self, finish: bool, feed: &mut Feed<'_>) -> Result<bool> {
        // The batch moves into the input and back, so that its buffer is allocated once.
        let mut batch = std::mem::take(&mut self.batch);
        let more = if finish {
            self.session.stop(&mut batch)?;
            false
        } else {
            self.session.drain(&mut batch)?
        };
        if let Some(cpu) = self.process.as_ref().and_then(|process| process.cpu_time().ok()) {
            // Kept at each drain: once the process has ended its CPU time cannot be read any more.
            self.cpu.1 = cpu;
        }
        if batch.lost != 0 {
            self.outside.lost();
            self.unsure = true;
        }
        let input = Input::Events(batch);
        if feed.take(&input)? {
            self.executed(feed.target);
        }
        if let Input::Events(batch) = input {
            self.batch = batch;
        }
        Ok(more)
    }

    /// Reads all goroutines and drains the rings meanwhile.
    fn take_snapshot(&mut self, feed: &mut Feed<'_>) -> Result<bool> {
        let Some(process) = self.process.clone() else { return Ok(false) };
        let (binary, bias) = (Arc::clone(&self.binary), feed.target.bias());
        let mut more = false;
        let read = move |progress: &AtomicU64| {
            let memory = Live::of(&process);
            let further = || {
                progress.fetch_add(1, Ordering::Relaxed);
            };
            outside::read_all(&view(&memory, &binary, bias), further).map_err(|error| error.to_string())
        };
        // Taken out, because draining takes the rest of this.
        let mut aside = std::mem::take(&mut self.aside);
        let snapshot = aside.patiently(read, || {
            more = self.drain(false, feed)?;
            Ok(())
        })?;
        self.aside = aside;
        match snapshot.unwrap_or_else(|| Err(NO_ANSWER.to_owned())) {
            Ok(snapshot) => {
                let (snapshot, stacks) = self.outside.take(&snapshot);
                feed.take(&snapshot)?;
                feed.take(&stacks)?;
            }
            Err(error) => {
                // Said once, and no error: the events alone are still a trace.
                say(format_args!("PID {}: goroutines are only known once they move: {error}", self.pid));
                self.outside.give_up();
            }
        }
        Ok(more)
    }

    /// Opens the process of a launched command once it has executed. A short command may have ended by now; then
    /// `process` stays `None` and names come from the file alone.
    fn executed(&mut self, target: &mut Target) {
        if let Ok(process) = Process::open(self.pid.cast_signed()) {
            target.symbols().set_bias(process.load_bias(self.binary.image().entry()).unwrap_or(0));
            self.process = Some(Arc::new(process));
        }
    }

    /// The cost of the probes since they were attached.
    pub(crate) fn cost(&self, calibration: &Calibration) -> Result<Cost> {
        let totals = self.session.totals()?;
        Ok(Cost {
            ts: clock::now(),
            hits: self.uprobe_hits(&totals).map(|(_, n)| n).sum(),
            ns: self.cost_ns(&totals, calibration),
            cpu_ns: u64::try_from(self.cpu.1.saturating_sub(self.cpu.0).as_nanos()).unwrap_or(u64::MAX),
            lost: totals.lost.values().sum(),
            programs: self.session.programs(),
        })
    }

    /// How the trace ended. Valid after the last [`LiveTarget::collect`], which removes the probes.
    pub(crate) fn end(&self, target: &Target, calibration: &Calibration) -> Result<End> {
        Ok(End {
            until_ts: self.session.until(),
            lost: self.session.totals()?.lost.values().sum(),
            why: target.ended().map(str::to_owned),
            closing: self.closing(calibration)?,
        })
    }

    /// What the trace cost and what it missed, in two or three sentences.
    fn closing(&self, calibration: &Calibration) -> Result<String> {
        let (totals, seconds) = (self.session.totals()?, self.session.seconds());
        let cost_ns = self.cost_ns(&totals, calibration);
        let hits: u64 = self.uprobe_hits(&totals).map(|(_, n)| n).sum();
        let cpu = self.cpu.1.saturating_sub(self.cpu.0);
        let cpu_ns = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        let mut text = format!(
            "PID {}: {hits} probe hits in {seconds:.1} s ({:.0}/s), {} of the target's time",
            self.pid,
            // A trace that ended at once has no meaningful rate; it must not divide by zero either.
            hits as f64 / seconds.max(1e-3),
            duration(cost_ns as u64),
        );
        if hits > 0 {
            text += &format!(" ({:.0} ns a hit", cost_ns / hits as f64);
            if cpu_ns > 0 {
                text += &format!(
                    ", about {:.1} % of the {} of CPU it used",
                    cost_ns / cpu_ns as f64 * 100.0,
                    duration(cpu_ns)
                );
            }
            text += ")";
        }
        let lost: u64 = totals.lost.values().sum();
        text += &format!("; {lost} events lost");
        if lost > 0 {
            let kinds: Vec<String> = totals.lost.iter().map(|(kind, n)| format!("{kind:?} {n}")).collect();
            text += &format!(" ({}): a larger --ring-size or fewer events help", kinds.join(", "));
        }
        let blurred: u64 = totals.blurred.values().sum();
        if blurred > 0 {
            text += &format!("; {blurred} times its memory could not be read at that moment");
        }
        if totals.undecodable > 0 {
            text += &format!("; {} records not understood, which is a bug in sfgi", totals.undecodable);
        }
        Ok(text)
    }

    /// Hits of uprobes. The kinds from `ThreadOff` on come from tracepoints, which cost no trap.
    fn uprobe_hits<'t>(&self, totals: &'t Totals) -> impl Iterator<Item = (Kind, u64)> + 't {
        totals.hits.iter().map(|(kind, n)| (*kind, *n)).filter(|(kind, _)| *kind < Kind::ThreadOff)
    }

    /// Hits times the calibrated price of the place of each probe, nanoseconds.
    fn cost_ns(&self, totals: &Totals, calibration: &Calibration) -> f64 {
        self.uprobe_hits(totals)
            .map(|(kind, hits)| {
                let class = self.plan.probes.iter().find(|probe| probe.kind == kind).map(ProbeSite::cost);
                let ns = match class {
                    Some(CostClass::SingleStepped) => calibration.single_stepped_ns,
                    _ => calibration.emulated_ns,
                };
                hits as f64 * ns
            })
            .sum()
    }
}

fn view<'v>(memory: &'v Live<'_>, binary: &'v GoBinary, bias: u64) -> View<'v> {
    View { memory, binary, bias, clock: Clock::Live }
}

/// The probes of a plan in words, with the reason for the set.
pub(crate) fn in_words(plan: &Plan, mode: Mode, forced: bool) -> &'static str {
    match (mode, plan.set, forced) {
        (Mode::Full, Set::B, _) => "set B: casgstatus, which is whole in this binary",
        (Mode::Full, Set::A, false) => "set A: the scheduler's functions, since casgstatus is inlined",
        (Mode::Full, Set::A, true) => "set A: the scheduler's functions, as asked",
        (Mode::Wait, ..) => "park and wake",
        (Mode::Life, ..) => "birth and death",
        (Mode::Poll, ..) => "nothing",
    }
}
