//! What was seen, in the formats of other tools. Each is an [`Observer`](crate::follow::Observer).

mod frames;
mod gotrace;
mod perfetto;
#[cfg(test)]
mod timeline;

pub use gotrace::GoTrace;
pub use perfetto::Perfetto;
