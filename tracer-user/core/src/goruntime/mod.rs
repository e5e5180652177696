//! Everything that depends on the version of Go: states, transitions, wait reasons, layouts, and which goroutines and
//! frames are the runtime's own. Each fact names the file, the function and the release it was read in.

mod facts;
mod functions;
mod godebug;
pub(crate) mod layouts;
mod state;
pub mod tracebacks;
pub(crate) mod transitions;
mod wait_reason;

pub use facts::Release;
pub(crate) use facts::{HeapBitmap, SpecialKinds};
pub(crate) use functions::is_plumbing_package;
pub use functions::{calls_finalizers, is_plumbing, starts_system};
pub use godebug::Godebug;
pub use state::State;
pub use wait_reason::{WaitReason, WaitReasons};
