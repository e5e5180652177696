//! What other programs read, made of what happened: profiles by stack for pprof and as flame graphs,
//! tables of events.
//!
//! Everything here is an [`Observer`](crate::follow::Observer): it knows neither probes nor files.

mod blocked;
mod created;
mod csv;
mod existing;
mod flame;
mod folded;
mod kind;
mod off_cpu;
mod pprof;
mod profile;
mod span;
mod stacks;
mod table;
#[cfg(test)]
mod tests;

pub use csv::Csv;
pub use kind::Kind;
pub use span::Span;
pub use stacks::{Form, Stacks, Wanted};
