//! What a person or a program gets to read, by format: events as text, JSON lines or CSV and the summary; profiles by
//! stack; traces for `go tool trace` and Perfetto; snapshots as documents; leaks.
//!
//! What is made of events is an [`Observer`](sfgi_core::session::Observer): it knows neither probes nor files.

mod csv;
pub mod dump;
mod gotrace;
mod json;
pub mod leaks;
mod number;
mod perfetto;
pub mod pprof;
mod printer;
#[cfg(test)]
mod replay;
pub mod stacks;
mod summary;
#[cfg(test)]
mod tests;
mod text;
mod traceback;

pub use csv::Csv;
pub use gotrace::GoTrace;
pub use json::Json;
pub use number::{bytes, count};
pub use perfetto::Perfetto;
pub use printer::Printer;
pub use text::Text;
pub use traceback::Traceback;

pub use sfgi_core::clock::duration;
use sfgi_core::{
    model::Merged,
    names::{Line, Report},
};
use std::io;
pub(crate) use traceback::{clean, printed};

/// The schema name in every JSON line of a trace.
pub const SCHEMA: &str = "sfgi.trace/1";

/// Whether a field of JSON is left out.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it asks about by reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Where lines go.
pub trait Sink {
    /// Before the first line.
    fn begin(&mut self) -> io::Result<()>;
    /// One event.
    fn line(&mut self, line: &Line<'_>) -> io::Result<()>;
    /// Events were lost just before the next line.
    fn lost(&mut self, pid: u32, count: u64, ts: u64) -> io::Result<()>;
    /// After a loss a snapshot told how things really stand.
    fn resync(&mut self, pid: u32, merged: &Merged, ts: u64) -> io::Result<()>;
    /// What the trace came to, at its end.
    fn summary(&mut self, report: &Report) -> io::Result<()>;
    /// Hands on everything written so far.
    fn flush(&mut self) -> io::Result<()>;
}
