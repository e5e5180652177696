//! Counts and times by stack.

use hashbrown::HashMap;
use sfgi_core::{event::Stack, goruntime::State, model::Goroutine};
use std::sync::Arc;
use tracer_common::MAX_FRAMES;

/// Stacks kept; further ones are counted together. A hostile target can invent any number.
const ROWS: usize = 1 << 20;

/// The part of a trace that counts. Both ends belong to it, `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from_ts: u64,
    pub to_ts: u64,
}

impl Span {
    fn has(self, ts: u64) -> bool {
        (self.from_ts..=self.to_ts).contains(&ts)
    }

    /// The part of a time that lies within, nanoseconds; `None`: it lies outside.
    fn part(self, began_ts: u64, ended_ts: u64) -> Option<u64> {
        (began_ts <= self.to_ts && ended_ts >= self.from_ts)
            .then(|| ended_ts.min(self.to_ts).saturating_sub(began_ts.max(self.from_ts)))
    }
}

/// Addresses within calls (not return addresses), innermost first.
pub(super) type Pcs = Arc<[u64]>;

/// The key of a row: a place, and what else is told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) pcs: Pcs,
    pub(super) gap: Gap,
    /// Entry of the goroutine's first function; 0: not known.
    pub(super) startpc: u64,
    /// Return address of the `go` statement that made it; 0: not wanted, or not known.
    pub(super) gopc: u64,
    pub(super) label: Label,
}

/// What is missing of a stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Gap {
    #[default]
    None,
    /// The outer frames: the probe stopped at `MAX_FRAMES`.
    Deeper,
    /// All of it.
    NoStack,
    /// All of it: a goroutine in this state has no stack that could be read.
    State(State),
    /// The row of all stacks beyond [`ROWS`].
    Other,
}

/// Labels of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Label {
    /// The wait reason, an index into the target's own table; 0: none.
    pub(super) reason: u8,
    pub(super) state: Option<State>,
    /// The wait had not ended at the end of the trace.
    pub(super) open: bool,
}

/// The sums of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) count: u64,
    pub(super) ns: u64,
}

impl Key {
    /// The place of a goroutine: its whole stack if one was read, else the frames of its probe.
    pub(super) fn of(goroutine: Option<&Goroutine>, whole: Option<Pcs>, stack: Option<Stack>) -> Key {
        let birth = goroutine.and_then(|goroutine| goroutine.birth).unwrap_or_default();
        // Goroutine 1 was made by the runtime's start-up code, which is no creator to show.
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
        // Return addresses may belong to the next line or function; the byte before belongs to the call.
        of(known.iter().map(|pc| pc.wrapping_sub(1)).collect(), gap)
    }
}

/// The rows of a profile, and the part of the trace that goes into it.
#[derive(Debug)]
pub(super) struct Table {
    rows: HashMap<Key, Tally>,
    span: Span,
    /// Waits of unknown beginning: they are counted, without time.
    pub(super) unmeasured: u64,
}

impl Table {
    pub(super) fn new(span: Span) -> Table {
        Table { rows: HashMap::new(), span, unmeasured: 0 }
    }

    /// Adds what lasted from `began_ts` to `ended_ts`, as far as that lies in the span.
    pub(super) fn lasted(&mut self, key: Key, began_ts: u64, ended_ts: u64) {
        if let Some(ns) = self.span.part(began_ts, ended_ts) {
            self.add(key, 1, ns);
        }
    }

    /// Adds what ended at `ts` after an unknown beginning.
    pub(super) fn ended(&mut self, key: Key, ts: u64) {
        if self.span.has(ts) {
            self.unmeasured += 1;
            self.add(key, 1, 0);
        }
    }

    /// Adds what happened at `ts`.
    pub(super) fn happened(&mut self, key: Key, ts: u64) {
        if self.span.has(ts) {
            self.add(key, 1, 0);
        }
    }

    /// Adds what exists at the end; the span does not matter for it.
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
