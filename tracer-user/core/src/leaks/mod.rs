//! The search for leaked goroutines: one pipeline for the commands and the agent, and one view of what it finds.
//!
//! [`Search::run`] observes a target, puts earlier looks in front, judges, takes out what a baseline accepts and
//! measures what is pinned. [`Leaks`] is the result; each of its groups is a [`LeakView`], which every output shows
//! a part of.

mod children;
mod fds;
mod kept;
mod outside;
mod pooled;
mod search;
mod view;

pub use search::{Earlier, Found, Leaks, OPTIONS, Search};
pub use view::{AsJson, Awaited, LeakView, Place, Timers, Turn, TurnJson, views};
