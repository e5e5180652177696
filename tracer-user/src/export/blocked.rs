//! Time that goroutines waited, by where.

use super::{
    stacks::Gather,
    table::{Key, Label, Pcs, Table},
};
use crate::{
    follow::Followed,
    model::{Step, What},
};

/// Waits that ended, and at the end those that have not.
#[derive(Default)]
pub(super) struct Blocked {
    /// The whole stack of a wait from before the trace, given with the step that introduces it; the next
    /// step of the goroutine ends the wait.
    introduced: Option<(u64, Pcs)>,
}

impl Gather for Blocked {
    fn step(&mut self, followed: &mut Followed, step: &Step, table: &mut Table) {
        match step.what {
            What::Found => {
                self.introduced = followed.take_stack(step).map(|pcs| (step.goid, pcs));
            }
            What::Unblock => {
                let before =
                    self.introduced.take().filter(|(goid, _)| *goid == step.goid).map(|(_, pcs)| pcs);
                let whole = followed.take_stack(step).or(before);
                let goroutine = followed.goroutines().get(step.goid);
                let label = Label { reason: step.reason, ..Label::default() };
                let key = Key { label, ..Key::of(goroutine, whole, step.stack.as_ref()) };
                match step.duration_ns {
                    Some(ns) => table.lasted(key, step.ts.saturating_sub(ns), step.ts),
                    None => table.ended(key, step.ts),
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, followed: &Followed, until_ts: u64, table: &mut Table) {
        for goroutine in followed.goroutines().iter() {
            if goroutine.state.waits() && goroutine.since_ts != 0 {
                let whole = followed.stack_of(goroutine.goid);
                let label = Label { reason: goroutine.reason, open: true, ..Label::default() };
                let key = Key { label, ..Key::of(Some(goroutine), whole, Some(&goroutine.site)) };
                table.lasted(key, goroutine.since_ts, until_ts);
            }
        }
    }
}
