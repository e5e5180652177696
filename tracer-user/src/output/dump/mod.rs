//! A snapshot as a document: JSON, or groups as text; and the choice of goroutines. [`super::traceback`] writes them
//! one by one as text, [`super::pprof`] as a profile.

mod group;
mod json;
pub(super) mod object;
pub(super) mod pieces;
mod select;

#[cfg(test)]
mod tests;

pub use group::{Group, GroupText};
pub use json::{About, JsonDump};
pub use object::in_full as object_in_full;
pub use select::{Choice, Order};

/// The schema name in every JSON document of a dump.
pub const DUMP_SCHEMA: &str = "sfgi.dump/1";
