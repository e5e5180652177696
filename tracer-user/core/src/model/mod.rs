//! The goroutine state machine: rebuilds from events what every goroutine does, and checks each
//! change against the runtime's own graph.
//!
//! Events go in one by one ([`Goroutines::apply`]), [`Step`]s come out. Nothing here knows how
//! events are made or shown, or what time it is: time is the events'.
//!
//! - [`transitions`](crate::goruntime::transitions): what each Go version may do, with its place in the runtime's
//!   source.
//! - [`Bypass`]: what a probe cannot see, each by its name. A change that neither the table nor a bypass explains is
//!   [`What::Illegal`].
//! - [`Summary`]: counts and times per wait reason and place, made from steps.

mod births;
mod bypass;
mod goroutines;
mod machine;
mod seen;
mod step;
mod store;
mod summary;
#[cfg(test)]
pub(crate) mod tests;
mod wakers;

pub use bypass::Bypass;
pub use goroutines::Goroutines;
pub use seen::{Merged, Seen};
pub use step::{Measure, Note, Step, What, Whats};
pub use store::Goroutine;
pub use summary::{Creation, Histogram, Summary, Table, Times, WaitSite};
pub use wakers::Wakers;

use crate::{
    event::{Kind, Mode, Set},
    goruntime::{Release, WaitReasons},
};

/// What the model must know of the target and of the probes.
#[derive(Clone, Debug)]
pub struct Setup {
    pub release: Release,
    pub set: Set,
    pub mode: Mode,
    pub wait_reasons: WaitReasons,
    /// Kinds whose function could not be probed, or is inlined in places: a change that only they report may be
    /// missing, and its absence is no contradiction.
    pub blind: Vec<Kind>,
    /// Goroutines that are remembered at most; a further one is worked on but forgotten, and [`Goroutines::refused`]
    /// counts it.
    pub capacity: usize,
}
