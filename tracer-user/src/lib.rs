//! sfgi, the goroutine inspector, as a library: everything the command does.
//!
//! Data goes one way: [`probe`] (or a recording) → [`event`] → [`model`] → [`present`], [`top`]. [`target`]
//! knows the traced process and its binary; nothing in `event` and `model` knows about eBPF,
//! terminals or clocks.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod detect;
pub mod event;
pub mod export;
pub mod follow;
pub mod heap;
mod live;
pub mod memory;
pub mod model;
mod parse;
pub mod present;
pub mod probe;
pub mod recording;
pub mod snapshot;
pub mod target;
pub mod top;
