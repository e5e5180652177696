//! The output formats: events as text, JSON lines, CSV and a summary; profiles by stack; traces for `go tool trace` and
//! Perfetto; snapshots, leaks and ways to objects as documents.
//!
//! Formats made of events are [`Observer`](sfgi_core::session::Observer)s, which know neither probes nor files: a live
//! trace and a recording give the same output.

pub mod contexts;
mod csv;
pub mod dump;
pub mod fds;
mod gotrace;
pub mod graph;
mod json;
pub mod leaks;
mod number;
mod perfetto;
pub mod pools;
pub mod pprof;
mod printer;
#[cfg(test)]
mod replay;
mod say;
pub mod stacks;
mod summary;
#[cfg(test)]
mod tests;
mod text;
mod traceback;
pub mod why;

pub use csv::Csv;
pub use gotrace::GoTrace;
pub use json::Json;
pub use number::{bytes, count};
pub use perfetto::Perfetto;
pub use printer::Printer;
pub use text::Text;
pub use traceback::Traceback;

pub(crate) use say::{cleaned, one_line, raw, say};
pub use sfgi_core::clock::duration;
use sfgi_core::{
    model::{Merged, Step},
    names::{Line, Report, Site},
    session::Deadlock,
};
use std::io;
pub(crate) use traceback::{clean, printed};

/// The schema name in every JSON line of a trace.
pub const SCHEMA: &str = "sfgi.trace/1";

/// For `skip_serializing_if`: false is left out of JSON.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it asks about by reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// A deadlock, with names for what its members did last.
pub struct DeadlockLine<'a> {
    pub pid: u32,
    pub deadlock: &'a Deadlock,
    /// By member, what it did last: the oldest first.
    pub last: Vec<Vec<Did>>,
}

/// One step of a member of a deadlock.
pub struct Did {
    pub step: Step,
    pub reason: String,
    pub site: Option<Site>,
}

/// A format of one line for each event. [`Printer`] calls it.
pub trait Sink {
    /// Called once before the first line, for a heading.
    fn begin(&mut self) -> io::Result<()>;
    fn line(&mut self, line: &Line<'_>) -> io::Result<()>;
    /// `count` events were lost just before the next line; `ts` is when that was noticed.
    fn lost(&mut self, pid: u32, count: u64, ts: u64) -> io::Result<()>;
    /// A snapshot after a loss corrected what the model knew.
    fn resync(&mut self, pid: u32, merged: &Merged, ts: u64) -> io::Result<()>;
    /// Goroutines that wait for each other were found.
    fn deadlock(&mut self, deadlock: &DeadlockLine<'_>) -> io::Result<()>;
    /// The summary of one target, at the end of the trace, instead of lines.
    fn summary(&mut self, report: &Report) -> io::Result<()>;
    /// Hands on everything written so far. It is called after each round, so that lines appear as things happen.
    fn flush(&mut self) -> io::Result<()>;
}
