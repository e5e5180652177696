//! The goroutine state machine: rebuilds from events what every goroutine does, and checks each
//! change against the runtime's own graph.
//!
//! Events go in one by one ([`Goroutines::apply`]), [`Step`]s come out. Nothing here knows how
//! events are made or shown, or what time it is: time is the events'.
//!
//! - [`transitions`]: what each Go version may do, with its place in the runtime's source.
//! - [`Bypass`]: what a probe cannot see, each by its name. Whatever the table and these do not
//!   explain is [`What::Illegal`].
//! - [`Summary`]: counts and times per wait reason and place, made from steps.

mod births;
mod by_g;
mod bypass;
mod function_events;
mod goroutine;
mod goroutines;
mod held;
mod histogram;
mod machine;
mod say;
mod seen;
mod status_events;
mod step;
mod store;
mod summary;
#[cfg(test)]
pub(crate) mod tests;
mod threads;

pub use bypass::Bypass;
pub use goroutine::Goroutine;
pub use goroutines::Goroutines;
pub use histogram::Histogram;
pub use seen::{Merged, Seen};
pub use step::{Measure, Note, Step, What, Whats};
pub use summary::{Creation, Summary, Table, Times, WaitSite};

use crate::{
    event::{Kind, Mode, Set},
    goruntime::{Release, WaitReasons},
};

/// What the model must know of the target and of the probes.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The target's release of Go.
    pub release: Release,
    /// Which functions are probed.
    pub set: Set,
    /// How many of them.
    pub mode: Mode,
    pub wait_reasons: WaitReasons,
    /// Kinds whose function could not be probed, or is inlined in places: changes that only they
    /// tell may be missing, and then are no contradiction.
    pub blind: Vec<Kind>,
    /// How many goroutines are remembered at most; what comes above is worked on but forgotten
    /// (see [`Goroutines::refused`]).
    pub capacity: usize,
}
