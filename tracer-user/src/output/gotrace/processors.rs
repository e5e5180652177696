//! Threads and Ps of the trace. sfgi sees threads but no Ps, and in a trace no goroutine runs without one. A thread
//! gets the first free P when it begins to run a goroutine, and keeps it until another thread needs it.

use super::wire::{Kind, ProcStatus, Wire};
use hashbrown::HashMap;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};

/// Threads from here on stand for unknown ones. Linux has no such ids: PIDs are `i32`.
const UNKNOWN_THREADS: u64 = 1 << 32;

#[derive(Default)]
pub(super) struct Processors {
    threads: HashMap<u64, Thread>,
    /// The sequence number of each P, by which readers order its events.
    sequence: Vec<u64>,
    free: BTreeSet<usize>,
    /// Threads with a P and no goroutine: their P may be taken.
    resting: BTreeSet<u64>,
    /// Threads whose goroutine runs (not in a system call), with the goroutine.
    running: BTreeMap<u64, u64>,
}

#[derive(Clone, Copy, Default)]
struct Thread {
    goid: Option<u64>,
    p: Option<usize>,
}

impl Processors {
    /// The trace's number of a thread.
    pub(super) fn thread(tid: u32) -> u64 {
        if tid == 0 { UNKNOWN_THREADS } else { u64::from(tid) }
    }

    pub(super) fn is_free(&self, thread: u64) -> bool {
        self.threads.get(&thread).is_none_or(|thread| thread.goid.is_none())
    }

    /// The thread for a goroutine to run on: this one, or one that stands for an unknown thread, if this one is not
    /// known or has a goroutine.
    pub(super) fn place(&self, tid: u32) -> u64 {
        let known = (tid != 0).then_some(u64::from(tid)).filter(|thread| self.is_free(*thread));
        known.unwrap_or_else(|| {
            (UNKNOWN_THREADS..).find(|thread| self.is_free(*thread)).unwrap_or(UNKNOWN_THREADS)
        })
    }

    /// A thread on which a goroutine runs; this one, if one runs here.
    pub(super) fn running(&self, tid: u32) -> Option<u64> {
        let here = u64::from(tid);
        self.running.contains_key(&here).then_some(here).or_else(|| self.running.keys().next().copied())
    }

    pub(super) fn runs(&self, thread: u64) -> bool {
        self.running.contains_key(&thread)
    }

    pub(super) fn arrives(&mut self, thread: u64, goid: u64) {
        self.threads.entry(thread).or_default().goid = Some(goid);
        self.running.insert(thread, goid);
        self.resting.remove(&thread);
    }

    pub(super) fn arrives_in_syscall(&mut self, thread: u64, goid: u64) {
        self.arrives(thread, goid);
        self.running.remove(&thread);
    }

    /// Takes the goroutine from the thread. A thread with a P is kept, so that the P is found again.
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

    /// The goroutine enters a system call with the thread's P; returns the P's sequence number for that event.
    pub(super) fn enters_syscall(&mut self, thread: u64) -> u64 {
        self.running.remove(&thread);
        let p = self.threads.get(&thread).and_then(|thread| thread.p);
        p.map_or(0, |p| self.next(p))
    }

    pub(super) fn has_p(&self, thread: u64) -> bool {
        self.threads.get(&thread).is_some_and(|thread| thread.p.is_some())
    }

    /// Gives the thread a P, if it has none: a free one, one of a resting thread, or a new one.
    pub(super) fn need_p(&mut self, thread: u64, wire: &mut Wire<impl Write>) -> io::Result<()> {
        if self.has_p(thread) {
            return Ok(());
        }
        // A resting thread gives its P before a new one is invented: viewers draw one row for each P.
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

    /// Gives the thread, which has no P, a new one.
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

    /// Takes the thread's P, if it has one.
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
