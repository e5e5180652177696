//! The runtime's own state machine, as data: every place where some version of Go changes `g.atomicstatus`, apart from
//! the scan bit. The model calls a change illegal that is neither here, for the target's version, nor a named bypass
//! (`model/bypass.rs`).
//!
//! Read in `src/runtime` of Go 1.19.8, 1.21.13, 1.22.10, 1.23.9, 1.24.11, 1.25.5, 1.26.6 and 1.27.3. 1.20 has no edge
//! that its neighbours lack.

use super::Release;
use super::State::{
    self, CopyStack, Dead, DeadExtra, Idle, Leaked, Preempted, Runnable, Running, Syscall, Waiting,
};

/// One place in the runtime that changes a goroutine's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub from: State,
    pub to: State,
    /// First Go 1.minor with the edge; the minor of [`Release::OLDEST`] also stands for all before.
    pub since: u32,
    /// Last Go 1.minor with the edge; `None`: [`Release::NEWEST`] still has it.
    pub until: Option<u32>,
    /// How the runtime writes the status word, which decides which probe sees it.
    pub by: By,
    /// File and function in `src/runtime`, and the occasion.
    pub source: &'static str,
}

/// How the runtime changes the status word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Casgstatus,
    /// The function compares and swaps the word itself, so a probe on `casgstatus` misses it.
    OwnCas,
}

const OLDEST: u32 = Release::OLDEST.minor();

/// One row for each place in the runtime's source, so several rows may have the same two states.
pub(crate) const EDGES: &[Edge] = &[
    // The life of a g.
    edge(Idle, Dead, 19, None, "proc.go: newproc1 (a new g)"),
    edge(Idle, Dead, 19, Some(25), "proc.go: oneNewExtraM (for C threads)"),
    edge(Idle, DeadExtra, 26, None, "proc.go: oneNewExtraM (for C threads)"),
    edge(Dead, Runnable, 19, None, "proc.go: newproc1 (go statement)"),
    edge(Dead, Waiting, 23, None, "proc.go: newproc1 (created parked, for newcoro)"),
    edge(Running, Dead, 19, Some(21), "proc.go: goexit0"),
    edge(Running, Dead, 22, None, "proc.go: gdestroy (goexit0, coroexit)"),
    edge(Dead, Syscall, 19, Some(25), "proc.go: needm (C thread calls Go)"),
    edge(DeadExtra, Syscall, 26, None, "proc.go: needm (C thread calls Go)"),
    edge(Syscall, Dead, 19, Some(25), "proc.go: dropm (C thread is done with Go)"),
    edge(Syscall, DeadExtra, 26, None, "proc.go: dropm (C thread is done with Go)"),
    // Scheduling.
    edge(Runnable, Running, 19, None, "proc.go: execute"),
    edge(Running, Runnable, 19, None, "proc.go: goschedImpl (Gosched, preemption)"),
    edge(Running, Runnable, 19, None, "proc.go: goyield_m"),
    edge(Running, Runnable, 19, None, "debugcall.go: debugCallWrap1 (injected call is done)"),
    own(Running, Preempted, 19, None, "proc.go: casGToPreemptScan (preemptPark, with the scan bit)"),
    own(Preempted, Waiting, 19, None, "proc.go: casGFromPreempted (suspendG, may fail)"),
    edge(Running, CopyStack, 19, None, "stack.go: newstack"),
    edge(CopyStack, Running, 19, None, "stack.go: newstack"),
    // Blocking.
    edge(Running, Waiting, 19, None, "proc.go: park_m (gopark)"),
    edge(Running, Waiting, 19, None, "debugcall.go: debugCallWrap (for an injected call)"),
    edge(Waiting, Runnable, 19, None, "proc.go: ready (goready, resumeG)"),
    edge(Waiting, Runnable, 19, None, "proc.go: injectglist (netpoll, GC wake-ups)"),
    edge(Waiting, Runnable, 19, None, "proc.go: findRunnable (trace reader, netpoll, idle GC worker)"),
    edge(Waiting, Runnable, 19, None, "proc.go: park_m (unlockf refused to park)"),
    edge(Waiting, Runnable, 19, None, "mgcpacer.go: findRunnableGCWorker"),
    edge(Waiting, Runnable, 19, None, "debugcall.go: debugCallWrap1 (injected call is done)"),
    edge(Waiting, Leaked, 26, None, "mgc.go: findGoroutineLeaks"),
    edge(Leaked, Waiting, 27, None, "mgc.go: findGoroutineLeaks (main in select{})"),
    own(Leaked, Waiting, 26, None, "mgcmark.go: allGsSnapshotSortedForGC (next leak cycle)"),
    // System calls and C.
    edge(Running, Syscall, 19, None, "proc.go: reentersyscall (from 1.26 where its own CAS fails)"),
    own(Running, Syscall, 26, None, "proc.go: reentersyscall"),
    edge(Running, Syscall, 19, None, "proc.go: entersyscallblock"),
    edge(Syscall, Running, 19, None, "proc.go: exitsyscall (from 1.26 where its own CAS fails)"),
    own(Syscall, Running, 26, None, "proc.go: exitsyscall"),
    edge(Syscall, Runnable, 19, Some(25), "proc.go: exitsyscall0 (no P free)"),
    edge(Running, Runnable, 26, None, "proc.go: exitsyscallNoP (no P free)"),
    // Coroutines.
    edge(Runnable, Waiting, 22, Some(22), "coro.go: newcoro (parks what newproc1 made)"),
    own(Running, Waiting, 22, None, "coro.go: coroswitch_m"),
    own(Waiting, Running, 22, None, "coro.go: coroswitch_m"),
    edge(Running, Waiting, 22, None, "coro.go: coroswitch_m (where its own CAS fails)"),
    edge(Waiting, Runnable, 22, None, "coro.go: coroswitch_m (where its own CAS fails)"),
    edge(Runnable, Running, 22, None, "coro.go: coroswitch_m (where its own CAS fails)"),
    // Fake waits: the goroutine goes on executing on the system stack.
    edge(Running, Waiting, 19, None, "mgc.go: gcBgMarkWorker (fake wait)"),
    edge(Waiting, Running, 19, None, "mgc.go: gcBgMarkWorker (fake wait ends)"),
    edge(Running, Waiting, 19, Some(21), "mgc.go: gcMarkDone (fake wait)"),
    edge(Waiting, Running, 19, Some(21), "mgc.go: gcMarkDone (fake wait ends)"),
    edge(Running, Waiting, 22, None, "proc.go: forEachP (fake wait)"),
    edge(Waiting, Running, 22, None, "proc.go: forEachP (fake wait ends)"),
    edge(Running, Waiting, 19, None, "mgc.go: gcMarkTermination (fake wait)"),
    edge(Waiting, Running, 19, None, "mgc.go: gcMarkTermination (fake wait ends)"),
    edge(Running, Waiting, 19, None, "mgcmark.go: gcAssistAlloc1 (fake wait)"),
    edge(Waiting, Running, 19, None, "mgcmark.go: gcAssistAlloc1 (fake wait ends)"),
    edge(Running, Waiting, 19, None, "mgcmark.go: markroot (fake wait, scans itself)"),
    edge(Waiting, Running, 19, None, "mgcmark.go: markroot (fake wait ends)"),
    edge(Running, Waiting, 19, Some(24), "proc.go: stopTheWorld (fake wait; until 1.24.x)"),
    edge(Waiting, Running, 19, Some(24), "proc.go: stopTheWorld (fake wait ends; until 1.24.x)"),
    edge(Running, Waiting, 24, None, "proc.go: stopTheWorldWithSema (fake wait; from 1.24.x)"),
    edge(Waiting, Running, 24, None, "proc.go: stopTheWorldWithSema (fake wait ends; from 1.24.x)"),
    edge(Running, Waiting, 22, Some(22), "trace2.go: traceAdvance (fake wait)"),
    edge(Waiting, Running, 22, Some(22), "trace2.go: traceAdvance (fake wait ends)"),
    edge(Running, Waiting, 23, None, "trace.go: traceAdvance (fake wait)"),
    edge(Waiting, Running, 23, None, "trace.go: traceAdvance (fake wait ends)"),
    edge(Running, Waiting, 19, None, "heapdump.go: writeheapdump_m (fake wait)"),
    edge(Waiting, Running, 19, None, "heapdump.go: writeheapdump_m (fake wait ends)"),
];

const fn edge(from: State, to: State, since: u32, until: Option<u32>, source: &'static str) -> Edge {
    Edge { from, to, since, until, by: By::Casgstatus, source }
}

const fn own(from: State, to: State, since: u32, until: Option<u32>, source: &'static str) -> Edge {
    Edge { from, to, since, until, by: By::OwnCas, source }
}

impl Edge {
    /// Whether a release has the edge. A release after [`Release::NEWEST`] has what that one has.
    pub(crate) fn holds_in(&self, release: Release) -> bool {
        let minor = release.minor();
        (self.since == OLDEST || self.since <= minor) && self.until.is_none_or(|last| minor <= last)
    }
}

/// The edges of one release as bits: a row for each state before, a bit for each state after. The model asks once for
/// every event.
#[derive(Clone, Debug)]
pub(crate) struct Graph([u16; State::KINDS.len()]);

impl Graph {
    /// The edges of a release that go through `casgstatus`.
    pub(crate) fn of_casgstatus(release: Release) -> Graph {
        let mut rows = [0; State::KINDS.len()];
        for edge in EDGES.iter().filter(|edge| edge.by == By::Casgstatus && edge.holds_in(release)) {
            rows[edge.from.ordinal()] |= 1 << edge.to.ordinal();
        }
        Graph(rows)
    }

    #[inline]
    pub(crate) fn has(&self, from: State, to: State) -> bool {
        self.0[from.ordinal()] & (1 << to.ordinal()) != 0
    }
}
