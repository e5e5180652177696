//! The heap, read from outside: which goroutines nothing can wake any more, and what they hold.
//!
//! # How
//! What can be reached is marked as the collector does it, but with other roots: a goroutine that waits for something
//! that only other goroutines can do is none. If nothing reaches what it waits for, no goroutine can end the wait.
//! (`src/runtime/mgc.go: findGoroutineLeaks` of Go 1.26 does the same from within, with the world stopped.)
//!
//! # Words
//! - A **look** reads all goroutines once, with their stacks, and counts them by creation site (`observe.rs`). What
//!   moves and what grows shows between looks.
//! - A **pass** marks the heap once, from the roots to a fixed point (`pass.rs`). The target runs on meanwhile, so a
//!   pass **catches up** in the end: it marks from what has moved since it was marked from.
//! - An **observation** is all looks and passes over one stretch of time. A goroutine is *unreachable* if no pass of
//!   the observation reached what could wake it, and it has not run from the first pass to the last.
//! - A **candidate** is a goroutine that may be unreachable, by its wait reason (`candidates.rs`). Until something
//!   makes it live it is no root; then it is one like any other goroutine.
//! - An **awaited object** is what a candidate waits for: a channel, or something of package `sync`. Where a pass
//!   reaches it, its waiters become live.
//! - A **doubt** is why nothing counts as proven, whatever the passes left: a part of the heap that cannot be read, a
//!   finalizer that is stuck, a goroutine that runs at every look and whose registers cannot be seen.
//!
//! A *blur* is none of these: it is a failed read in a probe ([`crate::event::Batch::blurred`]) and concerns events.
//! Here a failed read means that something moved; it is repeated, or becomes a doubt.

mod candidates;
mod marker;
mod observe;
mod pass;
mod references;
mod relations;
mod roots;
mod spans;
mod stack;
mod timers;

pub use candidates::can_be_leaked;
pub use observe::{ObserveError, Options, Progress, Registers, observe};
pub use relations::{DeadSet, Edge, Holders};
pub use spans::{Usage, usage};
pub use timers::{TimerKind, TimerSite};

use crate::snapshot::{Snapshot, View};
use marker::Marker;
use references::{Depths, References, Wanted};

/// What was observed of a target over a time: the material of every verdict.
#[derive(Debug, Default)]
pub struct Observed {
    /// The goroutines as the last look found them, with stacks, labels and objects.
    pub snapshot: Snapshot,
    /// One for each goroutine of `snapshot`, in its order.
    pub facts: Vec<Facts>,
    /// Sets of unreachable goroutines that wait for each other, the largest first.
    pub sets: Vec<DeadSet>,
    /// One for each of [`Snapshot::objects`], in its order.
    pub holders: Vec<Holders>,
    /// The oldest first.
    pub looks: Vec<Look>,
    /// Timers that are set, by what they do; the largest number first.
    pub timers: Vec<TimerSite>,
    /// How many passes there were; with 0 nothing is proven.
    pub passes: u32,
    /// Bytes that the last pass read of the heap, and how long it took, nanoseconds.
    pub scanned: (u64, u64),
    /// How long the whole observation took, nanoseconds.
    pub took_ns: u64,
    /// How long the target was stopped (`--freeze`), nanoseconds; `None`: it was not.
    pub frozen_ns: Option<u64>,
    /// Why nothing counts as proven although it seems unreachable; `None`: nothing stands against it.
    pub doubt: Option<String>,
}

/// What is known of one goroutine beyond its snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// No pass reached what could wake it: it cannot run again.
    pub unreachable: bool,
    /// When the first look that found it in this very wait was taken, `CLOCK_MONOTONIC` nanoseconds.
    pub since_ns: u64,
    pub looks: u32,
    /// Looks that found it to have run since the look before.
    pub moved: u32,
    /// Looks that found it running or runnable.
    pub busy: u32,
    /// Looks that found its thread or its stack in a function that only yields (`runtime.Gosched`, `time.Sleep`).
    pub yielding: u32,
    /// Index into [`Observed::sets`], if it is in one.
    pub set: Option<u32>,
    /// Awaited objects that its stack refers to, without those that it waits for itself: index into
    /// [`Snapshot::objects`].
    pub holds: Vec<u32>,
    /// The channel that it waits for is the `Done` of a context.
    pub context: bool,
}

/// What one look counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Look {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// How many goroutines were made at each site: (`gopc`, `startpc`) as in the target's memory; by the pair.
    pub counts: std::collections::BTreeMap<(u64, u64), u64>,
    /// No look was taken for a while before this one: how the counts came to be these is not known.
    pub after_gap: bool,
}

/// An observation, and what is needed to ask it more.
pub struct Observation<'a> {
    pub observed: Observed,
    view: View<'a>,
    /// As the last pass left it.
    marker: Option<Marker<'a>>,
    threads: usize,
}

impl Observation<'_> {
    /// The bytes of the heap that are reachable only through the goroutines of each group (indices into
    /// [`Snapshot::goroutines`]), without their stacks: an estimate. What several groups hold together is counted
    /// with the first of them.
    pub fn pinned(&mut self, groups: &[Vec<u32>]) -> Vec<u64> {
        let references = References::new(&self.view, Depths::default());
        let Some((marker, mut references)) = self.marker.as_ref().zip(references) else {
            return vec![0; groups.len()];
        };
        let goroutines = &self.observed.snapshot.goroutines;
        // The marks of the last pass are those of everything that is alive. What is marked on top of them is what only
        // the unreachable hold.
        let mut pinned = |group: &Vec<u32>| {
            let wanted = |index: &u32| {
                let g = goroutines.get(*index as usize)?.g;
                Some(Wanted { index: *index, g, moved: false })
            };
            let before = marker.bytes_reached();
            let wanted: Vec<_> = group.iter().filter_map(wanted).collect();
            // What cannot be read any more holds nothing any more.
            let _ = references.mark(&wanted, marker).and_then(|()| marker.drain(self.threads, &mut |_| {}));
            marker.bytes_reached() - before
        };
        groups.iter().map(&mut pinned).collect()
    }
}
