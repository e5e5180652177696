//! What several looks at a program told of its goroutines.

use crate::snapshot::Snapshot;

/// What was observed of a program over a time: the material of every verdict.
#[derive(Debug, Default)]
pub struct Observed {
    /// The goroutines as the last look found them, with stacks, labels and objects.
    pub snapshot: Snapshot,
    /// One for each goroutine of `snapshot`, in its order.
    pub facts: Vec<Facts>,
    /// Sets of unreachable goroutines that wait for each other, the largest first.
    pub sets: Vec<DeadSet>,
    /// What refers to the objects that goroutines wait for; one list for each of
    /// [`Snapshot::objects`], in its order.
    pub holders: Vec<Holders>,
    /// How many goroutines each creation site had at each look, the oldest first.
    pub looks: Vec<Look>,
    /// Timers that are set, by what they do; largest number first.
    pub timers: Vec<TimerSite>,
    /// Passes of the reachability proof; 0: there was none.
    pub passes: u32,
    /// Bytes that the last pass read of the heap, and how long it took, nanoseconds.
    pub scanned: (u64, u64),
    /// How long the whole observation took, nanoseconds.
    pub took_ns: u64,
    /// How long the program was stopped (`--freeze`), nanoseconds; `None`: it was not.
    pub frozen_ns: Option<u64>,
    /// Why nothing counts as proven although it seems unreachable; `None`: nothing stands against it.
    pub doubt: Option<String>,
}

/// What is known of one goroutine beyond its snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// In no pass did any root reach what could wake it: it cannot run again.
    pub unreachable: bool,
    /// When the first look that found it in this very wait was taken, `CLOCK_MONOTONIC` nanoseconds.
    pub since_ns: u64,
    /// Looks that found the goroutine.
    pub looks: u32,
    /// Looks that found it to have run since the look before.
    pub moved: u32,
    /// Looks that found it running or runnable.
    pub busy: u32,
    /// Looks that found its thread or its stack in a function that only yields (`runtime.Gosched`,
    /// `time.Sleep`).
    pub yielding: u32,
    /// Index into [`Observed::sets`], if it is in one.
    pub set: Option<u32>,
    /// Objects that goroutines wait for and that its stack refers to, without those that it waits for itself: index into
    /// [`Snapshot::objects`].
    pub holds: Vec<u32>,
    /// The channel that it waits for is the `Done` of a context.
    pub context: bool,
}

/// Unreachable goroutines that wait for each other: what one waits for, only others of the set refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadSet {
    /// Index into [`Snapshot::goroutines`], at least two.
    pub members: Vec<u32>,
    /// Who waits for whom.
    pub edges: Vec<Edge>,
}

/// One goroutine waits for an object that another one refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Who waits: index into [`Snapshot::goroutines`].
    pub waiter: u32,
    /// For what: index into [`Snapshot::objects`].
    pub object: u32,
    /// Who has it on its stack, and so is the one that could end the wait: inferred.
    pub holder: u32,
}

/// What refers to an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Goroutines with a reference on their stack: index into [`Snapshot::goroutines`], at most a few.
    pub goroutines: Vec<u32>,
    /// A variable of the program refers to it: its link-time address.
    pub global: Option<u64>,
    /// Objects of the heap that refer to it.
    pub heap: u32,
}

/// Goroutines at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// How many goroutines were made at each site: (`gopc`, `startpc`) as in the target's memory; by the pair.
    pub counts: std::collections::BTreeMap<(u64, u64), u64>,
    /// Nobody looked for a while before this: how the counts came to be these is not known.
    pub after_gap: bool,
}

/// Timers that do the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerSite {
    /// The function that runs when they fire, as an address in the target's code: of `time.AfterFunc` the
    /// function given to it.
    pub func: u64,
    /// What kind they are.
    pub kind: TimerKind,
    /// How many are set.
    pub count: u64,
    /// When the next and the last of them fire, from now, nanoseconds.
    pub fires_in_ns: (u64, u64),
    /// For a channel's timer: no root reaches the channel, so nobody can receive what is sent.
    pub unreachable: bool,
}

/// Kinds of timers of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TimerKind {
    /// `time.NewTicker`, `time.Tick`: sends again and again.
    Ticker,
    /// `time.NewTimer`, `time.After`: sends once.
    Timer,
    /// `time.AfterFunc`: starts a function.
    AfterFunc,
}
