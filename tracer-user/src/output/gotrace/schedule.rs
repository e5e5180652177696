//! The goroutines of the trace. Readers follow every goroutine from state to state and give up at the first step that
//! does not fit, so each is kept here as they have it.

use super::{
    processors::Processors,
    wire::{GoStatus, Kind, NO_THREAD, ProcStatus, Wire},
};
use hashbrown::HashMap;
use sfgi_core::goruntime::State;
use std::{
    collections::VecDeque,
    io::{self, Write},
};

/// What a trace holds so far.
pub(super) struct Schedule<W> {
    pub(super) wire: Wire<W>,
    processors: Processors,
    goroutines: HashMap<u64, Goroutine>,
    /// What waits for a goroutine that runs.
    remarks: VecDeque<Remark>,
    /// Number of the last change of the collector, if there was one.
    gc: u64,
}

/// A goroutine as the readers have it.
#[derive(Clone, Copy)]
struct Goroutine {
    status: GoStatus,
    /// Where it runs or is in a system call.
    thread: u64,
    sequence: u64,
}

/// A change of state, ready to be written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change {
    /// The thread it happened on; 0: not known.
    pub(super) tid: u32,
    /// Numbers of the reason and the stack.
    pub(super) reason: u64,
    pub(super) stack: u64,
}

/// What the format ties to a goroutine that runs, though any will do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Remark {
    /// The collector begins.
    GcBegin,
    /// It is done.
    GcEnd,
    /// Two strings.
    Log(u64, u64),
}

/// The state in the trace's terms; `None`: it is not there.
pub(super) fn status(state: State) -> Option<GoStatus> {
    match state {
        State::Runnable => Some(GoStatus::Runnable),
        State::Running | State::CopyStack => Some(GoStatus::Running),
        State::Syscall => Some(GoStatus::Syscall),
        State::Waiting | State::Preempted | State::Leaked => Some(GoStatus::Waiting),
        State::Unknown | State::Idle | State::Dead | State::DeadExtra | State::Invalid(_) => None,
    }
}

impl<W: Write> Schedule<W> {
    pub(super) fn new(out: W) -> Schedule<W> {
        Schedule {
            wire: Wire::new(out),
            processors: Processors::default(),
            goroutines: HashMap::new(),
            remarks: VecDeque::new(),
            gc: 0,
        }
    }

    /// The state of a goroutine; `None`: it is not there.
    pub(super) fn status(&self, goid: u64) -> Option<GoStatus> {
        Some(self.goroutines.get(&goid)?.status)
    }

    /// Whether no goroutine is on this thread.
    pub(super) fn is_free(&self, tid: u32) -> bool {
        self.processors.is_free(Processors::thread(tid))
    }

    /// Says that a goroutine is there, which began before.
    pub(super) fn introduce(&mut self, goid: u64, status: GoStatus, tid: u32) -> io::Result<()> {
        let thread = self.processors.place(tid);
        match status {
            GoStatus::Running => {
                self.need_p(thread)?;
                self.processors.arrives(thread, goid);
            }
            GoStatus::Syscall => {
                // It may come back at once, for which it needs to have one.
                self.drop_p(thread)?;
                self.processors.new_p(thread, ProcStatus::Syscall, &mut self.wire)?;
                self.processors.arrives_in_syscall(thread, goid);
            }
            GoStatus::Runnable | GoStatus::Waiting => {}
        }
        self.goroutines.insert(goid, Goroutine { status, thread, sequence: 0 });
        let (on, named) = match status {
            GoStatus::Running | GoStatus::Syscall => (thread, thread),
            GoStatus::Runnable | GoStatus::Waiting => (Processors::thread(0), NO_THREAD),
        };
        self.event(on, Kind::GoStatus, &[goid, named, status as u64])
    }

    /// A goroutine begins to exist, runnable; the stacks are those it begins with and of the `go` statement.
    pub(super) fn create(&mut self, goid: u64, tid: u32, stacks: [u64; 2]) -> io::Result<()> {
        let here = Processors::thread(tid);
        let thread = if self.processors.runs(here) { here } else { self.processors.place(tid) };
        self.need_p(thread)?;
        self.insert(goid, GoStatus::Runnable, thread);
        self.event(thread, Kind::GoCreate, &[goid, stacks[0], stacks[1]])
    }

    /// A goroutine begins to exist for a C thread that calls Go.
    pub(super) fn create_in_syscall(&mut self, goid: u64, tid: u32) -> io::Result<()> {
        let thread = self.processors.place(tid);
        // It comes without a P.
        self.drop_p(thread)?;
        self.processors.arrives_in_syscall(thread, goid);
        self.insert(goid, GoStatus::Syscall, thread);
        self.event(thread, Kind::GoCreateSyscall, &[goid])
    }

    fn insert(&mut self, goid: u64, status: GoStatus, thread: u64) {
        self.goroutines.insert(goid, Goroutine { status, thread, sequence: 0 });
    }

    /// Brings a goroutine into another state, through those that the format has between the two; what was `not_seen`
    /// goes with each of them but the last, which is `change`.
    pub(super) fn bring(
        &mut self,
        goid: u64,
        to: GoStatus,
        change: Change,
        not_seen: Change,
    ) -> io::Result<()> {
        while let Some(goroutine) = self.goroutines.get(&goid).copied().filter(|known| known.status != to) {
            let next = match (goroutine.status, to) {
                (GoStatus::Waiting, _) => GoStatus::Runnable,
                (GoStatus::Syscall, GoStatus::Runnable) => GoStatus::Runnable,
                // Without a P, it has to ask for one.
                (GoStatus::Syscall, _) if !self.processors.has_p(goroutine.thread) => GoStatus::Runnable,
                (GoStatus::Runnable | GoStatus::Syscall, _) => GoStatus::Running,
                (GoStatus::Running, to) => to,
            };
            let change = if next == to { change } else { Change { tid: change.tid, ..not_seen } };
            self.change(goid, goroutine, next, change)?;
        }
        Ok(())
    }

    /// Ends a goroutine.
    pub(super) fn end_goroutine(&mut self, goid: u64, tid: u32, not_seen: Change) -> io::Result<()> {
        if !matches!(self.status(goid), Some(GoStatus::Running | GoStatus::Syscall)) {
            self.bring(goid, GoStatus::Running, Change { tid, ..Change::default() }, not_seen)?;
        }
        let Some(goroutine) = self.goroutines.remove(&goid) else { return Ok(()) };
        let kind = if goroutine.status == GoStatus::Syscall {
            self.drop_p(goroutine.thread)?;
            Kind::GoDestroySyscall
        } else {
            Kind::GoDestroy
        };
        self.event(goroutine.thread, kind, &[])?;
        self.processors.leaves(goroutine.thread);
        Ok(())
    }

    /// One step that the format has.
    fn change(
        &mut self,
        goid: u64,
        mut goroutine: Goroutine,
        to: GoStatus,
        change: Change,
    ) -> io::Result<()> {
        let here = goroutine.thread;
        let from = std::mem::replace(&mut goroutine.status, to);
        match (from, to) {
            (GoStatus::Running, GoStatus::Syscall) => {
                let sequence = self.processors.enters_syscall(here);
                self.event(here, Kind::GoSyscallBegin, &[sequence, change.stack])?;
            }
            (GoStatus::Running, _) => {
                let kind = if to == GoStatus::Runnable { Kind::GoStop } else { Kind::GoBlock };
                self.event(here, kind, &[change.reason, change.stack])?;
                self.processors.leaves(here);
            }
            (GoStatus::Syscall, GoStatus::Running) => {
                self.event(here, Kind::GoSyscallEnd, &[])?;
                self.processors.arrives(here, goid);
            }
            (GoStatus::Syscall, _) => {
                self.drop_p(here)?;
                self.event(here, Kind::GoSyscallEndBlocked, &[])?;
                self.processors.leaves(here);
            }
            (GoStatus::Waiting, _) => {
                goroutine.sequence += 1;
                let thread = Processors::thread(change.tid);
                self.event(thread, Kind::GoUnblock, &[goid, goroutine.sequence, change.stack])?;
            }
            (GoStatus::Runnable, _) => {
                goroutine.sequence += 1;
                goroutine.thread = self.processors.place(change.tid);
                self.need_p(goroutine.thread)?;
                self.event(goroutine.thread, Kind::GoStart, &[goid, goroutine.sequence])?;
                self.processors.arrives(goroutine.thread, goid);
            }
        }
        self.goroutines.insert(goid, goroutine);
        if to == GoStatus::Running { self.make_remarks(goroutine.thread) } else { Ok(()) }
    }

    /// Makes a remark on this thread, or else as soon as a goroutine runs.
    pub(super) fn remark(&mut self, remark: Remark, tid: u32) -> io::Result<()> {
        self.remarks.push_back(remark);
        match self.processors.running(tid) {
            Some(thread) => self.make_remarks(thread),
            None => Ok(()),
        }
    }

    fn make_remarks(&mut self, thread: u64) -> io::Result<()> {
        while let Some(remark) = self.remarks.pop_front() {
            // A collection that began before the trace, or whose end was lost, is left out.
            let collects = self.gc % 2 == 1;
            match remark {
                Remark::GcBegin if !collects => {
                    self.gc += 1;
                    self.event(thread, Kind::GcBegin, &[self.gc, 0])?;
                }
                Remark::GcEnd if collects => {
                    self.gc += 1;
                    self.event(thread, Kind::GcEnd, &[self.gc])?;
                }
                Remark::GcBegin | Remark::GcEnd => {}
                Remark::Log(key, value) => self.event(thread, Kind::UserLog, &[0, key, value, 0])?,
            }
        }
        Ok(())
    }

    fn need_p(&mut self, thread: u64) -> io::Result<()> {
        self.processors.need_p(thread, &mut self.wire)
    }

    fn drop_p(&mut self, thread: u64) -> io::Result<()> {
        self.processors.drop_p(thread, &mut self.wire)
    }

    fn event(&mut self, thread: u64, kind: Kind, args: &[u64]) -> io::Result<()> {
        self.wire.event(thread, kind, args)
    }
}
