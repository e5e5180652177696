//! What tests and fuzz targets share: made-up binaries, memory and recordings, and timelines of events in words.
//!
//! Not part of what this crate offers: it changes with the tests.

pub mod binary;
mod leak;
pub mod memory;
pub mod recording;
pub mod timeline;

pub use leak::leak;
