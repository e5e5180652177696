//! Live targets: their probes, what is read of their memory beside, and the loop that drains the one and looks at
//! the other. What happens is told to observers.

mod engine;
mod outside;
mod target;

pub(crate) use engine::{Ending, Engine};
pub(crate) use outside::{Outside, read_all};
pub(crate) use target::{Attach, LiveTarget, Observers, Opened, Targets, in_words};
