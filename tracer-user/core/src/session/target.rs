//! A target as a session sees it: its model, its names, and what was read of its memory.

use super::{End, Input, News, SnapshotInput, WholeStack};
use crate::{
    event::{Batch, Event, Kind, Mode, Set, Stack},
    goruntime::{Release, WaitReasons, tracebacks},
    model::{Goroutines, Measure, Setup, Step, Summary, What, Whats},
    names::{Line, Report, Site, Symbols},
    snapshot::waited_for,
};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, sync::Arc};

/// Goroutines whose state is kept at once; a million cost about 200 MB.
const CAPACITY: usize = 1_000_000;

/// One target: its program, and how it is probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The process, as the host numbers it.
    pub pid: u32,
    /// The name of its executable, as the process sees it.
    pub exe: String,
    /// Its main package's path; empty where the binary does not say.
    pub module: String,
    /// What it was built with, `go1.26.6`.
    pub go_version: String,
    #[serde(rename = "minor")]
    pub release: Release,
    pub wait_reasons: WaitReasons,
    pub set: Set,
    pub mode: Mode,
    /// Numbers of the [`Kind`]s that are not probed, or not everywhere.
    pub blind: Vec<u8>,
    /// The trace begins before its first goroutine: its `exec` is yet to come.
    pub from_birth: bool,
}

impl About {
    /// What the model must know of it.
    pub fn setup(&self) -> Setup {
        Setup {
            release: self.release,
            set: self.set,
            mode: self.mode,
            wait_reasons: self.wait_reasons.clone(),
            blind: self.blind.iter().filter_map(|kind| Kind::from_u8(*kind)).collect(),
            capacity: CAPACITY,
        }
    }

    /// A wait reason in the runtime's words; empty for a number that is none.
    pub fn wait_reason(&self, reason: u8) -> &str {
        self.wait_reasons.text(reason)
    }
}

/// One target, live or from a recording.
pub struct Target {
    about: About,
    /// Whether the target runs the binary already; a launched command does so after its `exec`.
    runs: bool,
    goroutines: Goroutines,
    symbols: Symbols,
    whole: WholeStacks,
    /// A snapshot that waits for the events of its time.
    pending: Option<SnapshotInput>,
    /// Whether a snapshot has been merged.
    joined: bool,
    ended: Option<String>,
}

/// What an [`Input`] did to its [`Target`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Whether a replay needs the input: one that changed nothing is not recorded.
    pub changed: bool,
    /// The process began to run the binary.
    pub executed: bool,
}

impl Target {
    /// Nothing is known of its goroutines yet.
    pub fn new(about: About, symbols: Symbols) -> Target {
        Target {
            runs: !about.from_birth,
            goroutines: Goroutines::new(about.setup()),
            about,
            symbols,
            whole: WholeStacks::default(),
            pending: None,
            joined: false,
            ended: None,
        }
    }

    pub fn about(&self) -> &About {
        &self.about
    }

    pub fn goroutines(&self) -> &Goroutines {
        &self.goroutines
    }

    pub fn symbols(&mut self) -> &mut Symbols {
        &mut self.symbols
    }

    /// What was added to the binary's link addresses.
    pub fn bias(&self) -> u64 {
        self.symbols.bias()
    }

    pub fn runs(&self) -> bool {
        self.runs
    }

    /// Why its trace has ended; `None`: it has not.
    pub fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    /// Whether a snapshot waits to be merged.
    pub fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Steps of other kinds may be left out from now on.
    pub fn want(&mut self, wanted: Whats) {
        self.goroutines.want(wanted);
    }

    /// Takes what came; what it means is added to `news`.
    pub fn take(&mut self, input: &Input, news: &mut News) -> Taken {
        self.whole.forget_over();
        match input {
            Input::Events(batch) => self.events(batch, news),
            Input::Snapshot(snapshot) => {
                self.pending = Some(snapshot.clone());
                Taken { changed: true, executed: false }
            }
            Input::Stacks(stacks) => {
                self.whole.keep(stacks);
                Taken { changed: !stacks.is_empty(), executed: false }
            }
        }
    }

    fn events(&mut self, batch: &Batch, news: &mut News) -> Taken {
        let mut taken = Taken { changed: !batch.events.is_empty(), executed: false };
        news.ts = batch.doubt_until;
        // A read that failed within a probe leaves out a state just as a lost event does.
        if batch.lost + batch.blurred != 0 {
            self.goroutines.lost(batch.lost + batch.blurred, batch.doubt_until);
            news.lost += batch.lost;
            taken.changed = true;
        }
        for event in &batch.events {
            if event.kind == Kind::Exec {
                taken.executed |= self.executed(event);
            } else if self.ended.is_none() {
                self.goroutines.apply(event, &mut news.steps);
            }
        }
        // Before the dead are forgotten: a goroutine that the snapshot saw alive may have ended since.
        if let Some(snapshot) = self.pending.take_if(|pending| pending.ended_ts <= batch.complete_until) {
            let merged = self.goroutines.merge(&snapshot.seen, snapshot.began_ts, snapshot.complete);
            // The first snapshot is part of the beginning; only a later one answers a loss.
            news.resync = Some(merged).filter(|_| std::mem::replace(&mut self.joined, true));
            taken.changed = true;
        }
        taken.changed |= self.goroutines.settle(batch.complete_until, &mut news.steps);
        taken
    }

    /// The process replaced its program. For a command that we launched this is the beginning, else the end.
    /// Returns whether it was the beginning.
    fn executed(&mut self, event: &Event) -> bool {
        if !self.runs {
            self.runs = true;
            return true;
        }
        log::debug!("exec at {} by thread {}", event.ts, event.tid);
        let pid = self.about.pid;
        self.ended = Some(format!("PID {pid} replaced its program by exec: its trace ends here"));
        false
    }

    /// Resolves the names of a step.
    pub fn line<'a>(&'a mut self, step: &'a Step) -> Line<'a> {
        let birth = step.birth.or_else(|| self.goroutines.get(step.goid)?.birth);
        let function = birth.and_then(|birth| self.symbols.function(birth.startpc));
        let site = match step.what {
            What::Create => birth.and_then(|birth| self.symbols.go_statement(birth.gopc)),
            // It goes on where it left off.
            What::Start | What::Preempt => self
                .goroutines
                .get(step.goid)
                .filter(|known| !known.site.is_empty())
                .and_then(|known| self.symbols.wait_site(known.site)),
            _ => step.stack.and_then(|stack| self.symbols.wait_site(stack)),
        };
        let site = site.or_else(|| function.clone());
        // The creator of the main goroutine is the runtime's start-up code, which says nothing of the program.
        let creator = birth.filter(|birth| step.what == What::Found && birth.gopc != 0 && step.goid != 1);
        let creator = creator.and_then(|birth| self.symbols.go_statement(birth.gopc));
        let stack = self.whole.of_step(step).map_or_else(Vec::new, |pcs| self.shown(&pcs));
        let object = self.object_of(step);
        let reason = self.about.wait_reason(step.reason);
        Line { pid: self.about.pid, step, reason, site, object, function, creator, stack }
    }

    /// The address of what a step's goroutine waits or waited for, as a snapshot has it.
    pub fn object_of(&mut self, step: &Step) -> Option<u64> {
        let reason = self.about.wait_reasons.get(step.reason);
        let functions = || {
            let pcs = step.stack.map(Stack::pcs);
            let pcs = pcs.iter().flat_map(|pcs| pcs.iter());
            let frames = pcs.flat_map(|pc| self.symbols.frames(pc.wrapping_sub(1)).to_vec());
            frames.map(|site| site.func).collect()
        };
        (step.object != 0).then(|| waited_for(reason, step.object, functions))
    }

    /// The whole stack of what a goroutine waits in, innermost first, where that was read; else empty.
    pub fn whole_stack(&mut self, goid: u64) -> Vec<Site> {
        self.stack_of(goid).map_or_else(Vec::new, |pcs| self.shown(&pcs))
    }

    /// The whole stack of the block that this step ends or introduces, where that was read: addresses as of
    /// [`super::WholeStack::pcs`].
    pub fn stack_of_step(&mut self, step: &Step) -> Option<Arc<[u64]>> {
        self.whole.of_step(step)
    }

    /// The whole stack of what a goroutine waits in, where that was read: addresses as of [`super::WholeStack::pcs`].
    pub fn stack_of(&self, goid: u64) -> Option<Arc<[u64]>> {
        let since_ts = self.goroutines.get(goid).map(|goroutine| goroutine.since_ts);
        let stack = self.whole.of(goid)?;
        stack.since_ts.is_none_or(|ts| Some(ts) == since_ts).then(|| Arc::clone(&stack.pcs))
    }

    /// The frames at these addresses that the runtime would show.
    fn shown(&mut self, pcs: &[u64]) -> Vec<Site> {
        let release = self.about.release;
        let frames = pcs.iter().flat_map(|pc| self.symbols.frames(*pc).to_vec());
        frames.filter(|site| tracebacks::shows(&site.func, release)).collect()
    }

    /// The summary with its names; what still waits counts up to the end.
    pub fn report(&mut self, summary: &mut Summary, end: &End) -> Report {
        summary.close(&self.goroutines, end.until_ts);
        Report::new(self.about.pid, summary, end.lost, &self.about.wait_reasons, &mut self.symbols)
    }
}

/// Whole stacks that are kept at once, and their addresses together (256 MiB): equal stacks share theirs, so that there
/// are fewer.
const MAX_STACKS: usize = 1_000_000;
const MAX_PCS: usize = 1 << 25;

/// Whole stacks of long blocks, by goid, until their block ends.
#[derive(Debug, Default)]
struct WholeStacks {
    stacks: HashMap<u64, WholeStack>,
    /// Addresses of all of them.
    pcs: usize,
    /// Goroutines whose block is over: their stacks go when the next input comes.
    over: Vec<u64>,
}

impl WholeStacks {
    fn keep(&mut self, stacks: &[WholeStack]) {
        for stack in stacks {
            self.forget(stack.goid);
            if self.stacks.len() < MAX_STACKS && self.pcs + stack.pcs.len() <= MAX_PCS {
                self.pcs += stack.pcs.len();
                self.stacks.insert(stack.goid, stack.clone());
            }
        }
    }

    /// Lets the stacks of ended blocks go: every observer has seen the steps that were made before.
    fn forget_over(&mut self) {
        for goid in std::mem::take(&mut self.over) {
            self.forget(goid);
        }
    }

    fn forget(&mut self, goid: u64) {
        if let Some(stack) = self.stacks.remove(&goid) {
            self.pcs -= stack.pcs.len();
        }
    }

    /// The stack of what this goroutine waits in, if it is still in the block it was read in.
    fn of(&self, goid: u64) -> Option<&WholeStack> {
        self.stacks.get(&goid)
    }

    /// The stack of the block that this step ends, or introduces, if it was long enough to be read.
    fn of_step(&mut self, step: &Step) -> Option<Arc<[u64]>> {
        if !matches!(step.what, What::Found | What::Unblock | What::SyscallExit) {
            return None;
        }
        let began_ts = step.ts.checked_sub(step.duration_ns?)?;
        let long = self.stacks.get(&step.goid)?;
        // A stack that was read after the end of the block is another block's.
        let exact = step.measure == Measure::Exact;
        // A block whose beginning was seen is known by its time; one from before the trace has none.
        let same = long.since_ts.map_or(!exact, |since_ts| exact && since_ts == began_ts);
        let pcs = (same && long.read_ts < step.ts).then(|| Arc::clone(&long.pcs))?;
        self.over.push(step.goid);
        Some(pcs)
    }
}
