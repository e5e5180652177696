//! What other programs read, made of what happened: profiles by stack for pprof and as flame graphs,
//! tables of events, traces for `go tool trace` and Perfetto.
//!
//! Everything here is an [`Observer`](sfgi_core::session::Observer): it knows neither probes nor files.

mod blocked;
mod created;
mod csv;
mod existing;
mod flame;
mod folded;
mod frames;
mod gather;
mod gotrace;
mod kind;
mod off_cpu;
mod perfetto;
mod pprof;
mod profile;
mod span;
mod stacks;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod timeline;

pub use csv::Csv;
pub use gotrace::GoTrace;
pub use kind::Kind;
pub use perfetto::Perfetto;
pub use span::Span;
pub use stacks::{Form, Stacks, Wanted};
