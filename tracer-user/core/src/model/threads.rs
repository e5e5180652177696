//! The target's threads: which goroutine each runs, and whether it has a CPU.

use super::say::bare;
use super::store::Key;
use super::{Goroutines, Note, Step, What};
use crate::event::{Event, Kind};
use crate::goruntime::State;
use hashbrown::HashMap;

/// One thread. All times are `CLOCK_MONOTONIC` nanoseconds, 0: not seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Thread {
    /// The goroutine that runs here, or is in a system call here.
    pub(super) running: Option<Key>,
    /// When that was seen.
    pub(super) running_ts: u64,
    /// Since when it has a CPU.
    pub(super) on_ts: u64,
    /// Since when it has none.
    pub(super) off_ts: u64,
    /// The two `g` of the last coroutine switch.
    pub(super) switched: [u64; 2],
    /// When `needm` was called, until its goroutine shows.
    pub(super) needm_ts: u64,
}

#[derive(Debug)]
pub(super) struct Threads {
    places: Vec<Thread>,
    by_tid: HashMap<u32, usize>,
    /// Who was asked for last, and its place: a thread's events come in runs.
    last: Option<(u32, usize)>,
    capacity: usize,
}

impl Threads {
    pub(super) fn new(capacity: usize) -> Threads {
        Threads { places: Vec::new(), by_tid: HashMap::new(), last: None, capacity }
    }

    /// The thread, made if it is not known. Its end is not seen: when there are too many, those
    /// that run nothing are forgotten, and if that does not help, all.
    #[inline]
    pub(super) fn at(&mut self, tid: u32) -> &mut Thread {
        let at = match self.last {
            Some((last, at)) if last == tid => at,
            _ => self.place_of(tid),
        };
        self.last = Some((tid, at));
        &mut self.places[at]
    }

    fn place_of(&mut self, tid: u32) -> usize {
        if let Some(known) = self.by_tid.get(&tid) {
            return *known;
        }
        if self.by_tid.len() >= self.capacity {
            self.forget_idle();
        }
        self.insert(tid, Thread::default())
    }

    fn insert(&mut self, tid: u32, thread: Thread) -> usize {
        self.places.push(thread);
        self.by_tid.insert(tid, self.places.len() - 1);
        self.places.len() - 1
    }

    fn forget_idle(&mut self) {
        let busy = self.by_tid.iter().map(|(tid, at)| (*tid, self.places[*at]));
        let busy: Vec<(u32, Thread)> = busy.filter(|(_, thread)| thread.running.is_some()).collect();
        self.clear();
        if busy.len() < self.capacity {
            for (tid, thread) in busy {
                self.insert(tid, thread);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Threads::new(self.capacity);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_tid.len()
    }
}

impl Goroutines {
    /// A thread gets or leaves a CPU, or wakes.
    pub(super) fn thread(&mut self, event: &Event, out: &mut Vec<Step>) {
        let doubt_until = self.doubt_until;
        let thread = self.threads.at(event.tid);
        let since = |ts: u64| (ts != 0 && ts <= event.ts).then(|| event.ts - ts);
        let (what, duration_ns) = match event.kind {
            Kind::ThreadOff => (What::ThreadOff, since(thread.on_ts)),
            Kind::ThreadOn => (What::ThreadOn, since(thread.off_ts)),
            _ => (What::ThreadWake, since(thread.off_ts)),
        };
        match event.kind {
            Kind::ThreadOff => (thread.on_ts, thread.off_ts) = (0, event.ts),
            Kind::ThreadOn => (thread.on_ts, thread.off_ts) = (event.ts, 0),
            _ => {}
        }
        let running = thread.running.filter(|_| thread.running_ts > doubt_until);
        let mut step = Step { duration_ns, ..bare(event, what) };
        if what == What::ThreadOff && event.from != 0 {
            step.note = Note::KernelPreempted;
        }
        if let Some(at) = running.and_then(|key| self.store.find(key)) {
            let goroutine = self.store.at(at);
            (step.goid, step.g) = (goroutine.goid, goroutine.g);
            (step.from, step.to) = (goroutine.state, goroutine.state);
            if what == What::ThreadOn && goroutine.state == State::Running {
                let running_ns = event.ts.saturating_sub(goroutine.since_ts);
                goroutine.off_cpu_ns += duration_ns.unwrap_or(0).min(running_ns);
            }
        }
        out.push(step);
    }
}
