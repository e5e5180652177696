//! Goroutines that exist at the end, by where they are.

use super::{
    gather::Gather,
    table::{Gap, Key, Label, Table},
};
use sfgi_core::{goruntime::State, model::Step, session::Target};

/// Goroutines that exist.
pub(super) struct Existing;

impl Gather for Existing {
    fn step(&mut self, _: &mut Target, _: &Step, _: &mut Table) {}

    fn end(&mut self, target: &Target, _: u64, table: &mut Table) {
        for goroutine in target.goroutines().iter() {
            let state = goroutine.state;
            if goroutine.goid == 0 || state.is_dead() || state == State::Idle {
                continue;
            }
            let reason = if state.waits() { goroutine.reason } else { 0 };
            let label = Label { reason, state: Some(state), ..Label::default() };
            let key = if state.stays() {
                Key::of(Some(goroutine), target.stack_of(goroutine.goid), Some(goroutine.site))
            } else {
                // Where it last waited is not where it is.
                Key { gap: Gap::State(state), ..Key::of(Some(goroutine), None, None) }
            };
            table.is(Key { label, ..key });
        }
    }
}
