//! Tables of cells, the same for all four: text, order, and which rows a query wants.

use super::{MAX_ROWS, creations, goroutines, waits};
use crate::output::{count, duration};
use regex::Regex;
use sfgi_core::model::Measure;
use std::{cmp::Ordering, collections::VecDeque, sync::Arc};

/// The text of an unknown value, which must not look like 0.
const UNKNOWN: &str = "-";

#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Text(Arc<str>),
    /// A number that is a name: no separators.
    Id(u64),
    Count(Option<u64>),
    /// The change of a number over the trend.
    Change(Option<i64>),
    /// A number a second.
    Rate(Option<f64>),
    /// Nanoseconds, and how well they are known.
    Time(Option<u64>, Measure),
    /// A share; 1 is all.
    Share(Option<f64>),
    /// The last values of a number, drawn as bars.
    Trend(Trend),
}

impl Cell {
    pub(super) fn exact(ns: Option<u64>) -> Cell {
        Cell::Time(ns, Measure::Exact)
    }

    /// The text of the cell; `width` is used by trends, which fill their column. A text may be longer.
    pub fn text(&self, width: usize) -> String {
        let known = match self {
            Cell::Text(text) => Some(text.to_string()),
            Cell::Id(id) => Some(id.to_string()),
            Cell::Count(number) => number.map(count),
            Cell::Change(change) => change.map(|change| match change {
                0 => "0".to_owned(),
                _ => format!("{}{}", if change > 0 { "+" } else { "-" }, count(change.unsigned_abs())),
            }),
            Cell::Rate(rate) => rate.map(per_second),
            Cell::Time(ns, measure) => ns.map(|ns| match measure {
                Measure::Exact => duration(ns),
                Measure::AtLeast => format!("≥{}", duration(ns)),
                Measure::About => format!("~{}", duration(ns)),
            }),
            Cell::Share(share) => share.map(|share| format!("{:.1}%", share * 100.0)),
            Cell::Trend(trend) => Some(trend.bars(width)),
        };
        known.unwrap_or_else(|| UNKNOWN.to_owned())
    }

    /// Text goes by the alphabet, numbers from the largest; `reverse` turns both. Unknown values come last either way.
    pub(super) fn compare(&self, other: &Cell, reverse: bool) -> Ordering {
        let turned = |order: Ordering| if reverse { order.reverse() } else { order };
        // All cells of a column are of one kind, so the two are either both texts or both numbers.
        if let (Cell::Text(one), Cell::Text(other)) = (self, other) {
            return turned(one.cmp(other));
        }
        match (self.number(), other.number()) {
            (Some(one), Some(other)) => turned(other.total_cmp(&one)),
            (one, other) => other.is_some().cmp(&one.is_some()),
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Cell::Text(_) => None,
            Cell::Id(id) => Some(*id as f64),
            Cell::Count(number) | Cell::Time(number, _) => number.map(|number| number as f64),
            Cell::Change(change) => change.map(|change| change as f64),
            Cell::Rate(number) | Cell::Share(number) => *number,
            Cell::Trend(trend) => trend.growth().map(|growth| growth as f64),
        }
    }
}

/// A rate in few digits. A rate above zero never reads as zero.
fn per_second(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        ..0.1 => "<0.1".to_owned(),
        ..10.0 => format!("{rate:.1}"),
        _ => count(rate.round() as u64),
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub title: &'static str,
    /// What the column tells, for the help.
    pub about: &'static str,
    /// Width in characters; 0: an equal share of what the others leave.
    pub width: u16,
    /// Least width of the table that shows it.
    pub from: u16,
    /// Whether its cells are flush right.
    pub right: bool,
}

/// Identity of a row through pictures, so that the choice follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    /// Index of the target.
    pub target: usize,
    /// Tells rows of this target and table apart.
    pub id: u64,
    /// The goroutine of the row; 0: the row is not one goroutine.
    pub goid: u64,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub key: Key,
    /// One for each column.
    pub cells: Vec<Cell>,
    /// What a filter matches, in full length: cells may be shortened.
    pub words: Vec<Arc<str>>,
    /// Whether the row is of the runtime's own goroutines.
    pub system: bool,
    /// Whether the row is marked: a creation site that grows, or a leaked goroutine.
    pub alarm: bool,
}

#[derive(Clone, Debug)]
pub struct Table {
    pub columns: &'static [Column],
    /// At most `MAX_ROWS`.
    pub rows: Vec<Row>,
    /// Rows that were cut off.
    pub more: u64,
}

impl Table {
    pub(super) fn new(columns: &'static [Column]) -> Table {
        Table { columns, rows: Vec::new(), more: 0 }
    }

    /// Sorts the rows, and cuts what is above [`MAX_ROWS`].
    pub(super) fn arrange(&mut self, sort: Sort) {
        self.sort(sort);
        self.more += self.rows.len().saturating_sub(MAX_ROWS) as u64;
        self.rows.truncate(MAX_ROWS);
    }

    /// Sorts the rows. Equal ones go by all columns, then by key, so that rows do not jump from picture to picture.
    pub fn sort(&mut self, sort: Sort) {
        let by = |one: &Row, other: &Row, column: usize, reverse: bool| {
            let (one, other) = (one.cells.get(column), other.cells.get(column));
            one.zip(other).map_or(Ordering::Equal, |(one, other)| one.compare(other, reverse))
        };
        self.rows.sort_by(|one, other| {
            let order = by(one, other, sort.column, sort.reverse);
            let rest = (0..one.cells.len()).map(|column| by(one, other, column, false));
            let rest = rest.fold(Ordering::Equal, Ordering::then);
            order.then(rest).then_with(|| (one.key.target, one.key.id).cmp(&(other.key.target, other.key.id)))
        });
    }

    /// The rows that the query wants, sorted.
    pub fn chosen(&self, query: &Query, sort: Sort) -> Table {
        let rows = self.rows.iter().filter(|row| query.wants_row(row)).cloned().collect();
        let mut chosen = Table { columns: self.columns, rows, more: self.more };
        chosen.sort(sort);
        chosen
    }
}

/// Values kept: a minute at one each second.
const TREND_LENGTH: usize = 60;

/// The last values of a number, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trend(VecDeque<u32>);

impl Trend {
    pub(super) fn push(&mut self, value: u64) {
        if self.0.len() >= TREND_LENGTH {
            self.0.pop_front();
        }
        self.0.push_back(u32::try_from(value).unwrap_or(u32::MAX));
    }

    /// Last value minus first value; `None`: fewer than two.
    pub fn growth(&self) -> Option<i64> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        (self.0.len() > 1).then(|| i64::from(*last) - i64::from(*first))
    }

    /// The last `width` values as bars from 0 to the largest of these.
    pub fn bars(&self, width: usize) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let shown = self.0.len().min(width);
        let values = self.0.iter().skip(self.0.len() - shown);
        let most = u64::from(values.clone().max().copied().unwrap_or(0)).max(1);
        // Rounded up, so that only 0 has the lowest bar.
        let bar = |value: &u32| BARS[(u64::from(*value) * 7).div_ceil(most) as usize % BARS.len()];
        let bars: String = values.map(bar).collect();
        format!("{bars:>width$}")
    }
}

/// What each row of a table stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum By {
    /// A place with a wait reason.
    #[default]
    Wait,
    /// A `go` statement.
    Creation,
    /// A state with a wait reason.
    State,
    Goroutine,
}

impl By {
    /// In the order of the keys 1 to 4, which is also the order of [`Query::sort`] and of the tables of a picture.
    pub const ALL: [By; 4] = [By::Wait, By::Creation, By::State, By::Goroutine];

    pub fn columns(self) -> &'static [Column] {
        match self {
            By::Wait => &waits::COLUMNS,
            By::Creation => &creations::COLUMNS,
            By::State => &goroutines::STATE_COLUMNS,
            By::Goroutine => &goroutines::COLUMNS,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            By::Wait => "wait sites",
            By::Creation => "creation sites",
            By::State => "states",
            By::Goroutine => "goroutines",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sort {
    pub column: usize,
    /// The smallest first, not the largest.
    pub reverse: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Query {
    /// One for each table, in the order of [`By::ALL`].
    pub sort: [Sort; 4],
    /// Only rows with a word that matches.
    pub filter: Option<Regex>,
    /// Only this target, by index.
    pub target: Option<usize>,
    /// The runtime's own goroutines, too.
    pub system: bool,
    /// The target's index and goid of the goroutine to show closely.
    pub detail: Option<(usize, u64)>,
}

impl Query {
    /// The usual order of each table: what needs attention first (time waited, growth, number, age).
    pub fn usual() -> Query {
        let by = |column| Sort { column, reverse: false };
        Query { sort: [by(2), by(3), by(2), by(2)], ..Query::default() }
    }

    /// Whether a row of this target with these words is wanted. It is asked before a row is made.
    pub(super) fn wants(&self, target: usize, system: bool, words: &[&str]) -> bool {
        self.target.is_none_or(|only| only == target)
            && (self.system || !system)
            && self.filter.as_ref().is_none_or(|filter| words.iter().any(|word| filter.is_match(word)))
    }

    pub fn wants_row(&self, row: &Row) -> bool {
        self.wants(row.key.target, row.system, &row.words.iter().map(|word| &**word).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_no_zero_and_comes_last() {
        let cells = [Cell::Count(None), Cell::Count(Some(3)), Cell::Count(Some(0))];
        for reverse in [false, true] {
            let mut sorted = cells.to_vec();
            sorted.sort_by(|one, other| one.compare(other, reverse));
            let text: Vec<String> = sorted.iter().map(|cell| cell.text(5)).collect();
            assert_eq!(text, if reverse { ["0", "3", "-"] } else { ["3", "0", "-"] });
        }
    }

    #[test]
    fn small_rates_are_not_nothing() {
        let text = |rate| Cell::Rate(Some(rate)).text(8);
        assert_eq!([0.0, 0.01, 0.5, 9.96, 12_345.6].map(text), ["0", "<0.1", "0.5", "10.0", "12,346"]);
        assert_eq!(Cell::Change(Some(-1200)).text(8), "-1,200");
        assert_eq!(Cell::Time(Some(5_000_000_000), Measure::AtLeast).text(8), "≥5.00s");
    }

    fn of(values: &[u64]) -> Trend {
        let mut trend = Trend::default();
        values.iter().for_each(|value| trend.push(*value));
        trend
    }

    #[test]
    fn the_largest_is_a_full_bar_and_only_nothing_is_none() {
        assert_eq!(of(&[0, 1, 50, 100]).bars(6), "  ▁▂▅█");
        assert_eq!(of(&[7, 7]).bars(2), "██");
        assert_eq!(of(&[]).bars(2), "  ");
        assert_eq!(of(&[100, 1, 2]).bars(2), "▅█", "what is not shown does not count");
    }

    #[test]
    fn growth_needs_two_values_and_forgets_the_oldest() {
        assert_eq!(of(&[5]).growth(), None);
        assert_eq!(of(&[5, 3]).growth(), Some(-2));
        let long: Vec<u64> = (0..1000).collect();
        assert_eq!(of(&long).growth(), Some(59));
    }
}
