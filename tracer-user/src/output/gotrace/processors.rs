//! Threads and Ps of the trace. sfgi sees threads but no Ps, and no goroutine of a trace runs without one: a thread
//! gets the first free P when it begins to run a goroutine, and keeps it until another one needs it.

use super::wire::{Kind, ProcStatus, Wire};
use hashbrown::HashMap;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};

/// From here on threads are numbered that stand for one that is not known. Linux has none so high.
const UNKNOWN_THREADS: u64 = 1 << 32;

/// All threads and Ps.
#[derive(Default)]
pub(super) struct Processors {
    threads: HashMap<u64, Thread>,
    /// Sequence numbers of the Ps.
    sequence: Vec<u64>,
    /// Ps that no thread has.
    free: BTreeSet<usize>,
    /// Threads that have a P and no goroutine.
    resting: BTreeSet<u64>,
    /// Threads whose goroutine is not in a system call.
    running: BTreeMap<u64, u64>,
}

/// A thread.
#[derive(Clone, Copy, Default)]
struct Thread {
    goid: Option<u64>,
    p: Option<usize>,
}

impl Processors {
    /// The thread that something happens on.
    pub(super) fn thread(tid: u32) -> u64 {
        if tid == 0 { UNKNOWN_THREADS } else { u64::from(tid) }
    }

    /// Whether no goroutine is on this thread.
    pub(super) fn is_free(&self, thread: u64) -> bool {
        self.threads.get(&thread).is_none_or(|thread| thread.goid.is_none())
    }

    /// A thread for a goroutine to run on: this one, but if it is not known or already has one, one that
    /// stands for an unknown thread.
    pub(super) fn place(&self, tid: u32) -> u64 {
        let known = (tid != 0).then_some(u64::from(tid)).filter(|thread| self.is_free(*thread));
        known.unwrap_or_else(|| {
            (UNKNOWN_THREADS..).find(|thread| self.is_free(*thread)).unwrap_or(UNKNOWN_THREADS)
        })
    }

    /// A thread on which a goroutine runs: this one, if one does.
    pub(super) fn running(&self, tid: u32) -> Option<u64> {
        let here = u64::from(tid);
        self.running.contains_key(&here).then_some(here).or_else(|| self.running.keys().next().copied())
    }

    /// Whether a goroutine runs on this thread.
    pub(super) fn runs(&self, thread: u64) -> bool {
        self.running.contains_key(&thread)
    }

    /// A goroutine begins to run on a thread.
    pub(super) fn arrives(&mut self, thread: u64, goid: u64) {
        self.threads.entry(thread).or_default().goid = Some(goid);
        self.running.insert(thread, goid);
        self.resting.remove(&thread);
    }

    /// A goroutine comes to a thread in a system call.
    pub(super) fn arrives_in_syscall(&mut self, thread: u64, goid: u64) {
        self.arrives(thread, goid);
        self.running.remove(&thread);
    }

    /// Nothing runs on the thread any more.
    pub(super) fn leaves(&mut self, thread: u64) {
        self.running.remove(&thread);
        if let Some(left) = self.threads.get_mut(&thread) {
            left.goid = None;
            match left.p {
                Some(_) => drop(self.resting.insert(thread)),
                None => drop(self.threads.remove(&thread)),
            }
        }
    }

    /// The thread's goroutine goes into a system call, with the thread's P: the number of that change.
    pub(super) fn enters_syscall(&mut self, thread: u64) -> u64 {
        self.running.remove(&thread);
        let p = self.threads.get(&thread).and_then(|thread| thread.p);
        p.map_or(0, |p| self.next(p))
    }

    /// Whether the thread has a P.
    pub(super) fn has_p(&self, thread: u64) -> bool {
        self.threads.get(&thread).is_some_and(|thread| thread.p.is_some())
    }

    /// Gives the thread a P.
    pub(super) fn need_p(&mut self, thread: u64, wire: &mut Wire<impl Write>) -> io::Result<()> {
        if self.has_p(thread) {
            return Ok(());
        }
        if self.free.is_empty()
            && let Some(other) = self.resting.first().copied()
        {
            self.drop_p(other, wire)?;
        }
        let Some(p) = self.free.pop_first() else { return self.new_p(thread, ProcStatus::Running, wire) };
        let sequence = self.next(p);
        wire.event(thread, Kind::ProcStart, &[p as u64, sequence])?;
        self.take(thread, p);
        Ok(())
    }

    /// Gives the thread, which has none, a P that was not there before.
    pub(super) fn new_p(
        &mut self,
        thread: u64,
        status: ProcStatus,
        wire: &mut Wire<impl Write>,
    ) -> io::Result<()> {
        let p = self.sequence.len();
        self.sequence.push(0);
        wire.event(thread, Kind::ProcStatus, &[p as u64, status as u64])?;
        self.take(thread, p);
        Ok(())
    }

    fn take(&mut self, thread: u64, p: usize) {
        let taker = self.threads.entry(thread).or_default();
        taker.p = Some(p);
        if taker.goid.is_none() {
            self.resting.insert(thread);
        }
    }

    /// Takes the thread's P away, if it has one.
    pub(super) fn drop_p(&mut self, thread: u64, wire: &mut Wire<impl Write>) -> io::Result<()> {
        let Some(loser) = self.threads.get_mut(&thread) else { return Ok(()) };
        let Some(p) = loser.p.take() else { return Ok(()) };
        if loser.goid.is_none() {
            self.threads.remove(&thread);
        }
        self.resting.remove(&thread);
        self.free.insert(p);
        wire.event(thread, Kind::ProcStop, &[])
    }

    fn next(&mut self, p: usize) -> u64 {
        self.sequence[p] += 1;
        self.sequence[p]
    }
}
