//! One look at all goroutines, added up by place, creation and state; and the tables of states and of goroutines.

use super::{
    Cell, Column, Key, MAX_ROWS, Query, Row, Sort, Table, Trend,
    places::{PlaceId, Places},
    waits::{At, SYSCALL, WaitKey, column, reason_in_words},
};
use hashbrown::HashMap;
use sfgi_core::{
    goruntime::State,
    model::{Goroutine, Goroutines, Measure, Step},
    session::Target,
};
use std::{cmp::Ordering, sync::Arc};

/// Goroutines that are in one wait or state at the end of an interval.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Open {
    pub(super) count: u64,
    /// The longest time so far, nanoseconds; `None`: no beginning is known.
    pub(super) longest: Option<(u64, Measure)>,
    /// The part of the interval that they spent in it, added up, nanoseconds.
    pub(super) ns: u64,
}

#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) waits: HashMap<WaitKey, Open>,
    /// By return address of the `go` statement and whether the goroutines are the runtime's own: their number, and the
    /// entry of the function that they run.
    pub(super) creations: HashMap<(u64, bool), (u64, u64)>,
    /// By state, wait reason (0 where it does not wait), and whether the goroutines are the runtime's own.
    pub(super) states: HashMap<(u8, u16, bool), (State, Open)>,
    /// The program's goroutines by state, without the runtime's own.
    pub(super) counts: HashMap<State, u64>,
    pub(super) total: u64,
    pub(super) system: u64,
}

/// How long a goroutine has been in its state at `now_ts`, nanoseconds; `None`: not known.
pub(super) fn age(goroutine: &Goroutine, now_ts: u64) -> Option<(u64, Measure)> {
    (goroutine.since_ts != 0).then(|| (now_ts.saturating_sub(goroutine.since_ts), goroutine.since_is))
}

/// The wait reason, or [`SYSCALL`]; `None`: it does not wait.
pub(super) fn why(goroutine: &Goroutine) -> Option<u16> {
    match goroutine.state {
        State::Syscall => Some(SYSCALL),
        state if state.waits() => Some(u16::from(goroutine.reason)),
        _ => None,
    }
}

/// Whether the tables have it. Goid 0 is an id that no event has told yet; `Idle` is allocated, not initialised
/// (`_Gidle`, `src/runtime/runtime2.go`).
pub(super) fn counts(goroutine: &Goroutine) -> bool {
    goroutine.goid != 0 && !goroutine.state.is_dead() && goroutine.state != State::Idle
}

impl Standing {
    pub(super) fn of(target: &Target, places: &Places, now_ts: u64, interval_ns: u64) -> Standing {
        let mut standing = Standing::default();
        for goroutine in target.goroutines().iter().filter(|goroutine| counts(goroutine)) {
            standing.add(goroutine, places, now_ts, interval_ns);
        }
        standing
    }

    fn add(&mut self, goroutine: &Goroutine, places: &Places, now_ts: u64, interval_ns: u64) {
        let (system, age, why) = (places.is_own(goroutine), age(goroutine, now_ts), why(goroutine));
        if system {
            self.system += 1;
        } else {
            self.total += 1;
            *self.counts.entry(goroutine.state).or_default() += 1;
        }
        if let Some(why) = why {
            let place: PlaceId = places.of(goroutine);
            self.waits.entry(WaitKey { why, place, system }).or_default().add(age, interval_ns);
        }
        if let Some(birth) = goroutine.birth {
            let (count, startpc) = self.creations.entry((birth.gopc, system)).or_default();
            (*count, *startpc) = (*count + 1, birth.startpc);
        }
        let reason = if goroutine.state.waits() { why.unwrap_or(0) } else { 0 };
        let key = (goroutine.state.status().unwrap_or(u8::MAX), reason, system);
        let (state, open) = self.states.entry(key).or_default();
        *state = goroutine.state;
        open.add(age, interval_ns);
    }
}

impl Open {
    fn add(&mut self, age: Option<(u64, Measure)>, interval_ns: u64) {
        self.count += 1;
        if let Some((ns, measure)) = age {
            self.ns = self.ns.saturating_add(ns.min(interval_ns));
            if self.longest.is_none_or(|(longest, _)| ns > longest) {
                // The measure goes with the longest one: an exact wait must not lend its word to an estimated one.
                self.longest = Some((ns, measure));
            }
        }
    }
}

/// Trends by state, wait reason and whether the goroutines are the runtime's own. The key has at most 256 states and
/// 256 reasons, so the map needs no other bound.
#[derive(Debug, Default)]
pub(super) struct States(HashMap<(u8, u16, bool), (State, Trend)>);

pub(super) const STATE_COLUMNS: [Column; 6] = [
    column("STATE", "the runtime's name for it", 10, 0, false),
    column("REASON", "what they wait for, in the runtime's words", 24, 0, false),
    column("COUNT", "goroutines that are in it now", 9, 0, true),
    column("GROWTH", "change of COUNT over the trend", 8, 0, true),
    column("OLDEST", "the longest that one has been in it", 9, 0, true),
    column("TREND", "COUNT of the last intervals", 0, 0, false),
];

impl States {
    pub(super) fn close(&mut self, standing: &Standing) {
        for (key, (state, _)) in &standing.states {
            // A state that was seen once keeps its row: its trend goes on with zeros.
            self.0.entry(*key).or_insert_with(|| (*state, Trend::default()));
        }
        for (key, (_, trend)) in &mut self.0 {
            trend.push(standing.states.get(key).map_or(0, |(_, open)| open.count));
        }
    }

    pub(super) fn table(&self, at: &At<'_>, query: &Query) -> Table {
        let mut table = Table::new(&STATE_COLUMNS);
        for ((number, why, system), (state, trend)) in &self.0 {
            let (state, reason) =
                (state.to_string(), if *why == 0 { "" } else { reason_in_words(at.about, *why) });
            if !query.wants(at.target, *system, &[&state, reason]) {
                continue;
            }
            let open =
                at.standing.states.get(&(*number, *why, *system)).map(|(_, open)| *open).unwrap_or_default();
            let (ns, measure) = open.longest.unzip();
            let (state, reason): (Arc<str>, Arc<str>) = (state.into(), reason.into());
            table.rows.push(Row {
                key: Key {
                    target: at.target,
                    id: u64::from(*number) << 32 | u64::from(*why) << 1 | u64::from(*system),
                    goid: 0,
                },
                cells: vec![
                    Cell::Text(Arc::clone(&state)),
                    Cell::Text(Arc::clone(&reason)),
                    Cell::Count(Some(open.count)),
                    Cell::Change(trend.growth()),
                    Cell::Time(ns, measure.unwrap_or(Measure::Exact)),
                    Cell::Trend(trend.clone()),
                ],
                words: vec![state, reason],
                system: *system,
                alarm: false,
            });
        }
        table
    }
}

/// Goroutines whose delays are kept: dead ones are forgotten each interval, and this bounds what lives.
const MAX_DELAYS: usize = 1 << 18;

/// Waits in the run queue, by goroutine.
#[derive(Debug, Default)]
pub(super) struct Delays {
    by_goid: HashMap<u64, Delay>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delay {
    pub(super) total_ns: u64,
    pub(super) longest_ns: u64,
}

impl Delays {
    pub(super) fn started(&mut self, step: &Step) {
        // Without a beginning the wait in the queue has no length.
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

pub(super) const COLUMNS: [Column; 7] = [
    column("GOID", "the goroutine's id", 8, 0, true),
    column("STATE", "what it waits for, or its state", 17, 0, false),
    column("AGE", "how long it has been in that", 8, 0, true),
    column("ON-CPU", "how long it was on a CPU since the trace began", 8, 0, true),
    column("RUNQ", "how long it waited in the run queue since the trace began", 8, 0, true),
    column("WHERE", "where it waits, or what it runs", 0, 0, false),
    column("MADE BY", "the go statement", 0, 110, false),
];

/// Time on a CPU: the slices that were seen from beginning to end, and the one that it is in. `None`: not measured.
pub(super) fn on_cpu_ns(goroutine: &Goroutine, at: &At<'_>, now_ts: u64) -> Option<u64> {
    // The model adds a slice when it ends, so the current one is missing there.
    let slice = if goroutine.state == State::Running { age(goroutine, now_ts) } else { None };
    let ran_ns = goroutine.running_ns.saturating_add(slice.map_or(0, |(ns, _)| ns));
    at.knows.threads.then(|| ran_ns.saturating_sub(goroutine.off_cpu_ns))
}

/// Its wait reason, or its state where it does not wait; `spare` holds the text of a state.
pub(super) fn state_in_words<'a>(goroutine: &Goroutine, at: &'a At<'_>, spare: &'a mut String) -> &'a str {
    let reason = if goroutine.state == State::Waiting { at.about.wait_reason(goroutine.reason) } else { "" };
    if !reason.is_empty() {
        return reason;
    }
    *spare = goroutine.state.to_string();
    spare
}

/// The rows of one target that come first in this order; the others are counted. A row costs far more than a look, and
/// there may be a million goroutines.
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
        // The filter needs words, but no row: a row is made only of what is left in the end.
        let mut spare = String::new();
        let state = state_in_words(goroutine, at, &mut spare);
        let [place, function, maker_of] = maker.places(goroutine).map(|id| &*at.places.get(id).func);
        if !query.wants(at.target, at.places.is_own(goroutine), &[state, place, function, maker_of]) {
            continue;
        }
        chosen.push((maker.cell(goroutine, sort.column), goroutine));
        // Halving at twice the number costs each goroutine constant time on average, and needs no sorted heap.
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
    /// Its place, the function that it runs, and its `go` statement.
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
