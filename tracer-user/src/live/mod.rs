//! Live processes under trace: their probes, what is read of their memory beside, and the loop that drains the one
//! and looks at the other. What happens is told to observers.

mod engine;
mod opened;
mod outside;
mod traced;

pub(crate) use engine::{Ending, Engine};
pub(crate) use opened::Opened;
pub(crate) use outside::{Outside, read_all};
pub(crate) use traced::{Attach, Observers, Targets, Traced, in_words};
