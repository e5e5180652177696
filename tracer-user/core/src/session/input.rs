//! What comes in of one target.

use crate::{event::Batch, model::Seen};
use std::sync::Arc;

/// One thing that is learned of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Events(Batch),
    Snapshot(SnapshotInput),
    /// Whole stacks of goroutines that wait, read from its memory.
    Stacks(Vec<WholeStack>),
}

/// All goroutines, as read between two times (`CLOCK_MONOTONIC`, nanoseconds).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotInput {
    pub seen: Vec<Seen>,
    pub began_ts: u64,
    pub ended_ts: u64,
    /// Whether every goroutine of the target is in it: the model then buries all others.
    pub complete: bool,
}

/// The whole stack of a goroutine whose block has lasted long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeStack {
    pub goid: u64,
    /// When the block began; `None`: before the trace.
    pub since_ts: Option<u64>,
    /// When the stack had been read.
    pub read_ts: u64,
    /// Addresses within the calls, innermost first, ready to be looked up.
    pub pcs: Arc<[u64]>,
}
