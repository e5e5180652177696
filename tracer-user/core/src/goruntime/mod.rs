//! Everything that depends on the version of Go: states, transitions, wait reasons, which goroutines and frames
//! are the runtime's own.

mod facts;
mod fake_waits;
mod state;
pub mod system;
pub mod tracebacks;
pub mod transitions;

pub use facts::Release;
pub(crate) use facts::SpecialKinds;
pub use fake_waits::FAKE_WAITS;
pub(crate) use fake_waits::Reasons;
pub use state::State;
