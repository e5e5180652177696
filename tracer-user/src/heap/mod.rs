//! The heap, read from outside: which goroutines nothing can wake any more, and what they hold.

mod types;

pub use types::{DeadSet, Edge, Facts, Holders, Look, Observed, TimerKind, TimerSite};

use crate::snapshot::{SnapshotError, View};
use std::time::Duration;

/// How to observe.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long, at least.
    pub window: Duration,
    /// Passes of the reachability proof at least; more follow while they still change what was found.
    pub passes: u32,
    /// Threads that scan.
    pub threads: usize,
    /// Read the heap at all; without, nothing is proven.
    pub heap: bool,
}

/// How far an observation is, for a line on the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Looking at the goroutines, for the n-th time.
    Looking(u32),
    /// Scanning in pass n: bytes read of about so many.
    Scanning(u32, u64, u64),
}

/// An observation, and what is needed to ask it more.
pub struct Observation<'a> {
    /// What was observed.
    pub observed: Observed,
    view: View<'a>,
}

/// Observes a program.
///
/// # Errors
/// Only where not even one look at its goroutines was to be had.
pub fn observe<'a>(
    view: &View<'a>,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Observation<'a>, SnapshotError> {
    let _ = (options, progress);
    Ok(Observation { observed: Observed::default(), view: *view })
}

impl Observation<'_> {
    /// The bytes of the heap that are reachable only through the goroutines of each group (indices into
    /// [`crate::snapshot::Snapshot::goroutines`]), without their stacks: an estimate. What several groups hold together is
    /// counted with the first of them.
    pub fn pinned(&self, groups: &[Vec<u32>]) -> Vec<u64> {
        let _ = &self.view;
        vec![0; groups.len()]
    }
}
