//! Everything that depends on the version of Go: states, transitions, wait reasons, which goroutines and frames
//! are the runtime's own.

mod facts;
mod plumbing;
mod state;
pub mod system;
pub mod tracebacks;
pub mod transitions;
mod wait_reason;

pub use facts::Release;
pub(crate) use facts::SpecialKinds;
pub use plumbing::is_plumbing;
pub(crate) use plumbing::is_plumbing_package;
pub use state::State;
pub use wait_reason::{WaitReason, WaitReasons};
