//! What happened last.

use sfgi_core::{
    goruntime::State,
    model::{Measure, Step, What},
};
use std::collections::VecDeque;

/// Steps of all goroutines that are kept.
const MAX_STEPS: usize = 1 << 16;
/// Steps that are shown of one.
const MAX_SHOWN: usize = 64;

/// One thing that happened to a goroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub ts: u64,
    /// What.
    pub what: What,
    /// The state after that.
    pub to: State,
    /// The wait reason, as a number.
    pub reason: u8,
    /// Who did it; 0: not known, or nobody.
    pub by_goid: u64,
    /// How long what ended had lasted.
    pub duration_ns: Option<u64>,
    /// How good that is.
    pub measure: Measure,
}

/// The last steps of all goroutines, oldest first.
#[derive(Debug, Default)]
pub(super) struct Timeline(VecDeque<(usize, u64, Past)>);

impl Timeline {
    pub(super) fn push(&mut self, target: usize, step: &Step) {
        if matches!(
            step.what,
            What::ThreadOff | What::ThreadOn | What::ThreadWake | What::GcStart | What::GcEnd
        ) {
            return;
        }
        if self.0.len() >= MAX_STEPS {
            self.0.pop_front();
        }
        let Step { ts, what, to, reason, by_goid, duration_ns, measure, .. } = *step;
        self.0.push_back((target, step.goid, Past { ts, what, to, reason, by_goid, duration_ns, measure }));
    }

    /// Those of one goroutine, youngest first.
    pub(super) fn of(&self, target: usize, goid: u64) -> Vec<Past> {
        let own = self.0.iter().rev().filter(|(at, whose, _)| (*at, *whose) == (target, goid));
        own.take(MAX_SHOWN).map(|(.., past)| *past).collect()
    }
}
