//! A snapshot as a document: JSON, groups, a pprof profile; and which of its goroutines are in it.
//! (Goroutine by goroutine as text is [`super::traceback`].)

mod group;
mod group_text;
mod json;
mod names;
pub(super) mod object;
pub(super) mod pieces;
mod pprof;
mod select;

#[cfg(test)]
mod tests;

pub use group::Group;
pub use group_text::GroupText;
pub use json::{About, JsonDump};
pub use names::Names;
pub use object::in_full as object_in_full;
pub use pprof::{ProfileKind, write_profile};
pub use select::{Choice, Order};

/// The schema name in every JSON document of a dump.
pub const DUMP_SCHEMA: &str = "sfgi.dump/1";
