//! Goroutines made, by `go` statement.

use super::{
    gather::Gather,
    table::{Gap, Key, Label, Table},
};
use sfgi_core::{
    model::{Step, What},
    session::Target,
};

/// Goroutines made.
pub(super) struct Created;

impl Gather for Created {
    fn step(&mut self, target: &mut Target, step: &Step, table: &mut Table) {
        if step.what != What::Create {
            return;
        }
        let birth = step.birth.unwrap_or_default();
        let creator = target.goroutines().get(birth.parent_goid).and_then(|goroutine| goroutine.birth);
        let known = birth.gopc != 0;
        let key = Key {
            pcs: known.then(|| birth.gopc.wrapping_sub(1)).into_iter().collect(),
            gap: if known { Gap::None } else { Gap::NoStack },
            startpc: birth.startpc,
            gopc: creator.filter(|_| birth.parent_goid != 1).map_or(0, |birth| birth.gopc),
            label: Label::default(),
        };
        table.happened(key, step.ts);
    }

    fn end(&mut self, _: &Target, _: u64, _: &mut Table) {}
}
