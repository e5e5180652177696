//! The goroutines themselves.

use super::{
    Cell, Column, Key, MAX_ROWS, Query, Row, Sort, Table,
    standing::{age, counts},
    waits::{At, column},
};
use hashbrown::HashMap;
use sfgi_core::{
    goruntime::State,
    model::{Goroutine, Goroutines, Measure, Step},
};
use std::{cmp::Ordering, sync::Arc};

/// Goroutines whose delays are kept.
const MAX_DELAYS: usize = 1 << 18;

/// How long goroutines waited in the run queue.
#[derive(Debug, Default)]
pub(super) struct Delays {
    by_goid: HashMap<u64, Delay>,
}

/// Of one goroutine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delay {
    pub(super) total_ns: u64,
    pub(super) longest_ns: u64,
}

impl Delays {
    pub(super) fn started(&mut self, step: &Step) {
        let Some(ns) = step.duration_ns else { return };
        if self.by_goid.len() < MAX_DELAYS || self.by_goid.contains_key(&step.goid) {
            let delay = self.by_goid.entry(step.goid).or_default();
            delay.total_ns = delay.total_ns.saturating_add(ns);
            delay.longest_ns = delay.longest_ns.max(ns);
        }
    }

    pub(super) fn of(&self, goid: u64) -> Option<Delay> {
        self.by_goid.get(&goid).copied()
    }

    pub(super) fn forget_dead(&mut self, goroutines: &Goroutines) {
        self.by_goid.retain(|goid, _| goroutines.get(*goid).is_some_and(|known| !known.state.is_dead()));
    }
}

/// See [`Table::columns`].
pub(super) const COLUMNS: [Column; 7] = [
    column("GOID", "the goroutine's id", 8, 0, true),
    column("STATE", "what it waits for, or its state", 17, 0, false),
    column("AGE", "how long it has been in that", 8, 0, true),
    column("ON-CPU", "how long it was on a CPU since the trace began", 8, 0, true),
    column("RUNQ", "how long it waited in the run queue since the trace began", 8, 0, true),
    column("WHERE", "where it waits, or what it runs", 0, 0, false),
    column("MADE BY", "the go statement", 0, 110, false),
];

/// How long it was on a CPU, in the slices that were seen whole and the one it is in.
pub(super) fn on_cpu_ns(goroutine: &Goroutine, at: &At<'_>, now_ts: u64) -> Option<u64> {
    let slice = if goroutine.state == State::Running { age(goroutine, now_ts) } else { None };
    let ran_ns = goroutine.running_ns.saturating_add(slice.map_or(0, |(ns, _)| ns));
    at.knows.threads.then(|| ran_ns.saturating_sub(goroutine.off_cpu_ns))
}

/// What it waits for, or its state.
pub(super) fn state_in_words<'a>(goroutine: &Goroutine, at: &'a At<'_>, spare: &'a mut String) -> &'a str {
    let reason = if goroutine.state == State::Waiting { at.about.wait_reason(goroutine.reason) } else { "" };
    if !reason.is_empty() {
        return reason;
    }
    *spare = goroutine.state.to_string();
    spare
}

/// The rows of one target: those that come first in this order, the rest is counted. A row costs far more than
/// a look, and there may be a million.
pub(super) fn table(
    goroutines: &Goroutines,
    at: &At<'_>,
    delays: &Delays,
    now_ts: u64,
    query: &Query,
    sort: Sort,
) -> Table {
    let mut table = Table::new(&COLUMNS);
    let mut chosen: Vec<(Cell, &Goroutine)> = Vec::new();
    let maker = Maker { at, delays, now_ts };
    let by = |one: &(Cell, &Goroutine), other: &(Cell, &Goroutine)| {
        let order: Ordering = one.0.compare(&other.0, sort.reverse);
        order.then(one.1.goid.cmp(&other.1.goid))
    };
    for goroutine in goroutines.iter().filter(|goroutine| counts(goroutine)) {
        let mut spare = String::new();
        let state = state_in_words(goroutine, at, &mut spare);
        let [place, function, maker_of] = maker.places(goroutine).map(|id| &*at.places.get(id).func);
        if !query.wants(at.target, at.places.is_own(goroutine), &[state, place, function, maker_of]) {
            continue;
        }
        chosen.push((maker.cell(goroutine, sort.column), goroutine));
        if chosen.len() >= 2 * MAX_ROWS {
            chosen.select_nth_unstable_by(MAX_ROWS, by);
            table.more += (chosen.len() - MAX_ROWS) as u64;
            chosen.truncate(MAX_ROWS);
        }
    }
    table.rows = chosen.into_iter().map(|(_, goroutine)| maker.row(goroutine)).collect();
    table
}

struct Maker<'a> {
    at: &'a At<'a>,
    delays: &'a Delays,
    now_ts: u64,
}

impl Maker<'_> {
    /// Where it is, what it runs, and where it was made.
    fn places(&self, goroutine: &Goroutine) -> [u32; 3] {
        let places = self.at.places;
        let statement = goroutine.birth.map_or(0, |birth| places.statement(birth.gopc));
        [places.of(goroutine), places.function_of(goroutine), statement]
    }

    fn cell(&self, goroutine: &Goroutine, column: usize) -> Cell {
        let at = self.at;
        match column {
            0 => Cell::Id(goroutine.goid),
            1 => Cell::Text(state_in_words(goroutine, at, &mut String::new()).into()),
            2 => age(goroutine, self.now_ts)
                .map_or(Cell::Time(None, Measure::Exact), |(ns, measure)| Cell::Time(Some(ns), measure)),
            3 => Cell::exact(on_cpu_ns(goroutine, at, self.now_ts)),
            4 => {
                let delay_ns = self.delays.of(goroutine.goid).map_or(0, |delay| delay.total_ns);
                Cell::exact(at.knows.runs.then_some(delay_ns))
            }
            5 => Cell::Text(Arc::clone(&at.places.get(self.places(goroutine)[0]).text)),
            _ => Cell::Text(Arc::clone(&at.places.get(self.places(goroutine)[2]).text)),
        }
    }

    fn row(&self, goroutine: &Goroutine) -> Row {
        let words = self.places(goroutine).map(|id| Arc::clone(&self.at.places.get(id).func));
        let state: Arc<str> = state_in_words(goroutine, self.at, &mut String::new()).into();
        Row {
            key: Key { target: self.at.target, id: goroutine.goid, goid: goroutine.goid },
            cells: (0..COLUMNS.len()).map(|column| self.cell(goroutine, column)).collect(),
            words: words.into_iter().chain([state]).collect(),
            system: self.at.places.is_own(goroutine),
            alarm: goroutine.state == State::Leaked,
        }
    }
}
