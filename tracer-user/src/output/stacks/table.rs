//! Counts and times by stack.

use hashbrown::HashMap;
use sfgi_core::{event::Stack, goruntime::State, model::Goroutine};
use std::sync::Arc;
use tracer_common::MAX_FRAMES;

/// Stacks that are told apart; what comes above is counted together. A hostile target can invent any number.
const ROWS: usize = 1 << 20;

/// The part of a trace that counts: from one time to another, `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub from_ts: u64,
    /// Where it ends.
    pub to_ts: u64,
}

impl Span {
    /// Whether this moment is in it.
    fn has(self, ts: u64) -> bool {
        (self.from_ts..=self.to_ts).contains(&ts)
    }

    /// How much of the time between the two is in it; `None`: nothing.
    fn part(self, began_ts: u64, ended_ts: u64) -> Option<u64> {
        (began_ts <= self.to_ts && ended_ts >= self.from_ts)
            .then(|| ended_ts.min(self.to_ts).saturating_sub(began_ts.max(self.from_ts)))
    }
}

/// Addresses to look up, innermost first.
pub(super) type Pcs = Arc<[u64]>;

/// A place, and what else is told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) pcs: Pcs,
    /// What the addresses leave out.
    pub(super) gap: Gap,
    /// Entry of the function that the goroutine began with; 0: not known.
    pub(super) startpc: u64,
    /// The return address behind the `go` statement that made it; 0: not wanted, or not known.
    pub(super) gopc: u64,
    pub(super) label: Label,
}

/// What the addresses of a stack leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Gap {
    /// Nothing.
    #[default]
    None,
    /// The probe stopped at its limit.
    Deeper,
    /// Everything.
    NoStack,
    /// Everything: a goroutine in this state has no stack that could be told.
    State(State),
    /// There were too many stacks to tell them apart.
    Other,
}

/// What a sample is labelled with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Label {
    /// Number of the wait reason; 0: none.
    pub(super) reason: u8,
    pub(super) state: Option<State>,
    /// It had not ended at the end.
    pub(super) open: bool,
}

/// What came together in one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) count: u64,
    pub(super) ns: u64,
}

impl Key {
    /// Where a goroutine is or was: its whole stack if that was read, else what its probe told.
    pub(super) fn of(goroutine: Option<&Goroutine>, whole: Option<Pcs>, stack: Option<Stack>) -> Key {
        let birth = goroutine.and_then(|goroutine| goroutine.birth).unwrap_or_default();
        // Of the main goroutine the runtime's start-up code is the creator, which nobody wants to see.
        let gopc = if goroutine.is_some_and(|goroutine| goroutine.goid == 1) { 0 } else { birth.gopc };
        let startpc = birth.startpc;
        let of = |pcs, gap| Key { pcs, gap, startpc, gopc, label: Label::default() };
        if let Some(pcs) = whole.filter(|pcs| !pcs.is_empty()) {
            return of(pcs, Gap::None);
        }
        let known = stack.unwrap_or_default().pcs();
        let gap = match known.len() {
            0 => Gap::NoStack,
            MAX_FRAMES => Gap::Deeper,
            _ => Gap::None,
        };
        // The call is the instruction before the return address.
        of(known.iter().map(|pc| pc.wrapping_sub(1)).collect(), gap)
    }
}

/// The table, and which part of the trace goes into it.
#[derive(Debug)]
pub(super) struct Table {
    rows: HashMap<Key, Tally>,
    span: Span,
    /// Waits whose beginning is not known, which are counted but have no time.
    pub(super) unmeasured: u64,
}

impl Table {
    pub(super) fn new(span: Span) -> Table {
        Table { rows: HashMap::new(), span, unmeasured: 0 }
    }

    /// Something that lasted from `began_ts` to `ended_ts`, as far as that counts.
    pub(super) fn lasted(&mut self, key: Key, began_ts: u64, ended_ts: u64) {
        if let Some(ns) = self.span.part(began_ts, ended_ts) {
            self.add(key, 1, ns);
        }
    }

    /// Something that ended at this time; when it began is not known.
    pub(super) fn ended(&mut self, key: Key, ts: u64) {
        if self.span.has(ts) {
            self.unmeasured += 1;
            self.add(key, 1, 0);
        }
    }

    /// Something that happened at this time.
    pub(super) fn happened(&mut self, key: Key, ts: u64) {
        if self.span.has(ts) {
            self.add(key, 1, 0);
        }
    }

    /// Something that is.
    pub(super) fn is(&mut self, key: Key) {
        self.add(key, 1, 0);
    }

    fn add(&mut self, key: Key, count: u64, ns: u64) {
        let room = self.rows.len() < ROWS || self.rows.contains_key(&key);
        let key = if room { key } else { Key { gap: Gap::Other, ..Key::default() } };
        let tally = self.rows.entry(key).or_default();
        tally.count = tally.count.saturating_add(count);
        tally.ns = tally.ns.saturating_add(ns);
    }

    /// The rows, in no order.
    pub(super) fn into_rows(self) -> impl Iterator<Item = (Key, Tally)> {
        self.rows.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_over_an_edge_counts_in_part() {
        let span = Span { from_ts: 100, to_ts: 200 };
        let cases = [
            ((110, 120), Some(10)),
            ((50, 120), Some(20)),
            ((150, 900), Some(50)),
            ((0, 900), Some(100)),
            ((0, 99), None),
            ((201, 300), None),
        ];
        for ((began_ts, ended_ts), part) in cases {
            assert_eq!(span.part(began_ts, ended_ts), part, "{began_ts}–{ended_ts}");
        }
    }
}
