//! Goroutines by state and wait reason.

use super::{
    Cell, Column, Key, Query, Row, Table, Trend,
    standing::Standing,
    waits::{At, column, reason_in_words},
};
use hashbrown::HashMap;
use sfgi_core::{goruntime::State, model::Measure};
use std::sync::Arc;

/// Their numbers up to now, by state, wait reason, and whether they are the runtime's own; 256 of each at most.
#[derive(Debug, Default)]
pub(super) struct States(HashMap<(u8, u16, bool), (State, Trend)>);

/// See [`Table::columns`].
pub(super) const COLUMNS: [Column; 6] = [
    column("STATE", "the runtime's name for it", 10, 0, false),
    column("REASON", "what they wait for, in the runtime's words", 24, 0, false),
    column("COUNT", "goroutines that are in it now", 9, 0, true),
    column("GROWTH", "change of COUNT over the trend", 8, 0, true),
    column("OLDEST", "the longest that one has been in it", 9, 0, true),
    column("TREND", "COUNT of the last intervals", 0, 0, false),
];

impl States {
    /// The interval is over.
    pub(super) fn close(&mut self, standing: &Standing) {
        for (key, (state, _)) in &standing.states {
            self.0.entry(*key).or_insert_with(|| (*state, Trend::default()));
        }
        for (key, (_, trend)) in &mut self.0 {
            trend.push(standing.states.get(key).map_or(0, |(_, open)| open.count));
        }
    }

    pub(super) fn table(&self, at: &At<'_>, query: &Query) -> Table {
        let mut table = Table::new(&COLUMNS);
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
