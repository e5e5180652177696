//! The targets of a session, live or from a recording: what comes in ([`Input`]), the model and the names of each
//! target ([`Target`]), what happened between two drains ([`Round`]), and who is told ([`Observer`]).
//!
//! A live trace and a recording of it pass through the same code from here on, so that whatever one
//! shows the other shows, too. No eBPF, no terminal and no clock here.

mod input;
mod observer;
mod target;

pub use input::{Input, SnapshotInput, WholeStack};
pub use observer::{Deadlock, End, Member, News, Observer, Round};
pub use target::{About, Taken, Target};
