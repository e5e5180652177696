//! Goroutines read from outside: the runtime's own tables in the memory of a program that goes on
//! running. Nothing is written, nothing is stopped; what moves while it is read is said to be in
//! motion.

mod args;
mod labels;
mod types;
mod unwind;
mod view;

pub use types::{Goroutine, Object, ObjectKind, Pc, Snapshot, StackId, Stacks, Trust, Wait, Wants};
pub use view::View;
