//! What is remembered of one goroutine.

use super::Measure;
use super::held::Held;
use crate::event::{Birth, Kind, Stack};
use crate::goruntime::State;

/// One goroutine, as far as events told. Identity is (`g`, `goid`): `g` structs are reused.
#[derive(Clone, Debug)]
pub struct Goroutine {
    /// Address of its `runtime.g`.
    pub g: u64,
    /// Its id; 0: not known yet.
    pub goid: u64,
    /// What it does.
    pub state: State,
    /// Since when, `CLOCK_MONOTONIC` nanoseconds; 0: not known.
    pub since_ts: u64,
    /// How good `since_ts` is.
    pub since_is: Measure,
    /// Why it waits, or waited last: an index into the binary's wait reasons.
    pub reason: u8,
    /// Where it comes from, if that was seen.
    pub birth: Option<Birth>,
    /// When it was created; `None`: before the trace.
    pub created_ts: Option<u64>,
    /// The thread of its last event.
    pub tid: u32,
    /// Return addresses of its last wait or system call; empty: none were sent.
    pub site: Stack,
    /// How long it was running, nanoseconds, in the slices that were seen whole.
    pub running_ns: u64,
    /// How much of that its thread had no CPU.
    pub off_cpu_ns: u64,
    /// Time of its last event, also one that is held back.
    pub(super) last_ts: u64,
    /// When its state was last told.
    pub(super) told_ts: u64,
    /// Its state is what a snapshot saw: good to be shown, not to be held against an event.
    pub(super) by_snapshot: bool,
    /// The last event.
    pub(super) last: Kind,
    /// What waits to be said about it.
    pub(super) held: Option<Held>,
    /// Changes when the place is given to another goroutine.
    pub(super) generation: u32,
    /// Whether the place is taken.
    pub(super) used: bool,
    /// Whether it stands in the queue of those to be forgotten.
    pub(super) queued: bool,
}

impl Goroutine {
    pub(super) fn new(g: u64, goid: u64, generation: u32) -> Goroutine {
        Goroutine {
            g,
            goid,
            state: State::Unknown,
            since_ts: 0,
            since_is: Measure::Exact,
            reason: 0,
            birth: None,
            created_ts: None,
            tid: 0,
            site: Stack::default(),
            running_ns: 0,
            off_cpu_ns: 0,
            last_ts: 0,
            told_ts: 0,
            by_snapshot: false,
            last: Kind::Exec,
            held: None,
            generation,
            used: true,
            queued: false,
        }
    }
}
