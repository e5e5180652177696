//! Time that goroutines waited, by where.

use super::{
    gather::Gather,
    table::{Key, Label, Table},
};
use sfgi_core::{
    model::{Step, What},
    session::Target,
};

/// Waits that ended, and at the end those that have not.
pub(super) struct Blocked;

impl Gather for Blocked {
    fn step(&mut self, target: &mut Target, step: &Step, table: &mut Table) {
        if step.what != What::Unblock {
            return;
        }
        let whole = target.stack_of_step(step);
        let goroutine = target.goroutines().get(step.goid);
        let label = Label { reason: step.reason, ..Label::default() };
        let key = Key { label, ..Key::of(goroutine, whole, step.stack) };
        match step.duration_ns {
            Some(ns) => table.lasted(key, step.ts.saturating_sub(ns), step.ts),
            None => table.ended(key, step.ts),
        }
    }

    fn end(&mut self, target: &Target, until_ts: u64, table: &mut Table) {
        for goroutine in target.goroutines().iter() {
            if goroutine.state.waits() && goroutine.since_ts != 0 {
                let whole = target.stack_of(goroutine.goid);
                let label = Label { reason: goroutine.reason, open: true, ..Label::default() };
                let key = Key { label, ..Key::of(Some(goroutine), whole, Some(goroutine.site)) };
                table.lasted(key, goroutine.since_ts, until_ts);
            }
        }
    }
}
