//! Names for addresses: functions, files and lines, and steps and summaries that carry them.

mod line;
mod report;
mod snapshot;
mod symbols;

pub use line::{Filter, Line};
pub use report::{CreationRow, Report, WaitRow};
pub use snapshot::{Names, StackLine};
pub use symbols::{Site, Symbols};
