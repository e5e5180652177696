//! Goroutines read from outside: the runtime's own tables in the memory of a program that goes on
//! running. Nothing is written, nothing is stopped; what moves while it is read is said to be in
//! motion.

mod args;
mod label_sets;
mod labels;
mod objects;
mod offsets;
mod outer;
mod raw;
mod scattered;
mod take;
#[cfg(test)]
mod tests;
mod threads;
mod types;
mod unwind;
mod view;
mod window;

pub(crate) use offsets::Offsets;
pub(crate) use raw::Raw;
pub use take::{Options, Reading, SnapshotError, take, take_only};
pub use types::{Goroutine, Object, ObjectKind, Pc, Snapshot, StackId, Stacks, Trust, Wait, Wants};
pub(crate) use unwind::{Frame, Registers, Unwinder};
pub use view::{Clock, View};
