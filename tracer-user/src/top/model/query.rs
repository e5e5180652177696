//! What is wanted of a picture.

use super::{Column, Row, creations, goroutines, states, waits};
use regex::Regex;

/// What the rows of a table are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum By {
    /// Places where goroutines wait.
    #[default]
    Wait,
    /// `go` statements.
    Creation,
    /// States and wait reasons.
    State,
    /// Goroutines.
    Goroutine,
}

impl By {
    /// All of them, as the keys 1 to 4 have them.
    pub const ALL: [By; 4] = [By::Wait, By::Creation, By::State, By::Goroutine];

    /// Its columns.
    pub fn columns(self) -> &'static [Column] {
        match self {
            By::Wait => &waits::COLUMNS,
            By::Creation => &creations::COLUMNS,
            By::State => &states::COLUMNS,
            By::Goroutine => &goroutines::COLUMNS,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            By::Wait => "wait sites",
            By::Creation => "creation sites",
            By::State => "states",
            By::Goroutine => "goroutines",
        }
    }
}

/// An order of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sort {
    /// By which column.
    pub column: usize,
    /// The least first, not the largest.
    pub reverse: bool,
}

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// The order of each table, as in [`By::ALL`].
    pub sort: [Sort; 4],
    /// Only rows with a name, reason or state that matches.
    pub filter: Option<Regex>,
    /// Only this target.
    pub target: Option<usize>,
    /// Also the runtime's own goroutines.
    pub system: bool,
    /// The goroutine (its target, its id) to look at closely.
    pub detail: Option<(usize, u64)>,
}

impl Query {
    /// The usual order of each table: what needs attention first.
    pub fn usual() -> Query {
        let by = |column| Sort { column, reverse: false };
        Query { sort: [by(2), by(3), by(2), by(2)], ..Query::default() }
    }

    /// Whether a row of this target with these words is wanted.
    pub(super) fn wants(&self, target: usize, system: bool, words: &[&str]) -> bool {
        self.target.is_none_or(|only| only == target)
            && (self.system || !system)
            && self.filter.as_ref().is_none_or(|filter| words.iter().any(|word| filter.is_match(word)))
    }

    /// Whether this row is wanted.
    pub fn wants_row(&self, row: &Row) -> bool {
        self.wants(row.key.target, row.system, &row.words.iter().map(|word| &**word).collect::<Vec<_>>())
    }
}
