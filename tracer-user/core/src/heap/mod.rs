//! The heap, read from outside: finds goroutines that nothing can wake any more, and what they hold.
//!
//! # How
//! A pass marks what can be reached, as the collector does, but from other roots: a goroutine is no root if it waits
//! for something that only other goroutines can do. If nothing reaches what it waits for, no goroutine can end the
//! wait. (`src/runtime/mgc.go: findGoroutineLeaks` of Go 1.26 does the same from within, with the world stopped.)
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
//!   queue of finalizers that is not found, a goroutine that runs at every look and whose registers cannot be seen.
//!
//! A *blur* ([`crate::event::Batch::blurred`]) is none of these: it is a failed read in a probe and concerns events.
//! Here a failed read means that something moved; it is repeated, or becomes a doubt.

mod candidates;
mod due;
mod marker;
mod observe;
mod pass;
mod references;
mod relations;
mod roots;
mod sleepers;
mod spans;
mod stack;
mod timers;
mod waits;

pub use candidates::can_be_leaked;
pub use due::{Due, due};
pub use observe::{ObserveError, Options, Progress, Registers, observe};
pub use relations::{DeadSet, Holders};
pub use spans::{Usage, usage};
pub use timers::{TimerKind, TimerSite};
pub use waits::{Edge, Sign, Waits};

pub(crate) use marker::{Source, most_read};
pub(crate) use pass::{listed, structs};
pub(crate) use references::{Depths, References, Wanted};
pub(crate) use roots::Roots;
pub(crate) use spans::{HeapError, ObjectId, Place, Span, Spans, words};

use crate::model::Wakers;
use crate::snapshot::{Snapshot, View};
use hashbrown::HashSet;
use marker::Marker;

/// Who waits for whom, from a snapshot with stacks and objects alone: no pass tells what can never happen. `wakers`: who woke
/// waiters before, where that was seen.
///
/// # Errors
/// A clause about the target: its heap cannot be read.
pub fn waits(view: &View<'_>, snapshot: &Snapshot, wakers: &Wakers) -> Result<Waits, String> {
    relations::waits_of(view, snapshot, wakers).map_err(|error| error.to_string())
}

/// What an observation found: the input of every verdict.
#[derive(Debug, Default)]
pub struct Observed {
    /// The last look: all goroutines with stacks, labels and objects.
    pub snapshot: Snapshot,
    /// One for each goroutine of `snapshot`, in its order.
    pub facts: Vec<Facts>,
    /// Sets of unreachable goroutines that wait for each other, the largest first.
    pub sets: Vec<DeadSet>,
    /// One for each of [`Snapshot::objects`], in its order.
    pub holders: Vec<Holders>,
    /// Who waits for whom.
    pub waits: Waits,
    /// All looks, the oldest first.
    pub looks: Vec<Look>,
    /// Timers that are set, grouped by what they do; the largest group first.
    pub timers: Vec<TimerSite>,
    /// Garbage collections that the target has ended; before the first one its runtime knows no ages. `None`: not known.
    pub collections: Option<u64>,
    /// Finalizers and cleanups that are due. `None`: not known.
    pub due: Option<Due>,
    /// Number of passes; 0: nothing is proven.
    pub passes: u32,
    /// Bytes of the heap that the last pass read, and its duration in nanoseconds.
    pub scanned: (u64, u64),
    /// When the process was started, `CLOCK_MONOTONIC` nanoseconds; `None`: not known.
    pub started_ns: Option<u64>,
    /// Addresses of channels that may be those of timers, by what they have room for, where nothing in them tells
    /// ([`Release::hides_timers_of_channels`](crate::goruntime::Release::hides_timers_of_channels)); else none.
    pub timer_like: HashSet<u64>,
    /// Duration of the whole observation, nanoseconds.
    pub took_ns: u64,
    /// How long the target was stopped (`--freeze`), nanoseconds; `None`: it was not stopped.
    pub frozen_ns: Option<u64>,
    /// Why nothing counts as proven, as a clause for the user; `None`: no doubt.
    pub doubt: Option<String>,
}

/// What an observation found out about one goroutine, beyond its snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether no pass reached what could wake it. Without a doubt ([`Observed::doubt`]) it cannot run again.
    pub unreachable: bool,
    /// Time of the first look that found it in its present wait, `CLOCK_MONOTONIC` nanoseconds.
    pub since_ns: u64,
    /// Number of looks that found it.
    pub looks: u32,
    /// Number of looks that found that it had run since the look before.
    pub moved: u32,
    /// Number of looks that found it running or runnable.
    pub busy: u32,
    /// Number of looks that found its thread or its stack in a function that only yields (`runtime.Gosched`,
    /// `time.Sleep`).
    pub yielding: u32,
    /// Index into [`Observed::sets`]; `None`: it is in no set.
    pub set: Option<u32>,
    /// Awaited objects that its stack refers to, without those that it waits for itself: indices into
    /// [`Snapshot::objects`].
    pub holds: Vec<u32>,
    /// When it wakes from `time.Sleep`, `CLOCK_MONOTONIC` nanoseconds; 0: it does not sleep, or that is not known.
    pub wakes_ns: u64,
    /// Whether the channel that it waits for is the `Done` of a context.
    pub context: bool,
    /// Whether its stack has a context that has ended, and it waits for something else.
    pub ignores_context: bool,
    /// Whether it waits for the end of a context that was not made of the one that its stack has.
    pub cuts_context: bool,
    /// Whether it waits for the end of a context of `signal.NotifyContext`, or of one made of such: it ends with the
    /// program.
    pub until_signal: bool,
}

/// The counts of one look.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Look {
    /// When the look began, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Number of goroutines by creation site: (`gopc`, `startpc`) as in the target's memory. Without the runtime's own.
    pub counts: std::collections::BTreeMap<(u64, u64), u64>,
    /// Whether no look was taken for a while before this one, so that a rise of the counts is no step of growth.
    pub after_gap: bool,
}

/// An observation with the marks of its last pass, so that it can still be asked what goroutines hold.
pub struct Observation<'a> {
    /// What was found.
    pub observed: Observed,
    view: View<'a>,
    /// The marks of the last pass; `None`: no pass was made.
    marker: Option<Marker<'a>>,
    threads: usize,
}

impl Observation<'_> {
    /// Whether the last pass has reached the object at an address; `None`: there is none, or no pass was made. Before
    /// [`Observation::pinned`], which goes on from there.
    pub fn is_reached(&self, addr: u64) -> Option<bool> {
        self.marker.as_ref()?.has_reached(addr)
    }

    /// Estimates the bytes of the heap that are reachable only through the goroutines of each group (indices into
    /// [`Snapshot::goroutines`]), without their stacks. What several groups share is counted for the first of them.
    pub fn pinned(&mut self, groups: &[Vec<u32>]) -> Vec<u64> {
        let references = References::new(&self.view, Depths::default());
        let Some((marker, mut references)) = self.marker.as_ref().zip(references) else {
            return vec![0; groups.len()];
        };
        let goroutines = &self.observed.snapshot.goroutines;
        // The last pass has marked everything that is alive. What a group marks on top of that, only the group holds.
        let mut pinned = |group: &Vec<u32>| {
            let wanted = |index: &u32| {
                let g = goroutines.get(*index as usize)?.g;
                Some(Wanted { index: *index, g, moved: false })
            };
            let before = marker.bytes_reached();
            let wanted: Vec<_> = group.iter().filter_map(wanted).collect();
            // A fault means that the target has ended; the bytes counted so far are still an estimate.
            let _ = references.mark(&wanted, marker).and_then(|()| marker.drain(self.threads, &mut |_| {}));
            marker.bytes_reached() - before
        };
        groups.iter().map(&mut pinned).collect()
    }
}
