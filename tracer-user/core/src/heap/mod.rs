//! The heap, read from outside: which goroutines nothing can wake any more, and what they hold.

mod alive;
mod candidates;
mod frame_map;
mod marker;
mod observe;
mod pass;
mod registers;
mod relations;
mod roots;
mod spans;
mod stack;
mod timers;
mod types;
mod usage;

pub use candidates::can_be_leaked;
pub use registers::Registers;
pub use types::{DeadSet, Edge, Facts, Holders, Look, Observed, TimerKind, TimerSite};
pub use usage::{Usage, usage};

use crate::memory::FreezeError;
use crate::snapshot::{SnapshotError, View};
use alive::{Alive, Wanted};
use marker::Marker;
use std::sync::atomic::Ordering::Relaxed;
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
    /// As the last pass left it.
    marker: Option<Marker<'a>>,
    threads: usize,
}

/// Why there is no observation.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// Not even one look at its goroutines was to be had.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It was to be stopped and could not be.
    #[error(transparent)]
    Freeze(#[from] FreezeError),
}

/// Observes a program.
///
/// # Errors
/// [`ObserveError`]; what else goes wrong is a doubt of the observation.
pub fn observe<'a>(
    view: &View<'a>,
    options: &Options,
    registers: &mut Registers<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Observation<'a>, ObserveError> {
    observe::observe(view, options, registers, progress)
}

impl Observation<'_> {
    /// The bytes of the heap that are reachable only through the goroutines of each group (indices into
    /// [`crate::snapshot::Snapshot::goroutines`]), without their stacks: an estimate. What several groups hold together is
    /// counted with the first of them.
    pub fn pinned(&mut self, groups: &[Vec<u32>]) -> Vec<u64> {
        let none = || vec![0; groups.len()];
        let Some((marker, mut alive)) = self.marker.as_ref().zip(Alive::new(&self.view)) else {
            return none();
        };
        let goroutines = &self.observed.snapshot.goroutines;
        let mut pinned = |group: &Vec<u32>| {
            let wanted = |index: &u32| {
                let g = goroutines.get(*index as usize)?.g;
                Some(Wanted { index: *index, g, whole: false })
            };
            let before = marker.reached.load(Relaxed);
            let wanted: Vec<_> = group.iter().filter_map(wanted).collect();
            // What cannot be read any more holds nothing any more.
            let _ = alive.mark(&wanted, marker).and_then(|()| marker.drain(self.threads, &mut |_| {}));
            marker.reached.load(Relaxed) - before
        };
        groups.iter().map(&mut pinned).collect()
    }
}
