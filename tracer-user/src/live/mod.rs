//! Live targets: their probes, the reads of their memory, and the loop that drains the rings, takes snapshots and tells
//! observers. Commands and the agent use it alike.

mod engine;
mod outside;
mod rings;
mod target;

pub(crate) use engine::{Ending, Engine};
pub(crate) use outside::{Aside, Outside, read_all};
pub(crate) use target::{Attach, LiveTarget, Observers, Opened, Targets, in_words};
