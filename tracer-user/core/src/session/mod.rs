//! Targets as they are followed, live or from a recording: what comes in ([`Input`]), the model and
//! the names of each ([`Followed`]), what happened in one go ([`Round`]), and who is told ([`Observer`]).
//!
//! A live trace and a recording of it pass through the same code from here on, so that whatever one
//! shows the other shows, too. No eBPF, no terminal and no clock here.

mod about;
mod followed;
mod input;
mod observer;
mod round;
#[cfg(test)]
mod tests;
mod whole_stacks;

pub use about::About;
pub use followed::{Followed, Taken};
pub use input::{Input, SnapshotInput, WholeStack};
pub use observer::{End, Observer};
pub use round::{News, Round};
