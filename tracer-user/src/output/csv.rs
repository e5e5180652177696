//! Events as a table in CSV (RFC 4180), one row for each event.

use crate::output::{DeadlockLine, Sink};
use sfgi_core::{
    model::{Measure, Merged},
    names::{Line, Report, Site},
};
use std::io::{self, Write};

/// The columns, in order. Times are `CLOCK_MONOTONIC`, nanoseconds. `measure` is empty for a duration that was seen
/// from beginning to end. Only rows of `lost` events have a `count`.
const COLUMNS: [&str; 20] = [
    "ts_ns",
    "pid",
    "goid",
    "event",
    "tid",
    "reason",
    "from",
    "to",
    "by_goid",
    "duration_ns",
    "measure",
    "func",
    "file",
    "line",
    "start_func",
    "created_by",
    "created_by_file",
    "created_by_line",
    "note",
    "count",
];

/// The [`Sink`] of `sfgi export --to csv`.
pub struct Csv<W> {
    out: W,
}

impl<W: Write> Csv<W> {
    pub fn new(out: W) -> Csv<W> {
        Csv { out }
    }

    fn row(&mut self, fields: [String; COLUMNS.len()]) -> io::Result<()> {
        for (index, field) in fields.iter().enumerate() {
            if index > 0 {
                self.out.write_all(b",")?;
            }
            // RFC 4180 quotes fields with these four; a name of a generic function has commas.
            if field.contains([',', '"', '\r', '\n']) {
                write!(self.out, "\"{}\"", field.replace('"', "\"\""))?;
            } else {
                self.out.write_all(field.as_bytes())?;
            }
        }
        self.out.write_all(b"\r\n")
    }

    /// Writes a row that is about no goroutine: a loss, or what a snapshot corrected.
    fn remark(&mut self, ts: u64, pid: u32, event: &str, note: String, count: String) -> io::Result<()> {
        let mut row = [const { String::new() }; COLUMNS.len()];
        (row[0], row[1], row[3]) = (ts.to_string(), pid.to_string(), event.to_owned());
        (row[18], row[19]) = (note, count);
        self.row(row)
    }
}

impl<W: Write> Sink for Csv<W> {
    fn begin(&mut self) -> io::Result<()> {
        self.row(COLUMNS.map(str::to_owned))
    }

    fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        let step = line.step;
        let (from, to) = line.states();
        let id = |id: u64| if id == 0 { String::new() } else { id.to_string() };
        let func = |site: &Option<Site>| site.as_ref().map(|site| site.func.to_string()).unwrap_or_default();
        let file = |site: &Option<Site>| site.as_ref().map(|site| site.file.to_string()).unwrap_or_default();
        let number =
            |site: &Option<Site>| site.as_ref().map(|site| site.line.to_string()).unwrap_or_default();
        let measure = match step.measure {
            Measure::Exact => "",
            Measure::AtLeast => "at_least",
            Measure::About => "about",
        };
        self.row([
            step.ts.to_string(),
            line.pid.to_string(),
            id(step.goid),
            step.what.name().to_owned(),
            step.tid.to_string(),
            line.reason.to_owned(),
            from.map(|state| state.to_string()).unwrap_or_default(),
            to.map(|state| state.to_string()).unwrap_or_default(),
            id(step.by_goid),
            step.duration_ns.map(|ns| ns.to_string()).unwrap_or_default(),
            measure.to_owned(),
            func(&line.site),
            file(&line.site),
            number(&line.site),
            func(&line.function),
            func(&line.creator),
            file(&line.creator),
            number(&line.creator),
            step.note.to_string(),
            String::new(),
        ])
    }

    fn lost(&mut self, pid: u32, count: u64, ts: u64) -> io::Result<()> {
        self.remark(ts, pid, "lost", String::new(), count.to_string())
    }

    fn resync(&mut self, pid: u32, merged: &Merged, ts: u64) -> io::Result<()> {
        let Merged { seen, new, corrected, ended } = merged;
        let note = format!("seen {seen}, new {new}, corrected {corrected}, ended {ended}");
        self.remark(ts, pid, "resync", note, String::new())
    }

    fn deadlock(&mut self, _: &DeadlockLine<'_>) -> io::Result<()> {
        // No recording has one.
        Err(io::Error::other("a deadlock is no row of a table: use --format json"))
    }

    fn summary(&mut self, _: &Report) -> io::Result<()> {
        // No command reaches this: `sfgi export` makes no summaries.
        Err(io::Error::other("a summary is not a table of events: use --format json"))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
