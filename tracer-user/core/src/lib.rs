//! Reads a Go process from outside, and says what its goroutines did, do and can never do again.
//!
//! Data goes one way. [`process`], [`binary`] and [`memory`] read the target; [`snapshot`] and [`heap`] make
//! goroutines and objects of its memory, and [`objects`] their types and what keeps them alive. [`plan`] chooses where probes stand, [`event`] decodes what they send,
//! and [`model`] makes states of it. [`session`] joins both for one target, live or played from a [`recording`].
//! [`detect`] judges; [`leaks`] is the search that all commands share. [`goruntime`] holds every fact that depends
//! on the Go version.
//!
//! This crate has no eBPF loader, no terminal and no network, so fuzz targets and other tools can use it alone.

pub mod binary;
pub mod budget;
pub mod clock;
pub mod detect;
pub mod event;
pub mod fds;
pub mod files;
pub mod goruntime;
pub mod heap;
pub mod leaks;
pub mod memory;
pub mod model;
pub mod names;
pub mod objects;
pub mod patience;
pub mod plan;
pub mod process;
pub mod recording;
pub mod session;
pub mod snapshot;
#[doc(hidden)]
pub mod testing;

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: testing::peak::PerThread = testing::peak::PerThread;
