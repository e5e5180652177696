//! Whole stacks of long blocks, until their block ends.

use super::WholeStack;
use crate::model::{Measure, Step, What};
use std::{collections::HashMap, sync::Arc};

/// How many are kept.
const CAPACITY: usize = 1_000_000;

/// By goid.
#[derive(Debug, Default)]
pub(super) struct WholeStacks {
    stacks: HashMap<u64, WholeStack>,
    /// Whose block is over: theirs are let go of when the next events come.
    over: Vec<u64>,
}

impl WholeStacks {
    pub(super) fn keep(&mut self, stacks: &[WholeStack]) {
        for stack in stacks {
            if self.stacks.len() < CAPACITY || self.stacks.contains_key(&stack.goid) {
                self.stacks.insert(stack.goid, stack.clone());
            }
        }
    }

    /// The steps that were made so far have been shown to everyone.
    pub(super) fn forget_over(&mut self) {
        for goid in self.over.drain(..) {
            self.stacks.remove(&goid);
        }
    }

    /// The stack of what this goroutine waits in, if it is still in the block it was read in.
    pub(super) fn of(&self, goid: u64) -> Option<&WholeStack> {
        self.stacks.get(&goid)
    }

    /// The stack of the block that this step ends, or introduces, if it was long enough to be read.
    pub(super) fn of_step(&mut self, step: &Step) -> Option<Arc<[u64]>> {
        if !matches!(step.what, What::Found | What::Unblock | What::SyscallExit) {
            return None;
        }
        let began_ts = step.ts.checked_sub(step.duration_ns?)?;
        let long = self.stacks.get(&step.goid)?;
        // A stack that was read after the end of the block is another block's.
        let exact = step.measure == Measure::Exact;
        let same = long.since_ts.map_or(!exact, |since_ts| exact && since_ts == began_ts);
        let pcs = (same && long.read_ts < step.ts).then(|| Arc::clone(&long.pcs))?;
        self.over.push(step.goid);
        Some(pcs)
    }
}
