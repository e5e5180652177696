//! The goroutines of the trace as a reader sees them. Readers follow every goroutine from state to state and give up at
//! the first event that does not fit (`src/internal/trace/order.go`), so the same state is kept here.

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

/// The state of all goroutines, threads and the collector in the trace so far.
pub(super) struct Schedule<W> {
    pub(super) wire: Wire<W>,
    processors: Processors,
    goroutines: HashMap<u64, Goroutine>,
    /// Remarks that wait until a goroutine runs.
    remarks: VecDeque<Remark>,
    /// Sequence number of the last event of the collector: odd while it runs, 0 before the first.
    gc: u64,
}

/// A goroutine as readers have it.
#[derive(Clone, Copy)]
struct Goroutine {
    status: GoStatus,
    /// Its thread, while it runs or is in a system call.
    thread: u64,
    sequence: u64,
}

/// A change of state, ready to be written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change {
    /// The thread of the change; 0: not known.
    pub(super) tid: u32,
    /// Numbers of the reason and of the stack, as in [`super::tables`].
    pub(super) reason: u64,
    pub(super) stack: u64,
}

/// An event that the format ties to a running goroutine, though it does not matter to which.
#[derive(Clone, Copy, Debug)]
pub(super) enum Remark {
    GcBegin,
    GcEnd,
    /// A log message: the numbers of its category and its text.
    Log(u64, u64),
}

/// The state in the trace's terms; `None`: the goroutine does not exist.
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

    /// The state of a goroutine in the trace; `None`: the trace does not have it.
    pub(super) fn status(&self, goid: u64) -> Option<GoStatus> {
        Some(self.goroutines.get(&goid)?.status)
    }

    pub(super) fn is_free(&self, tid: u32) -> bool {
        self.processors.is_free(Processors::thread(tid))
    }

    /// Writes that a goroutine exists, which began before the trace.
    pub(super) fn introduce(&mut self, goid: u64, status: GoStatus, tid: u32) -> io::Result<()> {
        let thread = self.processors.place(tid);
        match status {
            GoStatus::Running => {
                self.need_p(thread)?;
                self.processors.arrives(thread, goid);
            }
            GoStatus::Syscall => {
                // The goroutine may return at once, and `GoSyscallEnd` demands a P that is in the system call with it.
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

    /// Writes the creation of a runnable goroutine. `stacks`: the one it begins with, and that of the `go` statement.
    pub(super) fn create(&mut self, goid: u64, tid: u32, stacks: [u64; 2]) -> io::Result<()> {
        let here = Processors::thread(tid);
        let thread = if self.processors.runs(here) { here } else { self.processors.place(tid) };
        self.need_p(thread)?;
        self.insert(goid, GoStatus::Runnable, thread);
        self.event(thread, Kind::GoCreate, &[goid, stacks[0], stacks[1]])
    }

    /// Writes the creation of a goroutine for a C thread that calls Go.
    pub(super) fn create_in_syscall(&mut self, goid: u64, tid: u32) -> io::Result<()> {
        let thread = self.processors.place(tid);
        // Readers demand a thread without a P here (`advanceGoCreateSyscall`).
        self.drop_p(thread)?;
        self.processors.arrives_in_syscall(thread, goid);
        self.insert(goid, GoStatus::Syscall, thread);
        self.event(thread, Kind::GoCreateSyscall, &[goid])
    }

    fn insert(&mut self, goid: u64, status: GoStatus, thread: u64) {
        self.goroutines.insert(goid, Goroutine { status, thread, sequence: 0 });
    }

    /// Brings a goroutine into another state, through the states that the format has in between. `change` describes the
    /// last transition, `not_seen` those before.
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
                // Without a P the goroutine must become runnable first, and then start.
                (GoStatus::Syscall, _) if !self.processors.has_p(goroutine.thread) => GoStatus::Runnable,
                (GoStatus::Runnable | GoStatus::Syscall, _) => GoStatus::Running,
                (GoStatus::Running, to) => to,
            };
            let change = if next == to { change } else { Change { tid: change.tid, ..not_seen } };
            self.change(goid, goroutine, next, change)?;
        }
        Ok(())
    }

    /// Writes the end of a goroutine, which must run for that, or be in a system call (a C thread that leaves Go).
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

    /// Writes one transition that the format has.
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

    /// Writes a remark on this thread, or as soon as a goroutine runs anywhere.
    pub(super) fn remark(&mut self, remark: Remark, tid: u32) -> io::Result<()> {
        self.remarks.push_back(remark);
        match self.processors.running(tid) {
            Some(thread) => self.make_remarks(thread),
            None => Ok(()),
        }
    }

    fn make_remarks(&mut self, thread: u64) -> io::Result<()> {
        while let Some(remark) = self.remarks.pop_front() {
            // A collection whose beginning or end is missing is left out: readers take begin and end in turn only.
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
