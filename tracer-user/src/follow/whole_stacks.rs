//! Whole stacks of long blocks, until their block ends.

use super::WholeStack;
use crate::model::{Measure, Step, What};
use std::{collections::HashMap, sync::Arc};

/// How many are kept.
const CAPACITY: usize = 1_000_000;

/// By goid.
#[derive(Debug, Default)]
pub(super) struct WholeStacks(HashMap<u64, WholeStack>);

impl WholeStacks {
    pub(super) fn keep(&mut self, stacks: &[WholeStack]) {
        for stack in stacks {
            if self.0.len() < CAPACITY || self.0.contains_key(&stack.goid) {
                self.0.insert(stack.goid, stack.clone());
            }
        }
    }

    /// The stack of what this goroutine waits in, if it is still in the block it was read in.
    pub(super) fn of(&self, goid: u64) -> Option<&WholeStack> {
        self.0.get(&goid)
    }

    /// The stack of the block that this step ends, or introduces, if it was long enough to be read.
    pub(super) fn take(&mut self, step: &Step) -> Option<Arc<[u64]>> {
        if !matches!(step.what, What::Found | What::Unblock | What::SyscallExit) {
            return None;
        }
        let began_ts = step.ts.checked_sub(step.duration_ns?)?;
        let long = self.0.get(&step.goid)?;
        // A stack that was read after the end of the block is another block's.
        let exact = step.measure == Measure::Exact;
        let same = long.since_ts.map_or(!exact, |since_ts| exact && since_ts == began_ts);
        (same && long.read_ts < step.ts).then(|| self.0.remove(&step.goid))?.map(|long| long.pcs)
    }
}
