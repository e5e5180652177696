//! One target as a Go execution trace, for `go tool trace` and gotraceui.
//!
//! The format is that of Go 1.22 (`src/internal/trace` of any later release), which every reader since takes. A later
//! format would add two things of use, both of Go 1.23: an event for a goroutine that is made parked (`iter.Pull`),
//! which is said to exist already here; and a stack for a goroutine that existed before the trace, which has none here
//! until it does something.
//!
//! - One generation holds everything. Readers take a goroutine that was never created only in the first
//!   (`advanceGoStatus`, `order.go`), and after a loss one can appear at any time. Batches are written when they are
//!   full, so only the tables of goroutines, strings and stacks grow.
//! - Ps are invented, as few as possible (see [`processors`]); threads are the kernel's. A step on an unknown thread,
//!   or on one that another account has elsewhere, is put on a thread above 2³².
//! - Readers refuse a state that does not follow from the one before. Where a transition was lost or cannot be seen,
//!   the missing ones are written at the time of the next known one, with `sfgi: not seen` as their reason or stack.
//!   The number of lost events is a log message of the category `sfgi`.
//! - A coroutine that ends hands its thread to another goroutine before the runtime marks it dead. It ends with that
//!   switch here, as in Go's own tracer (`traceGoSwitch` in `coroswitch_m`).
//! - A goroutine that never gets an id is left out. So is which thread had a CPU: the format has no place for it.

mod pending;
mod processors;
mod schedule;
mod tables;
#[cfg(test)]
mod tests;
mod wire;

use super::stacks::choose;
use pending::{Pending, Told};
use schedule::{Change, Remark, Schedule, status};
use sfgi_core::{
    goruntime::State,
    model::{Step, What},
    session::{End, Input, Observer, Round, Target},
};
use std::io::{self, Write};
use tables::{NOT_SEEN, Tables, block_reason};

/// The observer of `sfgi export --to go-trace`.
pub struct GoTrace<W> {
    pid: Option<u32>,
    target: usize,
    pending: Pending,
    schedule: Schedule<W>,
    tables: Tables,
    /// Whether the goroutines from before the trace have been introduced.
    introduced: bool,
    /// Whether a snapshot came since, which may have told of goroutines that did nothing yet.
    snapshot: bool,
}

impl<W: Write> GoTrace<W> {
    /// A trace of the process with this PID; without one, of the only target.
    pub fn new(out: W, pid: Option<u32>) -> GoTrace<W> {
        GoTrace {
            pid,
            target: 0,
            pending: Pending::default(),
            schedule: Schedule::new(out),
            tables: Tables::default(),
            introduced: false,
            snapshot: false,
        }
    }

    /// Writes the steps that are due, or `all`.
    fn drain(&mut self, target: &mut Target, all: bool) -> io::Result<()> {
        // When the first step is due, all steps of the second after it are known: they tell what goroutines did before.
        if !self.introduced && (all || self.pending.is_due()) {
            self.introduced = true;
            self.introduce_pending()?;
            self.introduce_silent(target)?;
        }
        while let Some((ts, told)) = if all { self.pending.pop() } else { self.pending.pop_due() } {
            self.schedule.wire.advance(ts);
            match told {
                Told::Step(step) => self.step(&step, target)?,
                Told::Lost(count) => {
                    let key = self.tables.string("sfgi");
                    let value = self.tables.string(&format!("{count} events lost"));
                    self.schedule.remark(Remark::Log(key, value), 0)?;
                }
            }
            self.tables.spill(&mut self.schedule.wire)?;
        }
        Ok(())
    }

    /// Introduces the goroutines whose first step tells what they did before the trace.
    fn introduce_pending(&mut self) -> io::Result<()> {
        self.schedule.wire.advance(self.pending.oldest_ts().unwrap_or(0));
        for step in self.pending.firsts() {
            let before = if step.what == What::Found { step.to } else { step.from };
            let Some(before) = status(before) else { continue };
            // Two goroutines cannot have been on one thread: then something between the two was not seen.
            let placed = matches!(before, wire::GoStatus::Running | wire::GoStatus::Syscall);
            if !placed || step.tid != 0 && self.schedule.is_free(step.tid) {
                self.schedule.introduce(step.goid, before, step.tid)?;
            }
        }
        Ok(())
    }

    /// Introduces the goroutines that the model knows, but that have done nothing.
    fn introduce_silent(&mut self, target: &Target) -> io::Result<()> {
        self.snapshot = false;
        let silent = target.goroutines().iter().filter(|goroutine| {
            goroutine.goid != 0
                && self.schedule.status(goroutine.goid).is_none()
                && !self.pending.has(goroutine.goid)
        });
        let mut silent: Vec<_> =
            silent.filter_map(|known| Some((known.goid, status(known.state)?, known.tid))).collect();
        silent.sort_unstable_by_key(|(goid, ..)| *goid);
        silent.into_iter().try_for_each(|(goid, status, tid)| self.schedule.introduce(goid, status, tid))
    }

    fn step(&mut self, step: &Step, target: &mut Target) -> io::Result<()> {
        match step.what {
            What::GcStart => return self.schedule.remark(Remark::GcBegin, step.tid),
            What::GcEnd => return self.schedule.remark(Remark::GcEnd, step.tid),
            What::ThreadOff | What::ThreadOn | What::ThreadWake | What::Exec => return Ok(()),
            _ if step.goid == 0 => return Ok(()),
            _ => {}
        }
        let found = step.what == What::Found;
        let (from, to) = (status(if found { step.to } else { step.from }), status(step.to));
        self.before(step, from)?;
        let (Some(to), false) = (to, found) else {
            return if to.is_none() && step.to.is_dead() { self.end_goroutine(step) } else { Ok(()) };
        };
        let change = self.told(step, target);
        if self.schedule.status(step.goid).is_none() {
            return self.appear(step, to, target);
        }
        let between = if from.is_none() { self.not_seen(step.tid) } else { Change::default() };
        self.schedule.bring(step.goid, to, change, between)
    }

    /// Brings the goroutine into the state that the step starts from.
    fn before(&mut self, step: &Step, from: Option<wire::GoStatus>) -> io::Result<()> {
        let known = self.schedule.status(step.goid);
        match (known, from) {
            (None, Some(from)) => self.schedule.introduce(step.goid, from, step.tid),
            (Some(known), Some(from)) if known != from => {
                let change = self.not_seen(step.tid);
                self.schedule.bring(step.goid, from, change, change)
            }
            // The old goroutine of this id ended unseen: the step starts from dead.
            (Some(_), None) if step.from.is_dead() => {
                let change = self.not_seen(0);
                self.schedule.end_goroutine(step.goid, 0, change)
            }
            _ => Ok(()),
        }
    }

    /// Writes the first event of a goroutine: its creation, or that it exists.
    fn appear(&mut self, step: &Step, to: wire::GoStatus, target: &mut Target) -> io::Result<()> {
        match to {
            // Dead to syscall is a C thread that calls Go for the first time (`needm`).
            wire::GoStatus::Syscall if step.from.is_dead() => {
                self.schedule.create_in_syscall(step.goid, step.tid)
            }
            wire::GoStatus::Runnable if step.from.is_dead() => {
                let birth = step.birth.unwrap_or_default();
                let symbols = target.symbols();
                let begins = self.tables.function(birth.startpc, symbols);
                let made = self.tables.go_statement(birth.gopc, symbols);
                self.schedule.create(step.goid, step.tid, [begins, made])
            }
            to => self.schedule.introduce(step.goid, to, step.tid),
        }
    }

    fn end_goroutine(&mut self, step: &Step) -> io::Result<()> {
        let change = self.not_seen(step.tid);
        self.schedule.end_goroutine(step.goid, step.tid, change)
    }

    /// Reason and stack of a change, in the trace's words.
    fn told(&mut self, step: &Step, target: &mut Target) -> Change {
        let reason = match step.to {
            State::Preempted => "preempted",
            State::Waiting | State::Leaked => {
                let known = &target.about().wait_reasons;
                block_reason(known.get(step.reason), known.text(step.reason))
            }
            _ => "",
        };
        let reason = self.tables.string(reason);
        let release = target.about().release;
        // The trace ties a wake-up's stack to the goroutine that wakes; the step has the stack of the one that waited.
        let stack = step.stack.filter(|_| step.from == State::Running);
        let stack = stack.map_or(0, |stack| self.tables.stack(stack, target.symbols(), release));
        Change { tid: step.tid, reason, stack }
    }

    /// Reason and stack of a change that was not seen.
    fn not_seen(&mut self, tid: u32) -> Change {
        Change { tid, reason: self.tables.string(NOT_SEEN), stack: self.tables.remark(NOT_SEEN) }
    }
}

impl<W: Write> Observer for GoTrace<W> {
    fn begin(&mut self, targets: &mut [Target]) -> io::Result<()> {
        self.target = choose(targets, self.pid)?;
        self.schedule.wire.begin()
    }

    fn input(&mut self, target: usize, input: &Input, _: &mut Target) -> io::Result<()> {
        self.snapshot |= target == self.target && matches!(input, Input::Snapshot(_));
        Ok(())
    }

    fn round(&mut self, targets: &mut [Target], round: &Round) -> io::Result<()> {
        let (Some(target), Some(news)) = (targets.get_mut(self.target), round.news.get(self.target)) else {
            return Ok(());
        };
        if news.lost != 0 {
            self.pending.push(news.ts, Told::Lost(news.lost));
        }
        for step in &news.steps {
            self.pending.push(step.ts, Told::Step(*step));
        }
        self.drain(target, false)?;
        if self.introduced && self.snapshot && !target.has_pending() {
            self.introduce_silent(target)?;
        }
        Ok(())
    }

    fn end(&mut self, targets: &mut [Target], _: &[End]) -> io::Result<()> {
        if let Some(target) = targets.get_mut(self.target) {
            self.drain(target, true)?;
            self.introduce_silent(target)?;
        }
        self.tables.write(&mut self.schedule.wire)?;
        self.schedule.wire.end()
    }
}
