//! The help: keys, and what the columns of the table tell.

use super::Line;
use crate::top::Column;

const KEYS: [&str; 14] = [
    "1 2 3 4 Tab  wait sites, creation sites, states, goroutines",
    "↑ ↓ PgUp PgDn Home End, j k g G, wheel  choose a row, or scroll",
    "Enter, click twice  the goroutines of a row; of a goroutine its stack, its object, what it did last",
    "Esc  back; takes the filter away",
    "/  show only what matches a regular expression: function, reason, state",
    "< >, click on a heading  sort by the column beside, or by this one",
    "r  the other way round",
    "f  findings: what is wrong, or looks so",
    "L  look for leaked goroutines (reads the heap, takes seconds); l shows what was found",
    "s  with the runtime's own goroutines, or without",
    "t  one process after the other, then all",
    "p Space  hold the picture; tracing goes on",
    "? h  this help",
    "q Ctrl-C  end",
];

pub(super) fn lines(columns: &[Column]) -> Vec<Line> {
    let mut lines = vec![Line::title("KEYS")];
    lines.extend(KEYS.iter().map(|text| Line::plain(format!("  {text}"))));
    lines.push(Line::title("COLUMNS"));
    lines.extend(columns.iter().map(|column| Line::plain(format!("  {}  {}", column.title, column.about))));
    lines.push(Line::title("MARKS"));
    let marks = [
        "-  not known (and not nothing)",
        "~  as the runtime counts it: up to one garbage collection too long",
        "≥  at least so long",
        "!  it grows, or something is wrong with it",
    ];
    lines.extend(marks.iter().map(|text| Line::plain(format!("  {text}"))));
    lines
}
