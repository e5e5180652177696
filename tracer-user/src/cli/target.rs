//! One traced process: its binary, its probes, its model, its names.

use super::{
    opened::Opened,
    outside::{self, Outside},
};
use crate::{
    clock,
    event::{Event, Kind},
    memory::Live,
    model::{self, Goroutines, Merged, Setup, Step, Summary, What},
    present::{Line, Report, Symbols, duration},
    probe::{Batch, Calibration, Options, Session, Totals},
    snapshot::{Clock, View},
    target::{CostClass, GoBinary, Mode, Plan, ProbeSet, ProbeSite, Process, tracebacks},
};
use anyhow::{Context as _, Result};
use std::{fs::File, io, num::NonZeroU32, os::fd::OwnedFd, sync::Arc, time::Duration};

/// What to attach.
pub(super) struct Attach {
    pub(super) mode: Mode,
    pub(super) set: Option<ProbeSet>,
    pub(super) gc: bool,
    pub(super) threads: bool,
    pub(super) goids: Vec<u64>,
    pub(super) ring_bytes: u32,
    /// How long a block must last for its stack to be read, nanoseconds; `None`: no stacks.
    pub(super) stacks_ns: Option<u64>,
}

/// What came of one round of collecting.
pub(super) struct Collected {
    /// How many events were lost.
    pub(super) lost: u64,
    /// There is more to collect at once.
    pub(super) more: bool,
    /// A snapshot told how things stand after a loss.
    pub(super) resync: Option<Merged>,
}

/// Goroutines whose state is kept at once; a million cost about 200 MB.
const CAPACITY: usize = 1_000_000;

/// A process under trace.
pub(super) struct Traced {
    pub(super) pid: u32,
    process: Option<Arc<Process>>,
    /// Whether it runs the binary already: a launched command does not before its `exec`.
    runs: bool,
    binary: Arc<GoBinary>,
    plan: Plan,
    session: Session,
    symbols: Symbols,
    pub(super) goroutines: Goroutines,
    outside: Outside,
    /// Whether a snapshot has been merged.
    joined: bool,
    mode: Mode,
    /// The user chose the probe set.
    forced: bool,
    batch: Batch,
    cpu: (Duration, Duration),
    pub(super) ended: Option<String>,
}

impl Traced {
    /// Attaches to process `pid`, which runs `opened`, or is about to.
    pub(super) fn attach(pid: u32, opened: Opened, attach: &Attach) -> Result<Traced> {
        let bias = opened.bias()?;
        let Opened { process, exe, binary, .. } = opened;
        let mut traced = Self::start(pid, &exe, binary, attach, process.is_none())?;
        traced.symbols.set_bias(bias);
        traced.cpu.0 = process.as_ref().and_then(|process| process.cpu_time().ok()).unwrap_or_default();
        traced.process = process.map(Arc::new);
        Ok(traced)
    }

    fn start(
        pid: u32,
        exe: &File,
        binary: Arc<GoBinary>,
        attach: &Attach,
        from_birth: bool,
    ) -> Result<Traced> {
        let plan = Plan::choose(&binary, attach.mode, attach.set, attach.gc)?;
        let options = Options {
            ring_bytes: attach.ring_bytes,
            goids: attach.goids.clone(),
            threads: attach.threads,
            from_birth,
        };
        let id = NonZeroU32::new(pid).context("process 0 is the kernel's")?;
        let session = Session::start(id, exe, &binary, &plan, &options)?;
        let goroutines = Goroutines::new(Setup {
            minor: binary.version().minor,
            set: match plan.set {
                ProbeSet::A => model::Set::A,
                ProbeSet::B => model::Set::B,
            },
            mode: match attach.mode {
                Mode::Full => model::Mode::Full,
                Mode::Wait => model::Mode::Wait,
                Mode::Life => model::Mode::Life,
            },
            wait_reasons: binary.wait_reasons().to_vec(),
            blind: plan.missing.iter().map(|missing| missing.kind).collect(),
            capacity: CAPACITY,
        });
        Ok(Traced {
            pid,
            process: None,
            runs: !from_birth,
            symbols: Symbols::new(Arc::clone(&binary), 0),
            binary,
            plan,
            session,
            goroutines,
            outside: Outside::new(attach.stacks_ns, !from_birth),
            joined: false,
            mode: attach.mode,
            forced: attach.set.is_some(),
            batch: Batch::default(),
            cpu: Default::default(),
            ended: None,
        })
    }

    /// A descriptor that becomes readable when the process ends.
    pub(super) fn pidfd(&self) -> io::Result<OwnedFd> {
        let pid = rustix::process::Pid::from_raw(self.pid.cast_signed()).ok_or(io::ErrorKind::NotFound)?;
        Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
    }

    /// One line at the start: what is traced, by which probes, at what price, and what could not
    /// be placed well.
    pub(super) fn describe(&self, calibration: &Calibration) -> String {
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
        for probe in self.plan.probes.iter().filter(|probe| probe.cost() == CostClass::SingleStepped) {
            text += &format!(
                "\nsfgi: {} can only be probed at `{}`, which the kernel single-steps: about {:.0} ns a hit",
                probe.function, probe.placement.instruction, calibration.single_stepped_ns
            );
        }
        for missing in &self.plan.missing {
            text += &format!("\nsfgi: without {}: {}", missing.function, missing.reason);
        }
        text
    }

    /// Drains the rings and lets the model digest what came; looks at the target's memory where
    /// that is needed. `finish` removes the probes first.
    pub(super) fn collect(&mut self, finish: bool, steps: &mut Vec<Step>) -> Result<Collected> {
        let first = steps.len();
        let mut collected = self.drain(finish, steps)?;
        if !finish && self.runs && self.outside.wants_snapshot(clock::now()) {
            self.take_snapshot(steps, &mut collected)?;
        }
        let complete_until = self.batch.complete_until;
        let resync = self.outside.merge(&mut self.goroutines, complete_until);
        collected.resync = resync.filter(|_| std::mem::replace(&mut self.joined, true));
        self.outside.note(&steps[first..]);
        if let Some(process) = self.process.clone()
            && !finish
        {
            let (memory, binary) = (Live::of(&process), Arc::clone(&self.binary));
            self.outside.read_long(&self.view(&memory, &binary), &self.goroutines, complete_until);
        }
        Ok(collected)
    }

    fn drain(&mut self, finish: bool, steps: &mut Vec<Step>) -> Result<Collected> {
        let mut batch = std::mem::take(&mut self.batch);
        if finish {
            self.session.stop(&mut batch)?;
        } else {
            self.session.drain(&mut batch)?;
        }
        if let Some(cpu) = self.process.as_ref().and_then(|process| process.cpu_time().ok()) {
            self.cpu.1 = cpu;
        }
        if batch.lost + batch.blurred != 0 {
            self.goroutines.lost(batch.lost + batch.blurred, batch.doubt_until);
        }
        if batch.lost != 0 {
            self.outside.lost();
        }
        for event in &batch.events {
            if event.kind == Kind::Exec {
                self.executed(event);
            } else if self.ended.is_none() {
                self.goroutines.apply(event, steps);
            }
        }
        self.goroutines.settle(batch.complete_until, steps);
        let collected = Collected { lost: batch.lost, more: batch.more, resync: None };
        self.batch = batch;
        Ok(collected)
    }

    /// Reads all goroutines, and goes on draining meanwhile.
    fn take_snapshot(&mut self, steps: &mut Vec<Step>, collected: &mut Collected) -> Result<()> {
        let Some(process) = self.process.clone() else { return Ok(()) };
        let (memory, binary) = (Live::of(&process), Arc::clone(&self.binary));
        let view = self.view(&memory, &binary);
        let snapshot = outside::read_all(&view, || {
            let meanwhile = self.drain(false, steps)?;
            collected.lost += meanwhile.lost;
            collected.more = meanwhile.more;
            Ok(())
        })?;
        match snapshot {
            Ok(snapshot) => self.outside.take(&snapshot),
            Err(error) => {
                eprintln!("sfgi: PID {}: goroutines are only known once they move: {error}", self.pid);
                self.outside.give_up();
            }
        }
        Ok(())
    }

    fn view<'v>(&self, memory: &'v Live<'_>, binary: &'v GoBinary) -> View<'v> {
        View { memory, binary, bias: self.symbols.bias(), clock: Clock::Live }
    }

    /// The process replaced its program: for a command we launched, this is its beginning; else
    /// the end of what we came to see.
    fn executed(&mut self, event: &Event) {
        if self.runs {
            log::debug!("exec at {} by thread {}", event.ts, event.tid);
            self.ended = Some(format!("PID {} replaced its program by exec: its trace ends here", self.pid));
            return;
        }
        self.runs = true;
        // A short command may have ended by now: then only what its file says is known.
        if let Ok(process) = Process::open(self.pid.cast_signed()) {
            self.symbols.set_bias(process.load_bias(self.binary.image().entry()).unwrap_or(0));
            self.process = Some(Arc::new(process));
        }
    }

    /// Resolves the names of a step.
    pub(super) fn line<'a>(&'a mut self, step: &'a Step) -> Line<'a> {
        let birth = step.birth.or_else(|| self.goroutines.get(step.goid)?.birth);
        let function = birth.and_then(|birth| self.symbols.function(birth.startpc));
        let site = match step.what {
            What::Create => birth.and_then(|birth| self.symbols.go_statement(birth.gopc)),
            // It goes on where it left off.
            What::Start | What::Preempt => self
                .goroutines
                .get(step.goid)
                .filter(|known| known.site.len > 0)
                .and_then(|known| self.symbols.wait_site(&known.site)),
            _ => step.stack.as_ref().and_then(|stack| self.symbols.wait_site(stack)),
        };
        let site = site.or_else(|| function.clone());
        // Of the main goroutine the runtime's start-up code is the creator, which nobody wants to see.
        let creator = birth.filter(|birth| step.what == What::Found && birth.gopc != 0 && step.goid != 1);
        let creator = creator.and_then(|birth| self.symbols.go_statement(birth.gopc));
        let stack = self.outside.stack(step);
        let stack = stack.iter().flat_map(|stack| stack.iter());
        let stack = stack.flat_map(|pc| self.symbols.frames(pc.lookup()).to_vec());
        let stack = stack.filter(|site| tracebacks::shows(&site.func, self.binary.version().minor)).collect();
        Line {
            pid: self.pid,
            step,
            reason: self.binary.wait_reason(step.reason),
            site,
            function,
            creator,
            stack,
        }
    }

    /// The summary with its names; what still waits counts up to now.
    pub(super) fn report(&mut self, summary: &mut Summary) -> Result<Report> {
        let lost = self.session.totals()?.lost.values().sum();
        summary.close(&self.goroutines, self.session.until());
        Ok(Report::new(self.pid, summary, lost, self.binary.wait_reasons(), &mut self.symbols))
    }

    /// What the trace cost and what it missed, in two or three sentences.
    pub(super) fn closing(&self, calibration: &Calibration) -> Result<String> {
        let (totals, seconds) = (self.session.totals()?, self.session.seconds());
        let cost_ns = self.cost_ns(&totals, calibration);
        let hits: u64 = self.uprobe_hits(&totals).map(|(_, n)| n).sum();
        let cpu = self.cpu.1.saturating_sub(self.cpu.0);
        let cpu_ns = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        let mut text = format!(
            "PID {}: {hits} probe hits in {seconds:.1} s ({:.0}/s), {} of the target's time",
            self.pid,
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

    /// Hits of the probes that the target pays for with a trap.
    fn uprobe_hits<'t>(&self, totals: &'t Totals) -> impl Iterator<Item = (Kind, u64)> + 't {
        totals.hits.iter().map(|(kind, n)| (*kind, *n)).filter(|(kind, _)| *kind < Kind::ThreadOff)
    }

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

/// What is probed, and why that.
pub(super) fn in_words(plan: &Plan, mode: Mode, forced: bool) -> &'static str {
    match (mode, plan.set, forced) {
        (Mode::Full, ProbeSet::B, _) => "set B: casgstatus, which is whole in this binary",
        (Mode::Full, ProbeSet::A, false) => "set A: the scheduler's functions, since casgstatus is inlined",
        (Mode::Full, ProbeSet::A, true) => "set A: the scheduler's functions, as asked",
        (Mode::Wait, ..) => "park and wake",
        (Mode::Life, ..) => "birth and death",
    }
}
