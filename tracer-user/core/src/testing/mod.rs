//! Shared by tests and fuzz targets: made-up binaries, memory and recordings, and timelines of events in words.
//!
//! Not part of the crate's interface: it changes with the tests.

pub mod binary;
mod leak;
pub mod memory;
pub mod peak;
pub mod recording;
pub mod timeline;

pub use leak::leak;
